"""What a Swin Transformer takes from the public classification files, whatever window they were trained with.

Source: the loading of LGFormer and LAVT, which follows the detection code of the Swin authors. A departure: what the
published code skips with a warning or in silence is told, and a file that leaves blocks unfilled is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from refseg.errors import CheckpointMismatch

TABLE = "relative_position_bias_table"
COMPUTED = ("relative_position_index", "attn_mask")  # of the file's own window; computed here


@dataclass(frozen=True)
class SwinStart:
    """The tensors of a file that fit a network, and what became of the other names."""

    tensors: dict[str, Tensor]
    resized: tuple[str, ...]  # tables of another window, among `tensors`
    unused: tuple[str, ...]  # names of the file that the network has no place for, computed ones left out
    kept: tuple[str, ...]  # names of the network that the file does not fill


def classification_state(file: Mapping[str, Any]) -> dict[str, Tensor]:
    """The backbone's tensors of a classification file, without the nesting and prefixes that such files come with."""
    inner = file.get("state_dict", file.get("model", file))
    state = {name.removeprefix("module."): value for name, value in inner.items()}
    if next(iter(state), "").startswith("backbone."):
        state = _below("backbone.", state)
    if min(state, default="").startswith("encoder"):  # MoBY
        state = _below("encoder.", state)
    return state


def start_of(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> SwinStart:
    """The part of `state` that fits the names and shapes `wanted`; tables of another window are resized."""
    tensors: dict[str, Tensor] = {}
    resized = []
    for name, own in wanted.items():
        given = state.get(name)
        if given is not None and name.endswith(TABLE) and _is_of_another_window(given, own):
            given = resized_table(given, rows=len(own))
            resized.append(name)
        if given is not None and given.shape == own.shape:
            tensors[name] = given
    unused = [name for name in state if name not in tensors and not name.endswith(COMPUTED)]
    kept = [name for name in wanted if name not in tensors]
    return SwinStart(tensors, tuple(resized), tuple(unused), tuple(kept))


def classification_start(file: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> SwinStart:
    """What a classification file gives a Swin Transformer: all but the norms of its outputs, which begin anew.

    Raises:
        CheckpointMismatch: if the file leaves anything else unfilled, naming it.
    """
    start = start_of(classification_state(file), wanted)
    unfilled = [name for name in start.kept if not name.startswith("norms.")]
    if unfilled:
        raise CheckpointMismatch(
            "the file is no classification file of a Swin of this size", missing=unfilled
        )
    return start


def resized_table(table: Tensor, *, rows: int) -> Tensor:
    """A table [(2w-1)^2, heads] of relative positions as one of `rows` rows: each head's rows are an image, resized."""
    side, new_side = math.isqrt(len(table)), math.isqrt(rows)
    images = table.t().unflatten(1, (side, side))[None]
    larger = functional.interpolate(images.float(), (new_side, new_side), mode="bicubic", align_corners=False)
    return larger[0].flatten(1).t().to(table.dtype).contiguous()


def _is_of_another_window(given: Tensor, own: Tensor) -> bool:
    return (
        given.ndim == 2
        and given.shape[1] == own.shape[1]
        and len(given) != len(own)
        and math.isqrt(len(given)) ** 2 == len(given)
    )


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
