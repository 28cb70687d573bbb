"""JHMDB-Sentences: one sentence a video, three frames of each evaluated; which, the published list says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg.data.dataset import ReadOptions
from refseg.data.formats.records import OnProblem, raise_problem
from refseg.data.readers.sparse_video_set import LabelledFrames, Sample, read_samples
from refseg.errors import InvalidInput, UnknownName
from refseg.media.images import read_stored_image
from refseg.media.video import Window

METADATA = "jhmdb_sentences_samples_metadata.json"


class JHMDB(LabelledFrames):
    """The samples of the published list. Windows are clipped to the frames that have a mask, not to the pictures."""

    def __init__(
        self,
        folder: Path,
        *,
        split: str,
        options: ReadOptions,
        count: int | None = None,
        on_problem: OnProblem = raise_problem,
    ) -> None:
        if split != "test":
            raise UnknownName("split of JHMDB-Sentences", split, ("test",))
        self.folder = folder
        samples = samples_of(folder, on_problem)
        super().__init__("jhmdb", samples, split=split, options=options, count=count)

    def length(self, sample: Sample) -> int:
        """Frames that have a mask."""
        return sample.masks

    def frame_paths(self, sample: Sample, frames: Sequence[int]) -> tuple[Path, ...]:
        """The pictures of frames, counted from 0."""
        place = self.folder / PurePosixPath(sample.path).parent
        return tuple(place / f"{frame + 1:05d}.png" for frame in frames)

    def read_frames(self, sample: Sample) -> tuple[Tensor, Window]:
        """[T, 3, H, W] uint8."""
        window = self.window(sample)
        return self.read_places(sample, window.frames), window

    def read_places(self, sample: Sample, frames: Sequence[int]) -> Tensor:
        """[T, 3, H, W] uint8."""
        paths = self.frame_paths(sample, frames)
        read = {path: read_stored_image(path) for path in dict.fromkeys(paths)}
        return torch.cat([read[path] for path in paths])

    def mask_path(self, sample: Sample) -> Path:
        """The file of the video's masks."""
        return self.folder / sample.mask_path

    def read_mask(self, sample: Sample) -> Tensor:
        """Bool [H, W]; may be empty, which leaves the sample one."""
        masks = read_mat(self.mask_path(sample))
        if sample.frame > masks.shape[2]:
            raise InvalidInput(f"{self.mask_path(sample).name} has {masks.shape[2]} masks; get a whole copy")
        return torch.from_numpy(np.ascontiguousarray(masks[:, :, sample.frame - 1] > 0))


def samples_of(folder: Path, on_problem: OnProblem = raise_problem) -> list[Sample]:
    """The samples of the published list, in its order."""
    return read_samples(folder / METADATA, _sample, on_problem)


def _sample(row: Any, where: str) -> Sample:
    texts = row[:3] + row[4:] if isinstance(row, list) and len(row) == 5 else [None]
    if not all(isinstance(text, str) for text in texts) or not isinstance(row[3], int) or row[3] < 1:
        raise InvalidInput(
            f"{where}: it is not [video, path of the picture, path of the masks, number of masks, query]"
        )
    picture, masks = _below(row[1]), _below(row[2])
    frame = PurePosixPath(row[1]).stem
    if not picture or not frame.isdecimal() or int(frame) < 1:
        raise InvalidInput(f"{where}: {row[1]!r} is no path of a numbered picture")
    if not masks:
        raise InvalidInput(f"{where}: {row[2]!r} is no path of a file of masks")
    return Sample(row[0], int(frame), row[4], masks=row[3], path=picture, mask_path=masks)


def _below(path: str) -> str:
    """A path of the list without its first folder, whatever the data set's is called here; empty if it leaves that."""
    parts = [part for part in PurePosixPath(path).parts if part != "."]
    return "" if len(parts) < 3 or ".." in parts or path.startswith("/") else "/".join(parts[1:])


@lru_cache(maxsize=8)
def read_mat(path: Path) -> np.ndarray:
    """`part_mask` [H, W, T] uint8 of a `.mat` file.

    Raises:
        InvalidInput: if it is missing, damaged or lacks that part.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise InvalidInput(f"there is no file of masks {path}")
    try:
        masks = np.asarray(loadmat(path, variable_names=["part_mask"])["part_mask"])
    except Exception as error:  # scipy's reader of damaged files raises whatever it trips over
        raise InvalidInput(
            f"{path} is damaged, or holds no part_mask ({str(error)[:120]}); get a whole copy"
        ) from error
    if masks.ndim == 2:
        masks = masks[:, :, None]  # MATLAB leaves out a last axis of one
    if masks.ndim != 3 or masks.dtype.kind not in ("b", "u", "i"):
        raise InvalidInput(
            f"{path}: its part_mask has the shape {masks.shape}, and must be [H, W, T] of whole numbers"
        )
    return masks
