"""Cases of LGFormer without a network: words, pixels, demo, metrics, references, and what a Swin file fills."""

from __future__ import annotations

import dataclasses
import json
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from parity.case import Case, Comparison, NotBuilt
from refseg.data.catalog import Place, open_published, open_table
from refseg.data.collate import collate
from refseg.data.dataset import ReadOptions
from refseg.data.published import PUBLISHED
from refseg.data.readers.image_set import ReferenceImages
from refseg.encoders.swin import SwinSpec, classification_state, start_of
from refseg.encoders.tokenizers.wordpiece import WordPieceTokenizer
from refseg.framing import place_frames
from refseg.media.drawing import red_overlay
from refseg.metrics.protocols import PROTOCOLS, Protocol
from refseg.metrics.scores import Pixels, overlap_scores
from refseg.models import catalog
from refseg.models.lgformer import config as settings
from refseg.models.lgformer.backbone import FusedSwin
from refseg.models.lgformer.convert import convert
from refseg.structures import Output

DATASET = "refcoco"  # whose layout the made-up annotations are laid out in


def run(case: Case) -> None:
    """Runs a case by what it tells."""
    config = case.config
    if "tokenizer" in config:
        return run_tokenizer(case)
    if "printed_by_the_published_evaluation" in config:
        return run_metrics(case)
    if "queries" in config:
        return run_references(case)
    if "items" in config:
        return run_items(case)
    if "out/network_input" in case.arrays:
        return run_demo(case)
    raise NotBuilt(f"the road of {case.id}")


# Words


def run_tokenizer(case: Case) -> None:
    """Ids by the case's vocabulary, before and after the cut."""
    config = case.config
    tokenizer = reader(config["vocab"], length=config["max_tokens"])
    tokens = tokenizer.encode(config["texts"])
    assert [tokenizer.ids(text) for text in config["texts"]] == config["untruncated_ids"]
    Comparison(case, {"out/input_ids": tokens.values, "out/attention_mask": tokens.valid}).check()


def reader(vocabulary: list[str], *, length: int) -> WordPieceTokenizer:
    tokenizer = WordPieceTokenizer("the case's", length=length, vocabulary=len(vocabulary))
    tokenizer.take("\n".join(vocabulary) + "\n")
    return tokenizer


# The demo, as the variant of that name does it


def run_demo(case: Case) -> None:
    """The network's input, the mask at the picture's size, and the drawing."""
    config = settings.VARIANTS["base-window12-demo"]
    image = case.tensor("in/image")
    spec = dataclasses.replace(config.frame, size=case.config["img_size"])
    pixels, placement = place_frames(image.permute(2, 0, 1)[None], spec)
    with torch.device("meta"):
        model = catalog.build("lgformer", "debug", enlarges_nearest=config.enlarges_nearest)
    [mask] = model.finish(Output(case.tensor("in/logits")[:, :, None]), [placement])
    computed = {
        "out/network_input": pixels[0],
        "out/mask": mask[0],
        "out/overlay": red_overlay(image.numpy(), mask[0].numpy(), draws_whole=True),
    }
    Comparison(case, computed).check()


# Metrics


def run_metrics(case: Case) -> None:
    """The family's protocol on logits and targets, and the numbers as they are printed."""
    protocol = PROTOCOLS["lgformer"]
    counts = case.config["sentences_per_image"]
    targets = case.tensor("in/target").bool().repeat_interleave(torch.tensor(counts), 0)
    answers = case.tensor("in/logits").sigmoid() > settings.LGFormerConfig().threshold
    rows = [
        Pixels(int((answer & target).sum()), int(answer.sum()), int(target.sum()))
        for answer, target in zip(answers, targets, strict=True)
    ]
    scores = overlap_scores(rows, protocol)
    precision = [scores[f"P@{threshold}"] for threshold in protocol.thresholds]
    assert printed(scores, protocol) == case.config["printed_by_the_published_evaluation"].split()
    computed = {
        "out/intersection": [row.intersection for row in rows],
        "out/union": [row.union for row in rows],
        "out/iou": [protocol.iou(row.intersection, row.union) for row in rows],
        "out/mean_iou": 100 * scores["mIoU"],
        "out/overall_iou": 100 * scores["oIoU"],
        "out/precision": 100 * np.array(precision),
    }
    Comparison(case, computed).check()


def printed(scores: dict[str, float], protocol: Protocol) -> list[str]:
    """The words of the published evaluation's last lines."""
    lines = [f"Final results: {protocol.label('mIoU')} is {protocol.show(scores['mIoU'])}"]
    lines += [f"precision@{x} = {protocol.show(scores[f'P@{x}'])}" for x in protocol.thresholds]
    lines.append(f"{protocol.label('oIoU')} = {protocol.show(scores['oIoU'])}")
    return " ".join(lines).split()


# References


@contextmanager
def laid_out(case: Case, annotations: list[dict[str, Any]] | None = None) -> Iterator[Path]:
    """A root that holds the case's annotations and pictures, as the published layout has them."""
    config = case.config
    instances = dict(config["instances"])
    if annotations is not None:
        others = {item["id"]: item for item in instances["annotations"]} | {
            item["id"]: item for item in annotations
        }
        instances["annotations"] = list(others.values())
    facts = PUBLISHED[DATASET]
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        folder = root / facts.folder
        folder.mkdir()
        (folder / f"refs({facts.split_by}).p").write_bytes(pickle.dumps(config["refs"], protocol=2))
        (folder / "instances.json").write_text(json.dumps(instances))
        images = root / facts.image_folders[0]
        images.mkdir(parents=True)
        for name, number in pictures_of(case).items():
            file = next(item["file_name"] for item in instances["images"] if item["id"] == number)
            Image.fromarray(case.arrays[f"in/image_{name}"]).save(images / file)
        yield root


def pictures_of(case: Case) -> dict[str, int]:
    """The items of the case, and the number of the picture that each tells of."""
    items = case.config.get("items", {})
    return {name: int(text.split("image ")[1].split(")")[0]) for name, text in items.items()}


def run_references(case: Case) -> None:
    """What the references are asked for, the masks of all, and the same masks from run-length codes."""
    for parts in (None, case.config["refclef_style_annotations"]):
        with laid_out(case, parts) as root:
            table = open_table(Place(PUBLISHED[DATASET], root / PUBLISHED[DATASET].folder))
            ids = table.arrays["ref.id"].tolist()
            counted = {number: table.count_mask(row) for row, number in enumerate(ids)}
            asked = {name: ids_of(table, name) for name in case.config["queries"]["getRefIds"]}
        assert asked == case.config["queries"]["getRefIds"]
        computed: dict[str, Any] = {f"out/mask_{number}": mask for number, mask in counted.items()}
        computed["out/areas"] = [int(counted[number].sum()) for number in sorted(counted)]
        Comparison(case, computed).check()


def ids_of(table, name: str) -> list[int]:
    """The answer to a query by the name that the case gives it."""
    split, _, rest = name.partition("_")
    if name.startswith("cat"):
        rows = table.query(categories=[int(name.removeprefix("cat"))])
    elif rest.startswith("cat"):
        rows = table.query(split, categories=[int(rest.removeprefix("cat"))])
    elif name.startswith("ref_ids_"):
        *numbers, split = name.removeprefix("ref_ids_").split("_")
        rows = table.query(split, ids=map(int, numbers))
    else:
        rows = table.query(None if name == "all" else name)
    return table.arrays["ref.id"][rows].tolist()


def run_items(case: Case) -> None:
    """Items of the data set as the network gets them: pixels, target, ids of all its phrases."""
    config = case.config
    spec = dataclasses.replace(settings.SQUARE_FRAMES, size=config["img_size"])
    protocol = PROTOCOLS["lgformer"]
    options = ReadOptions(text=protocol.text, masks=protocol.overlapping_parts, item="object")
    tokenizer = reader(config["vocab"], length=settings.LGFormerConfig().max_tokens)
    computed: dict[str, Any] = {}
    with laid_out(case) as root:
        for name, told in config["items"].items():
            split, number = told.split()[1].strip(","), int(told.split("item ")[1].split()[0])
            examples = open_published(DATASET, split=split, root=root, count=None, options=options)
            assert isinstance(examples, ReferenceImages)
            batch = collate([examples[number]], spec)
            tokens = tokenizer.encode(batch.phrases)
            target = batch.targets.masks[0, 0].numpy()
            pixels = batch.clips.pixels[0, 0]
            computed |= {
                f"out/image_{name}": pixels[:, ::7, ::7],
                f"out/target_{name}": np.packbits(target),
                f"out/input_ids_{name}": tokens.values.t()[None],
                f"out/attention_mask_{name}": tokens.valid.t()[None],
            }
            summary = config["summary"][name]
            assert int(target.sum()) == summary["target_sum"]
            assert abs(pixels.mean().item() - summary["image_mean"]) < 1e-5
            assert abs(pixels.std().item() - summary["image_std"]) < 1e-5
    Comparison(case, computed).check()


# What a classification file fills


def run_swin_start(case: Case) -> None:
    """Tables resized, names copied, ignored and kept: the published ones."""
    told = case.config
    spec = SwinSpec(
        embed_dim=told["embed_dim"],
        depths=tuple(told["depths"]),
        num_heads=tuple(told["num_heads"]),
        window=told["window_size"],
    )
    config = dataclasses.replace(
        settings.VARIANTS["debug"], backbone=spec, fusion_heads=(1,) * len(spec.depths)
    )
    network = FusedSwin(config)
    file = {"model": case.filled()}
    start = start_of(classification_state(file), network.swin.state_dict())
    copied = [name for name in start.tensors if name not in start.resized]
    assert sorted(copied) == sorted(told["copied_unchanged"])
    assert all(torch.equal(start.tensors[name], file["model"][name]) for name in copied)
    assert sorted(start.resized) == sorted(told["resized"])
    ignored = [name for name in told["ignored_checkpoint_keys"] if not name.endswith("attn_mask")]
    assert sorted(start.unused) == sorted(ignored)
    # The gates of the last stage are left out here, and keep what they begin with there.
    kept = our_names(told["kept_at_initial_value"], config)
    fresh = {f"swin.{name}" for name in start.kept}
    fresh |= {name for name in network.state_dict() if not name.startswith("swin.")}
    assert set(kept.values()) == fresh
    network.swin.load_state_dict(start.tensors, strict=False)
    held = network.swin.state_dict()
    Comparison(case, {f"out/{name}": held[name] for name in start.resized}).check()


def our_names(names: list[str], config: settings.LGFormerConfig) -> dict[str, str]:
    """Published names of the backbone to ours, by the conversion's own rules."""
    _, report = convert({f"backbone.{name}": torch.zeros(1, 1, 1) for name in names}, config)
    assert not report.left
    ours = report.renamed | {parts[0]: name for name, parts in report.merged.items()}
    return {name.removeprefix("backbone."): there.removeprefix("backbone.") for name, there in ours.items()}
