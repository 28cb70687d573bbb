"""VLFormer: cells multiplied by the words, and masked-attention queries that read words in every layer.

Source: "VLFormer: Visual-Linguistic Transformer for Referring Image Segmentation" (Nguyen et al., 2022). Inference departs
from the published code in cost, not in result: the backbone, the projections and the finest level's adapter are computed
once for any phrases; mask features are never made, because a mask needs only their product with a query.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from refseg.encoders.clip_text import ClipTextTower
from refseg.encoders.resnet import Bottleneck, ResNet
from refseg.encoders.tokenizers.clip import ClipTokenizer
from refseg.framing import masks_to_source, upsample_to_canvas
from refseg.layers.chunking import frames_at_once, row_steps
from refseg.layers.position import sine_1d
from refseg.models.base import ReferringModel, Ruler, Tower
from refseg.models.vlformer.config import VLFormerConfig
from refseg.models.vlformer.decoder import Decoder, Heads, mask_logits
from refseg.models.vlformer.pixel_decoder import Memory, PixelDecoder, Words
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

REFERRED = 0  # class "referred"; class 1 is "no object"
TOKENIZER = "tokenizer.json"


class VLFormer(ReferringModel):
    """Three verbs over a backbone, CLIP's text tower, a pixel decoder and a query decoder."""

    config: VLFormerConfig

    def __init__(self, config: VLFormerConfig) -> None:
        super().__init__(config)
        spec = config.backbone
        self.backbone = ResNet(
            spec.blocks,
            stem_width=spec.stem_width,
            bottleneck_width=spec.bottleneck_width,
            stage_width=spec.stage_width,
        )
        self.text_tower = ClipTextTower(config.text).requires_grad_(False)
        self.resizer = nn.Linear(config.text.width, config.dim)
        self.pixel_decoder = PixelDecoder(config, self.backbone.out_channels)
        self.decoder = Decoder(config)
        self._tokenizer = ClipTokenizer(config.text.tokenizer, max_tokens=config.text.num_positions)

    def tokenize(self, phrases: Sequence[str]) -> TextTokens:
        """Token ids [P, L]; see ClipTokenizer. A phrase of more tokens than the tower has positions is refused."""
        return self._tokenizer(phrases)

    def encode_visual(self, clips: Clips) -> VisualFeatures:
        """Maps of strides 4 (adapted), 8, 16 and 32 (projected)."""
        frames = _frames_to_segment(clips)  # [B, T', 3, H, W]
        pixels = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        parts = [
            self.pixel_decoder.prepare(self.backbone(pixels[rows]))
            for rows in row_steps(len(pixels), frames_at_once(pixels.device))
        ]
        maps = (torch.cat(level).unflatten(0, frames.shape[:2]) for level in zip(*parts, strict=True))
        return VisualFeatures(tuple(maps), clips.valid, clips.content)

    def encode_text(self, tokens: TextTokens) -> TextFeatures:
        """Words [P, L, C]; CLIP's pooled vector and its projection are not used."""
        return TextFeatures(self.resizer(self.text_tower(tokens.values, tokens.valid)), tokens.valid)

    def segment(self, visual: VisualFeatures, text: TextFeatures) -> Output:
        """The candidates of the last layer; in training, and where `config.detail` says so, of all predictions before."""
        words = _words(text)
        memory = self._memory(visual.maps, words)
        told = self.decoder(memory, words, self.pixel_decoder.mask_features)
        if self.training or self.config.detail == "layers":
            *earlier, last = (_output(heads, memory) for heads in told)
            return replace(last, earlier=tuple(earlier))
        return _output(told[-1], memory)

    def choose(self, output: Output) -> tuple[Tensor, Tensor]:
        """The candidate most surely referred to, and how surely; one for all frames."""
        assert output.class_logits is not None
        scores = output.class_logits[:, :, 0].softmax(-1)[..., REFERRED]  # [P, Q]
        best = scores.max(dim=1)
        return best.indices, best.values

    def finish(self, output: Output, placements: Sequence[Placement], at: Ruler = "source") -> list[Tensor]:
        """Masks of the chosen candidate: logits to the canvas, cut, to the source, and only then the threshold."""
        least = _logit(self.config.threshold)
        return [logits > least for logits in self._finished(output, placements, at)]

    def soft_masks(self, output: Output, placements: Sequence[Placement]) -> list[Tensor]:
        """Scores [T', H, W] of the chosen candidate: what `finish` thresholds."""
        return [logits.sigmoid() for logits in self._finished(output, placements, "source")]

    def _finished(self, output: Output, placements: Sequence[Placement], at: Ruler) -> list[Tensor]:
        query, _ = self.choose(output)
        chosen = output.mask_logits[torch.arange(len(query), device=query.device), query]
        grown = [
            upsample_to_canvas(logits, placement.canvas)
            for logits, placement in zip(chosen, placements, strict=True)
        ]
        if at == "canvas":
            return grown
        return [masks_to_source(*pair) for pair in zip(grown, placements, strict=True)]

    def explain(
        self, phrases: Sequence[str], visual: VisualFeatures, text: TextFeatures, output: Output
    ) -> list[Explanation]:
        """The mask of every candidate, the chosen one first, each with how surely it is referred to."""
        assert output.class_logits is not None
        sure = output.class_logits[:, :, 0].float().softmax(-1)[..., REFERRED]  # [P, Q]
        told = []
        for logits, scores in zip(output.mask_logits.float().sigmoid(), sure, strict=True):
            order = scores.argsort(descending=True).tolist()
            titles = {query: f"candidate {query + 1}" for query in order}
            titles[order[0]] += ", chosen"
            maps = [EvidenceMap(titles[q], logits[q], float(scores[q]), group="candidates") for q in order]
            told.append(Explanation(maps=tuple(maps)))
        return told

    def recomputed_blocks(self) -> list[nn.Module]:
        """The blocks of the backbone and the layers of the encoder."""
        blocks = [module for module in self.backbone.modules() if isinstance(module, Bottleneck)]
        return [*blocks, *self.pixel_decoder.layers]

    def towers(self) -> tuple[Tower, ...]:
        """The encoders, for rates that fall with depth."""
        return (
            Tower("backbone", r"backbone\.", ResNet.layer_order),
            Tower("text tower", r"text_tower\.", ClipTextTower.layer_order),
        )

    def extra_state(self) -> dict[str, str]:
        """The tokenizer's file, where it is known."""
        text = self._tokenizer.text
        return {} if text is None else {TOKENIZER: text}

    def load_extra_state(self, extra: Mapping[str, str]) -> None:
        """Takes back the tokenizer's file."""
        if TOKENIZER in extra:
            self._tokenizer.take(extra[TOKENIZER])

    def _memory(self, maps: tuple[Tensor, ...], words: Words) -> Memory:
        """The pixel decoder on N = P * T frames, some at once: frames meet in the query decoder only."""
        clips, frames = maps[0].shape[:2]
        owners = torch.arange(clips, device=maps[0].device).repeat_interleave(frames)
        flat = [level.flatten(0, 1) for level in maps]
        parts = [
            self.pixel_decoder([level[rows] for level in flat], words.rows(owners[rows]))
            for rows in row_steps(len(owners), frames_at_once(owners.device))
        ]
        if len(parts) == 1:
            return parts[0]
        levels = [torch.cat(level) for level in zip(*(part.levels for part in parts), strict=True)]
        return Memory(levels, parts[0].sizes, torch.cat([part.fine for part in parts]))


def _words(text: TextFeatures) -> Words:
    position = sine_1d(text.valid, text.tokens.shape[-1]).to(text.tokens.dtype)
    return Words(text.tokens + position, text.tokens, text.valid)


def _output(heads: Heads, memory: Memory) -> Output:
    return Output(mask_logits(heads, memory.fine), heads.class_logits[:, :, None])


def _logit(score: float) -> float:
    """The mask logit of a score; 0 for one half."""
    if not 0 < score < 1:
        return math.copysign(math.inf, score - 0.5)
    return math.log(score / (1 - score))


def _frames_to_segment(clips: Clips) -> Tensor:
    """[B, T', 3, H, W]: the frames that get masks are the clip."""
    if clips.target_frames is None:
        return clips.pixels
    rows = torch.arange(len(clips.pixels), device=clips.pixels.device)
    return clips.pixels[rows[:, None], clips.target_frames]
