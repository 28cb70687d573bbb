"""The categories of published data sets, in the order in which published codes number them.

What is published about each data set: its files, splits, counts, licences and where to get it. Plain facts.

Counts are those of the published papers, data set cards and files; a count that nobody states is None. A count marked
`is_rough` was quoted from memory by its source and is told, but nothing fails by it.

How each published data set is got: what may be fetched directly, and what a person must fetch from which page.

A file is fetched directly only where its licence lets anybody copy it and its address is known to answer without a form:
the annotations of REFER (Apache-2.0) and the pictures of COCO. Everything else asks for a login, an agreement or a click; for
those the page, the file and the place to put it are told. No publisher states checksums of these files; members of an archive are
checked by its own, and the SHA-256 of what came is noted beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from refseg.errors import UnknownName

_YOUTUBE = (
    "airplane ape bear bike bird boat bucket bus camel cat cow crocodile deer dog dolphin duck eagle earless_seal elephant "
    "fish fox frisbee frog giant_panda giraffe hand hat hedgehog horse knife leopard lion lizard monkey motorbike mouse "
    "others owl paddle parachute parrot penguin person plant rabbit raccoon sedan shark sheep sign skateboard snail snake "
    "snowboard squirrel surfboard tennis_racket tiger toilet train truck turtle umbrella whale zebra"
)


YOUTUBE_CATEGORIES = tuple(_YOUTUBE.split())
"""The 65 categories of Ref-YouTube-VOS in alphabetical order; a label is a place in it."""


_DAVIS = (
    "airplane,backpack,ball,bear,bicycle,bird,boat,bottle,box,bus,camel,car,carriage,cat,cellphone,chamaleon,cow,deer,dog,"
    "dolphin,drone,elephant,excavator,fish,goat,golf cart,golf club,grass,guitar,gun,helicopter,horse,hoverboard,kart,key,"
    "kite,koala,leash,lion,lock,mask,microphone,monkey,motorcycle,oar,paper,paraglide,person,pig,pole,potted plant,puck,"
    "rack,rhino,rope,sail,scale,scooter,selfie stick,sheep,skateboard,ski,ski poles,snake,snowboard,stick,stroller,"
    "surfboard,swing,tennis racket,tractor,trailer,train,truck,turtle,varanus,violin,wheelchair"
)


DAVIS_CATEGORIES = tuple(_DAVIS.split(","))
"""The 78 categories of DAVIS 2017 in alphabetical order."""


COCO_CATEGORY_IDS = tuple(n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""The 80 category numbers that COCO uses."""


Task = Literal["image", "generalised image", "video"]


Form = Literal["refer", "grefcoco", "youtube", "davis", "a2d", "jhmdb", "mevis"]


COCO_IMAGES = "COCO train2014 (82,783 pictures, 13 GB): http://images.cocodataset.org/zips/train2014.zip"


REFER_LICENCE = "annotations Apache-2.0 (REFER) over COCO (CC BY 4.0); pictures under their Flickr licences"


_REFER_MIRRORS = (
    "Kaggle: lhhhhl/refcoco-and-refcoco",
    "Hugging Face: wusize/coco (tar files of the folders)",
    "further mirrors: github.com/lichengunc/refer/issues/14",
)


_ARCHIVE = "http://web.archive.org/web/{}/https://bvisionweb1.cs.unc.edu/licheng/referit/data/{}.zip"


COCO_FOLDERS = ("images/mscoco/images/train2014", "images/train2014", "train2014")
"""Where the published codes keep the pictures of COCO, below the root; searched in this order."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much a split, or a whole data set, holds."""

    clips: int | None = None  # pictures or videos
    objects: int | None = None
    phrases: int | None = None
    is_rough: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """One data set as published."""

    name: str  # what refseg calls it
    title: str
    task: Task
    form: Form
    folder: str  # below the root
    licence: str
    splits: dict[str, Counts]
    sources: tuple[str, ...]
    layout: tuple[str, ...]  # of files below the root
    size: str = "not stated by its publisher"  # to download
    split_by: str = ""  # of refs(<split_by>).p
    image_folders: tuple[str, ...] = ()
    total: Counts = field(default_factory=Counts)
    default_text: Literal["raw", "sent"] = "sent"
    remarks: tuple[str, ...] = ()


def _refer(
    name: str,
    title: str,
    folder: str,
    split_by: str,
    *,
    stamp: str,
    splits: dict[str, Counts],
    total: Counts | None = None,
    image_folders: tuple[str, ...] = COCO_FOLDERS,
    images: str = COCO_IMAGES,
    licence: str = REFER_LICENCE,
    remarks: tuple[str, ...] = (),
) -> Published:
    return Published(
        name=name,
        title=title,
        task="image",
        form="refer",
        folder=folder,
        split_by=split_by,
        licence=licence,
        size="pictures 13 GB" if images == COCO_IMAGES else "19,997 pictures",
        splits=splits,
        total=total or Counts(),
        image_folders=image_folders,
        sources=(
            f"Web Archive copy (slow; answered until December 2025 by reports of users): {_ARCHIVE.format(stamp, folder)}",
            *_REFER_MIRRORS,
            f"pictures: {images}",
        ),
        layout=(
            f"{folder}/instances.json",
            f"{folder}/refs({split_by}).p",
            *(f"{place}/*.jpg" for place in image_folders),
        ),
        remarks=("the official host bvisionweb1.cs.unc.edu has been down since September 2022", *remarks),
    )


_SAIAPR = "saiapr_tc-12 (19,997 pictures): http://web.archive.org/web/20220515000000/http://bvisionweb1.cs.unc.edu/licheng/referit/data/images/saiapr_tc-12.zip"


_CLEF = {
    "image_folders": ("images/saiapr_tc-12",),
    "images": _SAIAPR,
    "licence": "annotations Apache-2.0 (REFER); pictures of IAPR TC-12, free for research",
}


_OBJECT_SPLIT = (
    "the splits are by object: one picture can be in train and in val; `exclude_images_of` takes such pictures out",
)


_REFER_SETS = (
    _refer(
        "refcoco",
        "RefCOCO (unc)",
        "refcoco",
        "unc",
        stamp="20220413011718",
        splits={
            "train": Counts(16_994, 42_404, 120_624),
            "val": Counts(1_500, 3_811, 10_834),
            "testA": Counts(750, 1_975, 5_657),
            "testB": Counts(750, 1_810, 5_095),
        },
        total=Counts(19_994, 50_000, 142_210),
        remarks=("some papers say 142,209 phrases",),
    ),
    _refer(
        "refcoco-google",
        "RefCOCO (google)",
        "refcoco",
        "google",
        stamp="20220413011718",
        splits={
            "train": Counts(19_213, 40_000),
            "val": Counts(4_559, 5_000),
            "test": Counts(4_527, 5_000),
        },
        total=Counts(None, 50_000),
        remarks=_OBJECT_SPLIT,
    ),
    _refer(
        "refcoco+",
        "RefCOCO+ (unc)",
        "refcoco+",
        "unc",
        stamp="20220413011656",
        splits={
            "train": Counts(16_992, 42_278, 120_191),
            "val": Counts(1_500, 3_805, 10_758),
            "testA": Counts(750, 1_975, 5_726),
            "testB": Counts(750, 1_798, 4_889),
        },
        total=Counts(19_992, 49_856, 141_564),
    ),
    _refer(
        "refcocog-umd",
        "RefCOCOg (umd)",
        "refcocog",
        "umd",
        stamp="20220413012904",
        splits={
            "train": Counts(21_899, 42_226, 80_512),
            "val": Counts(1_300, 2_573, 4_896),
            "test": Counts(2_600, 5_023, 9_602),
        },
        total=Counts(25_799, 49_822, 95_010),
    ),
    _refer(
        "refcocog-google",
        "RefCOCOg (google)",
        "refcocog",
        "google",
        stamp="20220413012904",
        splits={"train": Counts(24_698, 44_822, 85_474), "val": Counts(4_650, 5_000, 9_536)},
        remarks=(*_OBJECT_SPLIT, "its test split was never released"),
    ),
    _refer(
        "refclef-unc",
        "RefClef (unc)",
        "refclef",
        "unc",
        stamp="20220413011817",
        splits={name: Counts() for name in ("train", "val", "testA", "testB", "testC")},
        **_CLEF,  # type: ignore[arg-type]
    ),
    _refer(
        "refclef-berkeley",
        "RefClef / ReferIt (berkeley)",
        "refclef",
        "berkeley",
        stamp="20220413011817",
        splits={
            "train": Counts(None, None, 54_127),
            "val": Counts(None, None, 5_842),
            "test": Counts(None, None, 60_103),
        },
        remarks=("2 train pictures and 1 test picture are missing from the release",),
        **_CLEF,  # type: ignore[arg-type]
    ),
)


_OTHERS = (
    Published(
        name="grefcoco",
        title="gRefCOCO",
        task="generalised image",
        form="grefcoco",
        folder="grefcoco",
        split_by="unc",
        licence="CC BY-NC-SA 4.0 (not for commercial use)",
        size="pictures 13 GB",
        splits={name: Counts() for name in ("train", "val", "testA", "testB")},
        # The files released later have been counted as 259,859 phrases; the paper says 278,232.
        total=Counts(19_994, 60_287, 278_232, is_rough=True),
        sources=(
            "Hugging Face: FudanCVL/gRefCOCO",
            "Google Drive: the link on github.com/henghuiding/gRefCOCO",
            f"pictures: {COCO_IMAGES}",
        ),
        layout=(
            "grefcoco/grefs(unc).json (or .p)",
            "grefcoco/instances.json",
            *(f"{place}/*.jpg" for place in COCO_FOLDERS),
        ),
        image_folders=COCO_FOLDERS,
        default_text="raw",
        remarks=("the paper counts 80,022 phrases of several objects and 32,202 of none",),
    ),
    Published(
        name="ref-youtube-vos",
        title="Ref-YouTube-VOS",
        task="video",
        form="youtube",
        folder="ref-youtube-vos",
        licence="annotations CC BY 4.0, for research",
        splits={"train": Counts(3_471, None, 12_913), "valid": Counts(202), "test": Counts(305)},
        total=Counts(3_978, None, 15_009),
        sources=(
            "https://youtube-vos.org/dataset/rvos (frames and masks: train.zip of YouTube-VOS 2019)",
            "Codalab competition 29139 (data, and the server that measures valid and test)",
            "meta.json, which the official page lacks, is uploaded again by github.com/wjn922/ReferFormer",
        ),
        layout=(
            "ref-youtube-vos/meta_expressions/{train,valid,test}/meta_expressions.json",
            "ref-youtube-vos/train/{JPEGImages,Annotations}/<video>/<frame>.{jpg,png}",
            "ref-youtube-vos/train/meta.json",
            "ref-youtube-vos/valid/JPEGImages/<video>/<frame>.jpg",
        ),
        remarks=(
            "valid/meta_expressions.json lists the test videos too; refseg takes those of test/ out of it, and 202 remain",
        ),
    ),
    Published(
        name="ref-davis17",
        title="Ref-DAVIS17",
        task="video",
        form="davis",
        folder="ref-davis",
        licence="frames CC BY 4.0 where DAVIS owns them",
        splits={"train": Counts(60), "valid": Counts(30)},
        total=Counts(90, 205, 1_544, is_rough=True),
        sources=(
            "https://davischallenge.org: DAVIS-2017-Unsupervised-trainval-480p.zip, DAVIS-2017_semantics-480p.zip",
            "the page 'Video Object Segmentation with Language Referring Expressions' (MPI): davis_text_annotations.zip",
        ),
        layout=(
            "ref-davis/DAVIS/{JPEGImages,Annotations_unsupervised}/480p/<video>/<frame>.{jpg,png}",
            "ref-davis/DAVIS/ImageSets/2017/{train,val}.txt",
            "ref-davis/DAVIS/davis_semantics.json",
            "ref-davis/davis_text_annotations/Davis17_annot{1,1_full_video,2,2_full_video}.txt",
            "or, converted: the layout of Ref-YouTube-VOS with train and valid",
        ),
    ),
    Published(
        name="a2d",
        title="A2D-Sentences",
        task="video",
        form="a2d",
        folder="a2d_sentences",
        licence="research only; videos from YouTube",
        splits={
            "train": Counts(3_017, None, 5_359, is_rough=True),
            "test": Counts(737, None, 1_295, is_rough=True),
        },
        total=Counts(3_782, 4_825, 6_656, is_rough=True),
        sources=(
            "https://kgavrilyuk.github.io/publication/actor_action (sentences and instance annotations)",
            "videos: the A2D site of the University of Michigan",
            "the JSON lists: Google Drive, linked from github.com/mttr2021/MTTR; refseg also makes them from the raw files",
        ),
        layout=(
            "a2d_sentences/Release/videoset.csv",
            "a2d_sentences/Release/clips320H/<video>.mp4",
            "a2d_sentences/text_annotations/{a2d_annotation,a2d_missed_videos}.txt",
            "a2d_sentences/text_annotations/a2d_annotation_with_instances/<video>/<frame>.h5",
            "a2d_sentences/a2d_sentences_single_frame_{train,test}_annotations.json (optional)",
        ),
    ),
    Published(
        name="jhmdb",
        title="JHMDB-Sentences",
        task="video",
        form="jhmdb",
        folder="jhmdb_sentences",
        licence="research only",
        splits={"test": Counts(928, None, 928)},
        sources=(
            "mirrors on Google Drive: github.com/wjn922/ReferFormer issue 17, github.com/heshuting555/ReferDINO issue 9",
            "the list of frames: github.com/mttr2021/MTTR, datasets/jhmdb_sentences",
        ),
        layout=(
            "jhmdb_sentences/Rename_Images/<action>/<video>/<frame>.png",
            "jhmdb_sentences/puppet_mask/<action>/<video>/puppet_mask.mat",
            "jhmdb_sentences/jhmdb_sentences_samples_metadata.json",
        ),
        remarks=(
            "the JHMDB site is gone",
            "3 frames of each video are evaluated, 2,784 in all: the published list",
        ),
    ),
    Published(
        name="mevis",
        title="MeViS",
        task="video",
        form="mevis",
        folder="mevis",
        licence="CC BY-NC-SA 4.0, research only",
        splits={
            "train": Counts(1_662, None, 23_051),
            "valid_u": Counts(50, None, 793),
            "valid": Counts(140, None, 2_236),
            "test": Counts(154, None, 2_490),
        },
        total=Counts(2_006, 8_171, 28_570),
        sources=(
            "https://codalab.lisn.upsaclay.fr/competitions/15094 (links to OneDrive, Google Drive, Baidu)",
            "Hugging Face: FudanCVL/MeViS",
        ),
        layout=(
            "mevis/{train,valid_u,valid}/JPEGImages/<video>/<frame>.jpg",
            "mevis/{train,valid_u,valid}/meta_expressions.json",
            "mevis/{train,valid_u}/mask_dict.json",
        ),
    ),
)


PUBLISHED: dict[str, Published] = {data.name: data for data in (*_REFER_SETS, *_OTHERS)}
"""Every published data set that refseg reads, by name."""


ALIASES = {
    "refcoco-unc": "refcoco",
    "refcoco+-unc": "refcoco+",
    "refcocoplus": "refcoco+",
    "refcocog": "refcocog-umd",
    "refclef": "refclef-unc",
    "referit": "refclef-berkeley",
    "ref-davis": "ref-davis17",
    "a2d-sentences": "a2d",
    "jhmdb-sentences": "jhmdb",
    "ref-ytvos": "ref-youtube-vos",
}
"""Other names that people use."""


def published(name: str) -> Published:
    """The facts about the data set `name`.

    Raises:
        UnknownName: if no published data set is called so.
    """
    found = PUBLISHED.get(ALIASES.get(name.lower(), name.lower()))
    if found is None:
        raise UnknownName("data set", name, PUBLISHED)
    return found


def is_published(name: str) -> bool:
    """Whether a published data set is called so."""
    return ALIASES.get(name.lower(), name.lower()) in PUBLISHED


def names() -> Iterable[str]:
    """The names of all published data sets."""
    return PUBLISHED.keys()


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


def _refer_download(folder: str, stamp: str, *splits: str) -> Direct:
    return Direct(
        url=_ARCHIVE.format(stamp, folder),
        file=f"{folder}.zip",
        inner=folder,
        folder=folder,
        needs=("instances.json", *(f"refs({split}).p" for split in splits)),
        licence="annotations of REFER: Apache-2.0",
        most_bytes=2_000_000_000,
    )


_REFCOCO = _refer_download("refcoco", "20220413011718", "unc", "google")


_REFCOCO_PLUS = _refer_download("refcoco+", "20220413011656", "unc")


_REFCOCOG = _refer_download("refcocog", "20220413012904", "umd", "google")


_REFCLEF = _refer_download("refclef", "20220413011817", "unc", "berkeley")


_SAIAPR_OFFER = ByHand(
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
        Offer("refclef-unc", (_REFCLEF,), (_SAIAPR_OFFER,)),
        Offer("refclef-berkeley", (_REFCLEF,), (_SAIAPR_OFFER,)),
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
