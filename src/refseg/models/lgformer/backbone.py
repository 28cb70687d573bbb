"""A Swin Transformer that hears the phrase at the end of every stage.

Source: section 3.2 of the paper. Published behaviour that weights depend on: what leaves a stage is the residual of its
fusion before the gate, normalised, not the gated sum that goes on; and the words that leave the last stage are the
residual alone. So the published gates of the last stage decide nothing, and are left out.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import cast

from torch import Tensor, nn

from refseg.encoders.swin import INITIAL_SPREAD, Swin
from refseg.models.lgformer.config import LGFormerConfig
from refseg.models.lgformer.fusion import Fusion, Gate


class FusedSwin(nn.Module):
    """Stages of a Swin Transformer with a fusion after each."""

    def __init__(self, config: LGFormerConfig) -> None:
        super().__init__()
        self.swin = Swin(config.backbone)
        channels, text_dim = self.swin.out_channels, config.text.width
        self.fusions = nn.ModuleList(
            Fusion(dim, text_dim, num_heads=heads, dropout=config.fusion_dropout)
            for dim, heads in zip(channels, config.fusion_heads, strict=True)
        )
        self.gates = nn.ModuleList(Gate(dim) for dim in channels[:-1])
        self.text_gates = nn.ModuleList(Gate(text_dim) for _ in channels[:-1])
        for gate in (*self.gates, *self.text_gates):
            for layer in gate.children():
                nn.init.trunc_normal_(cast("nn.Linear", layer).weight, std=INITIAL_SPREAD)

    def before_words(self, pixels: Tensor, *, rough: AbstractContextManager[object]) -> Tensor:
        """Normalised pixels [N, 3, H, W] to what the first stage tells without words [N, h, w, C]."""
        cells = self.swin.patch_embed(pixels)
        with rough:
            told: Tensor = self.swin.stages()[0](cells)
        return told

    def forward(
        self, cells: Tensor, words: Tensor, valid: Tensor, *, rough: AbstractContextManager[object]
    ) -> tuple[list[Tensor], Tensor]:
        """The maps of the four stages [N, h, w, C], and the words after them [N, L, D].

        The blocks, which are most of the work, are computed within `rough`; it is entered several times.

        Shapes:
            cells: what `before_words` gave; words: [N, L, D]; valid: [N, L] bool.
        """
        maps = []
        last = len(self.fusions) - 1
        for number, stage in enumerate(self.swin.stages()):
            if number > 0:
                with rough:
                    cells = stage(cells)
            residual, text_residual = self.fusions[number](cells.flatten(1, 2), words, valid)
            residual = residual.view_as(cells)
            maps.append(self.swin.norms[number](residual))
            if number < last:
                cells = stage.merge(cells + self.gates[number](residual))
                words = (words + self.text_gates[number](text_residual)) * valid[..., None]
        return maps, text_residual
