"""What a Video Swin takes from public files: action classification (Kinetics), or pictures, inflated over time.

Source: how ReferFormer begins from the Kinetics files of the Video Swin authors, and section 3.3 of "Video Swin
Transformer" for pictures: patch weights are spread over the frames of a patch, and each table of offsets in a picture
serves every offset in time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from refseg.encoders.swin_weights import TABLE, classification_state, resized_table
from refseg.encoders.video_swin import VideoSwin
from refseg.errors import CheckpointMismatch

PREFIX = "backbone."
PATCHES = "patch_embed.proj.weight"
COMPUTED = ("relative_position_index", "attn_mask")
HEADS = ("norm.", "head.", "avgpool.")  # of the classifier, after the last stage


def load_pretrained(network: VideoSwin, file: Mapping[str, Any]) -> tuple[str, ...]:
    """Fills the whole network from a file of action or picture classification; gives the names that were not used.

    Raises:
        CheckpointMismatch: if a tensor is absent, has another shape, or has no place, naming it.
    """
    wanted = network.state_dict()
    given, unused = _renamed(file)
    fitted = {name: _fitted(name, tensor, wanted.get(name), network) for name, tensor in given.items()}
    wrong = [name for name, tensor in fitted.items() if name in wanted and tensor.shape != wanted[name].shape]
    missing = [name for name in wanted if name not in fitted] + wrong
    unexpected = [name for name in fitted if name not in wanted]
    if missing or unexpected:
        raise CheckpointMismatch(
            "the file is no classification file of a Video Swin, or of a Swin, of this size",
            missing=missing,
            unexpected=unexpected,
        )
    network.load_state_dict(fitted)
    return tuple(unused)


def inflate_patches(weight: Tensor) -> Tensor:
    """Patch weights [C, 3, t, 4, 4], summed over their frames, or [C, 3, 4, 4] of pictures, as [C, 3, 1, 4, 4]."""
    return weight[:, :, None] if weight.ndim == 4 else weight.sum(2, keepdim=True)


def inflate_table(table: Tensor, window: tuple[int, int, int]) -> Tensor:
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


def _fitted(name: str, tensor: Tensor, wanted: Tensor | None, network: VideoSwin) -> Tensor:
    if name == PATCHES:
        return inflate_patches(tensor)
    is_of_pictures = wanted is not None and name.endswith(TABLE) and len(tensor) != len(wanted)
    if is_of_pictures and _is_square(len(tensor)):
        return inflate_table(torch.as_tensor(tensor), network.spec.window)
    return tensor


def _is_square(count: int) -> bool:
    return round(count**0.5) ** 2 == count
