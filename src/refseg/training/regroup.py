"""A run taken up again: its saved state, and its batches dealt to as many processes as there are now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refseg import distributed
from refseg.data.sampling import generator_at
from refseg.errors import InvalidInput
from refseg.training.config import RunConfig, read_recipe
from refseg.training.lengths import examples_per_step
from refseg.training.resume import RUN_NAME, must_be_same_run, must_begin_alike, tidy_and_load_state

_REGROUPING = 5  # what the numbers are for; see data.sampling


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
            must_begin_alike(folder, run)
        else:
            _must_go_on(state, read_recipe(folder / RUN_NAME), run, folder)
        return state

    state = distributed.first_alone(load)
    if distributed.world_size() == 1:
        return state
    told = distributed.shared(None if state is None else _outline(state))
    return told if state is None else state


def _must_go_on(state: dict[str, Any], saved: RunConfig, run: RunConfig, folder: Path) -> None:
    """Refuses another run. How a step's examples are dealt out may differ; how many there are may not, see `regrouped`."""
    size, accumulate = saved.run.batch_size, saved.optimizer.accumulate
    # Batches of one shape are dealt out by their size over all processes, which must stay.
    kept = run.optimizer.accumulate if run.data.same_shape else accumulate
    must_be_same_run(folder, _with_batches(run, size, kept))
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


def regrouped(run: RunConfig, state: dict[str, Any] | None) -> tuple[RunConfig, str]:
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
    changed = run if given else _fitting(run, examples, now, before)
    if before == now and given:
        return run, ""
    return changed, (
        f"saved by {_processes(before)}, goes on with {now}: {examples} examples a step as before, in batches of "
        f"{changed.run.batch_size} x {changed.optimizer.accumulate} a process{_clips_told(changed)}; the order of the data stays, what is dropped "
        "out from here on differs"
    )


def seed_of_rank(seed: int, step: int, rank: int) -> int:
    """The seed of a process that joins a run after `step`."""
    return int(generator_at(seed, _REGROUPING, step, rank).initial_seed())


def _fitting(run: RunConfig, examples: int, processes: int, before: int) -> RunConfig:
    accumulate, size = run.optimizer.accumulate, run.run.batch_size
    if run.data.clips is not None:
        return _with_clips_dealt(run, examples // (accumulate * size), processes, before)
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


def _with_clips_dealt(run: RunConfig, started: int, processes: int, before: int) -> RunConfig:
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


def _clips_told(run: RunConfig) -> str:
    clips = run.data.clips
    return "" if clips is None else f", {clips.batch_size or run.run.batch_size} where they are clips"


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _with_batches(run: RunConfig, size: int, accumulate: int) -> RunConfig:
    section = run.run.model_copy(update={"batch_size": size})
    optimizer = run.optimizer.model_copy(update={"accumulate": accumulate})
    return run.model_copy(update={"run": section, "optimizer": optimizer})
