"""How each published data set is got: what may be fetched directly, and what a person must fetch from which page.

A file is fetched directly only where its licence lets anybody copy it and its address is known to answer without a form:
the annotations of REFER (Apache-2.0) and the pictures of COCO. Everything else asks for a login, an agreement or a click; for
those the page, the file and the place to put it are told. No publisher states checksums of these files; members of an archive are
checked by its own, and the SHA-256 of what came is noted beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

from refseg.data.published import published

_ARCHIVE = "http://web.archive.org/web/{}/https://bvisionweb1.cs.unc.edu/licheng/referit/data/{}.zip"


@dataclass(frozen=True)
class Direct:
    """An archive that is fetched by refseg."""

    url: str
    file: str  # what it is called, also where a person has fetched it
    inner: str  # the folder of the archive that is unpacked
    folder: str  # below the root; what it becomes there
    needs: tuple[str, ...]  # files below that folder without which it is not the archive that was meant
    licence: str
    most_bytes: int  # unpacked
    sha256: str | None = None
    least_files: int = 1


@dataclass(frozen=True)
class ByHand:
    """Files that a person fetches."""

    page: str
    file: str
    place: str  # below the root
    why: str


@dataclass(frozen=True)
class Offer:
    """All that a data set is made of."""

    name: str
    annotations: tuple[Direct | ByHand, ...]
    pictures: tuple[Direct | ByHand, ...] = ()  # large, and fetched where they are asked for


COCO = Direct(
    url="http://images.cocodataset.org/zips/train2014.zip",
    file="train2014.zip",
    inner="train2014",
    folder="train2014",
    needs=(),
    licence="COCO: annotations CC BY 4.0, pictures under their Flickr licences",
    most_bytes=20_000_000_000,
    least_files=82_783,
)

_FORM = "the page asks for a login or an agreement"
_SHARED = "the folder is shared by a page that no program may read"
_RESEARCH = "the licence is for research only"


def _refer(folder: str, stamp: str, *splits: str) -> Direct:
    return Direct(
        url=_ARCHIVE.format(stamp, folder),
        file=f"{folder}.zip",
        inner=folder,
        folder=folder,
        needs=("instances.json", *(f"refs({split}).p" for split in splits)),
        licence="annotations of REFER: Apache-2.0",
        most_bytes=2_000_000_000,
    )


_REFCOCO = _refer("refcoco", "20220413011718", "unc", "google")
_REFCOCO_PLUS = _refer("refcoco+", "20220413011656", "unc")
_REFCOCOG = _refer("refcocog", "20220413012904", "umd", "google")
_REFCLEF = _refer("refclef", "20220413011817", "unc", "berkeley")
_SAIAPR = ByHand(
    page="http://web.archive.org/web/20220515000000/http://bvisionweb1.cs.unc.edu/licheng/referit/data/images/saiapr_tc-12.zip",
    file="saiapr_tc-12.zip (19,997 pictures)",
    place="images/saiapr_tc-12/",
    why=_RESEARCH,
)

OFFERS: dict[str, Offer] = {
    offer.name: offer
    for offer in (
        Offer("refcoco", (_REFCOCO,), (COCO,)),
        Offer("refcoco-google", (_REFCOCO,), (COCO,)),
        Offer("refcoco+", (_REFCOCO_PLUS,), (COCO,)),
        Offer("refcocog-umd", (_REFCOCOG,), (COCO,)),
        Offer("refcocog-google", (_REFCOCOG,), (COCO,)),
        Offer("refclef-unc", (_REFCLEF,), (_SAIAPR,)),
        Offer("refclef-berkeley", (_REFCLEF,), (_SAIAPR,)),
        Offer(
            "grefcoco",
            (
                ByHand(
                    page="https://huggingface.co/datasets/FudanCVL/gRefCOCO (or the Google Drive of github.com/henghuiding/gRefCOCO)",
                    file="grefs(unc).json and instances.json",
                    place="grefcoco/",
                    why="the licence (CC BY-NC-SA 4.0) is not for commercial use: read it first",
                ),
            ),
            (COCO,),
        ),
        Offer(
            "ref-youtube-vos",
            (
                ByHand(
                    page="https://youtube-vos.org/dataset/rvos",
                    file="meta_expressions/ of this page; train/ and valid/ out of train.zip and valid.zip of YouTube-VOS 2019",
                    place="ref-youtube-vos/",
                    why=_FORM,
                ),
                ByHand(
                    page="https://github.com/wjn922/ReferFormer (its data page)",
                    file="meta.json",
                    place="ref-youtube-vos/train/meta.json",
                    why="the official page lacks it",
                ),
            ),
        ),
        Offer(
            "ref-davis17",
            (
                ByHand(
                    page="https://davischallenge.org",
                    file="DAVIS-2017-Unsupervised-trainval-480p.zip and DAVIS-2017_semantics-480p.zip",
                    place="ref-davis/DAVIS/",
                    why="no address that stays is known",
                ),
                ByHand(
                    page="'Video Object Segmentation with Language Referring Expressions' (MPI)",
                    file="davis_text_annotations.zip",
                    place="ref-davis/davis_text_annotations/",
                    why="no address that stays is known",
                ),
            ),
        ),
        Offer(
            "a2d",
            (
                ByHand(
                    page="https://kgavrilyuk.github.io/publication/actor_action",
                    file="the sentences and the instance annotations",
                    place="a2d_sentences/text_annotations/",
                    why=_RESEARCH,
                ),
                ByHand(
                    page="the A2D site of the University of Michigan",
                    file="the videos and videoset.csv (Release)",
                    place="a2d_sentences/Release/",
                    why=_RESEARCH,
                ),
            ),
        ),
        Offer(
            "jhmdb",
            (
                ByHand(
                    page="https://github.com/wjn922/ReferFormer/issues/17",
                    file="the Google Drive mirror: Rename_Images, puppet_mask, jhmdb_annotation.txt",
                    place="jhmdb_sentences/",
                    why=_RESEARCH,
                ),
                ByHand(
                    page="the Google Drive of MTTR",
                    file="jhmdb_sentences_samples_metadata.json (the published frames: do not draw others)",
                    place="jhmdb_sentences/",
                    why=_SHARED,
                ),
            ),
        ),
        Offer(
            "mevis",
            (
                ByHand(
                    page="https://codalab.lisn.upsaclay.fr/competitions/15094 (links to OneDrive, Google Drive, Baidu)",
                    file="train, valid_u and valid, each with JPEGImages, meta_expressions.json and (not valid) mask_dict.json",
                    place="mevis/",
                    why="the licence (CC BY-NC-SA 4.0) is for research only, and the page asks for a login",
                ),
            ),
        ),
    )
}
"""What every published data set that refseg reads is made of, by name."""


def offer_of(name: str) -> Offer:
    """The offer of a data set.

    Raises:
        UnknownName: if no published data set is called so.
    """
    return OFFERS[published(name).name]
