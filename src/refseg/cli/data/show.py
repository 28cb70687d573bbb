"""`refseg data show`: a sheet of a data set's pictures, masks and phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli.data.group import verbs

if TYPE_CHECKING:
    from PIL import Image

    from refseg.data.dataset import PhraseDataset
    from refseg.structures import Example

_COLUMNS = 4
_SIDE = 320  # pixels of a cell
_PAGES = (".html", ".htm")


@dataclass(frozen=True)
class _Cell:
    """One phrase, drawn."""

    picture: Image.Image
    phrase: str
    told: str  # where it stands, and what is known of it


@verbs.command()
def show(
    *,
    data: Annotated[str, typer.Argument(help="scenes, a published data set, a .jsonl file, or a folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG or HTML file to write.")] = Path(
        "sheet.png"
    ),
    split: Annotated[str | None, typer.Option(help="The part to show.")] = None,
    count: Annotated[int, typer.Option(help="How many pictures or clips.", min=1)] = 8,
    random: Annotated[
        int | None, typer.Option(metavar="SEED", help="Draw them at random; the same seed, the same ones.")
    ] = None,
    named: Annotated[
        list[str] | None,
        typer.Option(
            "--name", help="Only this picture, video, object or phrase, by its name or number; repeatable."
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="The folder that paths start from.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file of the same name.")] = False,
) -> None:
    """Draw a sheet of a data set's pictures, every phrase printed over its mask: the first ones, random ones, or those named.

    refseg data show refcoco --split testA --random 1 --out sheet.html
    """
    from refseg.data.catalog import open_dataset
    from refseg.errors import InvalidInput
    from refseg.files import write_whole_text
    from refseg.media.drawing import contact_sheet, save_picture

    is_page = out.suffix.lower() in _PAGES
    if not is_page and out.suffix.lower() != ".png":
        raise InvalidInput(
            f"the sheet is a PNG picture or an HTML page, and {out} has another suffix; give a name that ends in .png or .html"
        )
    if out.exists() and not force:
        raise InvalidInput(f"{out} exists; give another name, or --force to replace it")
    if random is not None and named:
        raise InvalidInput("--random draws what --name names; give one of them")
    takes_first = random is None and not named
    dataset = open_dataset(data, split=split, count=count if takes_first else None, root=root)
    cells = [
        cell for index in _choose(dataset, count, random, named) for cell in _draw(dataset[index], named)
    ]
    if is_page:
        write_whole_text(out, _page(f"{dataset.name} {split or ''}".strip(), cells))
    else:
        save_picture(contact_sheet([cell.picture for cell in cells], columns=_COLUMNS, side=_SIDE), out)
    print(out)


def _choose(dataset: PhraseDataset, count: int, seed: int | None, named: Sequence[str] | None) -> list[int]:
    """Places of the examples to show."""
    from random import Random

    from refseg.errors import InvalidInput

    if seed is not None:
        return Random(seed).sample(range(len(dataset)), min(count, len(dataset)))
    if not named:
        return list(range(min(count, len(dataset))))
    found = [index for index in range(len(dataset)) if any(_answers(dataset.annotation(index), named))]
    if not found:
        raise InvalidInput(
            f"nothing in {dataset.name} is called {' or '.join(named)}; --name takes the file of a picture, the name of a video, "
            "or the number of an object or phrase"
        )
    return found[:count]


def _answers(known: Any, named: Sequence[str]) -> list[bool]:
    """Of each phrase of an example: whether it is one of those named."""
    if known.name in named or Path(known.name).stem in named or Path(known.name).name in named:
        return [True] * len(known.phrases)
    numbers = [known.ids or ("",) * len(known.phrases), known.objects or ("",) * len(known.phrases)]
    return [any(number and number in named for number in pair) for pair in zip(*numbers, strict=True)]


def _draw(example: Example, named: Sequence[str] | None) -> list[_Cell]:
    """One cell a phrase; of a clip the frame where most of the target is seen."""
    import torch

    from refseg.media.drawing import draw_overlays

    count, times = len(example.phrases), list(range(len(example.frames)))
    masks = example.masks
    if masks is None:  # a part that is measured on a server
        masks = torch.zeros(count, len(times), *example.frames.shape[-2:], dtype=torch.bool)
    elif example.target_frames is not None:
        times = example.target_frames.tolist()
    shown = _answers(example, named) if named else [True] * count
    cells = []
    for row in (row for row in range(count) if shown[row]):
        best = int(masks[row].flatten(1).sum(1).argmax())
        frame = example.frames[times[best]].permute(1, 2, 0).numpy()
        [picture] = draw_overlays([frame], masks[row, best : best + 1].numpy(), example.phrases[row])
        cells.append(_Cell(picture, example.phrases[row], _caption(example, row, times[best])))
    return cells


def _caption(example: Example, row: int, time: int) -> str:
    """Name, numbers and frame of a phrase, and why no mask is seen where none is."""
    said = [example.name]
    said += [f"object {example.objects[row]}"] if example.objects and example.objects[row] else []
    said += [f"phrase {example.ids[row]}"] if example.ids else []
    if len(example.frames) > 1:
        said.append(f"frame {example.frame_names[time] if example.frame_names else time}")
    if example.masks is None:
        said.append("masks are not published")
    elif example.no_target is not None and bool(example.no_target[row]):
        said.append("no target")
    elif not example.masks[row].any():
        said.append("the mask has no pixel")
    return ", ".join(said)


def _page(title: str, cells: Sequence[_Cell]) -> str:
    """One HTML file with all pictures inside."""
    from html import escape

    style = (
        "body{font:14px/1.4 system-ui,sans-serif;margin:1.5rem;color:#1d2430;background:#fff}"
        f"main{{display:grid;grid-template-columns:repeat(auto-fill,minmax({_SIDE}px,1fr));gap:1rem}}"
        "figure{margin:0}img{width:100%;image-rendering:auto}figcaption span{color:#555;font-size:12px}"
    )
    figures = "\n".join(
        f'<figure><img alt="{escape(cell.phrase)}" src="data:image/png;base64,{_base64(cell.picture)}">'
        f"<figcaption>{escape(cell.phrase)}<br><span>{escape(cell.told)}</span></figcaption></figure>"
        for cell in cells
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><h1>{escape(title)}</h1>\n<main>\n{figures}\n"
        "</main></body></html>\n"
    )


def _base64(picture: Image.Image) -> str:
    from base64 import b64encode
    from io import BytesIO

    data = BytesIO()
    picture.save(data, format="PNG")
    return b64encode(data.getvalue()).decode("ascii")
