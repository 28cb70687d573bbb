"""VLT, in the order of its paper: picture, phrase, fusion, queries, transformer, balance, mask.

Source: "Vision-Language Transformer and Query Generation for Referring Segmentation" (Ding et al., ICCV 2021).
Departures from the published program: what pixels alone tell is computed once a picture; outside training, norms are
folded into convolutions and doublings into the convolutions after them. Nothing but rounding changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refseg.encoders.tokenizers.english import words_of
from refseg.encoders.word_vectors import PhraseVectors
from refseg.errors import InvalidInput
from refseg.framing import masks_to_source, upsample_to_canvas
from refseg.layers.chunking import frames_at_once, row_steps
from refseg.models.base import ReferringModel, Ruler, Tower
from refseg.models.vlt.backbone import ConvNorm, Darknet, Fusion, Sides
from refseg.models.vlt.config import VltConfig
from refseg.models.vlt.mask_head import MaskHead
from refseg.models.vlt.queries import (
    DecoderLayer,
    EncoderLayer,
    QueryBalance,
    QueryGeneration,
    with_positions,
)
from refseg.models.vlt.text import PhraseEncoder
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

CARRIED = "word_vectors"  # the entry of a checkpoint's header that holds the vectors it brings along
WORDS = "words"  # an entry that only conversion gives: texts whose words' vectors are to be carried


@dataclass(slots=True)
class VltOutput(Output):
    """The mask, and how the queries made it."""

    responses: Tensor | None = None  # [P, T', Q, G, G], from 0 up: what each query marks
    weights: Tensor | None = None  # [P, T', Q] in [0, 1]: how much each query counts
    squared_kernels: Tensor | None = None  # in training: the squares of all convolution kernels, summed


class Vlt(ReferringModel):
    """The network; see the package's README for its table of steps."""

    config: VltConfig

    def __init__(self, config: VltConfig) -> None:
        super().__init__(config)
        _check(config)
        cells, dim = config.grid**2, config.dim
        widths = [share * config.backbone_width for share in (8, 16, 32)]
        self.backbone = Darknet(config.backbone_width)
        self.phrase = PhraseEncoder(
            config.word_dim,
            config.gru_dim,
            is_bidirectional=config.is_bidirectional,
            input_dropout=config.input_dropout,
            dropout=config.dropout,
        )
        self.sides = Sides(*widths)
        self.fusion = Fusion(*widths, phrase_dim=config.gru_dim, dim=dim)
        self.queries = QueryGeneration(
            config.fused_dim // 2,
            phrase_dim=config.gru_dim,
            dim=dim,
            num_heads=config.num_heads,
            num_queries=config.num_queries,
            cells=cells,
        )
        heads, dropout = config.num_heads, config.dropout
        self.encoder = nn.ModuleList(
            EncoderLayer(dim, heads, dropout=dropout) for _ in range(config.num_encoder_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(dim, heads, dropout=dropout) for _ in range(config.num_decoder_layers)
        )
        self.balance = QueryBalance(dim, cells)
        self.head = MaskHead(config.num_queries, dim, config.stride)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self._freeze()
        self._vectors = PhraseVectors(config.vectors, dim=config.word_dim, max_words=config.max_words)

    def tokenize(self, phrases: Sequence[str]) -> TextTokens:
        """Word vectors [P, L, E] of the published length, zeros after the last word; see PhraseVectors."""
        return self._vectors(phrases)

    def num_unread(self, phrase: str) -> int:
        """Words beyond the published length."""
        return max(0, len(words_of(phrase)) - self.config.max_words)

    def encode_visual(self, clips: Clips) -> VisualFeatures:
        """What the picture gives to the fusion: maps of strides 16, 16 and 32."""
        frames = _frames_to_segment(clips)  # [B, T', 3, S, S]
        pixels = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        parts = [
            self.sides(*self.backbone(pixels[rows]))
            for rows in row_steps(len(pixels), frames_at_once(pixels.device))
        ]
        maps = (torch.cat(level) for level in zip(*parts, strict=True))
        unfolded = tuple(level.unflatten(0, frames.shape[:2]) for level in maps)
        return VisualFeatures(unfolded, clips.valid, clips.content)

    def encode_text(self, tokens: TextTokens) -> TextFeatures:
        """States of the words [P, L, U] and the phrase, their mixture by attention [P, U]."""
        states, shares = self.phrase(tokens.values)
        return TextFeatures(states, tokens.valid, (states * shares).sum(1))

    def segment(self, visual: VisualFeatures, text: TextFeatures) -> VltOutput:
        """Mask logits at the configured stride, and every query's response and weight."""
        frames = visual.maps[0].shape[1]
        queries, cells = self._ask(visual, text)
        answers = self.decode(queries, cells)
        weights = self.balance.weigh(queries, answers)
        responses = self.balance.respond(weights, answers, self._grid)
        steps = row_steps(len(responses), frames_at_once(responses.device))
        logits = torch.cat([self.head(responses[rows]) for rows in steps])  # [P*T', 1, h, w]
        shape = (-1, frames)
        return VltOutput(
            logits.unflatten(0, shape).transpose(1, 2),
            responses=responses.unflatten(0, shape),
            weights=weights[..., 0].unflatten(0, shape),
            squared_kernels=self._squared_kernels() if self.training else None,
        )

    def explain(
        self, phrases: Sequence[str], visual: VisualFeatures, text: TextFeatures, output: Output
    ) -> list[Explanation]:
        """Where each query looks (the last decoder layer, a mean over heads), what it marks and how much it counts, and how
        much each word counts in the phrase (a mean over features; words of padding take the rest)."""
        assert isinstance(output, VltOutput) and output.responses is not None and output.weights is not None
        frames = visual.maps[0].shape[1]
        looks = self._looks(*self._ask(visual, text)).unflatten(0, (-1, frames))  # [P, T', Q, G, G]
        shares = self.phrase.shares(text.tokens).mean(-1)  # [P, L]
        told = []
        for row, phrase in enumerate(phrases):
            words = zip(words_of(phrase)[: self.config.max_words], shares[row].tolist(), strict=False)
            weights = output.weights[row].mean(0).tolist()
            maps = (
                *_maps("looks", looks[row], weights),
                *_maps("marks", output.responses[row], weights),
            )
            told.append(Explanation(maps, words=tuple(words)))
        return told

    def finish(self, output: Output, placements: Sequence[Placement], at: Ruler = "source") -> list[Tensor]:
        """Masks in the published order: scores first, then up to the canvas, cut the content, resize, threshold."""
        masks = []
        for logits, placement in zip(output.mask_logits[:, 0], placements, strict=True):
            scores = finish_scores(logits, placement, at)
            masks.append(scores > self.config.threshold)
        return masks

    def soft_masks(self, output: Output, placements: Sequence[Placement]) -> list[Tensor]:
        """Scores at the source, which are thresholded last."""
        pairs = zip(output.mask_logits[:, 0], placements, strict=True)
        return [finish_scores(logits, placement, "source") for logits, placement in pairs]

    def recomputed_blocks(self) -> list[nn.Module]:
        """The layers of encoder and decoder; convolutions stay, whose norms would note a batch twice."""
        return [*self.encoder, *self.decoder]

    def towers(self) -> tuple[Tower, ...]:
        """The encoders, for rates that fall with depth."""
        return (Tower("backbone", r"backbone\.", Darknet.layer_order),)

    def extra_state(self) -> dict[str, str]:
        """The vectors of all tokens that the model has met in training, or was given to carry."""
        return {CARRIED: self._vectors.to_text()}

    def load_extra_state(self, extra: Mapping[str, str]) -> None:
        """Takes back carried vectors; looks up those of the texts under `words`, to carry them."""
        if CARRIED in extra:
            self._vectors.take(extra[CARRIED])
        if WORDS in extra:
            self._vectors.carry(extra[WORDS].splitlines())

    # The steps of `segment`

    @property
    def _grid(self) -> tuple[int, int]:
        return self.config.grid, self.config.grid

    def _ask(self, visual: VisualFeatures, text: TextFeatures) -> tuple[Tensor, Tensor]:
        """Query vectors [N, Q, D] and cells [N, G*G, D] of N = P * T' frames."""
        states, phrase = _per_frame(text, visual.maps[0].shape[1])
        fine, middle, coarse = (level.flatten(0, 1) for level in visual.maps)
        _, _, queried, read = self.fusion((fine, middle, coarse), phrase)
        return self.make_queries(queried, states), self.encode_cells(read)

    def _looks(self, queries: Tensor, cells: Tensor) -> Tensor:
        """How much of each cell a query takes in the last decoder layer: [N, Q, G, G]."""
        answers = with_positions(queries)
        *earlier, last = self.decoder
        for layer in earlier:
            answers = layer(answers, cells)
        assert isinstance(last, DecoderLayer)
        return last.cross_attention.shares(last.among_queries(answers), cells).unflatten(-1, self._grid)

    def make_queries(self, queried: Tensor, states: Tensor) -> Tensor:
        """Query vectors [N, Q, D] of a fused map [N, C, G, G] and states of words [N, L, U]."""
        visual = self.queries.visual(self.queries.look(queried))
        return self.queries.mix(visual, self.queries.speak(states)) + visual

    def encode_cells(self, read: Tensor) -> Tensor:
        """Cells [N, G*G, D] of a fused map [N, D, G, G], row by row, having looked at each other."""
        cells = with_positions(read.flatten(2).transpose(1, 2))
        for layer in self.encoder:
            cells = layer(cells)
        return cells

    def decode(self, queries: Tensor, cells: Tensor) -> Tensor:
        """The answer [N, Q, D] to each query."""
        answers = with_positions(queries)
        for layer in self.decoder:
            answers = layer(answers, cells)
        return answers

    def _squared_kernels(self) -> Tensor:
        kernels = (module.weight for module in self.modules() if isinstance(module, nn.Conv2d))
        return torch.stack([kernel.square().sum() for kernel in kernels]).sum()

    def _freeze(self) -> None:
        if self.config.frozen == "backbone":
            for part in self.backbone.frozen_parts():
                part.requires_grad_(False)
        elif self.config.frozen == "all but last":
            self.requires_grad_(False)
            last = self.head.convs[-1]
            assert isinstance(last, ConvNorm)
            last.norm.requires_grad_(True)
            self.head.last.requires_grad_(True)


def finish_scores(logits: Tensor, placement: Placement, at: Ruler) -> Tensor:
    """Scores [T', H, W] of logits [T', h, w] on the canvas or at the source.

    Published behaviour: scores are resized, not logits.
    """
    scores = upsample_to_canvas(logits.sigmoid(), placement.canvas)
    return masks_to_source(scores, placement) if at == "source" else scores


def _maps(verb: str, values: Tensor, weights: Sequence[float]) -> list[EvidenceMap]:
    """The queries' maps [T', Q, G, G], one by one."""
    return [
        EvidenceMap(f"query {number} {verb}", of_query, weight, group=verb)
        for number, (of_query, weight) in enumerate(zip(values.unbind(1), weights, strict=True), start=1)
    ]


def _check(config: VltConfig) -> None:
    if config.frame.fit != "letterbox" or config.frame.size % 32:
        raise InvalidInput(
            f"VLT sees a letterbox whose side is a multiple of 32, not {config.frame.fit} {config.frame.size}"
        )
    if config.stride not in (2, 4, 8, 16):
        raise InvalidInput(f"the stride of VLT's mask is 2, 4, 8 or 16, not {config.stride}")
    if config.dim % config.num_heads or config.dim % 2:
        raise InvalidInput(f"a width of {config.dim} cannot be cut into {config.num_heads} heads")


def _frames_to_segment(clips: Clips) -> Tensor:
    """[B, T', 3, S, S]: frames are seen alone, so the others tell nothing."""
    if clips.target_frames is None:
        return clips.pixels
    rows = torch.arange(len(clips.pixels), device=clips.pixels.device)
    return clips.pixels[rows[:, None], clips.target_frames]


def _per_frame(text: TextFeatures, frames: int) -> tuple[Tensor, Tensor]:
    """Word states and phrase of each frame: N = P * T' rows."""
    assert text.sentence is not None
    return text.tokens.repeat_interleave(frames, 0), text.sentence.repeat_interleave(frames, 0)
