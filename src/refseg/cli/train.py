"""`refseg train`: a recipe in, checkpoints out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refseg.cli import app

if TYPE_CHECKING:
    from refseg.training.schema import RunConfig


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A packaged recipe such as scout/scenes, or the path of a TOML file.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Keys that differ from the recipe: run.steps=100 optimizer.lr=1e-4"),
    ] = None,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; default: runs/<name of the recipe>.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the state in the output folder.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Throw away the run that is in the folder.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Tell parameters, memory, time and disk of the run, and leave.")
    ] = False,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="With --plan: make no step, and tell what needs none.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --plan: print JSON.")] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Begin although memory seems too small for the run.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="Name the packaged recipes and leave.")] = False,
) -> None:
    """Train a model as a recipe says; Ctrl-C saves the state, --resume goes on from it, --plan tells what it takes."""
    if (
        "WORLD_SIZE" in os.environ
    ):  # torch, not imported yet, would warn once a process that no parameter is left unused
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from refseg.errors import InvalidInput
    from refseg.training.recipe import find_recipe, packaged_recipes, read_recipe

    if show_list:
        print("\n".join(packaged_recipes()))
        return
    if recipe is None:
        raise InvalidInput("name a recipe to train; `refseg train --list` names the packaged ones")
    if resume and force:
        raise InvalidInput(
            "--resume goes on with the run in the folder, --force throws it away; give one of them"
        )
    if (no_measure or as_json) and not plan:
        raise InvalidInput("--no-measure and --json say how a plan is told; give --plan with them")
    path = find_recipe(recipe)
    run = read_recipe(path, overrides or [], name=_name(recipe, path))
    folder = out or Path("runs") / run.name
    if plan:
        _plan(run, folder, device, measures=not no_measure, as_json=as_json)
        return
    prepare = partial(_prepare, folder, run, resume=resume, force=force)
    _train(run, folder, device, quiet=quiet, anyway=anyway, prepare=prepare)


def _name(recipe: str, path: Path) -> str:
    return recipe.replace("/", "-") if not Path(recipe).is_file() else path.stem


def _plan(run: RunConfig, folder: Path, device: str, *, measures: bool, as_json: bool) -> None:
    """Prints what the run would take; of several processes the first one does."""
    from refseg import distributed
    from refseg.device import find_device
    from refseg.training.plan import format_plan, make_plan

    try:
        found = distributed.start(find_device(device))
        made = distributed.on_first(lambda: make_plan(run, folder, found, measures=measures))
    except distributed.PeerFailed as refusal:
        raise typer.Exit(2) from refusal
    if made is not None:
        print(json.dumps(made.record()) if as_json else format_plan(made))
    distributed.stop()


def _train(
    run: RunConfig, folder: Path, device: str, *, quiet: bool, anyway: bool, prepare: Callable[[], None]
) -> None:
    """Trains, alone or as one of the processes that a launcher such as torchrun has started."""
    from refseg import distributed
    from refseg.device import find_device
    from refseg.errors import InvalidInput, is_full_memory
    from refseg.training.checks import check_possible, memory_advice
    from refseg.training.heartbeat import watch_peers
    from refseg.training.loop import train as train_run
    from refseg.training.signals import Interrupted

    try:
        found = distributed.start(find_device(device))
        distributed.on_first(lambda: check_possible(run, found))
        distributed.on_first(prepare)
    except (distributed.PeerFailed, InvalidInput) as refusal:
        # Before the others are gone: a group that ends by itself may abort at that, and hide the exit code.
        distributed.stop()
        if isinstance(refusal, InvalidInput):
            raise
        raise typer.Exit(2) from refusal
    try:
        with watch_peers(folder):
            last = train_run(run, folder, device=found, is_quiet=quiet, anyway=anyway)
    except distributed.PeerFailed as refusal:
        raise typer.Exit(2) from refusal
    except Interrupted as stopped:
        if distributed.is_first():
            print(f"refseg: {stopped}", file=sys.stderr)
        raise typer.Exit(stopped.exit_code) from stopped
    except (ValueError, OSError):  # the mistakes a user can make, and what the system refuses
        if distributed.is_first():
            _forget_unbegun(folder)
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_full_memory(error):
            raise
        advice = "; ".join(memory_advice(run, found))
        raise InvalidInput(
            f"memory ran out on {found}; --plan tells what the run needs and what there is, and these make it smaller: {advice}"
        ) from error
    if distributed.is_first():
        print(last)
    distributed.stop()


def _forget_unbegun(folder: Path) -> None:
    """Takes away what a run wrote that failed before its first step, so that the same words can start it again."""
    from refseg.training.run_folder import LOG_NAME, STATE_NAME, own_files

    log = folder / LOG_NAME
    if (folder / STATE_NAME).exists() or (log.exists() and log.stat().st_size):
        return
    for path in own_files(folder):
        path.unlink(missing_ok=True)


def _prepare(folder: Path, run: RunConfig, *, resume: bool, force: bool) -> None:
    """The output folder, empty of another run unless it is to be resumed."""
    from refseg.errors import InvalidInput
    from refseg.training.checkpointing import check_same_start
    from refseg.training.finite_check import remove_bad_step
    from refseg.training.run_folder import RUN_NAME, STATE_NAME, own_files

    present = own_files(folder)
    if resume and not present:
        raise InvalidInput(f"there is no run in {folder} to resume; leave out --resume to start one")
    if resume and not (folder / STATE_NAME).exists():
        check_same_start(folder, run)
        if not (folder / RUN_NAME).exists():
            raise InvalidInput(
                f"{folder} holds {present[0].name}, but no run to resume; begin anew by --force, or with another --out"
            )
    if present and not resume and not force:
        raise InvalidInput(f"{folder} holds a run; go on with it by --resume, or throw it away by --force")
    if force:
        for path in present:
            path.unlink()
        remove_bad_step(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"the output folder {folder} cannot be made: {error.strerror}") from error
