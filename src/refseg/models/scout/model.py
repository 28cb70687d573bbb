"""Scout: a compact referring segmenter whose words enter at the end of every stage of a convolutional backbone.

A picture is read without words up to the first stage (stride 4). From there on every phrase has its own pass: cells
look at the words after each stage (`backbone.WordFusion`, after LAVT), coarse cells and words meet in a small
transformer (`pyramid.CellEncoder`), and one query per phrase and frame answers with a kernel over the mask features, a
box, and whether anything answers to the phrase at all (`decoder`). Masks have stride 2: each cell of stride 4 answers
for its four quarters. The frames of a clip meet before the words, once per clip (`motion.MotionBlock`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.encoders.tokenizers.closed_vocabulary import ClosedVocabulary
from refseg.errors import InvalidInput
from refseg.models.base import ReferringModel, Ruler, Tower
from refseg.models.scout.attention import WordEncoder
from refseg.models.scout.backbone import Stage, WordFusion, conv_norm
from refseg.models.scout.config import ScoutConfig
from refseg.models.scout.decoder import CellEncoder, Memory, Pyramid, QueryDecoder
from refseg.models.scout.motion import MotionBlock, MotionCue
from refseg.models.scout.objectives import NamingHead
from refseg.models.scout.position import CODE_DIM, STRIDES, Places, blank_padding, places
from refseg.structures import Clips, Output, Placement, TextFeatures, TextTokens, VisualFeatures


class Scout(ReferringModel):
    """Scout for images and clips."""

    config: ScoutConfig

    def __init__(self, config: ScoutConfig) -> None:
        super().__init__(config)
        stem = config.stem_channels
        widths = (stem, *config.stage_channels)
        self.vocabulary = ClosedVocabulary(config.vocabulary, max_tokens=config.max_tokens)
        self.stem = nn.ModuleList((conv_norm(3, stem, stride=2), conv_norm(stem, stem)))
        self.detail = nn.Conv2d(4 * stem, config.mask_channels, 1)
        self.stages = nn.ModuleList(
            Stage(before, after, config.blocks_per_stage) for before, after in pairwise(widths)
        )
        self.motion = MotionBlock(config.stage_channels[0], config.motion_dim, config.motion_reach)
        self.cue = MotionCue(config.motion_dim, config.hidden_dim, config.stage_channels[0])
        self.rows = nn.Linear(CODE_DIM, config.stage_channels[0], bias=False)
        self.columns = nn.Linear(CODE_DIM, config.stage_channels[0], bias=False)
        self.fusions = nn.ModuleList(
            WordFusion(channels, dim, text_dim=config.hidden_dim, head_dim=config.head_dim)
            for channels, dim in zip(config.stage_channels, config.fusion_dims, strict=True)
        )
        self.text = WordEncoder(config)
        self.cells = CellEncoder(config)
        self.pyramid = Pyramid(config)
        self.decoder = QueryDecoder(config)
        self.naming = NamingHead(config)

    def tokenize(self, phrases: Sequence[str]) -> TextTokens:
        """Word ids of the closed vocabulary.

        Raises:
            InvalidInput: if a phrase is empty, too long, or uses a word that is not in the vocabulary.
        """
        return TextTokens(*self.vocabulary.encode(phrases))

    def encode_visual(self, clips: Clips) -> VisualFeatures:
        """Fine detail and the first stage, both at stride 4; of clips also what cells of stride 8 conclude of motion.

        Raises:
            InvalidInput: if the canvas is not a multiple of 32 on both sides.
        """
        return self.see(clips)[0]

    def see(self, clips: Clips) -> tuple[VisualFeatures, Tensor | None]:
        """What `encode_visual` returns, and what the cells of all frames conclude of motion.

        Shapes:
            second: [B*T, h*w, D] at stride 8; None for clips of one frame.
        """
        num_frames = clips.pixels.shape[1]
        _check_canvas(clips.pixels.shape[-2:])
        valid = clips.valid.repeat_interleave(num_frames, 0)[:, None].to(clips.pixels.dtype)
        pixels = (clips.pixels.flatten(0, 1) * valid).contiguous(memory_format=torch.channels_last)
        fine = functional.relu(self.stem[0](pixels), inplace=True)
        fine = functional.relu(self.stem[1](fine), inplace=True)
        fine = blank_padding(fine, functional.max_pool2d(valid, 2))
        where = places(valid[:, 0] > 0)[0]
        stage1, motion = self.motion(self.stages[0](fine, where.valid), num_frames)
        stage1 = (
            blank_padding(stage1, where.valid)
            + self.rows(where.rows).transpose(1, 2)[..., None]
            + self.columns(where.columns).transpose(1, 2)[:, :, None]
        )
        fine, stage1 = (_of_targets(maps, clips) for maps in (fine, stage1))
        detail = self.detail(functional.pixel_unshuffle(fine.flatten(0, 1), 2)).unflatten(0, fine.shape[:2])
        maps = [detail, stage1]
        if motion is not None:
            grid = motion.unflatten(1, tuple(side // 8 for side in clips.pixels.shape[-2:])).permute(
                0, 3, 1, 2
            )
            maps.append(_of_targets(grid, clips))
        return VisualFeatures(tuple(maps), clips.valid, clips.content), motion

    def encode_text(self, tokens: TextTokens) -> TextFeatures:
        """Word features and their mean."""
        words, sentence = self.text(tokens.values, tokens.valid)
        return TextFeatures(words, tokens.valid, sentence)

    def segment(self, visual: VisualFeatures, text: TextFeatures) -> Output:
        """One candidate query per phrase; masks at stride 2, existence and box per frame."""
        num_frames = visual.maps[0].shape[1]
        detail, stage1 = (level.flatten(0, 1) for level in visual.maps[:2])
        assert text.sentence is not None
        if len(visual.maps) > 2:
            stage1 = self.cue.mark(stage1, self.cue(visual.maps[2], text.sentence))
        where = places(visual.valid.repeat_interleave(num_frames, 0))
        tokens, valid, sentence = (
            part.repeat_interleave(num_frames, 0) if num_frames > 1 else part
            for part in (text.tokens, text.valid, text.sentence)
        )
        words = Memory(tokens, valid)
        maps = self.climb(stage1, where, words)
        memory = self.cells((maps[2], maps[3]), where[2:], words)
        map8 = self.pyramid.stride8(memory, maps[1], where)
        mask_features = self.pyramid.stride4(map8, maps[0], detail, where)
        return self.decoder(sentence, memory, mask_features, num_frames)

    def climb(self, stage1: Tensor, where: tuple[Places, ...], words: Memory | None) -> list[Tensor]:
        """The maps of all stages; without words, what the bare backbone sees."""
        maps = [stage1]
        for index, place in enumerate(where):
            if index > 0:
                maps.append(self.stages[index](maps[-1], place.valid))
            if words is not None:
                maps[-1] = self.fusions[index](maps[-1], place, words.tokens, words.valid)
        return maps

    def towers(self) -> tuple[Tower, ...]:
        """The encoders, for rates that fall with depth."""
        return (
            # Words enter at every stage, so that the fusions stand in the tower with them.
            Tower(
                "backbone",
                r"(?=(?:stem|rows|columns|stages|fusions)\.)",
                (r"(?:stem|rows|columns)\.", r"(?:stages|fusions)\.(\d+)\."),
            ),
            Tower("text tower", r"text\.", (r"(?:words|positions)", r"layers\.(\d+)\.")),
        )

    def choose(self, output: Output) -> tuple[Tensor, Tensor | None]:
        """The only query, and the probability that anything answers to the phrase in any frame."""
        query, _ = super().choose(output)
        return query, _existence(output).amax(1)

    @torch.no_grad()
    def rescale_score(self, temperature: float, bias: float) -> None:
        """The existence head takes temperature and bias in."""
        head = self.decoder.existence
        head.weight.div_(temperature)
        head.bias.div_(temperature).add_(bias)

    def finish(self, output: Output, placements: Sequence[Placement], at: Ruler = "source") -> list[Tensor]:
        """As the default, and empty in frames where nothing answers to the phrase."""
        found = _existence(output) >= self.config.existence_threshold  # [P, T']
        masks = super().finish(output, placements, at)
        return [mask & here[:, None, None] for mask, here in zip(masks, found, strict=True)]


def _existence(output: Output) -> Tensor:
    assert output.class_logits is not None
    return output.class_logits[:, 0, :, 0].sigmoid()


def _of_targets(maps: Tensor, clips: Clips) -> Tensor:
    """Maps [B*T, C, h, w] of all frames to those [B, T', C, h, w] of the frames to segment."""
    maps = maps.unflatten(0, (len(clips.pixels), -1))
    if clips.target_frames is None:
        return maps
    rows = torch.arange(len(maps), device=maps.device)[:, None]
    return maps[rows, clips.target_frames]


def _check_canvas(canvas: Sequence[int]) -> None:
    if any(side % STRIDES[-1] for side in canvas):
        raise InvalidInput(
            f"scout reads canvases whose sides are multiples of {STRIDES[-1]}, and got {canvas[0]}x{canvas[1]}; "
            "place frames with the configuration's own FrameSpec"
        )
