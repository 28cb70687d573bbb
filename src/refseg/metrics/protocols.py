"""Protocols: the ruler a result was taken with, as plain data.

Published codes compute their numbers differently: at which size masks are compared, what two empty masks are worth, whether
an IoU that equals a threshold counts. Each published convention has a name here, and `HONEST` is ours. A family says in
`Family.protocols` which convention its numbers on a data set follow; `refseg evaluate` prints both where they differ.

Reading a protocol: (1) masks are compared `at` a size, in some `frames`, at the model's own threshold unless
`mask_threshold` fixes it; (2) a phrase's IoU is (I + lift) / (U + lift), and `empty` where U is 0; (3) P@X counts an IoU of
X or more where `counts_equal`, else only more than X; (4) what is printed are `metrics`, headline first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Kind = Literal["overlap", "ranked", "video", "objects", "generalised", "boxes"]
"""Which evaluator counts.

overlap: one mask a phrase; IoU, P@X, and the boundary F where it is asked for.
ranked: all candidates of a phrase with their scores; COCO's average precision, and IoU of the best-scored one.
video: one mask track a phrase; J and F averaged over frames, then over phrases.
objects: the phrases of one annotator merged into one index map a video; J and F a object, as the DAVIS tool.
generalised: masks and a "nothing here" decision; gIoU, cIoU, N-acc, T-acc.
boxes: several boxes a phrase; F1, N-acc, T-acc.
"""

TENTHS = (0.5, 0.6, 0.7, 0.8, 0.9)
# Ten steps as floating point adds them up: 0.6000000000000001, 0.7000000000000002, ... One published code compares with these.
TWENTIETHS = tuple(0.5 + step * (0.5 + 0.05 - 0.5) for step in range(10))


@dataclass(frozen=True, slots=True)
class Protocol:
    """One convention of measuring; the fields are explained in the order in which they are applied."""

    name: str  # what `refseg evaluate --protocol` calls it
    title: str  # one line for people
    kind: Kind
    metrics: tuple[str, ...]  # what is printed, headline first; "P@X" stands for all thresholds

    text: Literal["raw", "sent", "squeezed"] | None = (
        None  # which text of a phrase is asked; None: the data set's own
    )
    at: Literal["source", "canvas"] = "source"  # canvas: the size the network sees; targets are resized to it
    overlapping_parts: Literal["union", "exactly-one"] = (
        "union"  # pixels that two parts of one annotation cover
    )
    frames: Literal["all", "labelled", "inner"] = (
        "all"  # labelled: those with a target; inner: not first and last
    )
    window: int | None = None  # a clip is answered in pieces of so many frames; None is the whole clip
    mask_threshold: float | None = (
        None  # scores above it are mask, whatever the checkpoint says; None is its own
    )

    lift: float = 0.0  # added to intersection and union of a phrase
    empty: float | None = 0.0  # IoU where both masks are empty; None leaves phrases without a target out
    single_precision: bool = False  # IoU is rounded to float32 before it is compared
    thresholds: tuple[float, ...] = TENTHS
    counts_equal: bool = True  # an IoU of exactly X counts in P@X

    matching: Literal["phrase", "number", "best"] = (
        "phrase"  # objects: by their number, or by the best assignment
    )
    smallest_mask: int = 0  # an answer of fewer pixels is taken for an empty one
    missing: Literal["error", "zero"] = "error"  # what a video without any prediction is worth
    percent: bool = True  # results are printed in percent
    digits: int = 2  # digits printed after the point
    printed_as: tuple[tuple[str, str], ...] = ()  # metric, and what the published code calls it
    source: str = ""  # whose convention

    def __post_init__(self) -> None:
        assert self.empty is None or self.empty in (0.0, 1.0), "IoU of two empty masks is 0, 1 or not counted"
        assert all(0 < threshold < 1 for threshold in self.thresholds), "thresholds are shares"

    def iou(self, intersection: float, union: float) -> float:
        """IoU of one phrase; nan where it does not count."""
        if self.single_precision:
            lift = np.float32(self.lift)
            return float((np.float32(intersection) + lift) / (np.float32(union) + lift))
        if self.lift:
            return (intersection + self.lift) / (union + self.lift)
        if union:
            return intersection / union
        return math.nan if self.empty is None else self.empty

    def counts(self, iou: float, threshold: float) -> bool:
        """Whether an IoU reaches a threshold of P@X."""
        return iou >= threshold if self.counts_equal else iou > threshold

    def show(self, share: float) -> str:
        """A share in percent, rounded as the published code prints it."""
        return (
            "-"
            if math.isnan(share)
            else f"{100 * share:.{self.digits if self.percent else self.digits - 2}f}"
        )

    def label(self, metric: str) -> str:
        """What the published code calls a metric."""
        return dict(self.printed_as).get(metric, metric)


HONEST = Protocol(
    name="source",
    title="masks at the size of the stored frame; P@X counts IoU >= X; phrases without a target count in 'refused' only",
    kind="overlap",
    metrics=("mIoU", "oIoU", "P@X", "kept", "refused"),
    empty=None,
    source="refseg",
)
HONEST_VIDEO = Protocol(
    name="source-video",
    title="masks at the size of the stored frame, all frames, J and F averaged over frames, then over phrases",
    kind="video",
    metrics=("J&F", "J", "F", "mIoU", "oIoU", "P@X", "kept", "refused"),
    empty=None,
    source="refseg",
)

# Image sets -----------------------------------------------------------------------------------------------------------

REFER = Protocol(
    name="refer",
    title="masks at the network's input size, target resized by nearest; two empty masks are a miss; IoU >= X",
    kind="overlap",
    metrics=("oIoU", "mIoU", "P@X"),
    at="canvas",
    overlapping_parts="exactly-one",
    empty=0.0,
    printed_as=(("oIoU", "overall IoU"), ("mIoU", "Mean IoU"), ("P@X", "precision@X")),
    source="LAVT and what was built on it",
)
LGFORMER = replace(REFER, name="lgformer", text="raw", source="LGFormer, as LAVT")
VPD = replace(REFER, name="vpd", text="sent", source="VPD, as LAVT")
VLT = Protocol(
    name="vlt",
    title="source size; 1e-10 added to both counts; IoU > X at 0.50, 0.55, ...; scores above 0.35 are mask",
    kind="overlap",
    metrics=("mIoU", "P@X"),
    text="sent",
    mask_threshold=0.35,
    lift=1e-10,
    empty=1.0,
    thresholds=TWENTIETHS,
    counts_equal=False,
    percent=False,
    digits=4,
    printed_as=(("mIoU", "seg_iou"), ("P@X", "prec@X")),
    source="VLT",
)
VLFORMER = Protocol(
    name="vlformer",
    title="source size; two empty masks agree; IoU > X; with the boundary F of DAVIS",
    kind="overlap",
    metrics=("mIoU", "F", "overall", "P@X"),
    text="sent",
    empty=1.0,
    counts_equal=False,
    percent=False,
    digits=4,
    printed_as=(("mIoU", "iou"), ("F", "f1"), ("P@X", "Pr@X")),
    source="VLFormer",
)
REFERFORMER_MASKS = Protocol(
    name="referformer-masks",
    title="best-scored candidate; 1e-6 added to both counts, in float32; IoU > X",
    kind="ranked",
    metrics=("oIoU", "mIoU", "P@X", "mAP"),
    text="sent",
    lift=1e-6,
    empty=1.0,
    single_precision=True,
    counts_equal=False,
    printed_as=(("oIoU", "segm overall_iou"), ("mIoU", "segm mean_iou"), ("P@X", "segm P@X")),
    source="ReferFormer on RefCOCO/+/g, after MTTR",
)
REFERFORMER_BOXES = Protocol(
    name="referformer-boxes",
    title="best-scored box, cornerwise in source pixels; 1e-6 added to both areas, in float32; IoU > X",
    kind="ranked",
    metrics=("box P@X", "box oIoU", "box mIoU"),
    text="sent",
    lift=1e-6,
    empty=1.0,
    single_precision=True,
    counts_equal=False,
    printed_as=(("box oIoU", "bbox overall_iou"), ("box mIoU", "bbox mean_iou"), ("box P@X", "bbox P@X")),
    source="ReferFormer on RefCOCO/+/g, after MTTR",
)
GRES = Protocol(
    name="gres",
    title="network's input size; answers of less than 50 pixels are empty; a rightly refused phrase counts 1 in gIoU, a wrongly refused one keeps its union in cIoU",
    kind="generalised",
    metrics=("gIoU", "cIoU", "N-acc", "T-acc", "P@X"),
    text="raw",
    at="canvas",
    empty=0.0,
    thresholds=(0.7, 0.8, 0.9),
    smallest_mask=50,
    printed_as=(("P@X", "Pr@X"),),
    source="gRefCOCO / ReLA, as corrected in August 2023",
)
HONEST_GENERALISED = Protocol(
    name="source-generalised",
    title="source size; gIoU, cIoU, N-acc and T-acc by the rules of gRefCOCO",
    kind="generalised",
    metrics=("gIoU", "cIoU", "N-acc", "T-acc", "P@X"),
    empty=0.0,
    thresholds=(0.7, 0.8, 0.9),
    source="refseg",
)
GREC = Protocol(
    name="grec",
    title="boxes of score 0.7 or more, matched greedily by generalised IoU of 0.5 or more; right where F1 is 1",
    kind="boxes",
    metrics=("F1", "N-acc", "T-acc"),
    thresholds=(0.5,),
    printed_as=(("F1", "Pr@(F1=1, IoU>=0.5)"),),
    source="gRefCOCO for boxes",
)

# Video sets -----------------------------------------------------------------------------------------------------------

A2D = Protocol(
    name="a2d",
    title="the labelled frame; COCO's mAP over all candidates, IoU of the best-scored one with 1e-6 in float32; IoU > X",
    kind="ranked",
    metrics=("mAP", "AP50", "AP75", "oIoU", "mIoU", "P@X"),
    text="squeezed",
    frames="labelled",
    mask_threshold=0.5,
    lift=1e-6,
    empty=1.0,
    single_precision=True,
    counts_equal=False,
    percent=False,
    digits=4,
    printed_as=(("oIoU", "overall_iou"), ("mIoU", "mean_iou"), ("mAP", "mAP 0.5:0.95")),
    source="ReferFormer on A2D-Sentences and JHMDB-Sentences, after MTTR",
)
JHMDB = A2D
REF_DAVIS = Protocol(
    name="ref-davis",
    title="each annotator's objects merged into one index map a video, assigned to the annotated objects at their best; four runs",
    kind="objects",
    metrics=("J&F", "J", "J-recall", "J-decay", "F", "F-recall", "F-decay"),
    text="squeezed",
    window=36,
    empty=1.0,
    matching="best",
    percent=False,
    digits=5,
    source="ReferFormer on Ref-DAVIS17, by the DAVIS 2017 tool",
)
DAVIS = Protocol(
    name="davis",
    title="objects by their number, first and last frame left out",
    kind="objects",
    metrics=("J&F", "J", "J-recall", "J-decay", "F", "F-recall", "F-decay"),
    frames="inner",
    empty=1.0,
    matching="number",
    percent=False,
    digits=5,
    source="DAVIS 2017, semi-supervised",
)
MEVIS = Protocol(
    name="mevis",
    title="all frames, J and F averaged over frames, then over phrases; a video without any prediction scores 0",
    kind="video",
    metrics=("J&F", "J", "F"),
    empty=1.0,
    missing="zero",
    source="MeViS valid_u",
)
REF_YOUTUBE_VOS = Protocol(
    name="ref-youtube-vos",
    title="all listed frames, J and F averaged over frames, then over phrases; masks of valid lie on a public server",
    kind="video",
    metrics=("J&F", "J", "F"),
    empty=1.0,
    source="Ref-YouTube-VOS server",
)

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        HONEST,
        HONEST_VIDEO,
        HONEST_GENERALISED,
        REFER,
        LGFORMER,
        VPD,
        VLT,
        VLFORMER,
        REFERFORMER_MASKS,
        REFERFORMER_BOXES,
        GRES,
        GREC,
        A2D,
        REF_DAVIS,
        DAVIS,
        MEVIS,
        REF_YOUTUBE_VOS,
    )
}
"""Every named convention; `refseg evaluate --protocol` takes these names."""


OF_DATASETS: Mapping[str, tuple[Protocol, ...]] = {
    "grefcoco": (GRES,),
    "a2d": (A2D,),
    "jhmdb": (JHMDB,),
    "ref-davis17": (REF_DAVIS,),
    "mevis": (MEVIS,),
    "ref-youtube-vos": (REF_YOUTUBE_VOS,),
}
"""Data sets whose publishers fixed a way to measure for everybody."""


def honest_protocols(dataset: str) -> tuple[Protocol, ...]:
    """Our own conventions for a data set."""
    if dataset == "grefcoco":
        return (HONEST, HONEST_GENERALISED)
    return (HONEST_VIDEO,) if dataset in ("ref-davis17", "mevis", "ref-youtube-vos") else (HONEST,)


def published_protocols(dataset: str, family: Mapping[str, Protocol]) -> tuple[Protocol, ...]:
    """How published numbers on a data set were taken: as the family says, else as the data set's publishers fixed it."""
    named = find_protocol(family, dataset)
    if named is None:
        return OF_DATASETS.get(dataset, ())
    return (named, REFERFORMER_BOXES) if named is REFERFORMER_MASKS else (named,)


def find_protocol(protocols: Mapping[str, Protocol], dataset: str) -> Protocol | None:
    """The protocol of a data set among those a family names; "refcocog" also speaks for "refcocog-umd" and its like."""
    keys = [key for key in protocols if dataset == key or dataset.startswith(f"{key}-")]
    return protocols[max(keys, key=len)] if keys else None
