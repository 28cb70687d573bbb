"""The levels of a batch of clips: how large each map is, which of its cells show the content, where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from refseg.layers.position import sine_2d

# Published behaviour: cells are counted from one and shifted by half a cell before they are normalised.
CELL_OFFSET = -0.5


@dataclass(slots=True)
class Levels:
    """Where the cells of the transformer's levels lie, one row a clip; the levels stand one after the other."""

    sizes: tuple[tuple[int, int], ...]
    valid: Tensor  # [P, S] bool
    position: Tensor  # [P, S, C] sine codes, without level embedding
    ratios: Tensor  # [P, levels, 2] share of each map, (width, height), that the content covers
    reference: Tensor  # [P, S, levels, 2] the centre of each cell on every level's map

    @property
    def areas(self) -> list[int]:
        """Cells per level."""
        return [h * w for h, w in self.sizes]

    def rows(self, index: Tensor) -> Levels:
        """The rows that `index` names, so that every frame has the row of its clip."""
        parts = (part[index] for part in (self.valid, self.position, self.ratios, self.reference))
        return Levels(self.sizes, *parts)


def place_levels(valid: Tensor, sizes: Sequence[tuple[int, int]], dim: int) -> Levels:
    """The levels of sizes `sizes` over canvases [P, H, W] whose content is `valid`."""
    masks = [level_valid(valid, size) for size in sizes]
    ratios = torch.stack([_covered(mask) for mask in masks], dim=1)
    centres = torch.cat([_centres(size, ratios[:, i]) for i, size in enumerate(sizes)], dim=1)
    return Levels(
        sizes=tuple(sizes),
        valid=torch.cat([mask.flatten(1) for mask in masks], dim=1),
        position=torch.cat([sine_2d(mask, dim, offset=CELL_OFFSET).flatten(1, 2) for mask in masks], dim=1),
        ratios=ratios,
        reference=centres[:, :, None] * ratios[:, None],
    )


def level_valid(valid: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool [P, H, W] at another size, by nearest (towards the top left)."""
    return functional.interpolate(valid[:, None].float(), size, mode="nearest")[:, 0] > 0.5


def _covered(valid: Tensor) -> Tensor:
    """[P, h, w] to [P, 2]: how much of the first row and of the first column is content, (width, height)."""
    return torch.stack([valid[:, 0].float().mean(-1), valid[:, :, 0].float().mean(-1)], dim=-1)


def _centres(size: tuple[int, int], ratios: Tensor) -> Tensor:
    """[P, h*w, 2] cell centres (x, y) in [0, 1] of the content."""
    h, w = size
    y, x = torch.meshgrid(
        torch.arange(h, device=ratios.device) + 0.5,
        torch.arange(w, device=ratios.device) + 0.5,
        indexing="ij",
    )
    cells = torch.stack([x.flatten(), y.flatten()], dim=-1)
    return cells / (ratios * ratios.new_tensor([w, h]))[:, None]
