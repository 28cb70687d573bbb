"""`refseg train`: a recipe in, checkpoints out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refseg.cli import app

if TYPE_CHECKING:
    from refseg.training.config import RunConfig


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
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="Name the packaged recipes and leave.")] = False,
) -> None:
    """Train a model as a recipe says; Ctrl-C saves the state, --resume goes on from it."""
    from refseg.errors import InvalidInput
    from refseg.training.config import find_recipe, packaged_recipes, read_recipe

    if show_list:
        print("\n".join(packaged_recipes()))
        return
    if recipe is None:
        raise InvalidInput("name a recipe to train; `refseg train --list` names the packaged ones")
    if resume and force:
        raise InvalidInput(
            "--resume goes on with the run in the folder, --force throws it away; give one of them"
        )
    path = find_recipe(recipe)
    run = read_recipe(path, overrides or [], name=_name(recipe, path))
    folder = out or Path("runs") / run.name
    _train(run, folder, device, quiet=quiet, prepare=partial(_prepare, folder, resume=resume, force=force))


def _name(recipe: str, path: Path) -> str:
    return recipe.replace("/", "-") if not Path(recipe).is_file() else path.stem


def _train(run: RunConfig, folder: Path, device: str, *, quiet: bool, prepare: Callable[[], None]) -> None:
    """Trains, alone or as one of the processes that a launcher such as torchrun has started."""
    from refseg import distributed
    from refseg.predictor import find_device
    from refseg.training.interruption import Interrupted
    from refseg.training.loop import train as train_run

    found = distributed.start(find_device(device))
    try:
        distributed.first_alone(prepare)
    except distributed.Refused as refusal:
        raise typer.Exit(2) from refusal
    try:
        last = train_run(run, folder, device=found, is_quiet=quiet)
    except distributed.Refused as refusal:
        raise typer.Exit(2) from refusal
    except Interrupted as stopped:
        if distributed.is_first():
            print(f"refseg: {stopped}", file=sys.stderr)
        raise typer.Exit(stopped.exit_code) from stopped
    except ValueError:  # the mistakes a user can make
        if distributed.is_first():
            _forget_unbegun(folder)
        raise
    if distributed.is_first():
        print(last)
    distributed.stop()


def _forget_unbegun(folder: Path) -> None:
    """Takes away what a run wrote that failed before its first step, so that the same words can start it again."""
    from refseg.training.log import LOG_NAME
    from refseg.training.resume import OWN_FILES, STATE_NAME

    log = folder / LOG_NAME
    if (folder / STATE_NAME).exists() or (log.exists() and log.stat().st_size):
        return
    for name in OWN_FILES:
        (folder / name).unlink(missing_ok=True)


def _prepare(folder: Path, *, resume: bool, force: bool) -> None:
    """The output folder, empty of another run unless it is to be resumed."""
    from refseg.errors import InvalidInput
    from refseg.training.resume import OWN_FILES

    present = [folder / name for name in OWN_FILES if (folder / name).exists()]
    if resume and not present:
        raise InvalidInput(f"there is no run in {folder} to resume; leave out --resume to start one")
    if present and not resume and not force:
        raise InvalidInput(f"{folder} holds a run; go on with it by --resume, or throw it away by --force")
    if force:
        for path in present:
            path.unlink()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"the output folder {folder} cannot be made: {error.strerror}") from error
