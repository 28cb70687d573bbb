"""A contact sheet of annotated clips, for a person who wants to see what is drawn and said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from refseg.structures import Example

_CONTOUR = (255, 0, 255)
_LINE = 12


def contact_sheet(examples: Sequence[Example], *, side: int = 200, columns: int = 6) -> Image.Image:
    """One cell for every phrase (and frame): the picture with the contour of the mask, the phrase below."""
    cells = [
        _cell(example, number, frame, side)
        for example in examples
        for number in range(len(example.phrases))
        for frame in range(len(example.frames))
    ]
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (side + 4), rows * (side + 3 * _LINE)), "white")
    for place, cell in enumerate(cells):
        sheet.paste(cell, (place % columns * (side + 4), place // columns * (side + 3 * _LINE)))
    return sheet


def _cell(example: Example, number: int, frame: int, side: int) -> Image.Image:
    picture = Image.fromarray(example.frames[frame].permute(1, 2, 0).numpy())
    picture = picture.resize((side, side), Image.Resampling.NEAREST)
    if example.masks is not None:
        mask = Image.fromarray(example.masks[number, frame].numpy().astype(np.uint8) * 255)
        mask = mask.resize((side, side), Image.Resampling.NEAREST)
        edge = np.array(mask.filter(ImageFilter.MaxFilter(5))) != np.array(
            mask.filter(ImageFilter.MinFilter(3))
        )
        picture.paste(_CONTOUR, (0, 0), Image.fromarray(edge.astype(np.uint8) * 255))
    cell = Image.new("RGB", (side, side + 3 * _LINE), "white")
    cell.paste(picture, (0, 0))
    register = example.registers[number] if example.registers else ""
    ImageDraw.Draw(cell).text(
        (1, side), f"{register}: " + _wrapped(example.phrases[number], side // 6), fill="black"
    )
    return cell


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width - 5:
            lines.append("")
        lines[-1] += word + " "
    return "\n".join(lines)
