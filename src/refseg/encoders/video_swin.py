"""Video Swin T/S/B: shifted windows over space and time, with the raw maps of all four stages.

Source: "Video Swin Transformer" (Liu et al., 2022), in the form that ReferFormer publishes: a patch is one frame deep.
Names of parameters are those of published files. Published behaviour kept, because weights depend on it: a window that
is cut to a small map takes its position biases from the top left of the full window's table, which are those of other
offsets wherever the map is lower or narrower than a window; and no stage's map is normalised.
Departure: without gradients windows are attended in steps and in place, so that a long clip is held once.

What a Video Swin takes from public files: action classification (Kinetics), or pictures, inflated over time.

Source: how ReferFormer begins from the Kinetics files of the Video Swin authors, and section 3.3 of "Video Swin
Transformer" for pictures: patch weights are spread over the frames of a patch, and each table of offsets in a picture
serves every offset in time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.encoders.swin import TABLE, classification_state, resize_table
from refseg.errors import CheckpointMismatch
from refseg.layers.chunking import row_steps

Grid = tuple[int, int, int]
"""(frames, rows, columns)."""


PATCH = 4  # pixels of a side


MLP_RATIO = 4


APART = -100.0  # added to the scores of cells that only rolling has brought together


WINDOWS_AT_ONCE = 16  # measured: scores of one step stay small


TOKENS_AT_ONCE = 8192


INITIAL_SPREAD = 0.02


@dataclass(frozen=True)
class VideoSwinSpec:
    """The numbers of a Video Swin."""

    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window: Grid = (8, 7, 7)
    drop_path: float = 0.2  # of the last block; the first has none


# https://github.com/SwinTransformer/Video-Swin-Transformer, configs/_base_/models/swin
VIDEO_SWIN_T = VideoSwinSpec()


VIDEO_SWIN_S = VideoSwinSpec(depths=(2, 2, 18, 2))


VIDEO_SWIN_B = VideoSwinSpec(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32))


@dataclass(slots=True)
class _Windows:
    """How a map is cut into windows; the same for all blocks of a stage."""

    size: Grid  # of the map
    window: Grid
    shift: Grid  # of odd blocks
    padded: Grid = field(init=False)

    def __post_init__(self) -> None:
        self.padded = _triple(
            math.ceil(side / width) * width for side, width in zip(self.size, self.window, strict=True)
        )

    def cut(self, maps: Tensor, *, shifts: bool) -> Tensor:
        """Maps [B, T, h, w, C] to windows [B * count, cells, C]; new cells are zeros."""
        behind = [padded - side for padded, side in zip(self.padded, self.size, strict=True)]
        if any(behind):
            maps = functional.pad(maps, (0, 0, 0, behind[2], 0, behind[1], 0, behind[0]))
        if shifts and any(self.shift):
            maps = maps.roll([-step for step in self.shift], dims=(1, 2, 3))
        counts = self._counts()
        for axis in (3, 2, 1):
            maps = maps.unflatten(axis, (counts[axis - 1], self.window[axis - 1]))
        return maps.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(0, 3)

    def join(self, windows: Tensor, *, shifts: bool) -> Tensor:
        """The way back, without the new cells."""
        maps = windows.unflatten(1, self.window).unflatten(0, (-1, *self._counts()))
        maps = maps.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)
        if shifts and any(self.shift):
            maps = maps.roll(self.shift, dims=(1, 2, 3))
        frames, height, width = self.size
        return maps[:, :frames, :height, :width]

    def places(self, device: torch.device, *, shifts: bool) -> Tensor:
        """[count, cells]: the number of the map's cell at each place of the windows; -1 for new cells."""
        numbers = torch.arange(1, math.prod(self.size) + 1, device=device).view(1, *self.size, 1)
        return self.cut(numbers, shifts=shifts)[..., 0] - 1

    def regions(self, device: torch.device) -> Tensor:
        """[count, cells]: cells of one window with different numbers came together by rolling alone."""
        numbers = torch.zeros((), dtype=torch.int64, device=device)
        for side, window, step in zip(self.padded, self.window, self.shift, strict=True):
            places = torch.arange(side, device=device)
            band = (places >= side - window).long() + (places >= side - step).long() if step else places * 0
            numbers = numbers[..., None] * 3 + band
        plain = _Windows(self.padded, self.window, (0, 0, 0))
        return plain.cut(numbers[None, ..., None], shifts=False)[..., 0]

    def _counts(self) -> Grid:
        return _triple(side // width for side, width in zip(self.padded, self.window, strict=True))


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learned bias for each offset of two cells."""

    def __init__(self, dim: int, num_heads: int, window: Grid) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        offsets = math.prod(2 * side - 1 for side in window)
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, num_heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=INITIAL_SPREAD)

    def forward(self, windows: Tensor, regions: Tensor | None) -> Tensor:
        """Windows [M, N, C] to the same shape; `regions` [count, N] where M is a multiple of count."""
        if regions is not None:
            regions = regions.repeat(len(windows) // len(regions), 1)
        return self.attend(windows, self.bias(windows.shape[1]), regions)

    def bias(self, cells: int) -> Tensor:
        """[heads, N, N]."""
        # Published behaviour: a cut window reads the top left of the full window's index.
        index = _offset_index(self.window, self.relative_position_bias_table.device)[:cells, :cells]
        return (
            self.relative_position_bias_table[index.flatten()].unflatten(0, (cells, cells)).permute(2, 0, 1)
        )

    def attend(self, windows: Tensor, bias: Tensor, regions: Tensor | None) -> Tensor:
        """Windows [M, N, C] with biases [heads, N, N] and regions [M, N] to the same shape."""
        queries, keys, values = (
            self.qkv(windows).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        )
        added = bias[None].to(queries.dtype)
        if regions is not None:
            apart = regions[:, None, :, None] != regions[:, None, None, :]
            added = added + APART * apart.to(added.dtype)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=added)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention inside windows, then an MLP; both around their input."""

    def __init__(self, dim: int, num_heads: int, window: Grid, *, shifts: bool, drop_path: float) -> None:
        super().__init__()
        self.shifts, self.drop_path = shifts, drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim)

    def forward(self, maps: Tensor, windows: _Windows, regions: Tensor | None) -> Tensor:
        """Maps [B, T, h, w, C] to the same shape; without gradients in their own place."""
        regions = regions if self.shifts else None
        if torch.is_grad_enabled() or self.training or torch.compiler.is_compiling():
            cut = windows.cut(self.norm1(maps), shifts=self.shifts)
            maps = maps + self._dropped(windows.join(self.attn(cut, regions), shifts=self.shifts))
            return maps + self._dropped(self.mlp(self.norm2(maps)))
        places = windows.places(maps.device, shifts=self.shifts)
        for clip in maps.flatten(1, 3):
            self._look_around(clip, places, regions)
            for rows in row_steps(len(clip), TOKENS_AT_ONCE):
                clip[rows] += self.mlp(self.norm2(clip[rows]))
        return maps

    def _look_around(self, cells: Tensor, places: Tensor, regions: Tensor | None) -> None:
        """Adds to cells [S, C] what they see in their windows; each cell is in one window, so steps do not disturb others."""
        bias = self.attn.bias(places.shape[1])
        for rows in row_steps(len(places), WINDOWS_AT_ONCE):
            numbers = places[rows]
            is_new = (numbers < 0)[..., None]
            windows = self.norm1(cells[numbers.clamp(min=0)]).masked_fill(is_new, 0)
            seen = self.attn.attend(windows, bias, None if regions is None else regions[rows])
            kept = numbers.flatten() >= 0
            cells.index_add_(0, numbers.flatten()[kept], seen.flatten(0, 1)[kept].to(cells.dtype))

    def _dropped(self, branch: Tensor) -> Tensor:
        """Drops the whole branch of some clips, and enlarges that of the others."""
        if not self.training or self.drop_path == 0:
            return branch
        kept = torch.rand(len(branch), 1, 1, 1, 1, device=branch.device) >= self.drop_path
        return branch * kept.to(branch.dtype) / (1 - self.drop_path)


class Merging(nn.Module):
    """Four neighbouring cells of a frame become one of twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, maps: Tensor) -> Tensor:
        """[B, T, h, w, C] to [B, T, ceil(h / 2), ceil(w / 2), 2C]."""
        maps = functional.pad(maps, (0, 0, 0, maps.shape[3] % 2, 0, maps.shape[2] % 2))
        corners = [maps[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class Stage(nn.Module):
    """Blocks of one resolution; every second one shifts its windows."""

    def __init__(self, dim: int, num_heads: int, window: Grid, drops: Sequence[float]) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, window, shifts=index % 2 == 1, drop_path=drop)
            for index, drop in enumerate(drops)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B, T, h, w, C] to the same shape."""
        windows = _windows_of(_triple(maps.shape[1:4]), self.window)
        regions = windows.regions(maps.device) if any(windows.shift) else None
        for block in self.blocks:
            maps = block(maps, windows, regions)
        return maps


class PatchEmbedding(nn.Module):
    """Patches of a frame as tokens, normalised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, dim, (1, PATCH, PATCH), stride=(1, PATCH, PATCH))
        self.norm = nn.LayerNorm(dim)

    def forward(self, frames: Tensor) -> Tensor:
        """[B, T, 3, H, W] to [B, T, ceil(H / 4), ceil(W / 4), C]."""
        below, right = (-side % PATCH for side in frames.shape[-2:])
        flat = functional.pad(frames.flatten(0, 1), (0, right, 0, below))
        # One frame deep: the same as a 3-D convolution, and faster.
        patches = functional.conv2d(flat, self.proj.weight.squeeze(2), self.proj.bias, stride=PATCH)
        return self.norm(patches.permute(0, 2, 3, 1)).unflatten(0, frames.shape[:2])


class VideoSwin(nn.Module):
    """A patch embedding and four stages; stage k has strides 4 * 2^k. All frames of a clip are seen together."""

    layer_order: ClassVar[tuple[str, ...]] = (
        r"patch_embed\.",
        r"(?:layers|downsamples|norms)\.(\d+)\.(?:blocks\.(\d+)\.)?",
    )
    """The names of its layers from input to output, for rates that fall with depth."""

    def __init__(self, spec: VideoSwinSpec = VIDEO_SWIN_T) -> None:
        super().__init__()
        self.spec = spec
        self.out_channels = tuple(spec.embed_dim * 2**k for k in range(len(spec.depths)))
        drops = torch.linspace(0, spec.drop_path, sum(spec.depths), device="cpu").split(list(spec.depths))
        self.patch_embed = PatchEmbedding(spec.embed_dim)
        self.layers = nn.ModuleList(
            Stage(width, heads, spec.window, part.tolist())
            for width, heads, part in zip(self.out_channels, spec.num_heads, drops, strict=True)
        )
        self.downsamples = nn.ModuleList(Merging(width) for width in self.out_channels[:-1])
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INITIAL_SPREAD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Normalised clips [B, T, 3, H, W] to maps [B, T, C_k, ceil(H / s), ceil(W / s)], s = 4, 8, 16, 32."""
        maps = self.patch_embed(frames)
        told = []
        for index, stage in enumerate(self.layers):
            maps = stage(maps if maps.is_contiguous() else maps.contiguous())
            told.append(maps.permute(0, 1, 4, 2, 3))
            maps = self.downsamples[index](maps) if index < len(self.downsamples) else maps
        return tuple(told)


def _windows_of(size: Grid, window: Grid) -> _Windows:
    """Along an axis no longer than a window, the window takes all of it and does not shift."""
    fits = [side <= width for side, width in zip(size, window, strict=True)]
    taken = zip(size, window, fits, strict=True)
    return _Windows(
        size,
        _triple(side if whole else width for side, width, whole in taken),
        _triple(0 if whole else width // 2 for width, whole in zip(window, fits, strict=True)),
    )


def _offset_index(window: Grid, device: torch.device) -> Tensor:
    """[N, N] rows of the bias table: the offset from key to query."""
    index = torch.zeros((), dtype=torch.int64, device=device)
    places = torch.cartesian_prod(*(torch.arange(side, device=device) for side in window)).unbind(1)
    for place, side in zip(places, window, strict=True):
        index = index * (2 * side - 1) + place[:, None] - place[None] + side - 1
    return index


def _triple(sides: object) -> Grid:
    frames, height, width = (int(side) for side in sides)  # type: ignore[attr-defined]
    return frames, height, width


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
    rows = table if len(table) == height * width else resize_table(table, rows=height * width)
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
