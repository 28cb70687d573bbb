"""Masks drawn: tint, contour and the phrase on a picture; several pictures on one sheet; mask files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from refseg.files import whole_file

Colour = tuple[int, int, int]

TINTS: tuple[Colour, ...] = ((255, 45, 120), (0, 150, 255), (130, 230, 0))  # pink before azure before lime
_TINT_WEIGHT = 0.45
_ENOUGH_CONTRAST = (
    75.0  # mean distance in CIELAB; pink is 60 from orange, 80 from middle grey, 110 from grass
)
_PIXELS_COMPARED = 512  # of each frame, to choose a tint
_INK: Colour = (255, 255, 255)
_BOX: Colour = (24, 24, 28)
_PAPER: Colour = (255, 255, 255)

_SMALLEST_TEXT = 10  # pixels; below it letters run together
_TEXT_SHARE = 1 / 21  # height of a letter by the side of a square of the picture's area
_MOST_HEIGHT = 0.4  # of the picture, for the box with the phrase

# Fonts with other scripts, looked for in the system's folders where Pillow's own font lacks a letter of the phrase.
_OTHER_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "arial.ttf",
)
_NO_LETTER = "\U0010fffe"  # a code point that no font draws


@dataclass(frozen=True)
class Label:
    """A phrase laid out for pictures of one size."""

    lines: tuple[str, ...]
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    line_height: int
    margin: int
    is_on_top: bool


def save_mask(mask: np.ndarray, path: Path) -> None:
    """Writes a bool mask [H, W] as PNG, 255 on the object and 0 elsewhere; the file is whole or not there."""
    with whole_file(path) as temporary:
        Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a picture as PNG; the file is whole or not there."""
    with whole_file(path) as temporary:
        picture.save(temporary, format="PNG", compress_level=4)


def draw_overlays(frames: Sequence[np.ndarray], masks: np.ndarray, phrase: str) -> Iterator[Image.Image]:
    """The frames with their masks tinted and contoured, and the phrase printed where it hides least of the masks.

    One tint serves all frames: the one that `choose_tint` finds.

    Shapes:
        frames: T arrays [H, W, 3] uint8.
        masks: [T, H, W] bool.
    """
    text = phrase if masks.any() else f"{phrase}: nothing found"
    return draw_in_style(frames, masks, choose_style(frames, masks, text))


@dataclass(frozen=True)
class Style:
    """What the overlays of one clip have in common."""

    label: Label
    tint: Colour


def choose_style(frames: Sequence[np.ndarray], masks: np.ndarray, text: str) -> Style:
    """Where `text` hides least of the masks [T, H, W], and a tint that stands out from the frames under them."""
    size = (masks.shape[1], masks.shape[2])
    return Style(lay_label(text, size, np.any(masks, axis=0)), choose_tint(frames, masks))


def draw_in_style(frames: Sequence[np.ndarray], masks: np.ndarray, style: Style) -> Iterator[Image.Image]:
    """The frames with their masks [T, H, W] tinted and contoured, and the label printed."""
    for frame, mask in zip(frames, masks, strict=True):
        picture = Image.fromarray(tint_mask(frame, mask, style.tint))
        draw_label(picture, style.label)
        yield picture


def choose_tint(frames: Sequence[np.ndarray], masks: np.ndarray) -> Colour:
    """The first of `TINTS` that stands out from the colours under the masks, or else the one that stands out most.

    Shapes:
        frames: T arrays [H, W, 3] uint8.
        masks: [T, H, W] bool.
    """
    covered = np.concatenate([_some_under(frame, mask) for frame, mask in zip(frames, masks, strict=True)])
    if not len(covered):
        return TINTS[0]
    seen = _to_lab(covered)
    contrasts = [float(np.linalg.norm(seen - _to_lab(np.array([tint])), axis=1).mean()) for tint in TINTS]
    enough = (tint for tint, contrast in zip(TINTS, contrasts, strict=True) if contrast >= _ENOUGH_CONTRAST)
    return next(enough, TINTS[int(np.argmax(contrasts))])


def _some_under(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Colours [N, 3] of a frame under its mask, evenly taken."""
    places = np.flatnonzero(mask)
    rows, columns = np.unravel_index(places[:: max(1, len(places) // _PIXELS_COMPARED)], mask.shape)
    return frame[rows, columns]


def _to_lab(colours: np.ndarray) -> np.ndarray:
    """CIELAB [N, 3], where distances are as the eye sees them, of RGB [N, 3] in 0..255."""
    return cv2.cvtColor(colours[:, None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[:, 0]


def tint_mask(pixels: np.ndarray, mask: np.ndarray, colour: Colour = TINTS[0]) -> np.ndarray:
    """A copy of a picture [H, W, 3] with a mask [H, W] tinted and, around it, a light line and a dark one.

    The lines lie outside the mask; one of the two is seen on any ground.
    """
    drawn = np.ascontiguousarray(pixels).copy()
    if not mask.any():
        return drawn
    width = max(1, round(min(mask.shape) / 200))
    area = _area_around(mask, 2 * width + 1)
    part, solid = drawn[area], mask[area]
    colours = np.empty_like(part)
    colours[:] = colour
    tinted = cv2.addWeighted(part, 1 - _TINT_WEIGHT, colours, _TINT_WEIGHT, 0)
    distance = cv2.distanceTransform((~solid).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)  # 0 inside
    for kept, paint in ((distance <= 2 * width, _BOX), (distance <= width, _INK), (solid, tinted)):
        np.copyto(part, np.asarray(paint, np.uint8), where=kept[..., None])
    return drawn


def _area_around(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The rows and columns of a mask that holds something, and `margin` more on every side."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        slice(max(0, rows[0] - margin), rows[-1] + 1 + margin),
        slice(max(0, columns[0] - margin), columns[-1] + 1 + margin),
    )


def lay_label(phrase: str, size: tuple[int, int], covered: np.ndarray | None = None) -> Label:
    """The phrase broken into lines that fit a picture of `size` (height, width), in letters as large as suits it.

    `covered` [H, W] bool tells what the label should not hide: it goes to the top or the bottom, whichever hides less.
    """
    height, width = size
    text = " ".join(phrase.split())
    letters = max(_SMALLEST_TEXT, round(min((height * width) ** 0.5 * _TEXT_SHARE, min(size) / 7)))
    while True:
        label = _lay(text, letters, width)
        room = max(1, int(height * _MOST_HEIGHT - 2 * label.margin) // label.line_height)
        if len(label.lines) <= room or letters <= _SMALLEST_TEXT:
            break
        letters = max(_SMALLEST_TEXT, int(letters * 0.85))
    lines = label.lines[:room]
    if len(lines) < len(label.lines):
        lines = (*lines[:-1], _shorten(lines[-1], label.font, width - 4 * label.margin))
    band = len(lines) * label.line_height + 2 * label.margin
    on_top = covered is None or int(covered[:band].sum()) <= int(covered[-band:].sum())
    return Label(lines, label.font, label.line_height, label.margin, on_top)


def draw_label(picture: Image.Image, label: Label) -> None:
    """Prints a label on a picture, white on a dark box."""
    longest = max((_length(line, label.font) for line in label.lines), default=0)
    box_width = min(picture.width, round(longest) + 4 * label.margin)
    box_height = len(label.lines) * label.line_height + 2 * label.margin
    top = 0 if label.is_on_top else picture.height - box_height
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, top, box_width - 1, top + box_height - 1), fill=_BOX)
    for number, line in enumerate(label.lines):
        corner = (2 * label.margin, top + label.margin + number * label.line_height)
        draw.text(corner, line, fill=_INK, font=label.font)


def _lay(text: str, letters: int, width: int) -> Label:
    name = _font_for(text)
    font = _font(name, letters)
    shown = "".join(c if c.isspace() or _has(name, c) else _substitute(name) for c in text)
    margin = max(1, letters // 6)
    ascent, descent = font.getmetrics() if isinstance(font, ImageFont.FreeTypeFont) else (letters, 2)
    return Label(tuple(_wrapped(shown, font, width - 4 * margin)), font, ascent + descent, margin, True)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> list[str]:
    """Lines no longer than `width` pixels; a word that is longer itself is broken."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if _length(longer, font) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and _length(lines[-1] + letter, font) > width:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line]


def _shorten(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    while line and _length(line + "...", font) > width:
        line = line[:-1]
    return line.rstrip() + "..."


def _length(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> float:
    return font.getlength(text)


def _font_for(text: str) -> str | None:
    """The first font that draws every letter of the text, or else the one that draws most; None is Pillow's own."""
    letters = set(text) - {" "}
    if all(_has(None, letter) for letter in letters):
        return None
    return max((None, *_installed()), key=lambda name: sum(_has(name, letter) for letter in letters))


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    found = []
    for name in _OTHER_FONTS:
        try:
            ImageFont.truetype(name, _SMALLEST_TEXT)
        except OSError:
            continue  # this system does not have it; the next may do
        found.append(name)
    return tuple(found)


@lru_cache(maxsize=64)
def _font(name: str | None, letters: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(letters) if name is None else ImageFont.truetype(name, letters)


@lru_cache(maxsize=4096)
def _has(name: str | None, letter: str) -> bool:
    if name is None and not isinstance(_font(None, 16), ImageFont.FreeTypeFont):
        return letter.isascii()  # Pillow without FreeType draws Latin letters only
    return _draw(name, letter) != _draw(name, _NO_LETTER)


def _draw(name: str | None, letter: str) -> bytes:
    glyph = _font(name, 16).getmask(letter)
    return bytes(glyph) + bytes(str(glyph.size), "ascii")


def _substitute(name: str | None) -> str:
    """What stands for a letter that no font here can draw."""
    return "\u25a1" if _has(name, "\u25a1") else "?"


def contact_sheet(pictures: Sequence[Image.Image], *, columns: int, side: int, gap: int = 12) -> Image.Image:
    """Pictures in rows of `columns`, each fitted into a square of `side` pixels on white."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + gap) + gap), _PAPER)
    for number, picture in enumerate(pictures):
        scale = side / max(picture.size)
        fitted = picture.resize(
            (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))),
            Image.Resampling.LANCZOS,
        )
        left = gap + number % columns * (side + gap) + (side - fitted.width) // 2
        top = gap + number // columns * (side + gap) + (side - fitted.height) // 2
        sheet.paste(fitted, (left, top))
    return sheet


RED: Colour = (255, 0, 0)
_RED_WEIGHT = 0.6
_BLACK: Colour = (0, 0, 0)


def red_overlay(pixels: np.ndarray, mask: np.ndarray, *, draws_whole: bool = False) -> np.ndarray:
    """A copy of a picture [H, W, 3] as the published demos of VLFormer and LGFormer draw it: red inside a mask [H, W], one
    black line around.

    Published behaviour: in VLFormer's, a mask that covers the whole picture has no line around it, and draws nothing; in
    LGFormer's it is drawn (`draws_whole`).
    """
    drawn = np.ascontiguousarray(pixels).copy()
    if mask.all() and not draws_whole:
        return drawn
    drawn[mask] = (1 - _RED_WEIGHT) * drawn[mask] + _RED_WEIGHT * np.array(RED)  # truncated to whole numbers
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
    drawn[(cv2.dilate(mask.astype(np.uint8), cross) > 0) & ~mask] = _BLACK
    return drawn
