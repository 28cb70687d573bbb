"""A non-finite loss or gradient ends the run before it moves a weight, and the inputs that led to it are saved.

A batch depends on its number alone, so the inputs of the step are drawn again and written where people can look at them.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from refseg import distributed
from refseg.data.collate import collate
from refseg.errors import InvalidInput
from refseg.files import whole_folder
from refseg.framing import FrameSpec
from refseg.models.base import Objective
from refseg.structures import Batch, Example
from refseg.training.batches import positions_of, training_frame
from refseg.training.data import ExamplesByPosition, TrainingSets
from refseg.training.run_folder import LAST_NAME, saved_step
from refseg.training.schema import RunConfig

if TYPE_CHECKING:
    from refseg.training.log import Log
    from refseg.training.state import TrainState


SUMMARY_NAME = "step.json"


_MOST_NAMED = 20  # parameters that a summary names


@dataclass(frozen=True)
class StepContext:
    """Where a step happened: all that is needed to draw its inputs again."""

    run: RunConfig  # lengths in steps
    folder: Path
    device: torch.device
    objective: Objective
    sources: TrainingSets
    frame: FrameSpec  # of the model


@dataclass(frozen=True)
class BadStep:
    """What was wrong with a step."""

    step: int  # counted from 1, as the log does
    told: dict[str, float]  # mean terms of all processes, and the norm
    broken: tuple[str, ...]  # those that are not finite
    is_untouched: bool  # the weights are those that the step began with


@dataclass(frozen=True)
class _ShownBatch:
    """One batch of a step on this process."""

    positions: list[int]
    examples: list[Example]
    batch: Batch


@dataclass(frozen=True)
class _Recheck:
    """What a batch gives when it is computed once more with the weights that the step began with."""

    terms: dict[str, float]
    gradients: tuple[str, ...]  # parameters whose gradient is not finite

    @property
    def is_broken(self) -> bool:
        return bool(self.gradients) or not all(map(math.isfinite, self.terms.values()))


def save_bad_step(scene: StepContext, training: TrainState, found: BadStep) -> str:
    """Writes the inputs of a step below the run's folder, on the process that had the broken ones; says what there is.

    All processes ask for it together. Where none finds it again (what is dropped out differs), each writes its own.
    """
    shown = _redraw(scene, found.step)
    verdicts = _recompute(scene, training, shown) if _may_compute(training, found) else []
    here = any(verdict.is_broken for verdict in verdicts)
    is_known = distributed.any_of(here, scene.device)
    folder = scene.folder / f"bad-step-{found.step:06d}"
    if distributed.world_size() > 1:
        folder = folder / f"rank-{distributed.rank()}"
    if is_known and not here:
        return f"another process keeps its inputs in {folder.parent}"
    _write(folder, scene, found, shown, verdicts)
    return f"its inputs are in {folder}" + _culprits(shown, verdicts)


def remove_bad_step(folder: Path) -> None:
    """Takes away what earlier runs in a folder have kept of broken steps."""
    for place in folder.glob("bad-step-*"):
        if next(place.glob(f"**/{SUMMARY_NAME}"), None) is not None:
            shutil.rmtree(place)


def _redraw(scene: StepContext, step: int) -> list[_ShownBatch]:
    run, count = scene.run, scene.run.optimizer.accumulate
    each = positions_of(run, (step - 1) * count, step * count)
    rows, frame = ExamplesByPosition(scene.sources), training_frame(run, scene.frame)
    shown = []
    for positions in each:
        examples = [rows[position].example for position in positions]
        shown.append(_ShownBatch(positions, examples, collate(examples, frame)))
    return shown


def _may_compute(training: TrainState, found: BadStep) -> bool:
    """Whether the step can be computed once more: its weights are still there, and whole."""
    return found.is_untouched and all(type(p.data) is Tensor for p in training.model.parameters())


def _recompute(scene: StepContext, training: TrainState, shown: Sequence[_ShownBatch]) -> list[_Recheck]:
    named = {name: p for name, p in training.model.named_parameters() if p.requires_grad}
    verdicts = []
    for one in shown:
        with distributed.without_sync():  # others may have nothing to look into
            terms = scene.objective(training.model, one.batch.to(scene.device))
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        broken = [
            n for n, g in zip(named, found, strict=True) if g is not None and not bool(g.isfinite().all())
        ]
        verdicts.append(_Recheck({name: float(term.detach()) for name, term in terms.items()}, tuple(broken)))
    return verdicts


def _write(
    folder: Path,
    scene: StepContext,
    found: BadStep,
    shown: Sequence[_ShownBatch],
    verdicts: Sequence[_Recheck],
) -> None:
    with whole_folder(folder) as part:
        batches = []
        for number, one in enumerate(shown):
            verdict = verdicts[number] if verdicts else None
            save_file(_tensors(one.batch), part / f"batch-{number}.safetensors")
            batches.append(
                {
                    "file": f"batch-{number}.safetensors",
                    "terms": None if verdict is None else _as_plain(verdict.terms),
                    "gradients_not_finite": None
                    if verdict is None
                    else list(verdict.gradients[:_MOST_NAMED]),
                    "num_gradients_not_finite": None if verdict is None else len(verdict.gradients),
                    "examples": [
                        _write_example(part, f"{number}-{row}", position, example)
                        for row, (position, example) in enumerate(
                            zip(one.positions, one.examples, strict=True)
                        )
                    ],
                }
            )
        summary = {
            "step": found.step,
            "not_finite": list(found.broken),
            "told": _as_plain(found.told),
            "recipe": scene.run.name,
            "seed": scene.run.seed,
            "precision": scene.run.run.precision,
            "rank": distributed.rank(),
            "processes": distributed.world_size(),
            "batches": batches,
        }
        (part / SUMMARY_NAME).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _write_example(part: Path, name: str, position: int, example: Example) -> dict[str, Any]:
    """The varied example as pictures: its frames, and one mask a phrase and frame."""
    frames, masks = [], []
    for time, frame in enumerate(example.frames):
        frames.append(f"{name}-frame-{time}.png")
        Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).save(part / frames[-1])
    for phrase, row in enumerate(example.masks if example.masks is not None else []):
        masks.append([f"{name}-phrase-{phrase}-mask-{time}.png" for time in range(len(row))])
        for mask, file in zip(row, masks[-1], strict=True):
            Image.fromarray(mask.to(torch.uint8).mul(255).numpy()).save(part / file)
    return {
        "name": example.name,
        "position": position,
        "phrases": list(example.phrases),
        "frames": frames,
        "masks": masks,
    }


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """The batch as the network saw it."""
    clips, targets = batch.clips, batch.targets
    named = {"pixels": clips.pixels, "valid": clips.valid, "content": clips.content}
    named["clip_of_phrase"] = batch.clip_of_phrase
    if clips.target_frames is not None:
        named["target_frames"] = clips.target_frames
    if targets is not None:
        named |= {key: getattr(targets, key) for key in ("masks", "visible", "boxes", "labels")}
    return {name: tensor.contiguous().clone() for name, tensor in named.items()}


def _culprits(shown: Sequence[_ShownBatch], verdicts: Sequence[_Recheck]) -> str:
    """Which batch and gradients, where computing the step again has found them."""
    for number, verdict in enumerate(verdicts):
        if not verdict.is_broken:
            continue
        names = ", ".join(example.name for example in shown[number].examples[:4])
        broken = [name for name, value in verdict.terms.items() if not math.isfinite(value)]
        parts = [f"the term {broken[0]}"] if broken else []
        parts += (
            [f"{len(verdict.gradients)} gradients, {verdict.gradients[0]} the first"]
            if verdict.gradients
            else []
        )
        return f" ({' and '.join(parts)}; examples {names})"
    return ""


def _as_plain(values: dict[str, float]) -> dict[str, float | str]:
    """Numbers as JSON knows them; others by name."""
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


_STEPS_ON_THE_WAY = 2


MOST_OVERFLOWS = 50
"""Steps in a row that float16 may skip: each halves the scale of the loss, so a gradient that is too large fits long before."""


NORM = "norm"
"""What the log calls the norm of the whole gradient."""


class NotFinite(InvalidInput):
    """A loss or a gradient that is no finite number; what led to it is kept beside the run."""


@dataclass(frozen=True)
class _Pending:
    """Numbers of a step that a device has not computed yet."""

    step: int
    names: tuple[str, ...]
    values: Tensor  # on its way to main memory
    ready: torch.cuda.Event


class FiniteCheck:
    """Looks at the numbers of every step.

    On a CPU it looks before the weights move. A GPU is not waited for: its numbers are looked at when they have arrived, a
    few steps later, the same number on all processes, and always before anything is saved.

    Arguments:
        may_overflow: in float16 a gradient too large for its type is met by skipping the step, and is no mistake, unless
            nothing else happens.
    """

    def __init__(self, scene: StepContext, log: Log, *, may_overflow: bool = False) -> None:
        self._scene, self._log, self._may_overflow = scene, log, may_overflow
        self._pending: deque[_Pending] = deque()
        self._overflows = 0  # steps in a row

    def look(self, training: TrainState, terms: Mapping[str, Tensor], norm: Tensor) -> None:
        """Notes the numbers of the step under way, and judges those that are known: the mean terms of all processes.

        Raises:
            NotFinite: if one of them is not finite, on every process alike.
        """
        names = (*terms, NORM)
        values = torch.stack([*(term.detach().float() for term in terms.values()), norm.detach().float()])
        if _is_at_hand(values):
            self._judge(training, training.step + 1, names, values, is_untouched=True)
            return
        here, ready = _send(values)
        self._pending.append(_Pending(training.step + 1, names, here, ready))
        self.settle(training, waits=False)

    def settle(self, training: TrainState, *, waits: bool = True) -> None:
        """Judges the steps whose numbers must have arrived, or with `waits` all that were noted; called before a save.

        Raises:
            NotFinite: as `look`.
        """
        # By the count of steps, not by what has arrived: all processes must stop at the same step.
        while len(self._pending) > (0 if waits else _STEPS_ON_THE_WAY):
            first = self._pending.popleft()
            first.ready.synchronize()
            self._judge(training, first.step, first.names, first.values, is_untouched=False)

    def _judge(
        self, training: TrainState, step: int, names: tuple[str, ...], values: Tensor, *, is_untouched: bool
    ) -> None:
        if bool(values.isfinite().all()):
            self._overflows = 0
            return
        told = dict(zip(names, values.tolist(), strict=True))
        broken = [name for name, value in told.items() if not math.isfinite(value)]
        if self._may_overflow and broken == [NORM]:
            self._overflows += 1
            if self._overflows < MOST_OVERFLOWS:
                return
        self._stop(training, step, told, broken, is_untouched=is_untouched)

    def _stop(
        self,
        training: TrainState,
        step: int,
        told: dict[str, float],
        broken: list[str],
        *,
        is_untouched: bool,
    ) -> NoReturn:
        self._log.end_at(step, told)
        found = BadStep(step, told, tuple(broken), is_untouched)
        kept = save_bad_step(self._scene, training, found)
        is_stuck = self._overflows >= MOST_OVERFLOWS
        often = f", with this {MOST_OVERFLOWS} steps in a row that float16 has to skip" if is_stuck else ""
        advice = _advice(self._scene.folder, is_stuck=is_stuck)
        raise NotFinite(f"{broken[0]} became {told[broken[0]]} at step {step}{often}; {kept}; {advice}")


def _advice(folder: Path, *, is_stuck: bool) -> str:
    saved = saved_step(folder)
    change = "a lower optimizer.lr, an optimizer.clip_norm, or float32"
    if saved is None:
        return f"nothing was saved before: begin again with {change}"
    if is_stuck:  # its state may hold a scale of the loss that has become useless
        return f"the weights of step {saved} are sound: begin another run with init={folder / LAST_NAME} in bfloat16 or float32"
    return (
        f"the state of step {saved} is sound: mend the data and go on with --resume, or begin another run with "
        f"init={folder / LAST_NAME} and {change}"
    )


def _is_at_hand(values: Tensor) -> bool:
    """Whether reading the values makes nobody wait."""
    return values.device.type != "cuda"


def _send(values: Tensor) -> tuple[Tensor, torch.cuda.Event]:
    """A place in main memory for values that a GPU has yet to compute, and what tells when they are there."""
    here = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    here.copy_(values, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record(torch.cuda.current_stream(values.device))
    return here, ready
