"""Swin Transformer (T/S/B/L): windows that look at themselves, shifted in every second block.

Source: "Swin Transformer" (Liu et al., ICCV 2021), in the form that dense prediction uses. Published behaviour that
weights depend on: maps are padded with zeros up to whole windows after the first normalisation, and these cells are
looked at like any other; a map smaller than a window is padded up to one, and its odd blocks still shift.
Departures, none in the result: no padding is projected (zeros become the bias), and windows that share a mask share an
attention call, so no mask is kept per window. Names of parameters are the published ones, but `norms.K` for `normK`.

What a Swin Transformer takes from the public classification files, whatever window they were trained with.

Source: the loading of LGFormer and LAVT, which follows the detection code of the Swin authors. A departure: what the
published code skips with a warning or in silence is told, and a file that leaves blocks unfilled is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.errors import CheckpointMismatch
from refseg.layers.chunking import row_steps
from refseg.layers.precision import at_least_float32

PATCH = 4


MLP_RATIO = 4


INITIAL_SPREAD = 0.02  # standard deviation of initial weights; cut at 2, not at 2 deviations


FORBIDDEN = (
    -100.0
)  # added to scores of cells that the shift brought together; published, so not minus infinity


TOKENS_AT_ONCE = 2048  # of the MLP without gradients; measured


@dataclass(frozen=True)
class SwinSpec:
    """The numbers of a Swin Transformer."""

    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    drop_path: float = 0.2  # of the last block; grows linearly from 0 at the first

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each stage, strides 4, 8, 16, 32."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))


# https://github.com/microsoft/Swin-Transformer, configs/
SWIN_TINY = SwinSpec()


SWIN_SMALL = SwinSpec(depths=(2, 2, 18, 2))


SWIN_BASE = SwinSpec(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), drop_path=0.3)


SWIN_LARGE = SwinSpec(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), drop_path=0.3)


class Swin(nn.Module):
    """Patch embedding and stages, usable one by one or in a row; a normalisation for each stage's output.

    Maps are channel-last: [N, h, w, C].
    """

    layer_order: ClassVar[tuple[str, ...]] = (
        r"patch_embed\.",
        r"(?:layers|norms)\.(\d+)\.(?:blocks\.(\d+)\.)?",
    )
    """The names of its layers from input to output, for rates that fall with depth."""

    def __init__(self, spec: SwinSpec) -> None:
        super().__init__()
        self.out_channels = spec.out_channels
        self.patch_embed = PatchEmbedding(spec.embed_dim)
        last = max(sum(spec.depths) - 1, 1)
        rates = [spec.drop_path * block / last for block in range(sum(spec.depths))]
        starts = [sum(spec.depths[:stage]) for stage in range(len(spec.depths))]
        self.layers = nn.ModuleList(
            Stage(
                channels,
                num_heads=spec.num_heads[stage],
                window=spec.window,
                drop_paths=rates[starts[stage] : starts[stage] + spec.depths[stage]],
                merges=stage + 1 < len(spec.depths),
            )
            for stage, channels in enumerate(self.out_channels)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.out_channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INITIAL_SPREAD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Normalised pixels [N, 3, H, W] to maps [N, C_k, ceil(H / s), ceil(W / s)], s = 4, 8, 16, 32."""
        cells = self.patch_embed(pixels)
        maps = []
        for stage, norm in zip(self.stages(), self.norms, strict=True):
            cells = stage(cells)
            maps.append(norm(cells).permute(0, 3, 1, 2))
            cells = stage.merge(cells)
        return tuple(maps)

    def stages(self) -> list[Stage]:
        """The stages, finest first."""
        return [cast("Stage", stage) for stage in self.layers]


class PatchEmbedding(nn.Module):
    """A vector for every 4x4 pixels; the picture is padded with zeros on the right and at the bottom."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W] to [N, ceil(H / 4), ceil(W / 4), C]."""
        bottom, right = (-side % PATCH for side in pixels.shape[-2:])
        padded = functional.pad(pixels, (0, right, 0, bottom)) if bottom or right else pixels
        return self.norm(self.proj(padded).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks at one resolution, and the merging that leads to the next; `merge` is a step of its own, so that a family
    may do something in between."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        window: int,
        drop_paths: Sequence[float],
        merges: bool,
    ) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            Block(dim, num_heads=num_heads, window=window, drop_path=rate) for rate in drop_paths
        )
        self.downsample = PatchMerging(dim) if merges else None

    def forward(self, cells: Tensor) -> Tensor:
        """[N, h, w, C] to the same shape; sums over blocks are kept in float32 under lower precision."""
        cells = at_least_float32(cells)
        count, *size, _ = cells.shape
        places = [
            place_windows(count, (size[0], size[1]), self.window, shift, cells.device)
            for shift in (0, self.window // 2)[: len(self.blocks)]
        ]
        index = relative_index(self.window, cells.device)
        for number, block in enumerate(self.blocks):
            cells = block(cells, places[number % 2], index)
        return cells

    def merge(self, cells: Tensor) -> Tensor:
        """[N, h, w, C] to [N, ceil(h / 2), ceil(w / 2), 2C]; the last stage gives back what it gets."""
        return cells if self.downsample is None else self.downsample(cells)


class PatchMerging(nn.Module):
    """Four neighbours become one cell of twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, cells: Tensor) -> Tensor:
        """[N, h, w, C] to [N, ceil(h / 2), ceil(w / 2), 2C]; an odd side is padded with zeros at its end."""
        bottom, right = (-side % 2 for side in cells.shape[1:3])
        padded = functional.pad(cells, (0, 0, 0, right, 0, bottom)) if bottom or right else cells
        # Published order of the channels: rows change faster than columns.
        quarters = [padded[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(quarters, dim=-1)))


class Block(nn.Module):
    """Attention within windows, then a feed-forward network; each of a normalised input, added to it."""

    def __init__(self, dim: int, *, num_heads: int, window: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads=num_heads, window=window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)

    def forward(self, cells: Tensor, windows: Windows, index: Tensor) -> Tensor:
        """[N, h, w, C] to the same shape."""
        cells = cells + self._sometimes(self.attn(self.norm1(cells), windows, index))
        return cells + self._sometimes(self.mlp(self.norm2(cells)))

    def _sometimes(self, branch: Tensor) -> Tensor:
        """The branch, left out for a share of the images in training and made up for by the others."""
        if not self.training or self.drop_path == 0:
            return branch
        kept = 1 - self.drop_path
        is_kept = torch.rand(len(branch), 1, 1, 1, device=branch.device) < kept
        return branch * (is_kept / kept).to(branch.dtype)


class Mlp(nn.Module):
    """Two linear layers, GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, cells: Tensor) -> Tensor:
        """[N, h, w, C] to the same shape; without gradients in steps, so that hidden values stay small."""
        flat = cells.flatten(0, 2)
        parts = [
            self.fc2(functional.gelu(self.fc1(flat[rows]))) for rows in row_steps(len(flat), TOKENS_AT_ONCE)
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view_as(cells)


class WindowAttention(nn.Module):
    """Multi-head attention within each window, with a learned bias for every relative position."""

    def __init__(self, dim: int, *, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=INITIAL_SPREAD)

    def forward(self, cells: Tensor, windows: Windows, index: Tensor) -> Tensor:
        """[N, h, w, C] to the same shape."""
        flat = cells.flatten(0, 2)
        if windows.has_padding:
            flat = functional.pad(flat, (0, 0, 0, 1))  # one row of zeros stands for all padding
        projected = self.qkv(flat).index_select(0, windows.rows)
        bias = self.relative_position_bias_table[index].permute(2, 0, 1).to(projected.dtype)
        mixed = []
        for part, mask in zip(projected.split(windows.lengths), windows.masks, strict=True):
            allowed = bias if mask is None else bias + mask.to(bias.dtype)
            mixed.append(self._mix(part.unflatten(0, (-1, len(index))), allowed[None]))
        return self.proj(torch.cat(mixed).index_select(0, windows.back)).view_as(cells)

    def _mix(self, projected: Tensor, bias: Tensor) -> Tensor:
        """Windows [K, S, 3C] to [K * S, C]; `bias` [1, heads, S, S]."""
        queries, keys, values = projected.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
        return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


@dataclass(slots=True, frozen=True)
class Windows:
    """How the cells of N maps are dealt out to windows, those of one mask after the other; S cells a window."""

    rows: Tensor  # [K * S] the cell at each place, counted over all maps; N * h * w stands for padding
    back: Tensor  # [N * h * w] the place of each cell
    lengths: list[int]  # places under each mask
    masks: list[Tensor | None]  # [S, S], added to scores
    has_padding: bool


def place_windows(
    count: int, size: tuple[int, int], window: int, shift: int, device: torch.device
) -> Windows:
    """The windows of `count` maps of `size`, moved right and down by `shift`.

    A shifted map is rolled, so its last row and column of windows bring together cells from opposite sides; these four
    kinds of windows (inside, last column, last row, corner) have one mask each.
    """
    height, width = size
    bottom, right = -height % window, -width % window
    cells = torch.arange(height * width, device=device).view(size)
    padded = functional.pad(cells, (0, right, 0, bottom), value=height * width)
    rolled = padded.roll((-shift, -shift), (0, 1))
    grid = rolled.unflatten(1, (-1, window)).unflatten(0, (-1, window)).transpose(1, 2).flatten(2)
    kinds, masks = _kinds(grid, window, shift)
    starts = torch.arange(count, device=device)[:, None] * (height * width)
    rows = torch.cat([torch.where(kind < height * width, kind + starts, -1).flatten() for kind in kinds])
    back = torch.empty(count * height * width + 1, dtype=torch.int64, device=device)
    back[rows] = torch.arange(len(rows), device=device)  # padding writes to the last element, which is cut
    rows = torch.where(rows < 0, count * height * width, rows)
    return Windows(rows, back[:-1], [count * len(kind) for kind in kinds], masks, bottom > 0 or right > 0)


def _kinds(grid: Tensor, window: int, shift: int) -> tuple[list[Tensor], list[Tensor | None]]:
    """Windows [rows, columns, S] as flat cells by kind, and the mask of each kind."""
    if shift == 0:
        return [grid.flatten()], [None]
    late = torch.arange(window, device=grid.device) >= window - shift  # came from the opposite side
    kinds: list[Tensor] = []
    masks: list[Tensor | None] = []
    for last_row, rows in ((False, grid[:-1]), (True, grid[-1:])):
        for last_column, part in ((False, rows[:, :-1]), (True, rows[:, -1:])):
            if part.numel() == 0:
                continue
            region = 2 * (late & last_row)[:, None] + (late & last_column)[None, :]
            is_apart = region.flatten()[:, None] != region.flatten()
            kinds.append(part.flatten())
            masks.append(torch.where(is_apart, FORBIDDEN, 0.0) if last_row or last_column else None)
    return kinds, masks


def relative_index(window: int, device: torch.device) -> Tensor:
    """[S, S]: the row of the bias table for each query and key of a window, by position of query minus that of key."""
    steps = torch.arange(window, device=device)
    apart = steps[:, None] - steps + window - 1
    return (apart[:, None, :, None] * (2 * window - 1) + apart[None, :, None, :]).reshape(window**2, -1)


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
            given = resize_table(given, rows=len(own))
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


def resize_table(table: Tensor, *, rows: int) -> Tensor:
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
