"""A family small enough to convert, save and load in milliseconds; its published names differ from ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from refseg.errors import InvalidInput
from refseg.framing import FrameSpec
from refseg.models.base import Criterion, LossConfig, ModelConfig, ReferringModel
from refseg.models.family import Family
from refseg.models.renaming import Drop, Merge, Rename, apply

FRAME = FrameSpec("stretch", 9)


@dataclass(frozen=True)
class StageSpec:
    channels: int
    kernel: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class TinyConfig(ModelConfig):
    frame: FrameSpec = FRAME
    stages: tuple[StageSpec, ...] = (StageSpec(3), StageSpec(5, (3, 1)))
    width: int = 4
    note: str | None = None


class TinyModel(ReferringModel):
    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        self.stages = nn.ModuleList(nn.Conv2d(3, s.channels, s.kernel) for s in config.stages)
        self.both = nn.Linear(config.width, 2 * config.width)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.words: str | None = None

    def tokenize(self, phrases):
        if self.words is None:
            raise InvalidInput("no words")
        raise NotImplementedError

    def encode_visual(self, clips):
        raise NotImplementedError

    def encode_text(self, tokens):
        raise NotImplementedError

    def segment(self, visual, text):
        raise NotImplementedError

    def extra_state(self):
        return {} if self.words is None else {"tokenizer.json": self.words}

    def load_extra_state(self, extra):
        self.words = extra.get("tokenizer.json", self.words)


class TinyCriterion(Criterion):
    def forward(self, output, targets):
        return {}


RULES = (
    Rename(r"net\.conv(\d)\.(weight|bias)", r"stages.\1.\2"),
    Merge(r"net\.left\.(weight|bias)", (r"net.right.\1",), r"both.\1", torch.cat),
    Drop(r".*\.total_ops", "left by a profiler"),
    Rename(r"steps", r"steps"),
)


def convert(state, config):
    return apply(state, RULES)


VARIANTS = {
    "debug": TinyConfig(),
    "wide": TinyConfig(width=6),
    "long": TinyConfig(stages=(StageSpec(2),) * 3),
}

FAMILY = Family(
    name="tiny",
    title="A family for tests",
    model=TinyModel,
    criterion=TinyCriterion,
    variants=VARIANTS,
    loss=LossConfig(),
    convert=convert,
    cards=Path(__file__).parent / "tiny_checkpoints.toml",
)


def published(variant="debug", seed=0):
    """The tensors of a file as the family's authors would publish it: their names, values from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in TinyModel(VARIANTS[variant]).state_dict().items():
        values = torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor + 7
        if name.startswith("both."):
            left, right = values.chunk(2)
            state[f"net.left.{name[5:]}"], state[f"net.right.{name[5:]}"] = left.clone(), right.clone()
        elif name.startswith("stages."):
            state[f"net.conv{name[7:]}"] = values
        else:
            state[name] = values
    return state
