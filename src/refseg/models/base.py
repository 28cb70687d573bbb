"""The contract of every family: three verbs, one loss, one value that describes it.

A picture is encoded once and asked many phrases: `encode_visual`, `encode_text`, `segment`. The verbs see tensors only;
placements and strings stay outside, so each verb can be compiled and exported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from refseg.errors import InvalidInput
from refseg.framing import FrameSpec, masks_to_source, upsample_to_canvas

if TYPE_CHECKING:
    from refseg.structures import (
        Batch,
        Clips,
        Explanation,
        Output,
        Placement,
        Targets,
        TextFeatures,
        TextTokens,
        VisualFeatures,
    )


Ruler = Literal["source", "canvas"]
"""The size at which masks are given and compared."""


StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes a computation, as plain data; families extend it."""

    frame: FrameSpec
    threshold: float = 0.5  # scores above it are mask

    def for_words(self, words: Sequence[str]) -> Self:
        """The configuration for a world of `words`; families with a tokenizer of their own stay as they are."""
        return self


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a model offers for one phrase, with how sure it is of each."""

    scores: Tensor  # [R] in [0, 1]
    masks: Tensor  # [R, T', H, W] bool, source size
    boxes: Tensor | None = None  # [R, 4] xyxy in source pixels


@dataclass(frozen=True)
class LossConfig:
    """The weights and constants of a family's loss; families extend it."""


@dataclass(frozen=True)
class Tower:
    """An encoder whose layers stand one behind the other, for learning rates that fall towards its input.

    What of it no layer claims (a last norm, a pooler) counts as a part of the last one.
    """

    name: str  # for messages
    prefix: str  # of the names of its parameters; a regular expression
    layers: tuple[
        str, ...
    ]  # regular expressions of what follows the prefix, input first; captured numbers count towards the output


class ReferringModel(nn.Module, ABC):
    """A network that answers which pixels phrases refer to."""

    casts_weights: ClassVar[bool] = (
        False  # in half precision its weights are halved too; else autocast halves a copy
    )

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def tokenize(self, phrases: Sequence[str]) -> TextTokens:
        """Token ids [P, L] on the CPU; the vocabulary is read when first asked for.

        Raises:
            InvalidInput: if a phrase is empty or holds words that the vocabulary cannot express.
        """

    def num_unread(self, phrase: str) -> int:
        """How many tokens at the end of a phrase are left out, because the published network reads so many and no more.

        The default is none: a family that reads any length, or refuses what is too long.
        """
        return 0

    @abstractmethod
    def encode_visual(self, clips: Clips) -> VisualFeatures:
        """All that B clips tell without words."""

    @abstractmethod
    def encode_text(self, tokens: TextTokens) -> TextFeatures:
        """All that P phrases tell without pixels."""

    @abstractmethod
    def segment(self, visual: VisualFeatures, text: TextFeatures) -> Output:
        """The answer to phrase p about clip p: both arguments hold P rows already paired."""

    def forward(self, batch: Batch) -> Output:
        """The three verbs in a row; not overridden."""
        visual = self.encode_visual(batch.clips)
        tokens = self.tokenize(batch.phrases).to(batch.clips.pixels.device)
        return self.segment(visual.rows(batch.clip_of_phrase), self.encode_text(tokens))

    def choose(self, output: Output) -> tuple[Tensor, Tensor | None]:
        """The candidate query that answers each phrase [P], and its score in [0, 1] [P] or None.

        The default knows one candidate without a confidence.
        """
        assert output.mask_logits.shape[1] == 1, "a model with several candidate queries says how to choose"
        return output.mask_logits.new_zeros(len(output.mask_logits), dtype=torch.int64), None

    def rescale_score(self, temperature: float, bias: float) -> None:
        """From now on the score's logit is divided by `temperature`, then `bias` is added; the weights take both in.

        Raises:
            InvalidInput: if the family's score is not the sigmoid of a linear layer, which is the default.
        """
        raise InvalidInput(
            f"{type(self).__name__} has no score that its weights could take a temperature into"
        )

    def finish(self, output: Output, placements: Sequence[Placement], at: Ruler = "source") -> list[Tensor]:
        """Bool masks [T', H, W] of each phrase, by its chosen query, on the canvas or at the size of its source.

        Order: upsample to the canvas, cut the content, resize to the source, threshold. A family whose published
        order differs overrides this and says so; order is behaviour.

        Shapes:
            placements: P of them, one a phrase.
        """
        query, _ = self.choose(output)
        rows = torch.arange(len(query), device=query.device)
        chosen = output.mask_logits[rows, query]  # [P, T', h, w]
        masks = []
        for logits, placement in zip(chosen, placements, strict=True):
            scores = upsample_to_canvas(logits, placement.canvas).sigmoid()
            scores = masks_to_source(scores, placement) if at == "source" else scores
            masks.append(scores > self.config.threshold)
        return masks

    def tell_candidates(self) -> None:
        """From now on `segment` answers with all candidate queries; nothing changes where there is one. `choose` chooses as
        before."""

    def recomputed_blocks(self) -> Sequence[nn.Module]:
        """The blocks whose activations training may compute again in the backward pass instead of keeping them.

        Each is called with tensors by position or by name and returns tensors; the model calls it as ever. A family that
        names none cannot be trained with `run.checkpoint_activations`.
        """
        return ()

    def towers(self) -> Sequence[Tower]:
        """The encoders that `optimizer.layer_decay` slows layer by layer; the default has none."""
        return ()

    def offload(self, device: torch.device) -> None:
        """From now on computes on `device`, where its large parts come only while they are needed; in place of `.to(device)`.

        Raises:
            InvalidInput: if the model has no such parts.
        """
        raise InvalidInput(
            f"{type(self).__name__} has no parts that could wait on the CPU; leave offload out, or take a smaller variant"
        )

    def candidates(self, output: Output, placements: Sequence[Placement]) -> list[Candidates]:
        """All candidates of each phrase with their scores, in the order of the network, for scores over ranked lists.

        The default knows the chosen one alone. A family with several says what they are.
        """
        _, scores = self.choose(output)
        certain = [1.0] * len(placements) if scores is None else scores.tolist()
        masks = self.finish(output, placements)
        return [Candidates(torch.tensor([s]), m[None]) for s, m in zip(certain, masks, strict=True)]

    def soft_masks(self, output: Output, placements: Sequence[Placement]) -> list[Tensor]:
        """Scores [T', H, W] of each phrase in [0, 1] at the size of its source, for merging several objects into one map.

        The default is the mask itself as 0 and 1, which no order of resizing can contradict; a family whose masks are
        thresholded last gives what it thresholds.
        """
        return [masks.float() for masks in self.finish(output, placements)]

    def explain(
        self, phrases: Sequence[str], visual: VisualFeatures, text: TextFeatures, output: Output
    ) -> list[Explanation]:
        """How each answer came about, for `refseg predict --explain`; `output` is what `segment` gave for these rows.

        A family overrides this with what it has: maps over the picture with weights, how much each word counts, the chosen
        candidate's point and box. It may compute again what `segment` does not keep.

        Raises:
            InvalidInput: if the family has nothing to show, which is the default.
        """
        raise InvalidInput(
            "this checkpoint's family has nothing to explain its answers by; leave out --explain"
        )

    def extra_state(self) -> dict[str, str]:
        """Texts that prediction needs beside the weights (a tokenizer's file, a vocabulary); kept in the checkpoint's header."""
        return {}

    def load_extra_state(self, extra: Mapping[str, str]) -> None:
        """Takes back what `extra_state` gave."""


class Criterion(nn.Module, ABC):
    """A family's loss."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Named, weighted terms; the step's loss is their sum."""


Objective = Callable[[ReferringModel, "Batch"], dict[str, Tensor]]
"""A training objective that needs more than the output: model and batch to named, weighted terms."""
