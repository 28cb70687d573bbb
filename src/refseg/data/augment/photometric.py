"""Pixels varied in colour, masks untouched: pure functions of the numbers that a recipe draws."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

_GREY = (0.299, 0.587, 0.114)  # shares of red, green and blue in what the eye sees as brightness


def scale_brightness(frames: Tensor, weight: float) -> Tensor:
    """Frames [T, 3, H, W] uint8 with every value times `weight`."""
    return _blend(frames, torch.zeros(()), weight)


def scale_contrast(frames: Tensor, weight: float) -> Tensor:
    """Frames drawn away from (`weight` > 1) or towards the mean value of each whole frame."""
    return _blend(frames, frames.double().mean((1, 2, 3), keepdim=True), weight)


def scale_saturation(frames: Tensor, weight: float) -> Tensor:
    """Frames drawn away from (`weight` > 1) or towards their grey version."""
    grey = (frames.double() * frames.new_tensor(_GREY, dtype=torch.float64).view(3, 1, 1)).sum(
        1, keepdim=True
    )
    return _blend(frames, grey, weight)


def _blend(frames: Tensor, other: Tensor, weight: float) -> Tensor:
    """`weight` of the frames and the rest of `other`, clipped and truncated. Source: the blends of Detectron2."""
    return (weight * frames.double() + (1 - weight) * other).clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Distortion:
    """What is done to one frame; the default does nothing."""

    brightness: float = 0.0  # added
    contrast: float = 1.0  # factor
    saturation: float = 1.0  # factor
    hue: float = 0.0  # degrees added
    contrast_first: bool = True  # before saturation and hue, or after them
    channels: tuple[int, int, int] = (0, 1, 2)  # in which order they are put


def distort(frame: Tensor, distortion: Distortion, *, wraps: bool = False) -> Tensor:
    """A frame [3, H, W] uint8 with other light: brightness, contrast, saturation, hue, order of channels.

    Arguments:
        wraps: published behaviour of ReferFormer: values beyond 0..255 wrap around instead of being cut off.

    Published behaviour: the first channel of what is turned in hue and saturation is taken for blue, though it is red.
    """
    pixels = frame.permute(1, 2, 0).numpy().astype(np.float32) + np.float32(distortion.brightness)
    factor = np.float32(distortion.contrast)
    if distortion.contrast_first:
        pixels = pixels * factor
    pixels = _turned(pixels, distortion)
    if not distortion.contrast_first:
        pixels = pixels * factor
    pixels = pixels[..., list(distortion.channels)]
    whole = np.trunc(pixels).astype(np.int64)
    values = (whole & 255 if wraps else whole.clip(0, 255)).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def _turned(pixels: np.ndarray, distortion: Distortion) -> np.ndarray:
    """Pixels [H, W, 3] float32 in another saturation and hue; saturation may exceed 1."""
    hsv = cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV)  # hue in degrees, saturation in 0..1
    hsv[..., 1] = hsv[..., 1] * np.float32(distortion.saturation)
    hue = hsv[..., 0] + np.float32(distortion.hue)
    hsv[..., 0] = np.where(hue > 360, hue - 360, np.where(hue < 0, hue + 360, hue))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
