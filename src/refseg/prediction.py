"""What a user gets for a phrase: masks, a score, and the forms other tools read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from refseg.errors import InvalidInput

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from refseg.media.frames import Frames

Box = tuple[int, int, int, int]
"""(x1, y1, x2, y2) in pixels: the edges of the box, so that x2 - x1 is its width."""


class RLE(TypedDict):
    """A mask as COCO's compressed run-length code."""

    size: list[int]  # [height, width]
    counts: str


@dataclass(slots=True)
class Prediction:
    """The answer to one phrase. An empty mask means that nothing here answers to the phrase.

    `box`, `area`, `to_rle` speak of one frame: an image has only one; for a clip say which, or take the plural form
    (`boxes`, `areas`, `to_rles`), which lists all frames.
    """

    phrase: str
    masks: Tensor  # [T', H, W] bool on the CPU; source size, unless the canvas was asked for
    score: float | None = None  # in [0, 1]; None where the family has no confidence

    def is_empty(self) -> bool:
        """Whether no pixel of any frame belongs to the phrase."""
        return not bool(self.masks.any())

    def box(self, frame: int | None = None) -> Box | None:
        """The tight box around one frame's mask, xyxy in source pixels; None where the mask is empty."""
        return _box_of(self._mask(frame))

    def boxes(self) -> list[Box | None]:
        """The box of every frame."""
        return [_box_of(mask) for mask in self.masks.numpy()]

    def area(self, frame: int | None = None) -> int:
        """The number of mask pixels of one frame."""
        return int(self._mask(frame).sum())

    def areas(self) -> list[int]:
        """The number of mask pixels of every frame."""
        return [int(mask.sum()) for mask in self.masks.numpy()]

    def to_rle(self, frame: int | None = None) -> RLE:
        """One frame's mask as COCO's compressed run-length code; `counts` is text, ready for JSON."""
        return _rle_of(self._mask(frame))

    def to_rles(self) -> list[RLE]:
        """The run-length code of every frame."""
        return [_rle_of(mask) for mask in self.masks.numpy()]

    def save(self, path: str | Path) -> None:
        """Writes the mask as PNG, 255 on the referred object and 0 elsewhere.

        An image's mask becomes the file `path` (its suffix must be .png); a clip's masks become `path/00000.png`,
        `path/00001.png`, ... Every file is whole or not there; files of the same name are replaced.

        Raises:
            InvalidInput: if the suffix is another, or a folder stands where a file should be (or the reverse).
        """
        from refseg.media.drawing import save_mask

        target = Path(path)
        if len(self.masks) == 1:
            _check_png(target)
            save_mask(self.masks[0].numpy(), target)
            return
        if target.is_file() or target.suffix.lower() == ".png":
            raise InvalidInput(
                f"an answer of {len(self.masks)} frames is saved as a folder of PNG files, and {target} is the name of a file; "
                "give a folder"
            )
        for index, mask in enumerate(self.masks.numpy()):
            save_mask(mask, target / f"{index:05d}.png")

    def overlay(self, frames: Frames) -> Image.Image | list[Image.Image]:
        """The picture with the mask tinted, its contour drawn and the phrase printed on it.

        Arguments:
            frames: the frames that were segmented, in any form that `Predictor.encode` takes.

        Returns:
            one picture for an image; a list of them for a clip.

        Raises:
            InvalidInput: if the frames' number or size is not that of the masks.
        """
        from refseg.media.drawing import draw_overlays
        from refseg.media.frames import as_frames

        pixels = as_frames(frames)
        wanted, given = tuple(self.masks.shape), (len(pixels), *pixels.shape[-2:])
        if wanted != given:
            raise InvalidInput(
                f"the masks are {_shown(wanted)}, and the frames given {_shown(given)}; give the frames that were segmented"
            )
        upright = [frame.permute(1, 2, 0).numpy() for frame in pixels]
        pictures = list(draw_overlays(upright, self.masks.numpy(), self.phrase))
        return pictures[0] if len(pictures) == 1 else pictures

    def _mask(self, frame: int | None) -> np.ndarray:
        count = len(self.masks)
        if frame is None and count != 1:
            raise InvalidInput(
                f"this answer has {count} frames; say which one (0 to {count - 1}), or take the plural form for all"
            )
        if frame is not None and not -count <= frame < count:
            raise InvalidInput(
                f"there is no frame {frame} in an answer of {count} frames; give 0 to {count - 1}"
            )
        return self.masks[frame or 0].numpy()


def _box_of(mask: np.ndarray) -> Box | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _rle_of(mask: np.ndarray) -> RLE:
    from pycocotools import mask as coco

    code = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def _check_png(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise InvalidInput(
            f"masks are saved as PNG, and {path} has another suffix; give a name that ends in .png"
        )
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder, and one mask is one file; give the name of a file in it")


def _shown(shape: tuple[int, ...]) -> str:
    count, height, width = shape
    return f"{count} of {width}x{height} pixels"
