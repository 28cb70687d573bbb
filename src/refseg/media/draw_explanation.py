"""How an answer came about, drawn: the mask, then every map with its weight, then the words by how much they count."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from refseg.media.drawing import choose_tint, draw_label, lay_label, tint_mask
from refseg.structures import EvidenceMap, Explanation

_PANEL_AREA = 190 * 190  # pixels of one map's panel, whatever the picture's shape
_COLUMNS = 8
_GAP = 4
_PAPER, _INK, _FAINT = (255, 255, 255), (24, 24, 28), (205, 205, 210)
_ACCENT = (214, 60, 40)
_CAPTION = 16  # pixels of the line under a panel
_WORD_LETTERS = 18


def draw_explanation(pixels: np.ndarray, mask: np.ndarray, phrase: str, told: Explanation) -> Image.Image:
    """One sheet: the answer on the left, the maps in rows beside it (each group on its own scale), words below.

    Shapes:
        pixels: [H, W, 3] uint8.
        mask: [H, W] bool.
        told: maps [1, H, W], points [1, 2] and boxes [1, 4] of this one frame.
    """
    panel = _panel_size(mask.shape)
    small = cv2.resize(pixels, panel, interpolation=cv2.INTER_AREA)
    rows = [
        row for _, group in groupby(told.maps, key=lambda one: one.group) for row in _rows(small, list(group))
    ]
    answer = _answer(pixels, mask, phrase, told, panel, num_rows=min(2, max(1, len(rows))))
    blocks = [answer] if not rows else [answer, _stacked(rows)]
    sheet = _beside(blocks)
    return _stacked([sheet, _words(told.words, sheet.width)]) if told.words else sheet


def _panel_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """(width, height) of a panel with the picture's proportions, within reason."""
    ratio = min(4.0, max(0.25, shape[1] / shape[0]))
    height = (_PANEL_AREA / ratio) ** 0.5
    return round(height * ratio), round(height)


def _answer(
    pixels: np.ndarray,
    mask: np.ndarray,
    phrase: str,
    told: Explanation,
    panel: tuple[int, int],
    *,
    num_rows: int,
) -> Image.Image:
    """The mask on the picture, with the point and the box of the candidate that was chosen."""
    width, height = (round(side * num_rows) for side in panel)
    large = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    shown = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    picture = Image.fromarray(tint_mask(large, shown, choose_tint([large], shown[None])))
    draw = ImageDraw.Draw(picture)
    if told.boxes is not None:
        x, y, w, h = told.boxes[0].tolist()
        corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        draw.rectangle(
            [min(corners[::2]), min(corners[1::2]), max(corners[::2]), max(corners[1::2])],
            outline=_ACCENT,
            width=3,
        )
    if told.points is not None:
        x, y = told.points[0].tolist()
        for radius, colour in ((8, _PAPER), (6, _ACCENT)):
            draw.ellipse(
                [x * width - radius, y * height - radius, x * width + radius, y * height + radius],
                fill=colour,
            )
    draw_label(picture, lay_label(phrase, (height, width), shown))
    return picture


def _rows(small: np.ndarray, maps: Sequence[EvidenceMap]) -> list[Image.Image]:
    """Panels of one group, on one scale, so that a map twice as strong looks so."""
    highest = max(float(one.values.max()) for one in maps)
    panels = [_panel(small, one, highest) for one in maps]
    return [_beside(panels[start : start + _COLUMNS]) for start in range(0, len(panels), _COLUMNS)]


def _panel(small: np.ndarray, one: EvidenceMap, highest: float) -> Image.Image:
    height, width = small.shape[:2]
    values = cv2.resize(one.values[0].numpy(), (width, height), interpolation=cv2.INTER_AREA)
    heat = np.clip(values / highest if highest > 0 else np.zeros_like(values), 0, 1)
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = cv2.cvtColor(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    share = 0.35 + 0.6 * heat[..., None]  # where nothing is marked, the picture stays visible
    mixed = (share * colours + (1 - share) * grey).astype(np.uint8)
    sheet = Image.new("RGB", (width, height + _CAPTION), _PAPER)
    sheet.paste(Image.fromarray(mixed), (0, 0))
    draw = ImageDraw.Draw(sheet)
    if one.weight is not None:
        draw.rectangle([0, height + _CAPTION - 4, width, height + _CAPTION - 1], fill=_FAINT)
        draw.rectangle(
            [0, height + _CAPTION - 4, round(width * one.weight), height + _CAPTION - 1], fill=_ACCENT
        )
    text = one.title if one.weight is None else f"{one.title}  {one.weight:.2f}"
    draw.text((2, height), text, fill=_INK, font=_font(10))
    return sheet


def _words(words: Sequence[tuple[str, float]], width: int) -> Image.Image:
    """The words in their order, each on a ground as dark as it counts, with its number."""
    font, small = _font(_WORD_LETTERS), _font(10)
    highest = max(share for _, share in words) or 1.0
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    places: list[tuple[float, int, float, str, float]] = []
    x, y, line = float(_GAP), 0, _WORD_LETTERS + 24
    for word, share in words:
        length = max(measure.textlength(word, font=font), measure.textlength("0.00", font=small)) + 12
        if x + length > width and x > _GAP:
            x, y = float(_GAP), y + line
        places.append((x, y, length, word, share))
        x += length + _GAP
    sheet = Image.new("RGB", (width, y + line), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for left, top, length, word, share in places:
        depth = max(0.0, share / highest)
        ground = tuple(round(255 + (target - 255) * 0.8 * depth) for target in _ACCENT)
        draw.rectangle([left, top + 2, left + length, top + _WORD_LETTERS + 8], fill=ground)
        draw.text((left + 6, top + 3), word, fill=_INK, font=font)
        draw.text((left + 6, top + _WORD_LETTERS + 9), f"{share:.2f}", fill=_INK, font=small)
    return sheet


def _beside(pictures: Sequence[Image.Image]) -> Image.Image:
    width = sum(picture.width + _GAP for picture in pictures) - _GAP
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), _PAPER)
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + _GAP
    return sheet


def _stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    height = sum(picture.height + _GAP for picture in pictures) - _GAP
    sheet = Image.new("RGB", (max(picture.width for picture in pictures), height), _PAPER)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + _GAP
    return sheet


def _font(letters: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(letters)
