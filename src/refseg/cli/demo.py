"""`refseg demo`: the main job on the example pictures of the package, with the checkpoint of the package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import app
from refseg.errors import InvalidInput

if TYPE_CHECKING:
    from PIL import Image

    from refseg.cli.predict.inputs import Job
    from refseg.predictor import Predictor

EXAMPLES = Path(__file__).parents[1] / "assets" / "examples" / "examples.jsonl"
SHEET = "demo.png"
_COLUMNS, _TILE = 4, 320
_PHRASES_ON_SHEET = 2  # of each picture; one beside the other they show that the words decide
_WHAT_SCOUT_IS = (
    "scout knows only the drawn world it was trained on, not photographs; "
    "for photographs, see `refseg models` and `refseg predict`."
)


@dataclass(frozen=True)
class Example:
    """One example picture or clip, and what is asked about it."""

    job: Job
    phrases: tuple[str, ...]


@app.command()
def demo(
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for masks, overlays and demo.png.")
    ] = Path("refseg-demo"),
    checkpoint: Annotated[str, typer.Option(help="A checkpoint's name or file.")] = "scout",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines on stdout, and nothing else.")
    ] = False,
) -> None:
    """Answer phrases about the example pictures; may be run again.

    Writes masks, overlays, results.jsonl, and demo.png with two answers about each picture.
    """
    from refseg.files import check_writable
    from refseg.predictor import load

    examples = read_examples(EXAMPLES)
    check_writable(out)
    predictor = load(checkpoint, device=device)
    records = _answer(predictor, examples, out)
    _draw_sheet(records, out)
    if as_json:
        print("\n".join(json.dumps(record, ensure_ascii=False) for record in records))
        return
    _print_table(records, out)
    if checkpoint == "scout":
        print(f"\n{_WHAT_SCOUT_IS}")
    print(f"Some of it on one sheet: {out / SHEET}")


def read_examples(path: Path) -> list[Example]:
    """The examples of a file in the open form (one JSON line a phrase), phrases about one picture together.

    Raises:
        InvalidInput: if the file is not there or holds none.
    """
    from refseg.cli.predict.inputs import Job, slug
    from refseg.data.formats.phrase_line import parse_line

    if not path.exists():
        raise InvalidInput(
            f"the example pictures are not in this installation ({path}); install refseg again"
        )
    asked: dict[tuple[str, ...], list[str]] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        line = parse_line(text)
        asked.setdefault(line.frames, []).append(line.phrase)
    examples = []
    for number, (pictures, phrases) in enumerate(asked.items(), start=1):
        # Frames of a clip lie in a folder of their own, which names the clip.
        first = Path(pictures[0])
        stem = first.stem if len(pictures) == 1 else first.parent.name or first.stem
        name = f"{number:02d}-{slug(stem, longest=40, fallback='example')}"
        paths = tuple(path.parent / picture for picture in pictures)
        examples.append(
            Example(Job(name, stem, paths, is_clip=len(pictures) > 1), tuple(dict.fromkeys(phrases)))
        )
    return examples


def _answer(predictor: Predictor, examples: Sequence[Example], out: Path) -> list[dict[str, Any]]:
    """The record of every answer, in order; their files are in `out`, in place of those of an earlier demo."""
    from refseg.cli.predict.inputs import phrase_slugs
    from refseg.cli.predict.outputs import ResultsFile, answer_files
    from refseg.cli.predict.run import ReadLimits, Run
    from refseg.cli.progress import progress_bars

    records: list[dict[str, Any]] = []
    results = ResultsFile.open(out)
    try:
        with progress_bars() as bars:
            for example in bars.track(examples, "examples", len(examples)):
                job = example.job
                slugs = phrase_slugs(example.phrases)
                files = {job.name: [answer_files(out, job.name, s, is_clip=job.is_clip) for s in slugs]}
                run = Run(predictor, example.phrases, files, results, ReadLimits(), records.append)
                run.answer(job, bars)
    finally:
        results.save()
    return records


def _draw_sheet(records: Sequence[dict[str, Any]], out: Path) -> None:
    from refseg.media.drawing import contact_sheet, save_picture

    shown: dict[str, list[Path]] = {}
    for record in records:
        shown.setdefault(record["input"], []).append(out / record["overlay"])
    tiles = [_tile(path) for paths in shown.values() for path in paths[:_PHRASES_ON_SHEET]]
    save_picture(contact_sheet(tiles, columns=_COLUMNS, side=_TILE), out / SHEET)


def _tile(overlay: Path) -> Image.Image:
    """An overlay picture, or the middle frame of an overlay video."""
    from PIL import Image

    from refseg.media.video import read_clip

    if overlay.suffix != ".mp4":
        with Image.open(overlay) as picture:
            return picture.convert("RGB")
    frames = read_clip(overlay).frames
    return Image.fromarray(frames[len(frames) // 2].permute(1, 2, 0).contiguous().numpy())


def _print_table(records: Sequence[dict[str, Any]], out: Path) -> None:
    """Phrase, score and mask of every answer, in columns."""
    rows = [("phrase", "score", "mask")]
    for record in records:
        score = "-" if record["score"] is None else f"{record['score']:.2f}"
        rows.append((record["phrase"], score, str(out / record["mask"])))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for phrase, score, mask in rows:
        print(f"{phrase:<{widths[0]}}  {score:>{widths[1]}}  {mask}")
