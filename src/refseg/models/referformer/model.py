"""ReferFormer: the phrase becomes the content of a few candidate queries, and one of them follows the object.

Source: "Language as Queries for Referring Video Object Segmentation" (Wu et al., CVPR 2022). Inference departs from the
published code in cost, not in result: masks of the last layer alone, by default of the chosen candidate alone, and all
that needs no words (backbone, projections, the finest level up to its words) is computed once for any phrases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from refseg.encoders.resnet import Bottleneck, ResNet
from refseg.encoders.swin import Block as SwinBlock
from refseg.encoders.swin import Swin, SwinSpec
from refseg.encoders.text import TextTower
from refseg.encoders.tokenizers.tokens import WORDS, PhraseTokenizer, WordTokenizer
from refseg.encoders.video_swin import Block as ClipBlock
from refseg.encoders.video_swin import VideoSwin, VideoSwinSpec
from refseg.layers.chunking import frames_at_once, gather, row_steps
from refseg.layers.position import sine_1d
from refseg.models.base import Candidates as Offered
from refseg.models.base import ReferringModel, Ruler, Tower
from refseg.models.referformer.config import BackboneSpec, ReferFormerConfig
from refseg.models.referformer.finish import all_candidates, finish_masks, rank_candidates, video_scores
from refseg.models.referformer.levels import Levels, place_levels
from refseg.models.referformer.mask_head import MaskHead
from refseg.models.referformer.pixel_decoder import PixelDecoder, as_map, cells, place_map
from refseg.models.referformer.transformer import Candidates, Decoder, Encoder, Fusion, Words
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

NORM_GROUPS = 32  # of the normalisation after each projection
RESIZER_EPS = 1e-12
RESIZER_DROPOUT = 0.1


class TextResizer(nn.Module):
    """Word and phrase features of the text tower at the model's width; one for both."""

    def __init__(self, text_dim: int, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(text_dim, dim)
        self.norm = nn.LayerNorm(dim, eps=RESIZER_EPS)
        self.dropout = nn.Dropout(RESIZER_DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """[..., text_dim] to [..., dim]."""
        return self.dropout(self.norm(self.fc(x)))


class ReferFormer(ReferringModel):
    """Three verbs over a backbone, a text tower, a deformable transformer and a cross-modal pyramid."""

    config: ReferFormerConfig

    def __init__(self, config: ReferFormerConfig) -> None:
        super().__init__(config)
        self.backbone = _backbone(config.backbone)
        channels = self.backbone.out_channels
        self.projections = nn.ModuleList(_projection(width, config.dim, size=1) for width in channels[1:])
        self.projections.append(_projection(channels[-1], config.dim, size=3))
        self.text_tower = TextTower(config.text).requires_grad_(config.trains_text)
        self.resizer = TextResizer(config.text.width, config.dim)
        self.fusion = Fusion(config.dim)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.pixel_decoder = PixelDecoder(config, channels[0])
        self.mask_head = MaskHead(config)
        self._tokenizer = _tokenizer(config)

    def tokenize(self, phrases: Sequence[str]) -> TextTokens:
        """Token ids [P, L]; see PhraseTokenizer."""
        return self._tokenizer(phrases)

    def encode_visual(self, clips: Clips) -> VisualFeatures:
        """Maps of strides 4 (adapted, and looked around), 8, 16, 32 and 64 (projected)."""
        times = clips.pixels.shape[1] if clips.target_frames is None else clips.target_frames.shape[1]
        finest, *coarser = gather(self._looked_at(clips), len(clips.pixels) * times)
        prepared = self.pixel_decoder.prepare_finest(finest, clips.valid)
        maps = tuple(level.unflatten(0, (len(clips.pixels), -1)) for level in (prepared, *coarser))
        return VisualFeatures(maps, clips.valid, clips.content)

    def encode_text(self, tokens: TextTokens) -> TextFeatures:
        """Words [P, L, C], and the pooled first token as the phrase [P, C]."""
        told = self.text_tower(tokens)
        assert told.pooled is not None
        # Published behaviour: the phrase is the pooler's output, though the paper speaks of pooled words.
        return TextFeatures(self.resizer(told.tokens), tokens.valid, self.resizer(told.pooled))

    def segment(self, visual: VisualFeatures, text: TextFeatures) -> Output:
        """The chosen candidate's answer; in training, and where `config.detail` says so, that of all candidates."""
        finest, *projected = visual.maps
        words = _words(text)
        levels = place_levels(visual.valid, [_size(level) for level in projected], self.config.dim)
        memory, layers = self._look_for(projected, levels, words)
        coarser = self.pixel_decoder.coarse(_memory_maps(memory, levels), visual.valid, words)
        position, _ = place_map(finest.flatten(0, 1), visual.valid)
        frames = _Frames(finest, coarser, position, words, visual.content)
        if self.training or self.config.detail == "layers":
            return self._every_layer(layers if self.config.supervises_every_layer else layers[-1:], frames)
        return self._last_layer(layers[-1], frames)

    def choose(self, output: Output) -> tuple[Tensor, Tensor]:
        """The candidate whose score, averaged over frames, is highest in any class; one for the whole clip."""
        assert output.class_logits is not None
        return best_candidate(output.class_logits)

    def finish(self, output: Output, placements: Sequence[Placement], at: Ruler = "source") -> list[Tensor]:
        """Masks of the chosen candidate in the published order of `config.protocol`; see finish.py."""
        query, _ = self.choose(output)
        chosen = output.mask_logits[torch.arange(len(query), device=query.device), query]
        return [
            finish_masks(logits, placement, self.config.threshold, protocol=self.config.protocol, at=at)
            for logits, placement in zip(chosen, placements, strict=True)
        ]

    def explain(
        self, phrases: Sequence[str], visual: VisualFeatures, text: TextFeatures, output: Output
    ) -> list[Explanation]:
        """Where the chosen query looks in each frame, in the last decoder layer; its box; and for each word, from where in the
        picture it is read in the fusion (the finest level that words enter at, a mean over heads)."""
        _, *projected = visual.maps
        words = _words(text)
        levels = place_levels(visual.valid, [_size(level) for level in projected], self.config.dim)
        _, layers = self._look_for(projected, levels, words)
        per_clip = (len(phrases), visual.maps[0].shape[1])
        class_logits, boxes, reference = (
            part.unflatten(0, per_clip).transpose(1, 2)
            for part in (layers[-1].class_logits, layers[-1].boxes, layers[-1].reference)
        )  # [P, Q, T', *]
        query, _ = best_candidate(class_logits)
        rows = torch.arange(len(query), device=query.device)
        points, chosen = reference[rows, query, :, :2], boxes[rows, query]
        read = self._read_from(projected[0], words)  # [P, T', L, h, w]
        return [
            Explanation(self._word_maps(phrase, read[row]), points=points[row], boxes=chosen[row])
            for row, phrase in enumerate(phrases)
        ]

    def _read_from(self, level: Tensor, words: Words) -> Tensor:
        """How much each cell of a level [P, T', C, h, w] takes from each word: [P, T', L, h, w]."""
        spoken = words.rows(_owners(level))
        shares = self.fusion.attention.shares(cells(level.flatten(0, 1)), spoken.keys, spoken.valid)
        return shares.transpose(1, 2).unflatten(-1, _size(level)).unflatten(0, level.shape[:2])

    def _word_maps(self, phrase: str, read: Tensor) -> tuple[EvidenceMap, ...]:
        """The maps [T', L, h, w] of the tokens that stand for a part of the phrase."""
        pieces = self._tokenizer.pieces(phrase)
        return tuple(
            EvidenceMap(piece, read[:, number], group="words") for number, piece in enumerate(pieces) if piece
        )

    def recomputed_blocks(self) -> list[nn.Module]:
        """The trained blocks of the backbone, and the layers of the encoder."""
        kind = {ResNet: Bottleneck, Swin: SwinBlock, VideoSwin: ClipBlock}[type(self.backbone)]
        found = [module for module in self.backbone.modules() if isinstance(module, kind)]
        blocks = [block for block in found if any(value.requires_grad for value in block.parameters())]
        return [*blocks, *self.encoder.layers]

    def towers(self) -> tuple[Tower, ...]:
        """The encoders, for rates that fall with depth."""
        return (
            Tower("backbone", r"backbone\.", type(self.backbone).layer_order),
            Tower("text tower", r"text_tower\.", TextTower.layer_order),
        )

    def tell_candidates(self) -> None:
        """From now on `segment` answers with all candidates, not with the chosen one alone."""
        self.config = replace(self.config, detail="candidates")

    def candidates(self, output: Output, placements: Sequence[Placement]) -> list[Offered]:
        """All candidates of a frame: one score each with one class; ranked pairs of candidate and class with several."""
        if self.config.num_classes == 1:
            return all_candidates(output, placements, self.config.threshold)
        return rank_candidates(output, placements, self.config.threshold)

    def soft_masks(self, output: Output, placements: Sequence[Placement]) -> list[Tensor]:
        """Scores of the chosen candidate at the source, where `config.protocol` thresholds them last."""
        if self.config.protocol == "image":
            return super().soft_masks(output, placements)
        query, _ = self.choose(output)
        chosen = output.mask_logits[torch.arange(len(query), device=query.device), query]
        return [video_scores(logits, placement) for logits, placement in zip(chosen, placements, strict=True)]

    def extra_state(self) -> dict[str, str]:
        """The tokenizer's file, where it is known."""
        text = self._tokenizer.text
        return {} if text is None else {"tokenizer.json": text}

    def load_extra_state(self, extra: Mapping[str, str]) -> None:
        """Takes back the tokenizer's file."""
        if "tokenizer.json" in extra:
            self._tokenizer.take(extra["tokenizer.json"])

    def _looked_at(self, clips: Clips) -> Iterator[tuple[Tensor, ...]]:
        """Backbone, finest adapter and projections for all frames to segment, in pieces of consecutive frames."""
        if isinstance(self.backbone, VideoSwin):
            seen = self.backbone(clips.pixels)  # frames that are not segmented are looked at too
            maps = [_frames_to_segment(level, clips.target_frames).flatten(0, 1) for level in seen]
            steps = row_steps(len(maps[0]), frames_at_once(maps[0].device))
            return (self._project([level[rows] for level in maps]) for rows in steps)
        pixels = _frames_to_segment(clips.pixels, clips.target_frames).flatten(0, 1)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        steps = row_steps(len(pixels), frames_at_once(pixels.device))
        return (self._project(self.backbone(pixels[rows])) for rows in steps)

    def _project(self, stages: Sequence[Tensor]) -> tuple[Tensor, ...]:
        finest, *maps = stages
        projected = (
            project(level) for project, level in zip(self.projections, [*maps, maps[-1]], strict=True)
        )
        return self.pixel_decoder.adapt_finest(finest), *projected

    def _look_for(
        self, projected: list[Tensor], levels: Levels, words: Words
    ) -> tuple[Tensor, list[Candidates]]:
        """Fusion, encoder and decoder for N = P * T' frames: the memory [N, S, C], and each layer's candidates."""
        owners = _owners(projected[0])
        flat = [level.flatten(0, 1) for level in projected]
        told = []

        def memories() -> Iterator[tuple[Tensor]]:
            for rows in row_steps(len(owners), frames_at_once(owners.device)):
                placed, spoken = levels.rows(owners[rows]), words.rows(owners[rows])
                tokens = torch.cat([cells(level[rows]) for level in flat], dim=1)
                memory = self.encoder(self.fusion(tokens, spoken), placed)
                # Few numbers, on which all masks hang: half precision saves nothing here and moves edges.
                with torch.autocast(memory.device.type, enabled=False):
                    told.append(self.decoder(memory.float(), placed, spoken.sentence.float()))
                yield (memory,)

        (memory,) = gather(memories(), len(owners))
        return memory, [Candidates.join(layer) for layer in zip(*told, strict=True)]

    def _every_layer(self, layers: list[Candidates], frames: _Frames) -> Output:
        """All candidates of all decoder layers, from explicit mask features."""
        maps = frames.finest_maps(self.pixel_decoder, slice(0, frames.count))
        features = self.pixel_decoder.mask_features(maps)
        answers = []
        for layer in layers:
            logits = self.mask_head(features, self.mask_head.weights(layer.states), frames.centres(layer))
            answers.append(frames.output(layer, logits))
        *earlier, last = answers
        return replace(last, earlier=tuple(earlier))

    def _last_layer(self, layer: Candidates, frames: _Frames) -> Output:
        """The last decoder layer's candidates, or among them the one that answers the phrase."""
        if self.config.detail == "chosen":
            query, _ = best_candidate(frames.by_clip(layer.class_logits))
            layer = layer.only(query[frames.owners])
        centres = frames.centres(layer)
        masks = []
        for rows in row_steps(frames.count, frames_at_once(centres.device)):
            maps = frames.finest_maps(self.pixel_decoder, rows)
            weights = self.mask_head.weights(layer.states[rows])
            masks.append(
                self.mask_head.folded(maps, weights, centres[rows], self.pixel_decoder.mask_features)
            )
        return frames.output(layer, torch.cat(masks))


class _Frames:
    """All N = P * T' frames, ready for the finest level of the pyramid, and the way back to clips."""

    def __init__(
        self, finest: Tensor, coarser: Tensor, position: Tensor, words: Words, content: Tensor
    ) -> None:
        self.per_clip = finest.shape[1]
        self.owners = _owners(finest)
        self.count = len(self.owners)
        self._prepared = finest.flatten(0, 1)
        self._coarser, self._position, self._words, self._content = coarser, position, words, content

    def finest_maps(self, decoder: PixelDecoder, rows: slice) -> Tensor:
        """The pyramid's finest maps [n, C, h, w] of some frames."""
        owners = self.owners[rows]
        return decoder.finest(
            self._prepared[rows], self._position[owners], self._words.rows(owners), self._coarser[rows]
        )

    def centres(self, layer: Candidates) -> Tensor:
        """Where the queries look [N, Q, 2], (x, y) in canvas pixels."""
        width_height = self._content.flip(-1)[self.owners, None]
        return layer.reference[..., :2] * width_height

    def by_clip(self, values: Tensor) -> Tensor:
        """[N, Q, ...] to [P, Q, T', ...]."""
        return values.unflatten(0, (-1, self.per_clip)).transpose(1, 2)

    def output(self, layer: Candidates, logits: Tensor) -> Output:
        """A layer's answers and mask logits [N, Q, h, w] as the network's output."""
        return Output(self.by_clip(logits), self.by_clip(layer.class_logits), self.by_clip(layer.boxes))


def _tokenizer(config: ReferFormerConfig) -> PhraseTokenizer:
    text = config.text
    if text.tokenizer == WORDS:
        return WordTokenizer(config.vocabulary, max_tokens=text.max_tokens, pad_id=text.pad_id)
    return PhraseTokenizer(text.tokenizer, max_tokens=text.max_tokens, pad_id=text.pad_id)


def _backbone(spec: BackboneSpec) -> ResNet | Swin | VideoSwin:
    if isinstance(spec, SwinSpec):
        return Swin(spec)
    if isinstance(spec, VideoSwinSpec):
        return VideoSwin(spec)
    network = ResNet(
        spec.blocks,
        stem_width=spec.stem_width,
        bottleneck_width=spec.bottleneck_width,
        stage_width=spec.stage_width,
        is_dilated=spec.is_dilated,
    )
    # Published behaviour: the stem and the first stage of a ResNet keep their ImageNet weights; a Swin trains whole.
    network.stem.requires_grad_(False)
    network.stages[0].requires_grad_(False)
    return network


def _frames_to_segment(values: Tensor, target_frames: Tensor | None) -> Tensor:
    """[B, T, ...] to [B, T', ...]."""
    if target_frames is None:
        return values
    rows = torch.arange(len(values), device=values.device)
    return values[rows[:, None], target_frames]


def _projection(channels: int, dim: int, *, size: int) -> nn.Sequential:
    """A level's projection; that of size 3 makes one more level, of half the resolution."""
    conv = nn.Conv2d(channels, dim, size, stride=1 if size == 1 else 2, padding=size // 2)
    assert conv.bias is not None
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.GroupNorm(NORM_GROUPS, dim))


def _words(text: TextFeatures) -> Words:
    assert text.sentence is not None
    position = sine_1d(text.valid, text.tokens.shape[-1]).to(text.tokens.dtype)
    return Words(text.tokens + position, text.tokens, text.valid, text.sentence)


def _memory_maps(memory: Tensor, levels: Levels) -> list[Tensor]:
    """The levels of the memory [N, S, C] that the pyramid reads (all but the coarsest), finest first."""
    parts = memory.split(levels.areas, dim=1)[:-1]
    return [as_map(part, size) for part, size in zip(parts, levels.sizes[:-1], strict=True)]


def best_candidate(class_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Query [P] and score [P] of logits [P, Q, T', K]."""
    scores = class_logits.float().sigmoid().mean(2).amax(-1)  # [P, Q]
    best = scores.max(dim=1)
    return best.indices, best.values


def _owners(maps: Tensor) -> Tensor:
    """The clip of each frame of maps [P, T', ...]: [P * T']."""
    clips, frames = maps.shape[:2]
    return torch.arange(clips, device=maps.device).repeat_interleave(frames)


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]
