"""What a checkpoint costs: milliseconds, CPU-seconds and memory, stage by stage, on the road that predictions take.

Every setting is measured in a process of its own, because the peak of a process's memory never goes down. The stages are
those of a prediction; "other" is what lies between them (placing frames on the canvas, moving tensors).
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from refseg.device import DTYPES
from refseg.encoders.word_vectors import LETTERS
from refseg.errors import InvalidInput, RefsegError
from refseg.evaluation.machine import Machine, matrix_rate, this_machine
from refseg.evaluation.table import aligned
from refseg.models import catalog
from refseg.predictor import Predictor, load

if TYPE_CHECKING:
    from refseg.models.base import ReferringModel

STAGES = {
    "visual": ("encode_visual",),
    "text": ("tokenize", "encode_text"),
    "segment": ("segment",),
    "finish": ("choose", "finish"),
}
"""The stages of a prediction and the verbs of the contract that make them up."""

# Words that the scenes world has too, so that a model with a small vocabulary can read them.
PHRASES = (
    "the red circle on the left",
    "the biggest dog",
    "the small blue ball near the star",
    "top green square",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing to measure."""

    checkpoint: str  # a name, a file, or family/variant for random weights
    height: int = 480
    width: int = 640
    frames: int = 1
    phrases: int = 1
    dtype: str = "float32"
    device: str = "auto"
    repeat: int = 3  # after one round that warms up; the median counts


@dataclass(frozen=True, slots=True)
class Cost:
    """Time of one part of a prediction."""

    milliseconds: float  # on the wall
    cpu_seconds: float  # of all threads of the process


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one setting costs."""

    setting: Setting
    label: str  # of the model; says so where its weights are random
    stages: dict[str, Cost]  # the stages, "other", and "whole"
    further_phrase: Cost  # one more phrase about the encoded clip
    first_phrase: Cost  # one phrase about a clip that is not encoded yet
    loaded_bytes: int  # memory of the process with the model in it, before the first frame
    peak_bytes: int  # the most memory that the process ever took
    device_peak_bytes: int | None  # the most memory that tensors took on the GPU; None on the CPU
    matrix_rates: dict[str, float]  # floating-point operations per second of a matrix product, by dtype
    machine: Machine


def measure(setting: Setting) -> Measurement:
    """Measures in a new process.

    Raises:
        InvalidInput: if the setting cannot be measured; the sentence is that of the process.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "refseg.evaluation.bench", json.dumps(asdict(setting))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return _from_record(json.loads(done.stdout.splitlines()[-1]))
    last = (done.stderr.strip().splitlines() or [f"the process ended with code {done.returncode}"])[-1]
    killed = " (killed; memory may have run out)" if done.returncode == -9 else ""
    raise InvalidInput(f"{last.removeprefix('refseg: ')}{killed}")


def measure_here(setting: Setting) -> Measurement:
    """Measures in this process; the peak of memory is that of everything this process ever did."""
    predictor = open_predictor(setting.checkpoint, device=setting.device, dtype=setting.dtype)
    rates = {name: matrix_rate(DTYPES[name], predictor.device) for name in ("float32", "bfloat16")}
    loaded = _current_bytes()
    generator = torch.Generator().manual_seed(0)
    shape = (setting.frames, 3, setting.height, setting.width)
    frames = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    phrases = [PHRASES[number % len(PHRASES)] for number in range(setting.phrases)]
    rounds = [_one_round(predictor, frames, phrases) for _ in range(setting.repeat + 1)][1:]
    costs = {name: _median([costs[name] for costs in rounds]) for name in rounds[0]}
    is_cuda = predictor.device.type == "cuda"
    return Measurement(
        setting=setting,
        label=predictor.label,
        further_phrase=costs.pop("further phrase"),
        first_phrase=costs.pop("first phrase"),
        stages=costs,
        loaded_bytes=loaded,
        peak_bytes=peak_bytes(),
        device_peak_bytes=torch.cuda.max_memory_allocated(predictor.device) if is_cuda else None,
        matrix_rates=rates,
        machine=this_machine(predictor.device),
    )


def open_predictor(checkpoint: str, *, device: str = "auto", dtype: str = "float32") -> Predictor:
    """The predictor of a checkpoint, or of a family/variant with random weights, which its label then says.

    Raises:
        UnknownName: if neither a checkpoint nor a family and variant is called so.
    """
    family, _, variant = checkpoint.partition("/")
    if family not in catalog.FAMILIES or not variant or Path(checkpoint).exists():
        return load(checkpoint, device=device, dtype=dtype)
    return Predictor(
        _random_model(family, variant), device=device, dtype=dtype, label=f"{checkpoint} with RANDOM weights"
    )


def _random_model(family: str, variant: str) -> ReferringModel:
    words = sorted({word for phrase in PHRASES for word in re.findall(r"\w+", phrase)})
    config = catalog.variant(family, variant).for_words(words)
    if hasattr(config, "vectors"):  # a family of word vectors: those that need no file cost the same
        config = replace(config, vectors=LETTERS)  # type: ignore[call-arg]
    torch.manual_seed(0)
    model = catalog.build(family, config)
    if not _reads_words(model):
        _give_plain_tokenizer(model, words)
    return model


def _reads_words(model: ReferringModel) -> bool:
    try:
        model.tokenize(PHRASES)
    except InvalidInput:  # its vocabulary is not on this machine
        return False
    return True


def _give_plain_tokenizer(model: ReferringModel, words: list[str]) -> None:
    """A tokenizer that needs no file, with as many tokens to these plain words as the real one; of the model's own kind."""
    from refseg.encoders.tokenizers.clip import clip_word_tokenizer
    from refseg.encoders.tokenizers.tokens import word_tokenizer
    from refseg.encoders.tokenizers.wordpiece import word_vocabulary

    makers = [word_tokenizer, clip_word_tokenizer, word_vocabulary]
    for make in makers:
        try:
            return model.load_extra_state({"tokenizer.json": make(words)})
        except InvalidInput:  # a tower with other special tokens
            if make is makers[-1]:
                raise


def report(measurements: list[Measurement]) -> str:
    """Measurements for people: a table a setting, and the machine."""
    parts = [_block(measurement) for measurement in measurements]
    last = measurements[-1]
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in last.matrix_rates.items())
    return "\n\n".join([*parts, f"matrix product on this machine: {rates}\n{last.machine.sentence()}"])


def _block(measured: Measurement) -> str:
    setting = measured.setting
    rows = [["stage", "ms", "CPU s"]]
    rows += [
        [name, f"{cost.milliseconds:.1f}", f"{cost.cpu_seconds:.3f}"]
        for name, cost in measured.stages.items()
    ]
    further, first = measured.further_phrase, measured.first_phrase
    gpu = (
        "" if measured.device_peak_bytes is None else f", {_gigabytes(measured.device_peak_bytes)} on the GPU"
    )
    return (
        f"{measured.label}: {setting.frames} frames {setting.height}x{setting.width}, {setting.phrases} phrases, "
        f"{setting.dtype} on {measured.machine.device}, median of {setting.repeat}\n"
        f"{aligned(rows)}\n"
        f"a further phrase on an encoded clip: {further.milliseconds:.1f} ms, {_share(further, first)} of the first "
        f"({first.milliseconds:.1f} ms)\n"
        f"{_beside_separate_runs(measured)}"
        f"memory: {_gigabytes(measured.loaded_bytes)} with the model loaded, {_gigabytes(measured.peak_bytes)} at the peak{gpu}"
    )


def _beside_separate_runs(measured: Measurement) -> str:
    """What the phrases would cost if each were asked of the frames anew."""
    count, first, whole = measured.setting.phrases, measured.first_phrase, measured.stages["whole"]
    if count == 1:
        return ""
    ratio = f"{whole.cpu_seconds / first.cpu_seconds:.2f}" if first.cpu_seconds else "-"
    return (
        f"{count} phrases together: {whole.cpu_seconds:.3f} CPU s, {ratio} times one phrase; "
        f"in separate runs: {count * first.cpu_seconds:.3f} CPU s ({_share(whole, Cost(count * first.milliseconds, 0))} of the time)\n"
    )


def _one_round(predictor: Predictor, frames: torch.Tensor, phrases: list[str]) -> dict[str, Cost]:
    """A prediction with its stages; then one phrase, first about a new clip, then about the encoded one."""
    clock = _Clock(predictor.device)
    with _time_stages(predictor.model, clock) as stages:
        whole = clock.cost(lambda: predictor(frames, phrases))
    known = [
        sum(cost.milliseconds for cost in stages.values()),
        sum(cost.cpu_seconds for cost in stages.values()),
    ]
    other = Cost(max(0.0, whole.milliseconds - known[0]), max(0.0, whole.cpu_seconds - known[1]))
    first = clock.cost(lambda: predictor(frames, phrases[:1]))
    clip = predictor.encode(frames)
    further = clock.cost(lambda: predictor.segment(clip, phrases[:1]))
    return {**stages, "other": other, "whole": whole, "first phrase": first, "further phrase": further}


class _Clock:
    """Times work, waiting for the device before and after."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def cost(self, work: Callable[[], Any]) -> Cost:
        return self.run(work)[1]

    def run(self, work: Callable[[], Any]) -> tuple[Any, Cost]:
        self._wait()
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self._wait()
        return result, Cost(1000 * (time.perf_counter() - wall), time.process_time() - cpu)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if self.device.type == "mps":
            torch.mps.synchronize()


@contextmanager
def _time_stages(model: ReferringModel, clock: _Clock) -> Iterator[dict[str, Cost]]:
    """The costs of the model's verbs while the block lasts, by stage; a verb that calls another counts once."""
    costs = {name: Cost(0.0, 0.0) for name in STAGES}
    depth = 0

    def timed(stage: str, verb: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal depth
            if depth:
                return verb(*arguments, **options)
            depth += 1
            try:
                result, cost = clock.run(lambda: verb(*arguments, **options))
            finally:
                depth -= 1
            costs[stage] = _sum(costs[stage], cost)
            return result

        return run

    verbs = [(stage, verb) for stage, names in STAGES.items() for verb in names]
    for stage, verb in verbs:
        setattr(model, verb, timed(stage, getattr(model, verb)))
    try:
        yield costs
    finally:
        for _, verb in verbs:
            delattr(model, verb)


def _sum(left: Cost, right: Cost) -> Cost:
    return Cost(left.milliseconds + right.milliseconds, left.cpu_seconds + right.cpu_seconds)


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.milliseconds for cost in costs),
        statistics.median(cost.cpu_seconds for cost in costs),
    )


def _current_bytes() -> int:
    return _status_bytes("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """The most memory that this process has held."""
    # The system's own record, where there is one: getrusage also counts what the parent had when it started us.
    found = _status_bytes("VmHWM")
    if found is not None:
        return found
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _status_bytes(key: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    found = re.search(rf"^{key}:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    return 1024 * int(found.group(1)) if found else None


def _from_record(record: dict[str, Any]) -> Measurement:
    given = dict(record)
    given["setting"], given["machine"] = Setting(**record["setting"]), Machine(**record["machine"])
    given["stages"] = {name: Cost(**cost) for name, cost in record["stages"].items()}
    given["further_phrase"], given["first_phrase"] = (
        Cost(**record["further_phrase"]),
        Cost(**record["first_phrase"]),
    )
    return Measurement(**given)


def _share(part: Cost, whole: Cost) -> str:
    return f"{part.milliseconds / whole.milliseconds:.0%}" if whole.milliseconds else "-"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _main() -> int:
    try:
        measured = measure_here(Setting(**json.loads(sys.argv[1])))
    except RefsegError as error:
        print(f"refseg: {error}", file=sys.stderr)
        return 2
    print(json.dumps(asdict(measured)))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
