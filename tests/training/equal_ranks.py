"""Runs that several processes train together, one after the other within one launch; started by test_equal_ranks.py.

    python equal_ranks.py FOLDER    (with the variables that torchrun sets: RANK, WORLD_SIZE, ...)

FOLDER/runs.json names runs with the batch of all processes, and the world sizes that they are for; each is trained by the package's own `train` into
FOLDER/<world size>/<name>. Two things differ from `refseg train`:

- What is drawn at random on the way differs between processes by design, so here nothing is: dropout keeps everything, and
  points of a mask are drawn from one seed for every phrase.
- All is computed in double precision, so that rounding hides nothing and tolerances can be small. Adam makes whole steps of
  gradients that are zero but for rounding, in a direction that rounding decides; in double precision these are nothing
  beside its epsilon.
"""

import json
import sys
from pathlib import Path

import torch
from torch.nn import functional

from refseg.checkpoints import native  # first: files name the types that they hold

SINGLE = torch.float32
torch.float32 = torch.float = torch.float64  # before the package reads these names
torch.Tensor.float = torch.Tensor.double
torch.set_default_dtype(torch.float64)

from refseg import distributed  # noqa: E402
from refseg.losses import points  # noqa: E402
from refseg.training.loop import train  # noqa: E402
from refseg.training.recipe import run_from_values  # noqa: E402


def draw_alike(rows, count, device):
    """The same places for every row, whichever process holds it."""
    generator = torch.Generator().manual_seed(count)
    return torch.rand(1, count, 2, generator=generator).to(device).expand(rows, -1, -1)


def keep_everything():
    attend = functional.scaled_dot_product_attention

    def without_dropout(*given, dropout_p=0.0, **named):
        return attend(*given, **named)

    functional.scaled_dot_product_attention = without_dropout
    functional.dropout = lambda values, *_, **__: values
    torch.nn.Dropout.forward = lambda self, values: values
    points.uniform = draw_alike


def in_double(from_numpy):
    return lambda array: from_numpy(array.astype("f8") if array.dtype == "f4" else array)


def by_their_names(function):
    """`function`, for the time of which single precision is called so again: files name what they hold."""

    def called(*given, **named):
        torch.float32 = torch.float = SINGLE
        try:
            return function(*given, **named)
        finally:
            torch.float32 = torch.float = torch.float64

    return called


def main(folder):
    torch.set_num_threads(1)
    device = distributed.start(torch.device("cpu"))
    keep_everything()
    torch.save, native.save = by_their_names(torch.save), by_their_names(native.save)
    torch.from_numpy = in_double(torch.from_numpy)
    size = distributed.world_size()
    for name, run in json.loads((folder / "runs.json").read_text()).items():
        values = run["values"]
        if size not in run["sizes"]:
            continue
        values["run"]["batch_size"] //= size
        out = folder / str(size) / name
        out.mkdir(parents=True, exist_ok=True)
        train(run_from_values(values, source=name), out, device=device, is_quiet=True)
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
