"""Which clips of a video data set are trained on, in the published orders; which frames of them is drawn elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from refseg.data.readers.video_set import Expression, Video, VideoPhrases


@dataclass(frozen=True, slots=True)
class ClipItem:
    """One thing to train on: an expression and where in the sorted frames of its video a clip starts, or all its frames."""

    video: int  # place in the data set's `videos`
    expression: int  # place in the video's `expressions`
    frames: tuple[int, ...]  # places in the sorted frames


def clip_starts(data: VideoPhrases, length: int) -> list[ClipItem]:
    """ReferFormer's items, videos then expressions then starts: every `length`-th frame starts a clip, also a last one short of it.

    `frames` holds the start alone; its neighbours and the others are drawn when the item is read.
    """
    return [
        ClipItem(number, row, (start,))
        for number, video in enumerate(data.videos)
        for row in range(len(video.expressions))
        for start in range(0, len(video.frames), length)
    ]


def windows(data: VideoPhrases, length: int) -> list[ClipItem]:
    """MTTR's items, videos then expressions then consecutive windows of `length` frames, without those that lack the object.

    A short last window becomes the last `length` frames; a video shorter than that repeats its last frame.
    """
    items = []
    for number, video in enumerate(data.videos):
        places = _windows_of(len(video.frames), length)
        for row in range(len(video.expressions)):
            masks = data.read_masks(video, [row], list(range(len(video.frames))))
            seen = None if masks is None else masks[0].flatten(1).any(1).tolist()
            items += [
                ClipItem(number, row, frames)
                for frames in places
                if seen is None or any(seen[frame] for frame in frames)
            ]
    return items


def _windows_of(count: int, length: int) -> list[tuple[int, ...]]:
    if count < length:
        return [tuple(min(frame, count - 1) for frame in range(length))]
    starts = list(range(0, count - length + 1, length))
    if starts[-1] + length < count:
        starts.append(count - length)
    return [tuple(range(start, start + length)) for start in starts]


def evaluation_jobs(data: VideoPhrases) -> list[tuple[Video, Expression]]:
    """What a run on the split answers: videos, then their expressions."""
    return [(video, expression) for video in data.videos for expression in video.expressions]


def by_annotator(video: Video, annotators: int = 4) -> list[list[Expression]]:
    """Of Ref-DAVIS17: for each annotator the expressions of all objects; place k becomes label k + 1 of the label map."""
    return [list(video.expressions[a::annotators]) for a in range(annotators)]
