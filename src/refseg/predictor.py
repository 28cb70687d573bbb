"""What users and the service call: a checkpoint that answers phrases about pictures and clips.

A picture is encoded once and asked many phrases; `EncodedClip` is a plain value, the predictor keeps no state.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from refseg.checkpoints import zoo
from refseg.device import find_device, find_dtype
from refseg.errors import InvalidInput
from refseg.framing import masks_to_source, place, place_frames, upsample_to_canvas, valid_area
from refseg.media.frames import Frames, as_frames
from refseg.prediction import Prediction
from refseg.structures import Clips, Explanation, Output, Placement, Size, VisualFeatures

if TYPE_CHECKING:
    from refseg.models.base import ReferringModel, Ruler


# What a segment pass needs beside its input, in multiples of one phrase's visual features, and what it may take in all.
_WORKING_MULTIPLE = 8


_WORKING_BYTES = 1 << 30


_MOST_PHRASES_AT_ONCE = 32


# A network's finest features take some 64 bytes for each canvas pixel. Only pictures of extreme shape grow a canvas
# beyond this, where a family fixes the short side alone.
_MOST_CANVAS_PIXELS = 1 << 24


@dataclass(slots=True, frozen=True)
class EncodedClip:
    """All that a predictor knows of a picture or clip before it hears a phrase."""

    visual: VisualFeatures  # of one clip: B = 1
    placement: Placement
    num_frames: int
    target_frames: tuple[int, ...]  # the T' frames that get masks

    @property
    def source(self) -> Size:
        """(height, width) of the stored frames."""
        return self.placement.source

    @property
    def num_bytes(self) -> int:
        """Memory that the features take."""
        tensors = (*self.visual.maps, self.visual.valid, self.visual.content)
        return sum(tensor.nbytes for tensor in tensors)


class Predictor:
    """A model ready to answer.

    Arguments:
        model: is moved to `device` and put in evaluation mode.
        device: "auto" (CUDA, else MPS, else CPU) or any torch device; one that is absent is an error, never replaced.
        dtype: float32, or bfloat16 or float16 by autocast; the weights stay as they are, but those of models that compute
            in the type of their weights.
        label: what results say they come from; a checkpoint's name or path.
        offload: large parts of the model wait on the CPU until they are needed on `device`.

    Raises:
        InvalidInput: if the device is absent, the dtype is none of the three, or the model has no parts to offload.
    """

    def __init__(
        self,
        model: ReferringModel,
        *,
        device: str | torch.device = "auto",
        dtype: torch.dtype | str | None = None,
        label: str = "model",
        offload: bool = False,
    ) -> None:
        self.device = find_device(device)
        self.dtype = find_dtype(dtype)
        self.model = model.to(dtype=self.dtype if model.casts_weights else None).eval()
        if offload:
            self.model.offload(self.device)
        else:
            self.model.to(self.device)
        self.label = label

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        device: str | torch.device = "auto",
        dtype: torch.dtype | str | None = None,
        offload: bool = False,
    ) -> Predictor:
        """A predictor from a checkpoint's name or file; see `load`."""

        found, kind = find_device(device), find_dtype(dtype)  # mistakes are told before a file is read
        model, _, _ = zoo.load(checkpoint, device="cpu" if offload else str(found), dtype=kind)
        return cls(model, device=found, dtype=kind, label=str(checkpoint), offload=offload)

    def set_threshold(self, threshold: float) -> None:
        """From now on, scores above `threshold` are mask; a checkpoint comes with its own.

        Raises:
            InvalidInput: if it lies outside 0 to 1.
        """
        if not 0 <= threshold <= 1:
            raise InvalidInput(f"a threshold of scores lies between 0 and 1, and {threshold} does not")
        self.model.config = replace(self.model.config, threshold=threshold)

    def __call__(self, frames: Frames, phrases: Sequence[str]) -> list[Prediction]:
        """The answers to `phrases` about a picture or clip, in their order."""
        for sentence in self.cut_phrases(check_phrases(phrases)):
            warnings.warn(sentence, stacklevel=2)
        return self.segment(self.encode(frames), phrases)

    def cut_phrases(self, phrases: Sequence[str]) -> list[str]:
        """A sentence for each phrase of which the model, as published, reads the beginning alone."""
        unread = {phrase: self.model.num_unread(phrase) for phrase in phrases}
        return [
            f"the phrase {phrase[:40] + '...'!r} is longer than this model reads: its last {count} tokens are left out; "
            "shorten it"
            for phrase, count in unread.items()
            if count
        ]

    def encode(self, frames: Frames, *, target_frames: Sequence[int] | None = None) -> EncodedClip:
        """What can be known of a picture or clip without words.

        Arguments:
            frames: one picture: a path, a PIL image, an array [H, W, 3] or a tensor [3, H, W]; or a clip: the path of a
                video or of a folder of frames, an array [T, H, W, 3], a tensor [T, 3, H, W], or a list of pictures of one
                size. Values are uint8, or floats in [0, 1]. See `refseg.media.frames.as_frames`.
            target_frames: the frames that get masks; all of them by default.

        Raises:
            InvalidInput: if the frames cannot be read or understood.
        """
        source = as_frames(frames)
        self._check_shape((source.shape[-2], source.shape[-1]))
        chosen = _check_targets(target_frames, len(source))
        canvas, placement = place_frames(source, self.model.config.frame)
        clips = Clips(
            canvas[None],
            valid_area(placement)[None],
            torch.tensor([placement.content]),
            None if target_frames is None else torch.tensor([chosen]),
        )
        with torch.inference_mode(), self._precision():
            visual = self.model.encode_visual(clips.to(self.device))
        return EncodedClip(visual, placement, len(source), chosen)

    def segment(self, clip: EncodedClip, phrases: Sequence[str], at: Ruler = "source") -> list[Prediction]:
        """The answers to `phrases` about an encoded clip, in their order.

        Arguments:
            at: "source" for masks of the stored frames' size, "canvas" for masks on the canvas that the network saw.

        Raises:
            InvalidInput: if there is no phrase, or one is empty or cannot be expressed by the vocabulary.
        """
        asked = check_phrases(phrases)
        if at not in ("source", "canvas"):
            raise InvalidInput(f"masks are given at 'source' or at 'canvas' size, not at {at!r}")
        step = _phrases_at_once(clip.visual)
        answers: list[Prediction] = []
        for start in range(0, len(asked), step):
            answers += self._answer(clip, asked[start : start + step], at)
        return answers

    def check_explains(self) -> None:
        """Refuses, before any work, a family that cannot tell how its answers came about.

        Raises:
            InvalidInput: if this one cannot.
        """
        from refseg.models.base import ReferringModel

        if type(self.model).explain is ReferringModel.explain:
            raise InvalidInput(
                f"{self.label} is of a family that has nothing to explain its answers by; leave out --explain"
            )

    def explain(
        self, clip: EncodedClip, phrases: Sequence[str], frames: Sequence[int] | None = None
    ) -> list[Explanation]:
        """How the answers to `phrases` came about: maps with weights, words, points, boxes; what the family has.

        Arguments:
            frames: for each phrase the frame (of those with masks, from 0) whose maps are wanted; the first by default.

        Returns:
            one a phrase; maps are [1, H, W] at the size of the source, points and boxes those of the one frame.

        Raises:
            InvalidInput: if the family has nothing to show, or a phrase cannot be read.
        """
        asked = check_phrases(phrases)
        wanted = [0] * len(asked) if frames is None else list(frames)
        found = []
        for phrase, frame in zip(asked, wanted, strict=True):
            with torch.inference_mode(), self._precision():
                text = self.model.encode_text(self.model.tokenize([phrase]).to(self.device))
                output = self.model.segment(clip.visual, text)
                (told,) = self.model.explain([phrase], clip.visual, text, output)
            found.append(_at_source(told.to("cpu", torch.float32), clip.placement, frame))
        return found

    def _check_shape(self, source: Size) -> None:
        height, width = place(source, self.model.config.frame).canvas
        if height * width > _MOST_CANVAS_PIXELS:
            raise InvalidInput(
                f"frames of {source[1]}x{source[0]} pixels would become {width}x{height} for this model, more than the "
                f"{_MOST_CANVAS_PIXELS:,} pixels it takes; crop them to a less extreme shape"
            )

    def outputs(self, clip: EncodedClip, phrases: Sequence[str]) -> Iterator[Output]:
        """What the network says of `phrases`, unfinished, in float32: as many at a time as memory allows, in their order.

        Raises:
            InvalidInput: as `segment`.
        """
        asked = check_phrases(phrases)
        step = _phrases_at_once(clip.visual)
        for start in range(0, len(asked), step):
            yield self._output(clip, asked[start : start + step]).to(dtype=torch.float32)

    def _answer(self, clip: EncodedClip, phrases: Sequence[str], at: Ruler) -> list[Prediction]:
        output = self._output(clip, phrases)
        return self.finish(output, [clip.placement] * len(phrases), phrases, at)

    def _output(self, clip: EncodedClip, phrases: Sequence[str]) -> Output:
        with torch.inference_mode(), self._precision():
            tokens = self.model.tokenize(phrases).to(self.device)
            index = torch.zeros(len(phrases), dtype=torch.int64, device=self.device)
            return self.model.segment(clip.visual.rows(index), self.model.encode_text(tokens))

    def finish(
        self, output: Output, placements: Sequence[Placement], phrases: Sequence[str], at: Ruler = "source"
    ) -> list[Prediction]:
        """The answers that an output of the network gives; one placement and one phrase a row."""
        # Outside inference mode, so that the masks are ordinary tensors that a caller may change.
        with torch.no_grad():
            exact = output.to(dtype=torch.float32)
            if bool(exact.mask_logits.isnan().any()):
                raise InvalidInput(
                    f"the answers of {self.label} are not numbers (NaN): its weights are damaged or were never trained, or "
                    "a narrow dtype overflows; try float32, or get or convert it again"
                )
            _, scores = self.model.choose(exact)
            masks = self.model.finish(exact, placements, at)
        certain = [None] * len(phrases) if scores is None else [float(score) for score in scores]
        return [
            Prediction(phrase, mask.cpu(), score)
            for phrase, mask, score in zip(phrases, masks, certain, strict=True)
        ]

    def _precision(self) -> AbstractContextManager[object]:
        if self.dtype == torch.float32 or self.model.casts_weights:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def load(
    name_or_path: str | Path,
    device: str | torch.device = "auto",
    dtype: torch.dtype | str | None = None,
    offload: bool = False,
) -> Predictor:
    """A predictor from the name of a checkpoint (`refseg models` lists them) or from a file of ours.

    Arguments:
        device: "auto" (CUDA, else MPS, else CPU) or any torch device; one that is absent is an error, never replaced.
        dtype: float32 by default; bfloat16 and float16 run by autocast, or with weights of that type.
        offload: large parts of the model wait on the CPU until they are needed; for small GPUs.

    Raises:
        UnknownName: if no checkpoint has this name; the nearest ones are suggested.
        InvalidInput: if the file cannot be read, or the device is absent.
        CheckpointMismatch: if the weights do not fit the model that the file names.
    """
    return Predictor.load(name_or_path, device=device, dtype=dtype, offload=offload)


def check_phrases(phrases: Sequence[str]) -> list[str]:
    """The phrases as a list, each known to be a text that is not empty.

    Raises:
        InvalidInput: if there is none, one is empty, one is no text, or a single string was given for the list.
    """
    if isinstance(phrases, str):
        raise InvalidInput(f"phrases are a list of texts, and one text was given; write [{phrases!r}]")
    asked = list(phrases)
    if not asked:
        raise InvalidInput("no phrase was given; give at least one, such as 'the left dog'")
    for number, phrase in enumerate(asked, start=1):
        if not isinstance(phrase, str):
            raise InvalidInput(f"phrase {number} is {type(phrase).__name__}, not text; give strings")
        if not phrase.strip():
            raise InvalidInput(f"phrase {number} is empty; say what to look for, such as 'the left dog'")
    return asked


def _at_source(told: Explanation, placement: Placement, frame: int) -> Explanation:
    """One frame of an explanation, its maps taken off the canvas."""
    maps = []
    for one in told.maps:
        values = upsample_to_canvas(one.values[frame : frame + 1], placement.canvas)
        maps.append(replace(one, values=masks_to_source(values, placement)))
    rows = (None if part is None else part[frame : frame + 1] for part in (told.points, told.boxes))
    points, boxes = rows
    return replace(told, maps=tuple(maps), points=points, boxes=boxes)


def _check_targets(targets: Sequence[int] | None, count: int) -> tuple[int, ...]:
    if targets is None:
        return tuple(range(count))
    chosen = tuple(int(index) for index in targets)
    if not chosen or min(chosen) < 0 or max(chosen) >= count:
        raise InvalidInput(
            f"target frames {list(chosen)} do not lie in a clip of {count} frames, counted from 0"
        )
    return chosen


def _phrases_at_once(visual: VisualFeatures) -> int:
    row = sum(level.nbytes for level in visual.maps)
    return max(1, min(_MOST_PHRASES_AT_ONCE, _WORKING_BYTES // max(1, row * _WORKING_MULTIPLE)))
