"""What VPD costs at full width, 512x512, on the CPU: time, memory, agreement of bfloat16; run it on a quiet machine.

python benchmarks/vpd.py [FOLDER]

Weights are random, of the sizes and types of the published ones: they cost what trained ones cost. The files (12 GB) are
written to FOLDER, a temporary one by default. Every figure is taken in a process of its own, on two threads; CPU seconds are
user and system time together, the best of two, four phrases once; peaks are the largest resident size, libraries included.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

THREADS = 2
PHRASES = ("the zebra on the left", "a tiger", "the animal that looks at us", "grass")
REPEATS = 2
CHECKPOINTS = {"float32": "vpd-float32.safetensors", "bfloat16": "vpd-bfloat16.safetensors"}


def main() -> None:
    """Makes the files, and runs one process for each row of the table."""
    if len(sys.argv) > 2:
        print(json.dumps(JOBS[sys.argv[1]](Path(sys.argv[2]))))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(sys.argv[1]) if len(sys.argv) == 2 else Path(place)
        for job in JOBS:
            done = subprocess.run(
                [sys.executable, __file__, job, str(folder)], capture_output=True, text=True, check=True
            )
            print(f"{job}: {_told(json.loads(done.stdout.splitlines()[-1]))}", flush=True)


def _told(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in found.items())


def make(folder: Path) -> dict[str, float]:
    """A published-like file, its companion, and a tokenizer, with values that keep activations of ordinary size."""
    import torch
    from safetensors.torch import save_file

    from refseg.encoders.tokenizers.clip import clip_byte_tokenizer
    from refseg.models import catalog

    with torch.device("meta"):
        like = catalog.build("vpd", "refcoco").state_dict()
    torch.manual_seed(0)
    own = {name: _value(name, tensor) for name, tensor in like.items() if not name.startswith("text_tower.")}
    text = {name: _value(name, tensor) for name, tensor in like.items() if name.startswith("text_tower.")}
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from models.vpd.published import vpd_checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": vpd_checkpoint(own)}, folder / "vpd.pth")
    save_file(
        {name.replace("text_tower.", "text_model."): t for name, t in text.items()},
        folder / "clip.safetensors",
    )
    (folder / "tokenizer.json").write_text(clip_byte_tokenizer(), encoding="utf-8")
    return {"GB": (folder / "vpd.pth").stat().st_size / 1e9}


def _value(name: str, like: Any) -> Any:
    import torch

    if like.ndim > 1:
        return torch.randn(like.shape) / math.sqrt(like[0].numel())
    if name.endswith(("weight", "running_var")) or not like.dtype.is_floating_point:
        return torch.ones(like.shape, dtype=like.dtype)
    return torch.zeros(like.shape)


def convert(dtype: str, folder: Path) -> dict[str, float]:
    """`refseg convert`: CPU seconds, and the peak as a multiple of the published file."""
    import torch

    from refseg.checkpoints import conversion

    began = time.process_time()
    conversion.convert(
        folder / "vpd.pth",
        folder / CHECKPOINTS[dtype],
        family="vpd",
        variant="refcoco",
        tokenizer=folder / "tokenizer.json",
        companion=folder / "clip.safetensors",
        dtype=getattr(torch, dtype),
    )
    size = (folder / "vpd.pth").stat().st_size
    return {"CPU s": time.process_time() - began, "peak / file": _peak() / size}


def predict(dtype: str, folder: Path) -> dict[str, float]:
    """One picture and one phrase, then four phrases; what the image encoder takes of it."""
    predictor, picture = _ready(dtype, folder)
    clip = predictor.encode(picture)
    first = _seconds(lambda: predictor.encode(picture))
    one = _seconds(lambda: predictor.segment(clip, PHRASES[:1]))
    peak = _peak()
    four = _seconds(lambda: _keep(predictor.segment(clip, PHRASES), folder / f"{dtype}.pt"), repeats=1)
    return {
        "CPU s": first + one,
        "image encoder": first,
        "rest": one,
        "peak GB": peak / 1e9,
        "four phrases / one": (first + four) / (first + one),
        "peak GB of four": _peak() / 1e9,
    }


def agree(folder: Path) -> dict[str, float]:
    """Mask IoU of bfloat16 against float32, the least of all phrases."""
    import torch

    masks = [torch.load(folder / f"{dtype}.pt") for dtype in CHECKPOINTS]
    ious = [float((a & b).sum() / (a | b).sum()) for a, b in zip(*masks, strict=True)]
    return {"least IoU": min(ious), "mean IoU": sum(ious) / len(ious)}


def _ready(dtype: str, folder: Path) -> tuple[Any, Any]:
    import torch

    from refseg.media.images import read_image
    from refseg.predictor import load

    torch.set_num_threads(THREADS)
    predictor = load(folder / CHECKPOINTS[dtype], device="cpu", dtype=dtype)
    return predictor, read_image(Path(str(files("refseg"))) / "assets" / "examples" / "foxes.png")


def _keep(answers: Any, path: Path) -> None:
    import torch

    torch.save([answer.masks for answer in answers], path)


def _seconds(run: Any, repeats: int = REPEATS) -> float:
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return min(times)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


JOBS: dict[str, Any] = {
    "make": make,
    **{f"convert {dtype}": partial(convert, dtype) for dtype in CHECKPOINTS},
    **{f"predict {dtype}": partial(predict, dtype) for dtype in CHECKPOINTS},
    "agree": agree,
}

if __name__ == "__main__":
    main()
