"""Checkpoints and resume: the state of a run, the checkpoints that follow from it, the best ones, other process counts.

The state is written first and alone decides where a run resumes. A file of several best ones is never rewritten under its
name: it holds the weights of its step, or it is not there. Those that have fallen behind go only after a state is safe that
does not name them. A run ends exactly as one that was not stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from refseg import distributed
from refseg.checkpoints import native
from refseg.errors import InvalidInput
from refseg.files import durable_file, reason
from refseg.models.base import ReferringModel
from refseg.training.context import RunContext
from refseg.training.data import format_data_title
from refseg.training.lora import as_stored
from refseg.training.lora_file import save_adapters
from refseg.training.recipe import differences, examples_per_step, read_recipe
from refseg.training.resources import free_disk
from refseg.training.run_folder import (
    ADAPTERS_NAME,
    BEST_NAME,
    LAST_NAME,
    OWN_FILES,
    OWN_PATTERNS,
    RUN_NAME,
    STATE_NAME,
    is_of_step,
    own_files,
    saved_step,
)
from refseg.training.schema import PRECISIONS, RunConfig
from refseg.training.state import TrainState

LAYOUT = 3


def save_state(folder: Path, values: Mapping[str, Any]) -> None:
    """Writes plain data and tensors as the state of the run in `folder`, whole or not at all.

    The file replaces the old one only after its bytes have reached the disk, so that a machine that stops at any
    moment leaves one whole state.

    Raises:
        InvalidInput: if the file cannot be written (no room, no permission).
    """
    path = folder / STATE_NAME
    try:
        with durable_file(path) as part, part.open("wb") as file:
            torch.save({"layout": LAYOUT, **values}, file)
    except (OSError, RuntimeError) as error:  # torch hides what the system said behind an error of its own
        raise InvalidInput(
            f"the state of the run cannot be written to {path}: {reason(error)}; {_describe_rest(folder)}"
        ) from error


def _describe_rest(folder: Path) -> str:
    step = saved_step(folder)
    if step is None:
        return "no state was saved before; make room, or give another folder, and start again"
    return f"the state of step {step} stays; make room and go on with --resume"


def tidy_and_load_state(folder: Path) -> dict[str, Any] | None:
    """The state last saved in `folder`, on the CPU; None if there is none. Files that a kill left half written go.

    Raises:
        InvalidInput: if the file is damaged or of another layout.
    """
    for name in (*OWN_FILES, *OWN_PATTERNS, "README.md"):
        for half in folder.glob(f".{name.partition('.')[0].rstrip('*')}*.part*"):
            half.unlink(missing_ok=True)
    path = folder / STATE_NAME
    if not path.exists():
        return None
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InvalidInput(f"the state {path} cannot be read: {error}") from error
    if values.get("layout") != LAYOUT:
        raise InvalidInput(
            f"the state {path} has layout {values.get('layout')}; this refseg reads {LAYOUT}: finish the run with the "
            "refseg that began it, or start anew from its last checkpoint (init=)"
        )
    return values


def check_same_run(folder: Path, run: RunConfig) -> None:
    """Refuses to go on with a run whose recipe differs in what it computes.

    Raises:
        InvalidInput: naming the keys that differ.
    """
    differing = differences(read_recipe(folder / RUN_NAME), run)
    if differing:
        raise InvalidInput(
            f"the run in {folder} was started with another value of {', '.join(differing)}; resume it with its own "
            f"{folder / RUN_NAME}, or start anew in another folder with --out"
        )


def check_same_start(folder: Path, run: RunConfig) -> None:
    """Refuses to begin at the first step in a folder without a state, unless nothing there is lost or contradicted by it.

    A state is on the disk before the first checkpoint is, so checkpoints without one are a result, whose state was taken
    away. A recipe alone is that of a run which was killed before its first save.

    Raises:
        InvalidInput: naming the checkpoints, or the keys in which the recipes differ.
    """
    kept = [path.name for path in own_files(folder) if path.suffix == ".safetensors"]
    if kept:
        raise InvalidInput(
            f"{folder} holds {', '.join(kept)} and no {STATE_NAME} to go on from; begin another run with init={folder / kept[0]} "
            "and another --out, or throw this one away by --force"
        )
    if (folder / RUN_NAME).exists():
        check_same_run(folder, run)


def load_state(folder: Path, run: RunConfig) -> dict[str, Any] | None:
    """The state of the run in `folder`, or None; the first process alone reads it, and alone holds its tensors.

    Raises:
        InvalidInput: on the first process, if the state is damaged or of another run, or there is none and the folder holds
            another run or its checkpoints.
        Refused: on the others then.
    """

    def load() -> dict[str, Any] | None:
        state = tidy_and_load_state(folder)
        if state is None:
            check_same_start(folder, run)
        else:
            _check_resumable(state, read_recipe(folder / RUN_NAME), run, folder)
        return state

    state = distributed.on_first(load)
    if distributed.world_size() == 1:
        return state
    told = distributed.broadcast(None if state is None else _outline(state))
    return told if state is None else state


def _check_resumable(state: dict[str, Any], saved: RunConfig, run: RunConfig, folder: Path) -> None:
    """Refuses another run. How a step's examples are dealt out may differ; how many there are may not, see `regrouped`."""
    size, accumulate = saved.run.batch_size, saved.optimizer.accumulate
    # Batches of one shape are dealt out by their size over all processes, which must stay.
    kept = run.optimizer.accumulate if run.data.same_shape else accumulate
    check_same_run(folder, _with_batches(run, size, kept))
    now, own = distributed.world_size(), (run.run.batch_size, run.optimizer.accumulate)
    if run.data.clips is not None and own != (size, accumulate):
        raise InvalidInput(
            f"run.batch_size and optimizer.accumulate decide which batches of the run in {folder} are of clips; leave them at "
            f"{size} and {accumulate}, and they follow from the number of processes"
        )
    if own != (size, accumulate) and examples_per_step(run, now) != state["examples"]:
        raise InvalidInput(
            f"run.batch_size {own[0]} x optimizer.accumulate {own[1]} x {_processes(now)} are {examples_per_step(run, now)} "
            f"examples a step, and the run in {folder} has {state['examples']}; leave both out, and they follow from it"
        )


def _outline(state: dict[str, Any]) -> dict[str, Any]:
    """The state without its tensors, except random states, which every process takes its own of."""
    return {**distributed.outline(state), "random": state["random"]}


def regroup(run: RunConfig, state: dict[str, Any] | None) -> tuple[RunConfig, str]:
    """The run with as many examples a step as the saved one has, and a line about what differs now, if anything does.

    A step shows the same examples on any number of processes. A recipe whose own numbers make up the step is taken as
    it is; else processes get larger or smaller batches, and where these are no whole number, more or fewer of them.

    Raises:
        InvalidInput: if the step's examples cannot be dealt out evenly, naming numbers of processes that can.
    """
    if state is None:
        return run, ""
    before, now, examples = state["processes"], distributed.world_size(), state["examples"]
    given = examples_per_step(run, now) == examples
    changed = run if given else _fit_batches(run, examples, now, before)
    if before == now and given:
        return run, ""
    return changed, (
        f"saved by {_processes(before)}, goes on with {now}: {examples} examples a step as before, in batches of "
        f"{changed.run.batch_size} x {changed.optimizer.accumulate} a process{_describe_clips(changed)}; the order of the data stays, what is dropped "
        "out from here on differs"
    )


def _fit_batches(run: RunConfig, examples: int, processes: int, before: int) -> RunConfig:
    accumulate, size = run.optimizer.accumulate, run.run.batch_size
    if run.data.clips is not None:
        return _with_clips_distributed(run, examples // (accumulate * size), processes, before)
    if examples % (accumulate * processes) == 0:  # the same batches over all processes: nothing else changes
        return _with_batches(run, examples // (accumulate * processes), accumulate)
    if examples % (size * processes) == 0 and not run.data.same_shape:
        return _with_batches(run, size, examples // (size * processes))
    fitting = [str(n) for n in range(1, examples + 1) if examples % (accumulate * n) == 0]
    raise InvalidInput(
        f"the run was saved by {_processes(before)} with {examples} examples a step, which {processes} cannot share evenly; "
        f"start {' or '.join(fitting) or before} processes, or give run.batch_size and optimizer.accumulate so that both times "
        f"{processes} are {examples}"
    )


def _with_clips_distributed(run: RunConfig, started: int, processes: int, before: int) -> RunConfig:
    """The run of `started` processes on another number of them; its batches over all processes stay as they are.

    Which batches are of clips is counted in batches, and of those every process shows its first ones: as positions are dealt
    out by turns, these are the first ones of the whole batch where their number can be dealt out evenly too.
    """
    clips = run.data.clips
    assert clips is not None, "the run draws clips"
    size = run.run.batch_size * started
    shown = size if clips.batch_size is None else clips.batch_size * started
    if size % processes or shown % processes:
        fitting = [str(n) for n in range(1, size + 1) if size % n == 0 and shown % n == 0]
        raise InvalidInput(
            f"the run was saved by {_processes(before)} with batches of {size} pictures or {shown} clips over all, which "
            f"{processes} cannot share evenly; start {' or '.join(fitting)} processes"
        )
    run = _with_batches(run, size // processes, run.optimizer.accumulate)
    if clips.batch_size is None:
        return run
    moved = clips.model_copy(update={"batch_size": shown // processes})
    return run.model_copy(update={"data": run.data.model_copy(update={"clips": moved})})


def _describe_clips(run: RunConfig) -> str:
    clips = run.data.clips
    return "" if clips is None else f", {clips.batch_size or run.run.batch_size} where they are clips"


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _with_batches(run: RunConfig, size: int, accumulate: int) -> RunConfig:
    section = run.run.model_copy(update={"batch_size": size})
    optimizer = run.optimizer.model_copy(update={"accumulate": accumulate})
    return run.model_copy(update={"run": section, "optimizer": optimizer})


def best_at(step: int | str) -> str:
    """The file of one of several best checkpoints."""
    return f"best-at-{step}.safetensors"


def has_best(training: TrainState, place: RunContext) -> bool:
    """Whether the checkpoints of the measurement after this step, which is one of the best, are there."""
    return all(is_of_step(place.folder / name, training.step) for name in _names(training, place))


def save_best(training: TrainState, place: RunContext, save: Callable[[str], None]) -> None:
    """Keeps the weights of this step, whose measurement is one of the best.

    Arguments:
        save: writes these weights under a name.
    """
    first, *further = _names(training, place)
    save(first)
    for other in further:
        if not _link(place.folder, first, other):
            save(other)


def _names(training: TrainState, place: RunContext) -> list[str]:
    """Under which the weights of this step are kept."""
    own = [best_at(training.step)] * (place.run.run.keep_best > 1)
    return own + [BEST_NAME] * (training.kept.ranking[0][1] == training.step)


def prune(training: TrainState, place: RunContext) -> None:
    """Takes away checkpoints that were among the best once, or that a run which was killed left behind."""
    several = place.run.run.keep_best > 1
    kept = {best_at(step) for _, step in training.kept.ranking} if several else set()
    for path in place.folder.glob(best_at("*")):
        if path.name not in kept:
            path.unlink()


def _link(folder: Path, name: str, other: str) -> bool:
    """Gives a file a second name in place of another file; False on a disk that cannot."""
    half = folder / f".{other}.part"
    half.unlink(missing_ok=True)
    with suppress(OSError):
        half.hardlink_to(folder / name)
        half.replace(folder / other)
        return True
    half.unlink(missing_ok=True)
    return False


def save(training: TrainState, place: RunContext) -> None:
    """Saves the state, then the checkpoints that it speaks of and that are not there; all processes come here together.

    Raises:
        InvalidInput: on the first process, if there is no room; what was saved before stays whole.
        Refused: on the others then.
    """
    state = training.state()

    def write() -> None:
        place.log.sync()  # the state must not be on the disk without the steps that led to it
        save_state(place.folder, state)

    distributed.on_first(write)
    repair(training, place)


def repair(training: TrainState, place: RunContext) -> None:
    """Writes the checkpoints of the step that was saved last, as far as they are not there yet.

    After a kill they are older than the state; the run then begins with this.
    """
    if training.step == 0:
        return
    is_kept = training.kept.keeps(training.step) and not training.owes_measurement
    is_old = not is_of_step(place.folder / LAST_NAME, training.step)
    lacks_best = is_kept and not has_best(training, place)
    if not any(distributed.broadcast((is_old, lacks_best))):
        return
    with training.result() as model:

        def write() -> None:
            save = partial(_save_checkpoint, training, model, place)
            if is_old:
                save(LAST_NAME)
            if lacks_best:
                save_best(training, place, save)
            prune(training, place)

        distributed.on_first(write)


@dataclass(frozen=True)
class Sizes:
    """Bytes that a run writes."""

    state: int
    checkpoint: int


def sizes(training: TrainState, run: RunConfig) -> Sizes:
    """What the state and one checkpoint will take, headers left out."""
    weights = _bytes(training.model.state_dict().values())
    average = 0 if training.average is None else _bytes(training.average.model.state_dict().values())
    held = _bytes(value for values in training.optimizer.state.values() for value in values.values())
    trained = _bytes(p for group in training.optimizer.param_groups for p in group["params"])
    moments = held or 2 * trained  # before the first step, those of Adam
    share = PRECISIONS[run.run.weights].itemsize / torch.float32.itemsize
    return Sizes(weights + average + moments, int(weights * share))


def check_disk(training: TrainState, place: RunContext) -> None:
    """Looks, before the first step, whether the disk has room for what the run will save.

    A file is whole before it takes the place of the one before, so the largest one is there twice for a moment. Too
    little for a single save is refused; too little for all that may be kept is said.

    Raises:
        InvalidInput: naming what is free and what is needed.
    """
    found, folder = sizes(training, place.run), place.folder
    there = [folder / name for name in (STATE_NAME, LAST_NAME) if (folder / name).exists()]
    once = max(found.state, found.checkpoint) if len(there) == 2 else found.state + found.checkpoint
    settings = place.run.run
    kept = 0 if settings.evaluate_examples == 0 else settings.keep_best
    every = 2 * found.state + (2 + kept) * found.checkpoint
    free = free_disk(folder)
    if free < once:
        raise InvalidInput(
            f"{folder} has room for {_format_bytes(free)}, and saving this run takes {_format_bytes(once)}; make room, or give another folder "
            "with --out"
        )
    missing = every - sum(path.stat().st_size for path in own_files(folder)) - free
    if missing > 0:
        place.log.say(
            f"note: {folder} has room for {_format_bytes(free)}; {_format_bytes(missing)} more may be needed before the run ends"
        )


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


def _format_bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _save_checkpoint(training: TrainState, model: ReferringModel, place: RunContext, name: str) -> None:
    run = place.run
    origin = {"recipe": run.name, "data": format_data_title(run), "step": str(training.step)}
    origin |= {"objective": run.objective} | ({"init": run.init} if run.init else {})
    if name == LAST_NAME and training.kept.base:  # before the checkpoint, which says that all is there
        save_adapters(place.folder / ADAPTERS_NAME, model, training, run, origin)
    native.save(
        place.folder / name,
        as_stored(model),
        family=run.family,
        variant=run.variant,
        origin=origin,
        dtype=PRECISIONS[run.run.weights],
    )
