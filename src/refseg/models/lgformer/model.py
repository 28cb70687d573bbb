"""LGFormer: picture and phrase inform each other at every stage, and the phrase then generates the mask.

Source: "Linguistic Query-Guided Mask Generation for Referring Image Segmentation" (Wei et al., 2023, arXiv 2301.06429).
Inference departs from the published code in cost, not in result: the last prediction alone, and the first stage, which
hears no words, once for any phrases. Frames of a clip are segmented one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.encoders.swin import Block, Swin
from refseg.encoders.text import TextTower
from refseg.encoders.tokenizers.wordpiece import WordPieceTokenizer
from refseg.framing import upsample_to_canvas
from refseg.layers.chunking import frames_at_once, row_steps
from refseg.layers.feed_forward import FeedForward
from refseg.layers.precision import at_least_float32
from refseg.models.base import ReferringModel, Ruler, Tower
from refseg.models.lgformer.backbone import FusedSwin
from refseg.models.lgformer.config import LGFormerConfig
from refseg.models.lgformer.decoder import QueryDecoder
from refseg.models.lgformer.fusion import Fusion
from refseg.models.lgformer.pixel_decoder import PixelDecoder, place_levels
from refseg.structures import (
    Clips,
    EvidenceMap,
    Explanation,
    Output,
    Placement,
    TextFeatures,
    TextTokens,
    VisualFeatures,
)

_SHOWN_STAGE = 2  # of the backbone, whose fusion tells what words do; its stride is 16


class LGFormer(ReferringModel):
    """Three verbs over a backbone that hears words, a text tower, a pixel decoder and a query decoder."""

    config: LGFormerConfig

    def __init__(self, config: LGFormerConfig) -> None:
        super().__init__(config)
        self.backbone = FusedSwin(config)
        self.text_tower = TextTower(config.text)
        self.pixel_decoder = PixelDecoder(config)
        self.query_decoder = QueryDecoder(config)
        self._tokenizer = WordPieceTokenizer(
            config.text.tokenizer, length=config.max_tokens, vocabulary=config.text.vocabulary
        )

    def tokenize(self, phrases: Sequence[str]) -> TextTokens:
        """Token ids [P, max_tokens]; a longer phrase is cut."""
        return self._tokenizer(phrases)

    def num_unread(self, phrase: str) -> int:
        """Word pieces beyond the published length, the end token among them."""
        return max(0, len(self._tokenizer.ids(phrase)) - self._tokenizer.length)

    def encode_visual(self, clips: Clips) -> VisualFeatures:
        """What the first stage tells before it hears a word, stride 4."""
        frames = _frames_to_segment(clips)  # [B, T', 3, H, W]
        pixels = frames.flatten(0, 1)
        steps = row_steps(len(pixels), frames_at_once(pixels.device))
        rough = self._rough(pixels.device)
        with self._precise(pixels.device):
            parts = [self.backbone.before_words(pixels[rows], rough=rough) for rows in steps]
        cells = torch.cat(parts)  # [B * T', h, w, C]
        finest = cells.unflatten(0, frames.shape[:2]).permute(0, 1, 4, 2, 3)
        return VisualFeatures((finest,), clips.valid, clips.content)

    def encode_text(self, tokens: TextTokens) -> TextFeatures:
        """Words [P, L, D]; those that are padding are zero."""
        with self._precise(tokens.values.device):
            words = self.text_tower(tokens).tokens
        return TextFeatures(words * tokens.valid[..., None].to(words.dtype), tokens.valid)

    def segment(self, visual: VisualFeatures, text: TextFeatures) -> Output:
        """The last prediction; in training, and where `config.detail` says so, with those before each decoder layer."""
        (finest,) = visual.maps
        cells = finest.permute(0, 1, 3, 4, 2).flatten(0, 1)  # [P * T', h, w, C]
        owners = torch.arange(len(finest), device=finest.device).repeat_interleave(finest.shape[1])
        parts = [
            self._segment_frames(cells[rows], text.tokens[owners[rows]], text.valid[owners[rows]])
            for rows in row_steps(len(cells), frames_at_once(cells.device))
        ]
        logits = torch.cat(parts).unflatten(0, finest.shape[:2]).transpose(1, 2)  # [P, predictions, T', h, w]
        *earlier, last = (Output(prediction) for prediction in logits.split(1, dim=1))
        return Output(last.mask_logits, earlier=tuple(earlier))

    def finish(self, output: Output, placements: Sequence[Placement], at: Ruler = "source") -> list[Tensor]:
        """Bool masks [T', H, W]: logits to the canvas, which is where published results are compared, then to the source."""
        return [
            self.enlarged(logits, placement, at=at).sigmoid() > self.config.threshold
            for logits, placement in zip(output.mask_logits[:, 0], placements, strict=True)
        ]

    def enlarged(self, logits: Tensor, placement: Placement, *, at: Ruler) -> Tensor:
        """Mask logits [T', h, w] of the network on the canvas or at the source [T', H, W]."""
        on_canvas = upsample_to_canvas(logits, placement.canvas)
        return on_canvas if at == "canvas" else self._to_source(on_canvas, placement)

    def explain(
        self, phrases: Sequence[str], visual: VisualFeatures, text: TextFeatures, output: Output
    ) -> list[Explanation]:
        """For each word, the pixels that listen to it in the fusion of stride 16."""
        heard: list[Tensor] = []

        def listen(fusion: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
            assert isinstance(fusion, Fusion)
            heard.append(fusion.shares(*inputs))

        hook = self.backbone.fusions[_SHOWN_STAGE].register_forward_pre_hook(listen)
        try:
            self.segment(visual, text)
        finally:
            hook.remove()
        (finest,) = visual.maps
        size = [-(-side // 2**_SHOWN_STAGE) for side in finest.shape[-2:]]
        shares = torch.cat(heard).unflatten(-1, size).unflatten(0, finest.shape[:2])  # [P, T', L, h, w]
        told = []
        for row, phrase in enumerate(phrases):
            pieces = enumerate(self._tokenizer.pieces(phrase))
            maps = (EvidenceMap(p, shares[row, :, number], group="words") for number, p in pieces if p)
            told.append(Explanation(tuple(maps)))
        return told

    def recomputed_blocks(self) -> list[nn.Module]:
        """The blocks of the backbone, and the feed-forward networks of the pixel decoder."""
        kinds = {"backbone.swin": Block, "pixel_decoder": FeedForward}
        return [
            module
            for part, kind in kinds.items()
            for module in self.get_submodule(part).modules()
            if isinstance(module, kind)
        ]

    def towers(self) -> tuple[Tower, ...]:
        """The encoders, for rates that fall with depth."""
        return (
            Tower("backbone", r"backbone\.swin\.", Swin.layer_order),
            Tower("text tower", r"text_tower\.", TextTower.layer_order),
        )

    def extra_state(self) -> dict[str, str]:
        """The tokenizer's file, where it is known."""
        text = self._tokenizer.text
        return {} if text is None else {"tokenizer.json": text}

    def load_extra_state(self, extra: Mapping[str, str]) -> None:
        """Takes back the tokenizer's file."""
        if "tokenizer.json" in extra:
            self._tokenizer.take(extra["tokenizer.json"])

    def _segment_frames(self, cells: Tensor, words: Tensor, valid: Tensor) -> Tensor:
        """Mask logits [N, predictions, h, w] of frames, each with its phrase."""
        device = cells.device
        rough = self._rough(device)
        with self._precise(device):
            maps, words = self.backbone(cells, words, valid, rough=rough)
        sizes = [(level.shape[1], level.shape[2]) for level in maps[:0:-1]]
        places = place_levels(sizes, self.config.dim, device)
        # Published behaviour: the pixel decoder computes in float32 whatever the precision of the rest.
        with torch.autocast(device.type, enabled=False):
            maps, words = [at_least_float32(level) for level in maps], at_least_float32(words)
            finest, memory = self.pixel_decoder(maps, words, valid, places, rough=rough)
        with self._precise(device):
            states = self.query_decoder(words, valid, memory, places)
            told = states if self.training or self.config.detail == "layers" else states[-1:]
            weights, biases = self.query_decoder.weights(told)
        with torch.autocast(device.type, enabled=False):
            return self.pixel_decoder.masks(finest, at_least_float32(weights), at_least_float32(biases))

    def _precise(self, device: torch.device) -> AbstractContextManager[object]:
        """Float32 outside training for what is little work: fusions, words, the query; all pixels hang on it."""
        return nullcontext() if self.training else torch.autocast(device.type, enabled=False)

    def _rough(self, device: torch.device) -> AbstractContextManager[object]:
        """The precision asked for, for the bulk of the work; training keeps the published precisions."""
        kind = device.type
        if self.training or not torch.is_autocast_enabled(kind):
            return nullcontext()
        return torch.autocast(kind, dtype=torch.get_autocast_dtype(kind))

    def _to_source(self, logits: Tensor, placement: Placement) -> Tensor:
        (top, left), (height, width) = placement.offset, placement.content
        content = logits[None, ..., top : top + height, left : left + width]
        if self.config.enlarges_nearest:
            return functional.interpolate(content, placement.source, mode="nearest")[0]
        return functional.interpolate(content, placement.source, mode="bilinear", align_corners=False)[0]


def _frames_to_segment(clips: Clips) -> Tensor:
    """[B, T', 3, H, W]: frames are seen alone, so the others tell nothing."""
    if clips.target_frames is None:
        return clips.pixels
    rows = torch.arange(len(clips.pixels), device=clips.pixels.device)
    return clips.pixels[rows[:, None], clips.target_frames]
