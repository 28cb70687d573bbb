"""The first steps of a run, made for real and thrown away, to learn what they cost.

They are made in a process of their own: the peak of a process's memory never goes down, and the run that is planned must find its
random states, its folder and its device as they were.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from refseg.checkpoints import native
from refseg.errors import InvalidInput, RefsegError, is_full_memory
from refseg.evaluation.bench import peak_bytes
from refseg.framing import FrameSpec
from refseg.models import catalog
from refseg.training.batches import batches
from refseg.training.checkpointing import save_state
from refseg.training.data import TrainingSets, open_evaluation_data
from refseg.training.initial_weights import with_changes
from refseg.training.loop import open_data, train
from refseg.training.recipe import run_from_values
from refseg.training.resources import MemoryRoom, memory_on, nearest_folder, resident_bytes, watch_children
from refseg.training.run_folder import LAST_NAME, LOG_NAME, STATE_NAME
from refseg.training.schema import PRECISIONS, RunConfig
from refseg.training.validation import measure_phrases

STEPS = 3
"""Steps of a rehearsal; the first one warms up."""

_ENOUGH_SECONDS = 8.0  # where steps are short, more of them are made, for about so long
_MOST_STEPS = 20
_BATCHES = 3  # that are prepared without a model beside them
_MEASURED = 4  # examples that are evaluated
_FULL_MEMORY = 3  # the exit code of a rehearsal that memory was too small for


@dataclass(frozen=True, slots=True)
class DryRunCost:
    """What the first steps of a run cost, on one process."""

    steps: int  # that were timed
    compute_seconds: float  # of one step, without waiting for its batches
    batch_seconds: float  # to prepare one batch on one worker
    evaluation_seconds: float  # of one example; 0 where nothing is measured
    save_seconds: float
    start_bytes: int  # of main memory, held before the model is built: Python, torch, the data's index
    peak_bytes: int  # of main memory
    workers_bytes: int  # of main memory, that workers have for themselves
    device_peak_bytes: int | None  # of tensors on a GPU; None where main memory is the device's
    state_bytes: int
    checkpoint_bytes: int
    canvas: tuple[int, ...]  # sizes of the pixels of the largest batch seen: clips, frames, 3, height, width
    room: MemoryRoom | None  # what the device had before


class MemoryTooSmall(RefsegError):
    """A step that the device has no room for."""


def dry_run(plan: RunConfig, folder: Path, device: torch.device) -> DryRunCost:
    """Makes the first steps of a run whose lengths are in steps, beside `folder`, in a new process, and removes what they leave.

    Raises:
        MemoryTooSmall: if memory does not hold one step.
        InvalidInput: if a step fails otherwise; the sentence is the run's own.
    """
    alone = {name: value for name, value in os.environ.items() if name not in _OF_LAUNCHERS}
    environment = {**alone, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryDirectory(prefix=".refseg-plan-", dir=nearest_folder(folder)) as beside:
        job = json.dumps({"run": plan.model_dump(mode="json"), "folder": beside, "device": str(device)})
        done = subprocess.run(
            [sys.executable, "-m", "refseg.training.dry_run"],
            input=job,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 0:
        return _from_record(json.loads(done.stdout.splitlines()[-1]))
    last = (done.stderr.strip().splitlines() or [f"the process ended with code {done.returncode}"])[-1]
    if done.returncode in (_FULL_MEMORY, -9):
        raise MemoryTooSmall(last.removeprefix("refseg: "))
    raise InvalidInput(last.removeprefix("refseg: "))


_OF_LAUNCHERS = frozenset(
    {"WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
)


def dry_run_here(plan: RunConfig, folder: Path, device: torch.device) -> DryRunCost:
    """As `rehearse`, in this process; the peak of memory is that of everything this process ever did."""
    room = memory_on(device)
    frame = frame_of(plan)
    sources, _ = open_data(plan, side_of(plan))
    canvas, batch_seconds = _batches_alone(plan, sources, frame)
    start = resident_bytes()
    steps = STEPS
    with watch_children() as workers:
        lines = _train(shorten(plan, steps), folder / "first", device)
    peak = peak_bytes()
    spare = int(_ENOUGH_SECONDS / max(_compute(lines), 1e-3))
    if spare > steps:
        lines = _train(shorten(plan, min(spare, _MOST_STEPS)), folder / "more", device)
    last = folder / "first" / LAST_NAME
    on_gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return DryRunCost(
        steps=len(lines) - 1,
        compute_seconds=_compute(lines),
        batch_seconds=batch_seconds,
        save_seconds=_save_seconds(plan, folder / "first"),
        evaluation_seconds=_evaluation_seconds(plan, last, device),
        start_bytes=start,
        peak_bytes=peak,
        workers_bytes=workers[0] if plan.data.workers else 0,
        device_peak_bytes=on_gpu,
        state_bytes=(folder / "first" / STATE_NAME).stat().st_size,
        checkpoint_bytes=last.stat().st_size,
        canvas=canvas,
        room=room,
    )


def shorten(plan: RunConfig, steps: int) -> RunConfig:
    """The run, ended after `steps` steps: without measurements, with one save at its end."""
    told: dict[str, Any] = {"evaluate_every": 0, "evaluate_examples": 0, "keep_best": 1, "patience": 0}
    told |= {"min_gain": 0.0, "final_protocols": "none", "final_examples": None, "tensorboard": False}
    told |= dict.fromkeys(("steps", "save_every", "log_every"), steps)
    section = plan.run.model_copy(update=told)
    schedule = plan.schedule.model_copy(update={"warmup_steps": 0, "drops": ()})
    return plan.model_copy(update={"run": section, "schedule": schedule})


def frame_of(run: RunConfig) -> FrameSpec:
    """How the run's model places frames."""
    return with_changes(catalog.variant(run.family, run.variant), run.model, "model").frame


def side_of(run: RunConfig) -> int:
    """The side of the canvas that data without sizes of its own is drawn for."""
    return catalog.variant(run.family, run.variant).frame.size


def _train(run: RunConfig, folder: Path, device: torch.device) -> list[dict[str, Any]]:
    folder.mkdir()
    train(run, folder, device=device, is_quiet=True)
    return [json.loads(line) for line in (folder / LOG_NAME).read_text(encoding="utf-8").splitlines()]


def _compute(lines: list[dict[str, Any]]) -> float:
    return median(line["seconds"] * (1 - line["waiting"]) for line in lines[1:])


def _batches_alone(plan: RunConfig, sources: TrainingSets, frame: FrameSpec) -> tuple[tuple[int, ...], float]:
    """The pixels of the largest of the first batches, and the seconds that one takes on one worker."""
    run = shorten(plan, _BATCHES + 1)
    run = run.model_copy(update={"data": run.data.model_copy(update={"workers": 0})})
    feed = batches(sources, run, frame, start=0)
    shapes, times = [tuple(next(feed).clips.pixels.shape)], []
    for _ in range(_BATCHES):
        began = time.perf_counter()
        shapes.append(tuple(next(feed).clips.pixels.shape))
        times.append(time.perf_counter() - began)
    return max(shapes, key=_product), median(times)


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _save_seconds(plan: RunConfig, folder: Path) -> float:
    state = torch.load(folder / STATE_NAME, map_location="cpu", weights_only=True)
    state.pop("layout")
    model, header = native.load(folder / LAST_NAME)
    began = time.perf_counter()
    save_state(folder, state)
    native.save(
        folder / LAST_NAME,
        model,
        family=header.family,
        variant=header.variant,
        origin=header.origin,
        dtype=PRECISIONS[plan.run.weights],
    )
    return time.perf_counter() - began


def _evaluation_seconds(plan: RunConfig, checkpoint: Path, device: torch.device) -> float:
    if (plan.run.evaluate_examples == 0 and not plan.run.final_examples) or not plan.objective.startswith(
        "phrases"
    ):
        return 0.0
    told = plan.run.evaluate_examples
    few = _MEASURED if told in ("all", 0) else min(_MEASURED, int(told))
    run = plan.model_copy(update={"run": plan.run.model_copy(update={"evaluate_examples": few})})
    held_out = open_evaluation_data(run, side_of(plan))
    if held_out is None:
        return 0.0
    model = native.load(checkpoint)[0].to(device)
    times = []
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        measure_phrases(model, held_out, device=device)
        times.append(time.perf_counter() - began)
    return times[-1] / len(held_out)


def _from_record(record: dict[str, Any]) -> DryRunCost:
    room = None if record["room"] is None else MemoryRoom(**record["room"])
    return DryRunCost(**{**record, "room": room, "canvas": tuple(record["canvas"])})


def _main() -> int:
    job = json.loads(sys.stdin.read())
    run = run_from_values(job["run"], source="the planned run")
    try:
        done = dry_run_here(run, Path(job["folder"]), torch.device(job["device"]))
    except RefsegError as error:
        print(f"refseg: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not is_full_memory(error):
            raise
        print(f"refseg: memory ran out in the first steps: {error}", file=sys.stderr)
        return _FULL_MEMORY
    print(json.dumps(asdict(done)))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
