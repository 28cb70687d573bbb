"""The published file: which tensor of it is which of ours, and in what order its layers stand.

A file is written by Keras layer by layer, in the order of a depth sort of the graph: a layer's depth is its longest way to
the output, counting layers without weights too; the deepest comes first. The published program loads files in this
order, whatever its layers are called.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from refseg.models.vlt.backbone import BLOCKS
from refseg.models.vlt.config import VltConfig

Layout = Literal["kernel", "matrix", "plain"]
"""How Keras lays a tensor out: a convolution's [h, w, in, out], a dense layer's [in, out], or as we do."""

NUM_BACKBONE = 58  # convolutions of the backbone, numbered from 1


@dataclass(frozen=True)
class Part:
    """One tensor: the name of its layer and its own there, ours, and its layout."""

    layer: str
    weight: str
    ours: str
    layout: Layout

    @property
    def published(self) -> str:
        """The path in the file, with dots."""
        return f"{self.layer}.{self.weight}"


def parts(config: VltConfig) -> dict[str, list[Part]]:
    """Every tensor of the published file, by layer, in the order of the file."""
    layers: dict[str, list[Part]] = {}
    for part in (*_convolutions(config), *_phrase(config), *_dense(), *_transformer(config)):
        layers.setdefault(part.layer, []).append(part)
    order = layer_order(config, len(_heads(config)))
    assert sorted(order) == sorted(layers), sorted(set(order) ^ set(layers))
    return {layer: layers[layer] for layer in order}


def backbone_parts() -> list[Part]:
    """The tensors of convolutions 1 to 58 and their norms: what a detector's file gives."""
    return [part for number, name in _number(_backbone()) for part in _conv_norm(number, number, name)]


# Names


def _backbone() -> list[str]:
    names = ["backbone.stem"]
    for stage, count in enumerate(BLOCKS):
        names.append(f"backbone.stages.{stage}.down")
        blocks = (f"backbone.stages.{stage}.blocks.{block}" for block in range(count))
        names += [f"{block}.{half}" for block in blocks for half in ("narrow", "wide")]
    return names + [f"backbone.extra.{number}" for number in range(6)]


def _fusion() -> list[str]:
    side = ["sides.look.0", "sides.look.1", "sides.middle", "fusion.middle", "sides.fine", "fusion.fine"]
    rest = ["fusion.refine.0", "fusion.refine.1", "fusion.join", "fusion.wide", "fusion.narrow"]
    return side + rest + [f"queries.convs.{number}" for number in range(3)]


def _heads(config: VltConfig) -> list[str]:
    doublings = sum(config.stride <= limit for limit in (4, 2))
    return [f"head.convs.{number}" for number in range(4 + doublings)]


def _number(names: list[str], start: int = 1) -> Iterator[tuple[int, str]]:
    return enumerate(names, start=start)


def _convolutions(config: VltConfig) -> Iterator[Part]:
    """Convolutions are numbered as they were made; two norms without a convolution shift the numbers of those after."""
    yield from backbone_parts()
    fusion = _fusion()
    for number, name in _number(fusion, NUM_BACKBONE + 1):
        yield from _conv_norm(number, number if number <= 60 else number + 2, name)
    yield from _norm(61, "fusion.phrase_norm")
    yield from _norm(62, "fusion.product_norm")
    maps = NUM_BACKBONE + len(fusion) + 1
    yield from _biased(maps, "queries.maps")
    heads = _heads(config)
    for number, name in _number(heads, maps + 1):
        yield from _conv_norm(number, number + 1, name)
    yield from _biased(maps + 1 + len(heads), "head.last")


def _conv_norm(number: int, norm: int, ours: str) -> Iterator[Part]:
    yield _part(f"conv2d_{number}", "kernel", f"{ours}.conv.weight", "kernel")
    yield from _norm(norm, f"{ours}.norm")


def _biased(number: int, ours: str) -> Iterator[Part]:
    yield _part(f"conv2d_{number}", "kernel", f"{ours}.weight", "kernel")
    yield _part(f"conv2d_{number}", "bias", f"{ours}.bias", "plain")


def _norm(number: int, ours: str) -> Iterator[Part]:
    names = {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }
    for theirs, name in names.items():
        yield _part(f"batch_normalization_{number}", theirs, f"{ours}.{name}", "plain")


def _part(layer: str, leaf: str, ours: str, layout: Layout) -> Part:
    return Part(layer, f"{layer}.{leaf}", ours, layout)


def _phrase(config: VltConfig) -> Iterator[Part]:
    layer = "bidirectional_1" if config.is_bidirectional else "gru_1"
    ways = ("forward", "backward") if config.is_bidirectional else ("forward",)
    for way in ways:
        where = f"gru_module.{layer}.{way}_gru_1" if config.is_bidirectional else f"gru_module.{layer}"
        for leaf in ("kernel", "recurrent_kernel", "bias"):
            yield Part(layer, f"{where}.{leaf}", f"phrase.{way}_gru.{leaf}", "plain")


_DENSE = {
    1: "phrase.attention",
    2: "fusion.phrase",
    3: "queries.cells",
    4: "queries.words",
    5: "queries.query",
    6: "queries.key",
    7: "queries.value",
    8: "balance.query",
    9: "balance.answer",
    10: "balance.both",
    11: "balance.weight",
    12: "balance.maps",
}


def _dense() -> Iterator[Part]:
    for number, ours in _DENSE.items():
        yield _part(f"dense_{number}", "kernel", f"{ours}.weight", "matrix")
        yield _part(f"dense_{number}", "bias", f"{ours}.bias", "plain")


def _transformer(config: VltConfig) -> Iterator[Part]:
    yield from _attention("multi_head_attention_1", "queries.attention")
    for number in range(config.num_encoder_layers):
        ours, theirs = f"encoder.{number}", f"Encoder-{number + 1}"
        yield from _block(f"{theirs}-MultiHeadSelfAttention", f"{ours}.attention")
        yield from _block(f"{theirs}-FeedForward", f"{ours}.feed_forward")
    for number in range(config.num_decoder_layers):
        ours, theirs = f"decoder.{number}", f"Decoder-{number + 1}"
        yield from _block(f"{theirs}-MultiHeadSelfAttention", f"{ours}.self_attention", f"{ours}.self_norm")
        yield from _block(
            f"{theirs}-MultiHeadQueryAttention", f"{ours}.cross_attention", f"{ours}.cross_norm"
        )
        yield from _block(f"{theirs}-FeedForward", f"{ours}.feed_forward")


def _block(layer: str, ours: str, norm: str | None = None) -> Iterator[Part]:
    yield from (_feed_forward if layer.endswith("FeedForward") else _attention)(layer, ours)
    for theirs, name in (("gamma", "weight"), ("beta", "bias")):
        yield _part(f"{layer}-Norm", theirs, f"{norm or ours + '_norm'}.{name}", "plain")


def _attention(layer: str, ours: str) -> Iterator[Part]:
    for letter, name in zip("qkvo", ("query", "key", "value", "out"), strict=True):
        yield _part(layer, f"{layer}_W{letter}", f"{ours}.{name}.weight", "matrix")
        yield _part(layer, f"{layer}_b{letter}", f"{ours}.{name}.bias", "plain")


def _feed_forward(layer: str, ours: str) -> Iterator[Part]:
    for number in (1, 2):
        yield _part(layer, f"{layer}_W{number}", f"{ours}.linear{number}.weight", "matrix")
        yield _part(layer, f"{layer}_b{number}", f"{ours}.linear{number}.bias", "plain")


# Order

_QUERY_PATH = {
    "Decoder-1-MultiHeadSelfAttention-Norm": 0,
    "Decoder-1-MultiHeadSelfAttention": 3,
    "multi_head_attention_1": 6,
    "dense_5": 7,
    "dense_6": 7,
    "dense_7": 7,
    "dense_3": 9,
    "dense_4": 9,
    "conv2d_73": 12,
    "batch_normalization_74": 14,
    "conv2d_72": 15,
    "batch_normalization_73": 17,
    "conv2d_71": 18,
    "batch_normalization_72": 20,
    "conv2d_70": 21,
}
"""Layers with weights on the way of the queries, and how far each lies before the decoder's attention over the cells."""

_FUSION_PATH = {
    "batch_normalization_71": 3,
    "conv2d_69": 4,
    "batch_normalization_70": 6,
    "conv2d_68": 7,
    "batch_normalization_69": 10,
    "conv2d_67": 11,
    "batch_normalization_68": 14,
    "conv2d_66": 15,
    "batch_normalization_67": 17,
    "conv2d_65": 18,
}
"""The same from the encoder's input back to the map that queries are made of, which lies 19 before it."""

_TRUNK_PATH = {
    "batch_normalization_66": 1,
    "conv2d_64": 2,
    "batch_normalization_64": 5,
    "batch_normalization_65": 5,
    "conv2d_62": 6,
    "conv2d_63": 6,
    "batch_normalization_63": 9,
    "batch_normalization_62": 10,
    "conv2d_61": 10,
    "batch_normalization_60": 14,
    "batch_normalization_61": 14,
    "conv2d_60": 15,
    "dense_2": 15,
    "batch_normalization_59": 17,
    "conv2d_59": 18,
    "dense_1": 19,
    "batch_normalization_58": 20,
    "conv2d_58": 21,
    "phrase": 21,
}
"""The same from the map that queries are made of back to the backbone."""


def layer_order(config: VltConfig, num_heads: int) -> list[str]:
    """The layers with weights in the order of the file; it depends on the numbers of encoder and decoder layers."""
    start = 8 * config.num_encoder_layers  # each encoder layer is eight steps deep
    trunk = start + 19
    depths = dict(_QUERY_PATH)
    for number in range(config.num_encoder_layers):
        layer, end = f"Encoder-{number + 1}", start - 8 * number
        depths[f"{layer}-MultiHeadSelfAttention"] = end - 1
        depths[f"{layer}-MultiHeadSelfAttention-Norm"] = end - 4
        depths[f"{layer}-FeedForward"] = end - 5
        depths[f"{layer}-FeedForward-Norm"] = end - 8
    depths |= {layer: start + depth for layer, depth in _FUSION_PATH.items()}
    depths |= {layer: trunk + depth for layer, depth in _TRUNK_PATH.items()}
    # Equally deep layers stand in the order in which a walk from the output back first meets them.
    middle = sorted(depths, key=lambda layer: -depths[layer])
    phrase = "bidirectional_1" if config.is_bidirectional else "gru_1"
    early = [f"{kind}_{n}" for n in range(1, NUM_BACKBONE) for kind in ("conv2d", "batch_normalization")]
    return [*early, *(phrase if layer == "phrase" else layer for layer in middle), *_end(config, num_heads)]


def _end(config: VltConfig, num_heads: int) -> list[str]:
    """From the decoder's attention over the cells to the output, one layer after the other."""
    layers = []
    for number in range(1, config.num_decoder_layers + 1):
        steps = ["MultiHeadSelfAttention", "MultiHeadQueryAttention", "FeedForward"]
        for step in steps if number > 1 else steps[1:]:
            layers += [f"Decoder-{number}-{step}", f"Decoder-{number}-{step}-Norm"]
    layers += [f"dense_{number}" for number in (9, 8, 10, 11, 12)]
    for number in range(74, 74 + num_heads):
        layers += [f"conv2d_{number}", f"batch_normalization_{number + 1}"]
    return [*layers, f"conv2d_{74 + num_heads}"]
