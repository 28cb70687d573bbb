"""What a Video Swin takes from public files: action classification (Kinetics), or pictures, inflated over time.

Source: how ReferFormer begins from the Kinetics files of the Video Swin authors, and section 3.3 of "Video Swin
Transformer" for pictures: patch weights are spread over the frames of a patch, and each table of offsets in a picture
serves every offset in time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from refseg.encoders.swin_weights import TABLE, classification_state, resized_table
from refseg.encoders.video_swin import Grid, VideoSwin
from refseg.errors import CheckpointMismatch

PREFIX = "backbone."
PATCHES = "patch_embed.proj.weight"
COMPUTED = ("relative_position_index", "attn_mask")
HEADS = ("norm.", "head.", "avgpool.")  # of the classifier, after the last stage


@dataclass(frozen=True)
class ClipStart:
    """All tensors of a network out of a file, and the file's names that were not used."""

    tensors: dict[str, Tensor]
    unused: tuple[str, ...]


def pretrained(file: Mapping[str, Any], wanted: Mapping[str, Tensor], window: Grid) -> ClipStart:
    """The whole network `wanted` (names and shapes) from a file of action or picture classification.

    Raises:
        CheckpointMismatch: if a tensor is absent, has another shape, or has no place, naming it.
    """
    given, unused = _renamed(file)
    fitted = {name: _fitted(name, tensor, wanted.get(name), window) for name, tensor in given.items()}
    wrong = [name for name, tensor in fitted.items() if name in wanted and tensor.shape != wanted[name].shape]
    missing = [name for name in wanted if name not in fitted] + wrong
    unexpected = [name for name in fitted if name not in wanted]
    if missing or unexpected:
        raise CheckpointMismatch(
            "the file is no classification file of a Video Swin, or of a Swin, of this size",
            missing=missing,
            unexpected=unexpected,
        )
    return ClipStart(fitted, tuple(unused))


def load_pretrained(network: VideoSwin, file: Mapping[str, Any]) -> tuple[str, ...]:
    """Fills the whole network; gives the names that were not used. Raises as `pretrained`."""
    start = pretrained(file, network.state_dict(), network.spec.window)
    network.load_state_dict(start.tensors)
    return start.unused


def inflate_patches(weight: Tensor) -> Tensor:
    """Patch weights [C, 3, t, 4, 4], summed over their frames, or [C, 3, 4, 4] of pictures, as [C, 3, 1, 4, 4]."""
    return weight[:, :, None] if weight.ndim == 4 else weight.sum(2, keepdim=True)


def inflate_table(table: Tensor, window: Grid) -> Tensor:
    """A picture's table [(2w - 1)^2, heads] for the offsets of a clip's window: the same at every offset in time."""
    frames, height, width = (2 * side - 1 for side in window)
    rows = table if len(table) == height * width else resized_table(table, rows=height * width)
    return rows.repeat(frames, 1)


def _renamed(file: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The network's tensors under its names, and the file's names that belong to a classifier."""
    inner = file.get("state_dict", file)
    in_clips = {name[len(PREFIX) :]: value for name, value in inner.items() if name.startswith(PREFIX)}
    state = in_clips or classification_state(file)
    unused = [name for name in inner if in_clips and not name.startswith(PREFIX)]
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith(HEADS):
            unused.append(name)
        elif not name.endswith(COMPUTED):
            renamed[re.sub(r"^layers\.(\d+)\.downsample\.", r"downsamples.\1.", name)] = value
    return renamed, unused


def _fitted(name: str, tensor: Tensor, wanted: Tensor | None, window: Grid) -> Tensor:
    if name == PATCHES:
        return inflate_patches(tensor)
    is_of_pictures = wanted is not None and name.endswith(TABLE) and len(tensor) != len(wanted)
    if is_of_pictures and _is_square(len(tensor)):
        return inflate_table(tensor, window)
    return tensor


def _is_square(count: int) -> bool:
    return round(count**0.5) ** 2 == count
