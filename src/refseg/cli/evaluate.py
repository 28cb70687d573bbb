"""`refseg evaluate`: a checkpoint on a data set, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import app
from refseg.cli.scenes_options import WORLD_HELP, world_fields

if TYPE_CHECKING:
    from refseg.checkpoints.cards import Published
    from refseg.data.dataset import PhraseDataset
    from refseg.evaluation.prepare import EvaluationSetup
    from refseg.evaluation.run import Result
    from refseg.predictor import Predictor


def _print_protocols(wanted: bool) -> None:
    if wanted:
        from refseg.evaluation.table import protocol_text

        print(protocol_text())
        raise typer.Exit


@app.command()
def evaluate(
    *,
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint's name (`refseg models` lists them) or file.")
    ],
    data: Annotated[
        str,
        typer.Argument(
            help="A data set's name (refcoco, mevis, ...; `refseg data list`), scenes, or a .jsonl file in the open form."
        ),
    ],
    split: Annotated[
        str | None,
        typer.Option(help="The part to evaluate; default: the validation part, every line of a file."),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(help="At most so many pictures or clips; default: all (1,000 scenes).", min=1),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Where the data set lies; of a file, the folder that its paths start from."),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="A way of measuring, instead of ours and the published one; may be repeated."),
    ] = None,
    protocols: Annotated[
        bool,
        typer.Option(
            "--protocols", callback=_print_protocols, is_eager=True, help="List the protocols and stop."
        ),
    ] = False,
    window: Annotated[
        int | None,
        typer.Option(
            help="Clips: frames answered at once, 0 for all; default: the protocol's. A2D, JHMDB: frames seen around one (those of its training).",
            min=0,
        ),
    ] = None,
    rows: Annotated[
        Path | None, typer.Option(help="A .jsonl file that keeps every example as it is done.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a stopped evaluation, from its --rows file.")
    ] = False,
    submission: Annotated[
        Path | None, typer.Option(help="Write what the data set's server expects: a .zip, or a folder.")
    ] = None,
    shuffle_phrases: Annotated[
        bool,
        typer.Option("--shuffle-phrases", help="The control: ask every picture the phrases of another one."),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="An HTML page: the worst answers drawn, and numbers by kind of phrase."),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Scenes: side of the picture in pixels (128).")] = None,
    frames: Annotated[int | None, typer.Option(help="Scenes: frames of a clip (1, an image).")] = None,
    phrases: Annotated[int | None, typer.Option(help="Scenes: phrases of every scene (3).", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Scenes: another seed draws other scenes (0).")] = None,
    sprites: Annotated[
        str | None, typer.Option(help="Scenes: auto, none (shapes only), or a sprite file.")
    ] = None,
    world: Annotated[list[str] | None, typer.Option(help=WORLD_HELP)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A JSON file for the result.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    as_card: Annotated[
        bool, typer.Option("--card", help="Print [[checkpoint.measured]] tables for a result card.")
    ] = False,
    card_file: Annotated[
        Path | None,
        typer.Option(help="A model card (README.md of a run, say) that the numbers are added to."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file of the same name.")] = False,
) -> None:
    """Measure a checkpoint on a data set by our conventions and, where they differ, by the published ones beside them.

    refseg evaluate scout scenes --count 200
    """
    from contextlib import ExitStack

    from refseg import distributed
    from refseg.data.catalog import open_dataset
    from refseg.device import find_device
    from refseg.evaluation.machine import this_machine
    from refseg.evaluation.model_card import result_facts
    from refseg.evaluation.prepare import EvaluationRequest, prepare
    from refseg.evaluation.report import write_report
    from refseg.evaluation.run import evaluate as run_evaluation
    from refseg.evaluation.table import result_record
    from refseg.files import check_writable
    from refseg.predictor import load

    del protocols  # printed before anything else was read
    scenes = {"size": size, "frames": frames, "phrases": phrases, "seed": seed, "sprites": sprites}
    given = {name: value for name, value in scenes.items() if value is not None} | world_fields(world or ())
    split = "valid" if split is None and submission is not None else split
    request = EvaluationRequest(
        tuple(protocol or ()), window, rows, resume, submission, shuffle_phrases, dtype
    )
    with _speaking_once():
        place = distributed.start(find_device(device))

    def begin(files: ExitStack) -> tuple[PhraseDataset, dict[str, Any], EvaluationSetup, Predictor]:
        if distributed.is_first():
            _check_files(out, report, force=force)
            if card_file is not None:
                check_writable(card_file.parent)
        dataset = open_dataset(data, split=split, count=count, root=root, scenes=given)
        weights = _checkpoint_facts(checkpoint)
        dataset = _with_trained_frames(dataset, checkpoint)
        ready = files.enter_context(prepare(request, dataset, weights))
        return ready.dataset, weights, ready, load(checkpoint, device=place, dtype=dtype)

    with _speaking_once(), ExitStack() as files:
        dataset, weights, ready, predictor = distributed.on_all(lambda: begin(files))
        result = run_evaluation(
            predictor,
            dataset,
            shuffle_phrases=shuffle_phrases,
            shows_progress=True,
            protocols=ready.protocols,
            window=ready.window,
            journal=ready.journal,
            writer=ready.writer,
        )
    if not distributed.is_first():
        return
    written = ready.writer.finish() if ready.writer is not None else None
    record = result_record(result, this_machine(predictor.device), **ready.facts)
    if report is not None:
        title = f"{weights['name']} on {dataset.name}"
        write_report(report, result, predictor, dataset, title=title, published=ready.published)
    if card_file is not None:
        _add_to_card(card_file, checkpoint, result_facts(result, record, ready.published), predictor)
    _tell(result, record, ready.published, out=out, as_json=as_json, as_card=as_card)
    if written is not None:
        typer.echo(
            f"{written} is ready; `refseg data check-submission` looks through it before you upload it",
            err=as_json,
        )


def _check_files(*files: Path | None, force: bool) -> None:
    from refseg.errors import InvalidInput
    from refseg.files import check_writable

    for file in filter(None, files):
        if file.exists() and not force:
            raise InvalidInput(f"{file} exists; give another name, or --force to replace it")
        check_writable(file.parent)


@contextmanager
def _speaking_once() -> Iterator[None]:
    """Of several processes, the one that fails says why; the others leave."""
    from refseg import distributed

    try:
        yield
    except distributed.PeerFailed as refusal:
        distributed.stop()  # before the others are gone, which a group that ends by itself may abort at
        raise typer.Exit(2) from refusal


def _tell(
    result: Result,
    record: dict[str, Any],
    published: Sequence[Published],
    *,
    out: Path | None,
    as_json: bool,
    as_card: bool,
) -> None:
    from refseg.evaluation.model_card import card_tables
    from refseg.evaluation.table import result_table
    from refseg.files import write_whole_text

    if out is not None:
        write_whole_text(out, json.dumps(record, indent=2) + "\n")
    if as_json:
        print(json.dumps(record))
    elif as_card:
        print(card_tables(record))
    else:
        print(result_table(result, published))


def _add_to_card(page: Path, checkpoint: str, found: dict[str, Any], predictor: Predictor) -> None:
    from refseg.checkpoints import zoo
    from refseg.evaluation.model_card import add_to_card

    count = sum(parameter.numel() for parameter in predictor.model.parameters())
    add_to_card(page, checkpoint, zoo.resolve(checkpoint), count, found)


def _with_trained_frames(dataset: PhraseDataset, checkpoint: str) -> PhraseDataset:
    """Single labelled frames are asked about within as many frames as the checkpoint was trained with."""
    from refseg.checkpoints import native, zoo

    count = native.read_header(zoo.resolve(checkpoint)).config.get("num_frames")
    if dataset.is_windowed and isinstance(count, int):
        return dataset.with_options(window=count)
    return dataset


def _checkpoint_facts(name: str) -> dict[str, Any]:
    """What identifies the weights."""
    from refseg.checkpoints import native, zoo

    header = native.read_header(zoo.resolve(name))
    label = Path(name).name  # of a file its name alone: folders are nobody else's business
    return {"name": label, "family": header.family, "variant": header.variant, "sha256": header.sha256}
