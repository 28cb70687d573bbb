"""A clip made of one picture: the picture and warps of it, as if a camera had moved.

Source: ReferFormer's joint training, whose ranges are kept. The published code draws the warps with a library of its own; the same
operations are done here with OpenCV, so that ranges agree and single pixels do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import torch

from refseg.data.augment.geometric import size_of, warp
from refseg.data.frame_sampling import draw_between, draw_chance, draw_distinct, draw_normal, draw_whole
from refseg.errors import InvalidInput
from refseg.structures import Example, Size

BRIGHTNESS = 40  # added to the value of every pixel, at most
HUE_AND_SATURATION = 5  # of 255, at most
CORNERS = 0.08  # standard deviation of the corners' shift, as a share of the side
SHIFT = 0.1  # of width and height, at most
TURN = 20.0  # degrees, at most
BLUR_CHANCE, BLUR_KERNELS = 0.25, (9, 11)


def pseudo_clip(example: Example, count: int, generator: torch.Generator) -> Example:
    """A clip of the example's picture and `count` - 1 warps of it, in any order; masks are warped along.

    Raises:
        InvalidInput: if the example is a clip already.
    """
    if len(example.frames) != 1:
        raise InvalidInput(f"{example.name} has {len(example.frames)} frames; a clip is made of one picture")
    still = replace(example, boxes=None, outlines=None, target_frames=None, things=None, frame_names=None)
    views = [still, *(_warped(still, generator) for _ in range(count - 1))]
    order = draw_distinct(generator, count, count)
    return replace(
        still,
        frames=torch.cat([views[i].frames for i in order]),
        masks=None if still.masks is None else torch.cat([_masks(views[i]) for i in order], dim=1),
    )


def _masks(example: Example) -> torch.Tensor:
    assert example.masks is not None
    return example.masks


def _warped(example: Example, generator: torch.Generator) -> Example:
    coloured = replace(example, frames=_coloured(example.frames, generator))
    for matrix in (_perspective(size_of(example), generator), _affine(size_of(example), generator)):
        coloured = warp(coloured, _apply(matrix, size_of(example)))
    if draw_chance(generator) >= BLUR_CHANCE:
        return coloured
    kernel = motion_kernel(
        BLUR_KERNELS[draw_whole(generator, 0, 1)],
        draw_between(generator, 0, 360),
        draw_between(generator, -1, 1),
    )
    picture = coloured.frames[0].permute(1, 2, 0).contiguous().numpy()
    blurred = cv2.filter2D(picture, -1, kernel)
    return replace(coloured, frames=torch.from_numpy(blurred).permute(2, 0, 1)[None].contiguous())


def _apply(matrix: np.ndarray, size: Size) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda picture, flags: cv2.warpPerspective(picture, matrix, size[::-1], flags=flags)


def _coloured(frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One or both of: another brightness; another hue and saturation."""
    kinds = draw_distinct(generator, 2, draw_whole(generator, 1, 2))
    hsv = cv2.cvtColor(frames[0].permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2HSV).astype(np.int32)
    if 0 in kinds:
        hsv[..., 2] += draw_whole(generator, -BRIGHTNESS, BRIGHTNESS)
    if 1 in kinds:
        moved = draw_whole(generator, -HUE_AND_SATURATION, HUE_AND_SATURATION)
        hsv[..., 0] = (hsv[..., 0] + round(moved * 180 / 255)) % 180  # OpenCV's hue has 180 steps
        hsv[..., 1] += moved
    rgb = cv2.cvtColor(hsv.clip(0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)
    return torch.from_numpy(rgb).permute(2, 0, 1)[None].contiguous()


def _perspective(size: Size, generator: torch.Generator) -> np.ndarray:
    """The matrix [3, 3] that draws a quadrangle inside the picture out to its full size."""
    height, width = size
    shifts = np.abs(np.array(draw_normal(generator, 8)).reshape(4, 2) * CORNERS).clip(max=0.4)
    inward = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    full = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)
    quadrangle = full + inward * shifts * [width, height]
    return cv2.getPerspectiveTransform(quadrangle.astype(np.float32), full.astype(np.float32))


def _affine(size: Size, generator: torch.Generator) -> np.ndarray:
    """The matrix [3, 3] that turns about the centre and shifts by one share of both sides."""
    height, width = size
    turn, shift = draw_between(generator, -TURN, TURN), draw_between(generator, -SHIFT, SHIFT)
    matrix = np.vstack([cv2.getRotationMatrix2D((width / 2, height / 2), turn, 1), [0, 0, 1]])
    matrix[:2, 2] += [shift * width, shift * height]
    return matrix


def motion_kernel(side: int, degrees: float, direction: float) -> np.ndarray:
    """A kernel [side, side] that smears along a line, more to one end of it by `direction` in [-1, 1]; its sum is 1."""
    kernel = np.zeros((side, side), dtype=np.float32)
    share = (direction + 1) / 2
    kernel[:, side // 2] = np.linspace(share, 1 - share, num=side)
    turn = cv2.getRotationMatrix2D((side // 2, side // 2), degrees, 1)
    turned = cv2.warpAffine(kernel, turn, (side, side))
    return turned / turned.sum()
