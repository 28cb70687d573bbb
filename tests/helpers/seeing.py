"""A model whose answers are known beforehand: it sees exact colours and sides, and has no weights."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from refseg.errors import InvalidInput
from refseg.framing import FrameSpec
from refseg.models.base import ModelConfig, ReferringModel
from refseg.structures import Output, TextFeatures, TextTokens, VisualFeatures

WORDS = ["nothing", "everything", "left", "right", "red", "green", "blue"]
PLAIN = FrameSpec("stretch", 64, filter="bilinear", mean=(0, 0, 0), std=(1, 1, 1))


@dataclass(frozen=True)
class SeeingConfig(ModelConfig):
    frame: FrameSpec = PLAIN


class SeeingModel(ReferringModel):
    """Answers one word a phrase: a side of the content, or the pixels where one channel outweighs the others."""

    def __init__(self, config: SeeingConfig | None = None, **frame):
        config = config or SeeingConfig()
        super().__init__(replace(config, frame=replace(config.frame, **frame)))
        self.weight = nn.Parameter(torch.ones(()))
        self.num_encoded = 0
        self.pairs = []

    def tokenize(self, phrases):
        unknown = [p for p in phrases if p.split()[-1] not in WORDS]
        if unknown:
            raise InvalidInput(f"the vocabulary does not know {unknown[0]!r}")
        ids = torch.tensor([[WORDS.index(p.split()[-1])] for p in phrases])
        return TextTokens(ids, torch.ones_like(ids, dtype=torch.bool))

    def encode_visual(self, clips):
        self.num_encoded += 1
        pixels = clips.pixels
        if clips.target_frames is not None:
            pixels = torch.stack([p[t] for p, t in zip(pixels, clips.target_frames, strict=True)])
        return VisualFeatures((pixels * self.weight,), clips.valid, clips.content)

    def encode_text(self, tokens):
        return TextFeatures(tokens.values[..., None].float(), tokens.valid)

    def segment(self, visual, text):
        self.pairs.append(len(text.valid))
        (pixels,) = visual.maps
        rows = [
            self._answer(p, v, WORDS[int(word)])
            for p, v, word in zip(pixels, visual.valid, text.tokens[:, 0, 0], strict=True)
        ]
        return Output(torch.stack(rows)[:, None].to(pixels.dtype) * 40 - 20)

    def choose(self, output):
        scores = output.mask_logits.flatten(1).amax(1).sigmoid()
        return torch.zeros(len(scores), dtype=torch.int64, device=scores.device), scores

    def _answer(self, pixels, valid, word):
        columns = torch.where(valid.any(0))[0]
        middle = (columns[0] + columns[-1] + 1) / 2
        side = torch.arange(valid.shape[1], device=valid.device)[None, None] + 0.5
        whole = torch.ones_like(pixels[:, 0], dtype=torch.bool)
        if word in ("left", "right"):
            return (side < middle if word == "left" else side > middle) & whole
        if word in ("nothing", "everything"):
            return whole if word == "everything" else ~whole
        channel = ("red", "green", "blue").index(word)
        others = [c for c in range(3) if c != channel]
        return pixels[:, channel] > pixels[:, others].amax(1) + 0.3
