"""VPD: a phrase and a picture, told to Stable Diffusion's UNet once; what it makes of them is decoded into a mask.

Source: "Unleashing Text-to-Image Diffusion Models for Visual Perception" (Zhao et al., ICCV 2023, arXiv 2303.02153).
Nothing here is random: no noise is added, and the image encoder's mean is taken. Beyond the paper: any canvas whose sides
are multiples of 64, several frames and phrases, and parts kept on the CPU until they are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from refseg.encoders.clip_text import ClipTextTower
from refseg.encoders.tokenizers.clip import ClipTokenizer
from refseg.encoders.tokenizers.tokens import BYTES
from refseg.errors import InvalidInput
from refseg.framing import masks_to_source
from refseg.models.base import ModelConfig, ReferringModel, Ruler, StateDict, Tower
from refseg.models.vpd.config import STRIDE, VPDConfig
from refseg.models.vpd.head import BACKGROUND, OBJECT, Head, resize_maps
from refseg.models.vpd.offload import take_turns
from refseg.models.vpd.unet import MAP_LAYERS, ImageEncoder, Unet
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

TOKENIZER = "tokenizer.json"
FIRST_GAMMA = 1e-4  # how much of the adapter's answer a new model adds

# What the UNet takes for one row, counted with room to spare: numbers a canvas pixel; and the bytes that rows may take at once.
_ROW_NUMBERS = 256
_WORKING_BYTES = 1 << 30


class TextAdapter(nn.Module):
    """Two linear layers that bend the frozen tower's words towards the task."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, words: Tensor) -> Tensor:
        """[P, L, D] to the same shape."""
        bent: Tensor = self.fc(words)
        return bent


class _Own(nn.Module):
    """What VPD adds to the parts of Stable Diffusion, and learns from nothing."""

    def __init__(self, config: VPDConfig) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((config.text.width,), FIRST_GAMMA))
        self.adapter = TextAdapter(config.text.width)
        self.head = Head(config.unet_width, config.num_tokens)


def first_values(config: ModelConfig) -> StateDict:
    """What a training begins with where its other weights are those of Stable Diffusion."""
    assert isinstance(config, VPDConfig)
    return _Own(config).state_dict()


class VPD(ReferringModel):
    """The published network."""

    config: VPDConfig
    casts_weights = True  # halving 860 million weights anew for every phrase would cost more than using them

    def __init__(self, config: VPDConfig) -> None:
        super().__init__(config)
        self.tokenizer = ClipTokenizer(
            config.text.tokenizer, max_tokens=config.num_tokens, truncates=True, fills=True
        )
        self.text_tower = ClipTextTower(config.text).requires_grad_(False)
        self.vae = ImageEncoder(config).requires_grad_(False)
        self.unet = Unet(config)
        own = _Own(config)
        self.gamma, self.adapter, self.head = own.gamma, own.adapter, own.head

    def train(self, mode: bool = True) -> Self:
        """Training mode for what is trained; the frozen parts always evaluate."""
        super().train(mode)
        self.vae.eval()
        self.text_tower.eval()
        return self

    def offload(self, device: torch.device) -> None:
        """The image encoder, the text tower and the UNet take turns on `device`; what is small stays there."""
        for part in (self.adapter, self.head):
            part.to(device)
        self.gamma.data = self.gamma.data.to(device)
        take_turns((self.vae, self.text_tower, self.unet), device)

    def recomputed_blocks(self) -> Sequence[nn.Module]:
        """All blocks of the UNet; the published training always computes them again."""
        return self.unet.blocks()

    def towers(self) -> tuple[Tower, ...]:
        """The encoders, for rates that fall with depth."""
        return (Tower("UNet", r"unet\.", Unet.layer_order),)

    def tokenize(self, phrases: Sequence[str]) -> TextTokens:
        """Ids [P, L] with L the same for all; longer phrases lose their last words.

        Published behaviour: padding is read like words, gives keys and values, and a map each. All positions are valid.
        """
        values = self.tokenizer(phrases).values
        return TextTokens(values, torch.ones_like(values, dtype=torch.bool))

    def num_unread(self, phrase: str) -> int:
        """Tokens beyond the published length; the end token always stays."""
        return max(0, self.tokenizer.length_of(phrase) - self.tokenizer.max_tokens)

    def encode_text(self, tokens: TextTokens) -> TextFeatures:
        """What the UNet is told: the tower's words and, by `gamma`, what the adapter makes of them."""
        with torch.no_grad():
            words = self.text_tower(tokens.values)
        return TextFeatures(words + self.gamma * self.adapter(words), tokens.valid)

    def encode_visual(self, clips: Clips) -> VisualFeatures:
        """Latents of every frame to segment, [B, T', 4, H/8, W/8].

        Raises:
            InvalidInput: if a side of the canvas is no multiple of 64.
        """
        height, width = clips.pixels.shape[-2:]
        if height % STRIDE or width % STRIDE:
            raise InvalidInput(
                f"a canvas of {width}x{height} pixels was given, and the sides of VPD's are multiples of {STRIDE}; give a "
                f"frame size that is, or divisor = {STRIDE}"
            )
        frames = _frames_to_segment(clips)
        rows = frames.flatten(0, 1).to(self.vae.quant_conv.weight.dtype)
        with torch.no_grad():
            latents = torch.cat([self.vae(row[None]) for row in rows])
        maps = (latents.unflatten(0, frames.shape[:2]),)
        return VisualFeatures(maps, clips.valid, clips.content)

    def segment(self, visual: VisualFeatures, text: TextFeatures) -> Output:
        """How much more each cell of stride 8 speaks for the object than against it: [P, 1, T', h, w]."""
        (latents,) = visual.maps
        rows, times = latents.flatten(0, 1), latents.shape[1]
        context = text.tokens.repeat_interleave(times, dim=0)
        step = len(rows) if torch.is_grad_enabled() else _rows_at_once(rows)
        parts = zip(rows.split(step), context.split(step), strict=True)
        logits = torch.cat([self._logits(*part) for part in parts])
        difference = logits[:, OBJECT] - logits[:, BACKGROUND]
        return Output(difference.unflatten(0, (-1, times))[:, None])

    def _logits(self, latents: Tensor, context: Tensor) -> Tensor:
        """Two logits a cell, [N, 2, h, w]."""
        features, maps = self.unet(latents, context)
        joined = {
            stride: torch.cat([feature, maps[stride]], dim=1) if stride in MAP_LAYERS else feature
            for stride, feature in features.items()
        }
        return self.head(joined[64], (joined[32], joined[16], joined[8]))

    def finish(self, output: Output, placements: Sequence[Placement], at: Ruler = "source") -> list[Tensor]:
        """Published order: logits to the canvas, corner on corner, then the decision; a tie is background.

        At the source, which the published code does not know, logits go there before they are decided about.
        """
        # Compared as logits: scores of the smallest ones round to a half, and an argmax tells them apart.
        limit = torch.logit(torch.tensor(self.config.threshold, dtype=torch.float64)).item()
        return [logits > limit for logits in _placed(output, placements, at)]

    def soft_masks(self, output: Output, placements: Sequence[Placement]) -> list[Tensor]:
        """What `finish` decides about."""
        return [logits.sigmoid() for logits in _placed(output, placements, "source")]

    def explain(
        self, phrases: Sequence[str], visual: VisualFeatures, text: TextFeatures, output: Output
    ) -> list[Explanation]:
        """For each word, the cells that listen to it: the UNet's attention at the finest stride that the head reads it at."""
        (latents,) = visual.maps
        stride = min(MAP_LAYERS)
        told = []
        for row, phrase in enumerate(phrases):
            context = text.tokens[row : row + 1]
            maps = torch.cat(
                [self.unet(frame[None], context)[1][stride] for frame in latents[row]]
            )  # [T', L, h, w]
            heard = zip(self.tokenizer.pieces(phrase)[: maps.shape[1]], maps.unbind(1), strict=False)
            told.append(
                Explanation(
                    tuple(EvidenceMap(piece, of_word, group="words") for piece, of_word in heard if piece)
                )
            )
        return told

    def extra_state(self) -> dict[str, str]:
        """The tokenizer's file, where it is known."""
        text = None if self.config.text.tokenizer == BYTES else self.tokenizer.text
        return {} if text is None else {TOKENIZER: text}

    def load_extra_state(self, extra: Mapping[str, str]) -> None:
        """Takes back the tokenizer."""
        if TOKENIZER in extra:
            self.tokenizer.take(extra[TOKENIZER])


def _placed(output: Output, placements: Sequence[Placement], at: Ruler) -> list[Tensor]:
    """Logits [T', H, W] of each phrase, at the source or on the canvas."""
    placed = []
    for row, placement in zip(output.mask_logits[:, 0], placements, strict=True):
        logits = resize_maps(row[None].float(), placement.canvas)[0]
        placed.append(masks_to_source(logits, placement) if at == "source" else logits)
    return placed


def _rows_at_once(latents: Tensor) -> int:
    pixels = 64 * latents.shape[-2] * latents.shape[-1]
    return max(1, _WORKING_BYTES // (pixels * _ROW_NUMBERS * latents.element_size()))


def _frames_to_segment(clips: Clips) -> Tensor:
    """[B, T', 3, H, W]: frames are seen alone, so the others tell nothing."""
    if clips.target_frames is None:
        return clips.pixels
    rows = torch.arange(len(clips.pixels), device=clips.pixels.device)
    return clips.pixels[rows[:, None], clips.target_frames]
