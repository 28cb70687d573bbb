"""Videos of which single frames are annotated (A2D-Sentences, JHMDB-Sentences): a window of frames around each of those."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refseg.data.dataset import (
    Annotation,
    PhraseDataset,
    ReadOptions,
    Timeline,
    annotation_files_below,
    error_context,
    squeeze,
)
from refseg.data.formats.masks import rle_of_mask
from refseg.data.formats.phrase_line import words_of
from refseg.data.formats.records import OnProblem, read_json
from refseg.errors import InvalidInput
from refseg.media.video import Window, window_around
from refseg.structures import Example


@dataclass(frozen=True, slots=True)
class Sample:
    """A phrase about one frame of a video."""

    video: str
    frame: int  # counted from 1, as in the files
    phrase: str
    instance: str = ""  # number of the object, where frames have several
    masks: int = 0  # how many frames have a mask; 0 = as many as the video
    path: str = ""  # below the data set's folder, of what the video is read from
    mask_path: str = ""  # likewise, of its masks

    @property
    def id(self) -> str:
        """What the published ground truth calls it."""
        return f"v_{self.video}_f_{self.frame}" + (f"_i_{self.instance}" if self.instance else "")


def read_samples(path: Path, parse: Callable[[Any, str], Sample], on_problem: OnProblem) -> list[Sample]:
    """The samples of a published list, in its order; a row that `parse` refuses is told to `on_problem` and left out.

    Raises:
        InvalidInput: if the file cannot be read, or holds no list.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InvalidInput(f"{path.name} holds no list of samples")
    samples = []
    for number, row in enumerate(rows):
        try:
            samples.append(parse(row, f"{path.name} sample {number}"))
        except InvalidInput as error:
            on_problem(error)
    return samples


class LabelledFrames(PhraseDataset):
    """Samples in the order of their list; `item="clip"` puts those of one frame together where the first stands."""

    folder: Path  # of the dataset
    split: str
    has_options = has_mask_rules = is_windowed = reads_frames_alone = True

    def __init__(
        self,
        name: str,
        samples: Sequence[Sample],
        *,
        split: str,
        options: ReadOptions,
        count: int | None = None,
    ) -> None:
        self.name, self.split, self.options = name, split, options
        self.samples = tuple(samples)
        if not self.samples:
            raise InvalidInput(f"{name} has no sample in the split {split!r}")
        self._items = _group(self.samples, options.item)[:count]

    @abstractmethod
    def length(self, sample: Sample) -> int:
        """Frames of the video that windows are clipped to."""

    @abstractmethod
    def frame_paths(self, sample: Sample, frames: Sequence[int]) -> tuple[Path, ...]:
        """The files of frames, counted from 0; for a video file, that file each time."""

    @abstractmethod
    def read_frames(self, sample: Sample) -> tuple[Tensor, Window]:
        """[T, 3, H, W] uint8 of the window around a sample, and which frames these are."""

    @abstractmethod
    def mask_path(self, sample: Sample) -> Path:
        """The file that holds the mask of a sample."""

    @abstractmethod
    def read_mask(self, sample: Sample) -> Tensor:
        """Bool [H, W] of a sample."""

    def label(self, sample: Sample) -> int:
        """The place of the object's category in `categories`; -1 where none is known."""
        del sample
        return -1

    def __len__(self) -> int:
        return len(self._items)

    @property
    def num_phrases(self) -> int:
        """Phrases of all examples."""
        return sum(map(len, self._items))

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The words of the phrases."""
        words: set[str] = set()
        for item in self._items:
            for row in item:
                words.update(words_of(self.samples[row].phrase))
        return tuple(sorted(words))

    def samples_of(self, index: int) -> list[Sample]:
        """The samples of an example."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return [self.samples[row] for row in self._items[index]]

    def window(self, sample: Sample) -> Window:
        """The frames around a sample, by the length that the annotations give the video."""
        return window_around(sample.frame - 1, self.options.window, self.length(sample))

    def annotation(self, index: int) -> Annotation:
        """What is known of example `index` without its frames."""
        samples = self.samples_of(index)
        window = self.window(samples[0])
        return self._annotation(samples, window)

    def _annotation(self, samples: Sequence[Sample], window: Window) -> Annotation:
        return Annotation(
            name=samples[0].video,
            paths=self.frame_paths(samples[0], window.frames),
            frames=tuple(f"{frame + 1:05d}" for frame in window.frames),
            size=None,
            phrases=tuple(self._text(sample.phrase) for sample in samples),
            ids=tuple(sample.id for sample in samples),
            objects=tuple(sample.instance for sample in samples),
            no_target=(False,) * len(samples),
            labels=tuple(self.label(sample) for sample in samples),
            target_frames=(window.target,),
        )

    def annotation_files(self) -> Iterator[tuple[str, Path]]:
        """The files that say what is asked of videos, below the folder of the dataset."""
        yield from annotation_files_below(self.folder, self.split)

    def masks(
        self, index: int, *, rows: Sequence[int] | None = None, frames: Sequence[int] | None = None
    ) -> Tensor:
        """[P, 1, H, W] bool of the annotated frame; needs no picture."""
        del frames  # one of them has masks
        samples = self.samples_of(index)
        drawn = []
        for sample in samples if rows is None else [samples[row] for row in rows]:
            with error_context(f"{self.name} {sample.id}"):
                drawn.append(self.read_mask(sample))
        if len({mask.shape for mask in drawn}) > 1:
            raise InvalidInput(
                f"{self.name} {self.samples_of(index)[0].id}: the masks of one frame differ in size"
            )
        return torch.stack(drawn)[:, None]

    def timeline(self, index: int) -> Timeline:
        """The length of the video of example `index` by its annotations, and its annotated frame."""
        sample = self.samples_of(index)[0]
        return Timeline(self.length(sample), (sample.frame - 1,))

    @abstractmethod
    def read_places(self, sample: Sample, frames: Sequence[int]) -> Tensor:
        """[T, 3, H, W] uint8 of frames counted from 0, in this order."""

    def example(self, index: int, frames: Sequence[int] | None = None) -> Example:
        """Example `index` with some frames, counted from 0; the annotated one stands among them, and masks are of it alone.

        None is the window of frames around the annotated one.

        Raises:
            InvalidInput: if frames or masks are missing, damaged or of another size; names the sample.
        """
        samples = self.samples_of(index)
        with error_context(f"{self.name} {samples[0].id}"):
            pixels, window = self._frames(samples[0], frames)
        masks = self.masks(index)
        if masks.shape[-2:] != pixels.shape[-2:]:
            raise InvalidInput(
                f"{self.name} {samples[0].id}: its mask is {masks.shape[-1]}x{masks.shape[-2]} and its frame "
                f"{pixels.shape[-1]}x{pixels.shape[-2]} pixels; get videos and masks of one release"
            )
        known = self._annotation(samples, window)
        return Example(
            name=known.name,
            frames=pixels,
            phrases=known.phrases,
            masks=masks,
            target_frames=torch.tensor([window.target]),
            labels=torch.tensor(known.labels),
            ids=known.ids,
            objects=known.objects,
            no_target=torch.tensor(known.no_target),
            frame_names=known.frames,
        )

    def _frames(self, sample: Sample, frames: Sequence[int] | None) -> tuple[Tensor, Window]:
        if frames is None:
            return self.read_frames(sample)
        if sample.frame - 1 not in frames:
            raise InvalidInput(
                f"the frames {list(frames)} leave out frame {sample.frame - 1}, the annotated one"
            )
        return self.read_places(sample, frames), Window(tuple(frames), list(frames).index(sample.frame - 1))

    def ground_truth(self) -> dict[str, Any]:
        """The samples in COCO's form, as the published evaluation reads them; ids count from 1."""
        images, annotations = [], []
        for number, sample in enumerate(self.samples, start=1):
            with error_context(f"{self.name} {sample.id}"):
                mask = self.read_mask(sample)
            height, width = mask.shape
            images.append({"id": sample.id, "height": height, "width": width})
            annotations.append(
                {
                    "id": number,
                    "image_id": sample.id,
                    "category_id": 1,
                    "segmentation": rle_of_mask(mask),
                    "area": float(mask.sum()),
                    "iscrowd": 0,
                    **self._stored_box(sample),
                }
            )
        return {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "dummy_class"}],
        }

    def _stored_box(self, sample: Sample) -> dict[str, list[float]]:
        """The `bbox` of the published ground truth, where it has one."""
        del sample
        return {}

    def _text(self, phrase: str) -> str:
        return squeeze(phrase) if self.options.text == "squeezed" else phrase


def _group(samples: Sequence[Sample], item: str) -> list[list[int]]:
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, sample in enumerate(samples):
        key: tuple[Any, ...] = (sample.video, sample.frame)
        key += {"clip": (), "object": (sample.instance,), "phrase": (row,)}[item]
        groups.setdefault(key, []).append(row)
    return list(groups.values())
