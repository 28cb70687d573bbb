"""The two networks of Stable Diffusion 1.5 that VPD looks through: the image encoder and, run once, the UNet.

Both are made of the modules of diffusers, under the names that diffusers gives their weights; this is the only file that
imports it, and not before a model is built. The UNet is walked block by block here, so that features can be read where
the paper reads them and nothing beyond the last of them runs: the layers that would predict noise are not even kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from types import MethodType
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from refseg.errors import InvalidInput
from refseg.models.vpd.attention import FusedAttention, MapReader, Maps
from refseg.models.vpd.config import VPDConfig

TIMESTEP = 1  # Published behaviour: the pass is told that it is step 1, though no noise was added.
LATENT_CHANNELS = 4
WIDTHS = (1, 2, 4, 4)  # of the levels, in multiples of the finest
NORM_GROUPS = 32

# The layers whose attention over the phrase becomes channels of a feature map, by the stride of that map.
MAP_LAYERS: dict[int, tuple[str, ...]] = {
    16: ("down_blocks.1.0", "down_blocks.1.1", "up_blocks.2.0", "up_blocks.2.1", "up_blocks.2.2"),
    32: ("down_blocks.2.0", "down_blocks.2.1", "up_blocks.1.0", "up_blocks.1.1", "up_blocks.1.2"),
}
# Decoder level to the stride of the feature read there and the layer of the level after which it is read.
FEATURES = {0: (64, 1), 1: (32, 1), 2: (16, 1), 3: (8, 2)}

INSTALL = "pip install 'refseg[vpd]'"


class ImageEncoder(nn.Module):
    """The encoder of Stable Diffusion's variational autoencoder; its answer is the mean, never a sample."""

    def __init__(self, config: VPDConfig) -> None:
        super().__init__()
        self.encoder = _diffusers("diffusers.models.autoencoders.vae").Encoder(
            in_channels=3,
            out_channels=LATENT_CHANNELS,
            down_block_types=("DownEncoderBlock2D",) * len(WIDTHS),
            block_out_channels=tuple(config.vae_width * times for times in WIDTHS),
            layers_per_block=2,
            norm_num_groups=NORM_GROUPS,
        )
        self.quant_conv = nn.Conv2d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)
        _make_lean(self)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] in -1..1 to latents [N, 4, H/8, W/8].

        Published behaviour: they are not multiplied by Stable Diffusion's 0.18215.
        """
        moments: Tensor = self.quant_conv(self.encoder(pixels.contiguous(memory_format=torch.channels_last)))
        return moments[:, :LATENT_CHANNELS]


class Unet(nn.Module):
    """The denoising UNet, run once over clean latents."""

    layer_order: ClassVar[tuple[str, ...]] = (
        r"(?:time_embedding|conv_in)\.",
        r"down_blocks\.(\d+)\.",
        r"mid_block\.",
        r"up_blocks\.(\d+)\.",
    )
    """The names of its layers from input to output, for rates that fall with depth."""

    def __init__(self, config: VPDConfig) -> None:
        super().__init__()
        whole = _diffusers("diffusers.models.unets.unet_2d_condition").UNet2DConditionModel(
            block_out_channels=tuple(config.unet_width * times for times in WIDTHS),
            cross_attention_dim=config.text.width,
            # diffusers' own name for what is the number of heads in files of Stable Diffusion 1
            attention_head_dim=config.num_heads,
            norm_num_groups=NORM_GROUPS,
        )
        self.time_proj = whole.time_proj
        self.time_embedding = whole.time_embedding
        self.conv_in = whole.conv_in
        self.down_blocks = whole.down_blocks
        self.mid_block = whole.mid_block
        self.up_blocks = whole.up_blocks
        self._set_processors()
        _make_lean(self)

    def forward(self, latents: Tensor, context: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Features and attention maps by their stride in canvas pixels.

        Shapes:
            latents: [N, 4, H/8, W/8], both sides multiples of 8.
            context: [N, L, D].
            returns: features of strides 8 to 64 [N, C, H/s, W/s]; maps of strides 16 and 32 [N, L, H/s, W/s].
        """
        maps: Maps = {}
        walk = _Walk(self._time(latents), context, maps)
        features = self._decoded(walk, *self._encoded(walk, latents))
        return features, {stride: _mean_map(maps, stride, features[stride]) for stride in MAP_LAYERS}

    def blocks(self) -> list[nn.Module]:
        """The residual and attention blocks, each called with tensors once a pass."""
        every = [*self.down_blocks, self.mid_block, *self.up_blocks]
        return [part for block in every for part in (*block.resnets, *getattr(block, "attentions", ()))]

    def _time(self, latents: Tensor) -> Tensor:
        steps = torch.full((1,), TIMESTEP, device=latents.device)
        embedded: Tensor = self.time_embedding(self.time_proj(steps).to(latents.dtype))
        return embedded  # [1, C], the same for every row

    def _encoded(self, walk: _Walk, latents: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The coarsest features, and those that the decoder takes up again, finest first."""
        # Convolutions are faster where the channels of a cell lie side by side, and attention reads cells without a copy.
        hidden = self.conv_in(latents.contiguous(memory_format=torch.channels_last))
        kept = [hidden]
        for block in self.down_blocks:
            for resnet, attention in _layers(block):
                hidden = walk.layer(resnet, attention, hidden)
                kept.append(hidden)
            for shrink in block.downsamplers or ():
                hidden = shrink(hidden)
                kept.append(hidden)
        first, last = self.mid_block.resnets
        hidden = walk.layer(first, self.mid_block.attentions[0], hidden)
        return walk.layer(last, None, hidden), kept

    def _decoded(self, walk: _Walk, hidden: Tensor, kept: list[Tensor]) -> dict[int, Tensor]:
        features: dict[int, Tensor] = {}
        for level, block in enumerate(self.up_blocks):
            stride, read_after = FEATURES[level]
            for number, (resnet, attention) in enumerate(_layers(block)):
                hidden = walk.layer(resnet, attention, torch.cat([hidden, kept.pop()], dim=1))
                if number == read_after:
                    features[stride] = hidden
            for grow in block.upsamplers or ():
                hidden = grow(hidden)
        return features

    def _set_processors(self) -> None:
        named = {name for layers in MAP_LAYERS.values() for name in layers}
        for part, blocks in (("down_blocks", self.down_blocks), ("up_blocks", self.up_blocks)):
            for level, block in enumerate(blocks):
                for number, attention in enumerate(getattr(block, "attentions", ())):
                    name = f"{part}.{level}.{number}"
                    _process(attention, MapReader(name) if name in named else FusedAttention())
        _process(self.mid_block.attentions[0], FusedAttention())


class _Walk:
    """What stays the same for every layer of one pass."""

    def __init__(self, time: Tensor, context: Tensor, maps: Maps) -> None:
        self.time, self.context, self.maps = time, context, maps

    def layer(self, resnet: nn.Module, attention: nn.Module | None, hidden: Tensor) -> Tensor:
        """Features [N, C, h, w] through a residual block and, where there is one, an attention block."""
        hidden = resnet(hidden, self.time)
        if attention is None:
            return hidden
        told = {"maps": self.maps}
        answer = attention(hidden, self.context, cross_attention_kwargs=told, return_dict=False)
        return cast("Tensor", answer[0])


def _make_lean(network: nn.Module) -> None:
    """Lets the residual blocks of diffusers compute by `residual`."""
    for block in network.modules():
        if type(block).__name__ == "ResnetBlock2D":
            block.forward = MethodType(residual, block)  # type: ignore[method-assign]


def residual(block: Any, hidden: Tensor, temb: Tensor | None = None) -> Tensor:
    """What a residual block of diffusers computes; without gradients, in as little memory as it takes.

    Shapes:
        hidden: [N, C, h, w].
        temb: [1 or N, E], the embedded step; None where the block knows no time.
    """
    mixed = block.conv1(_rectified(block.norm1(hidden)))
    if temb is not None:
        mixed = _added(mixed, block.time_emb_proj(functional.silu(temb))[:, :, None, None])
    normed = block.norm2(mixed)
    del mixed  # at the size of the canvas each of these takes as much as all that a phrase needs
    mixed = block.conv2(_rectified(normed))
    return _added(mixed, hidden if block.conv_shortcut is None else block.conv_shortcut(hidden))


def _added(sum_so_far: Tensor, more: Tensor) -> Tensor:
    return sum_so_far + more if torch.is_grad_enabled() else sum_so_far.add_(more)


def _rectified(hidden: Tensor) -> Tensor:
    return functional.silu(hidden, inplace=not torch.is_grad_enabled())


def _layers(block: Any) -> list[tuple[nn.Module, nn.Module | None]]:
    attentions: Sequence[nn.Module | None] = getattr(block, "attentions", [None] * len(block.resnets))
    return list(zip(block.resnets, attentions, strict=True))


def _process(attention: Any, over_phrase: FusedAttention | MapReader) -> None:
    """Sets how an attention block computes: fused over its own cells, as given over the phrase."""
    block = attention.transformer_blocks[0]
    block.attn1.set_processor(FusedAttention())
    block.attn2.set_processor(over_phrase)


def _mean_map(maps: Maps, stride: int, like: Tensor) -> Tensor:
    """The maps of a stride, averaged over its layers, [N, L, h, w]."""
    mean = torch.stack([maps[name] for name in MAP_LAYERS[stride]]).mean(0)  # [N, hw, L]
    return mean.transpose(1, 2).unflatten(2, (like.shape[-2], like.shape[-1])).to(like.dtype)


def _diffusers(module: str) -> Any:
    """A module of diffusers.

    Raises:
        InvalidInput: if it is not installed or cannot be imported; the message says what to type.
    """
    try:
        return import_module(module)
    except Exception as error:  # a broken neighbour of diffusers fails in ways of its own
        raise InvalidInput(_why_not(error)) from error


def _why_not(error: Exception) -> str:
    if find_spec("diffusers") is None:
        return f"VPD is built on diffusers, which is not installed; type: {INSTALL}"
    broken = _broken_torchvision()
    if broken is not None:
        return (
            f"diffusers cannot be imported because the torchvision here is broken ({broken}); refseg does not need "
            "torchvision, so type: pip uninstall -y torchvision"
        )
    reason = " ".join(str(error).split())[:300]
    return f"diffusers is installed but cannot be imported ({reason}); type: {INSTALL} --upgrade"


def _broken_torchvision() -> str | None:
    """Why torchvision cannot be imported; None where it can, or is absent."""
    if find_spec("torchvision") is None:
        return None
    try:
        import_module("torchvision")
    except Exception as error:
        return " ".join(str(error).split())[:200]
    return None
