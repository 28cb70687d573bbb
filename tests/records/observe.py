"""What is recorded of names, data, batches and runs; see test_records.py."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import signal
import tarfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import typer
from PIL import Image
from safetensors.torch import load_file

from data import refer_maker
from refseg.checkpoints.configs import to_plain
from refseg.checkpoints.native import read_header
from refseg.cli import app, load_verbs
from refseg.data.catalog import open_dataset
from refseg.data.dataset import ReadOptions, Subset
from refseg.data.scenes.dataset import Scenes, ScenesSpec
from refseg.errors import RefsegError
from refseg.models import catalog
from refseg.training.batches import batches
from refseg.training.loop import open_data, train
from refseg.training.recipe import packaged_recipes, read_recipe, run_from_values, to_toml
from refseg.training.signals import Interrupted
from training import recipes

SCENES40 = Path(__file__).parents[1] / "assets" / "scenes40" / "phrases.jsonl"


def digest(value: Any) -> str:
    """Names a tensor by its type, shape and bytes, and plain data by its JSON."""
    if isinstance(value, torch.Tensor):
        content = describe_tensor(value).encode() + value.contiguous().numpy().tobytes()
    else:
        content = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def describe_tensor(tensor: torch.Tensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape}"


# State dicts


def family_variants(family: str) -> list[str]:
    return list(catalog.family(family).variants)


def state_dict_lines(family: str, variant: str) -> list[str]:
    """One line a module, in the order of the state dict: optimizer states count parameters in that order."""
    with torch.device("meta"):  # no values are drawn, so the largest variant takes no memory
        state = catalog.build(family, variant).state_dict()
    lines: list[list[str]] = []
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        entry = f"{leaf} {describe_tensor(tensor)}"
        if lines and lines[-1][0] == module:
            lines[-1].append(entry)
        else:
            lines.append([module, entry])
    return [f"{module}: {', '.join(entries)}" for module, *entries in lines]


def state_dict_digests(family: str) -> dict[str, str]:
    return {variant: digest(state_dict_lines(family, variant)) for variant in family_variants(family)}


def config_digests(family: str) -> dict[str, str]:
    return {name: digest(to_plain(config)) for name, config in catalog.family(family).variants.items()}


# Data sets

REFCOCO_OPTIONS: tuple[dict[str, Any], ...] = (
    {"item": "object", "text": "raw", "masks": "exactly-one"},
    {"item": "phrase", "boxes": "annotated"},
    {"item": "phrase", "outlines": True},
    {"text": "squeezed", "bad_records": "skip"},
)
# Miniature, name or folder, splits, options of reading beside the default ones.
STORED: tuple[tuple[str, str, tuple[str, ...], tuple[dict[str, Any], ...]], ...] = (
    ("refcoco", "refcoco", ("train", "val", "testA", "testB"), REFCOCO_OPTIONS),
    ("refcoco", "refcoco-google", ("train", "val", "test"), ()),
    ("refcoco_plus_python2_pickle", "refcoco+", ("train", "val", "testA", "testB"), ({"item": "phrase"},)),
    ("refcocog", "refcocog-umd", ("train", "val", "test"), ({"item": "object"},)),
    ("refcocog", "refcocog-google", ("train", "val"), ()),
    ("refclef", "refclef-unc", ("train", "val", "testA", "testB", "testC"), ()),
    ("refclef", "refclef-berkeley", ("train", "val", "test"), ()),
    ("grefcoco", "grefcoco", ("train", "val", "testA", "testB"), ({"item": "phrase"}, {"text": "sent"})),
    (
        "ref_youtube_vos",
        "ref-youtube-vos",
        ("train", "valid", "test"),
        ({"item": "phrase"}, {"item": "object"}),
    ),
    ("ref_davis17", "ref-davis17", ("train", "valid"), ({"item": "phrase"},)),
    ("a2d_sentences", "a2d", ("train", "test"), ({"item": "phrase", "window": 2},)),
    ("jhmdb_sentences", "jhmdb", ("test",), ({"item": "phrase", "window": 3},)),
    ("mevis", "mevis", ("train", "valid_u", "valid", "test"), ({"item": "phrase"},)),
    ("refcoco_coco_form", "coco/refcoco", ("train", "val", "testA", "testB"), ({"item": "phrase"},)),
    ("refcoco_parquet", "objects_form", ("train", "val", "test", "testA", "testB"), ()),
    ("refcoco_parquet", "lmms_form", ("train", "val", "test", "testA", "testB"), ()),
)
# Scenes of the world of shapes; the other one depends on the machine's emoji font, so nothing is recorded of it.
SCENES: tuple[dict[str, Any], ...] = (
    {"split": "train"},
    {"split": "val", "seed": 7, "size": 96, "phrases": 5},
    {"split": "new"},
    {"split": "train", "phrases": 0},
    {"split": "train", "frames": 6},
    {"split": "val", "frames": 3, "motions": ["left", "right"], "twins": 1.0, "registers": {"mot": 1.0}},
    {"split": "train", "registers": {"rel": 0.5, "none": 0.3, "multi": 0.2}},
)


def stored_set(case: str, name: str, folder: Path) -> dict[str, Any]:
    """Of every split of a miniature, read by default and with further options."""
    splits, variations = next((s, v) for c, n, s, v in STORED if (c, n) == (case, name))
    root = folder / case
    shutil.copytree(recipes.CASES / case, root)  # readers write their index beside the files
    is_path = (root / name).is_dir() and case in ("refcoco_coco_form", "refcoco_parquet")
    found = {split: _read(root, name, split, {}, is_path=is_path) for split in splits}
    for options in variations:
        split = "valid_u" if name == "mevis" else splits[0]
        found[f"{split} {json.dumps(options)}"] = _read(root, name, split, options, is_path=is_path)
    return found


def _read(root: Path, name: str, split: str, options: dict[str, Any], *, is_path: bool) -> dict[str, Any]:
    place: dict[str, Any] = {} if is_path else {"root": root}
    if options:
        place["options"] = ReadOptions.of(options)
    try:
        data = open_dataset(root / name if is_path else name, split=split, **place)
    except RefsegError as error:
        return {"refused": type(error).__name__}
    annotations = [_annotation(data.annotation(index)) for index in range(len(data))]
    return data_set(data) | {"annotations": digest(annotations)}


def _annotation(annotation: Any) -> list[Any]:
    values = {field.name: getattr(annotation, field.name) for field in dataclasses.fields(annotation)}
    values["paths"] = [path.name for path in annotation.paths]
    return [values[name] for name in sorted(values)]


def data_set(data: Any) -> dict[str, Any]:
    """Its fingerprint, its words, and its first and last example."""
    chosen = sorted({0, len(data) - 1})
    return {
        "length": len(data),
        "fingerprint": data.fingerprint(),
        "describe": digest(data.describe()),
        "vocabulary": digest(list(data.vocabulary)),
        "examples": {str(index): example_facts(data[index]) for index in chosen},
    }


def example_facts(example: Any) -> dict[str, Any]:
    facts = {
        "name": example.name,
        "phrases": list(example.phrases),
        "frames": describe_tensor(example.frames),
        "levels": averages(example.frames),
    }
    for name in ("registers", "ids", "objects", "frame_names"):
        if getattr(example, name) is not None:
            facts[name] = list(getattr(example, name))
    for name in ("target_frames", "labels", "no_target"):
        if getattr(example, name) is not None:
            facts[name] = getattr(example, name).tolist()
    if example.masks is not None:
        facts["masks"] = mask_facts(example.masks)
    if example.boxes is not None:
        facts["boxes"] = [round(value, 4) for value in example.boxes.flatten().tolist()]
    if example.outlines is not None:
        facts["outlines"] = [[0 if each is None else len(each) for each in row] for row in example.outlines]
    if example.things is not None:
        facts["things"] = things_facts(example.things)
    return facts


def mask_facts(masks: torch.Tensor) -> dict[str, Any]:
    """The area in every frame of every phrase, and the very pixels; of soft masks, sums."""
    areas = masks.flatten(2).sum(-1)
    if masks.is_floating_point():
        return {"kind": describe_tensor(masks), "sums": [round(v, 2) for v in areas.flatten().tolist()]}
    return {"kind": describe_tensor(masks), "areas": areas.tolist(), "pixels": digest(masks)}


def things_facts(things: Any) -> dict[str, Any]:
    facts = {"ids": digest(things.ids), "nouns": things.nouns.tolist(), "colours": things.colours.tolist()}
    return facts if things.motions is None else facts | {"motions": things.motions.tolist()}


def averages(frames: torch.Tensor) -> list[float]:
    """Of every channel of every quarter, over all frames: a mirrored, cut or recoloured picture shows in them.

    JPEG and video decoders and the resampling of floats differ in the last bit between builds and processors, so pixels
    themselves are not compared.
    """
    height, width = (side // 2 for side in frames.shape[-2:])
    flat = frames.flatten(0, -4).double()
    quarters = (
        flat[..., y, x]
        for y in (slice(height), slice(height, None))
        for x in (slice(width), slice(width, None))
    )
    return [round(value, 4) for quarter in quarters for value in quarter.mean((0, 2, 3)).tolist()]


def scenes_set(number: int) -> dict[str, Any]:
    return data_set(Scenes(ScenesSpec.of({"sprites": "none", "size": 64, "count": 20, **SCENES[number]})))


def phrase_files(folder: Path) -> dict[str, Any]:
    pictures = open_dataset(SCENES40)
    return {
        "scenes40": data_set(pictures),
        "scenes40, some": data_set(Subset(pictures, [0, 2, 5])),
        "pictures": data_set(open_dataset(recipes.made_data(folder / "pictures"), split="train")),
        "clips": data_set(
            open_dataset(recipes.made_data(folder / "clips", frames=4), split="train", count=5)
        ),
    }


def own_refer_form(folder: Path) -> dict[str, Any]:
    written = refer_maker.write(folder, name="mine", split_by="me")
    return data_set(open_dataset(written, split="train"))


def video_sentences(folder: Path) -> dict[str, Any]:
    """VLFormer's form of Ref-YouTube-VOS: one file a split, one record an expression."""
    frames = folder / "train" / "JPEGImages" / "v"
    frames.mkdir(parents=True)
    for number in range(3):
        Image.fromarray(np.full((10, 16, 3), number * 10, np.uint8)).save(frames / f"{number}.jpg")
    video = {"id": 7, "name": "v", "file_names": [f"v/{n}.jpg" for n in range(3)], "height": 10, "width": 16}
    square, runs = [[4, 2, 12, 2, 12, 8, 4, 8]], {"size": [10, 16], "counts": [52, 3, 105]}
    thing = {"id": 3, "video_id": 7, "category_id": 9, "iscrowd": 0}
    thing |= {"bboxes": [[4, 2, 8, 6], None, [5, 2, 1, 3]], "segmentations": [square, None, runs]}
    said = [
        {"id": number, "vid_id": 7, "exp_id": number, "anno_id": 3, "expression": text}
        for number, text in enumerate(("the dog", "left one"))
    ]
    categories = [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}]
    form = {"videos": [video | {"length": 3}], "categories": categories, "annotations": [thing]}
    (folder / "train.json").write_text(json.dumps(form | {"expressions": said}))
    return data_set(open_dataset(folder, split="train"))


# Recipes


def recipe_names() -> list[str]:
    return list(packaged_recipes())


def recipe_facts(name: str, folder: Path) -> dict[str, Any]:
    """The recipe in full, and its first three batches of two, from miniatures, made pictures or scenes of shapes."""
    recipe = to_toml(read_recipe(packaged_recipes()[name], name=name))
    run = _on_small_data(name, folder)
    variant = catalog.variant(run.family, run.variant)
    frame = dataclasses.replace(variant.frame, **run.model.get("frame", {}))
    examples, plan = open_data(run, variant.frame.size)
    feed = batches(examples, plan, frame, start=0)
    return {"recipe": digest(recipe), "batches": [batch_facts(next(feed)) for _ in range(3)]}


def _on_small_data(name: str, folder: Path) -> Any:
    values = read_recipe(packaged_recipes()[name]).model_dump(mode="json", exclude_none=True)
    data = values["data"]
    if data["name"] == "scenes":
        data |= {"workers": 0, "options": data["options"] | {"sprites": "none"}}
        if "clips" in data:
            data["clips"]["batch_size"] = 1
        run = run_from_values(values, source=name)
    elif data["name"].endswith(".jsonl"):
        frames = data["sample"]["frames"] + 2 if "sample" in data else 1
        data |= {"workers": 0, "name": str(recipes.made_data(folder / "made", frames=frames))}
        run = run_from_values(values, source=name)
    else:
        run = recipes.on_miniatures(name, folder, workers=0)
    return run.model_copy(update={"run": run.run.model_copy(update={"batch_size": 2})})


def batch_facts(batch: Any) -> dict[str, Any]:
    clips, targets = batch.clips, batch.targets
    facts = {
        "phrases": list(batch.phrases),
        "clip_of_phrase": batch.clip_of_phrase.tolist(),
        "placements": [list(dataclasses.astuple(placement)) for placement in batch.placements],
        "frames": describe_tensor(clips.pixels),
        "pixels": averages(clips.pixels),
        "valid": clips.valid.flatten(1).sum(1).tolist(),
        "content": clips.content.tolist(),
        "target_frames": None if clips.target_frames is None else clips.target_frames.tolist(),
    }
    if targets is None:
        return facts
    return facts | {
        "masks": mask_facts(targets.masks),
        "visible": targets.visible.int().tolist(),
        "boxes": [round(value, 4) for value in targets.boxes.flatten().tolist()],
        "labels": targets.labels.tolist(),
        "things": None if targets.things is None else [things_facts(each) for each in targets.things],
    }


# Runs

STEPS, STOPPED_AFTER = 6, 3
RUN: dict[str, Any] = {
    "name": "small",
    "family": "scout",
    "variant": "debug",
    "seed": 3,
    "model": {"head_dim": 4, "hidden_dim": 4, "feed_forward_dim": 4, "mask_channels": 4, "motion_dim": 4}
    | {"stem_channels": 4, "stage_channels": [4, 4, 4, 4], "fusion_dims": [4, 4, 4, 4]}
    | {"cell_layers": 1, "query_layers": 1, "frame": {"size": 32}},
    "data": {"name": "scenes", "phrases": 2, "flip": 0.5, "size": 32, "options": {"sprites": "none"}},
    "optimizer": {"lr": 1e-3, "clip_norm": 1.0, "accumulate": 2},
    "schedule": {"warmup_steps": 2},
    "run": {"steps": STEPS, "batch_size": 2, "ema": 0.9, "weights": "float16", "log_every": 1}
    | {"evaluate_every": 2, "evaluate_examples": 2, "save_every": 2},
}


def train_run(run: Any, folder: Path) -> None:
    """Trains or goes on, on one thread: sums over threads are added in the order in which they end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(run, folder, device=torch.device("cpu"), is_quiet=True)
    finally:
        torch.set_num_threads(threads)


def whole_run(folder: Path) -> Path:
    folder.mkdir()
    train_run(run_from_values(RUN, source="records"), folder)
    return folder


def stopped_run(folder: Path) -> Path:
    """A run that is asked to stop while it reads a batch, and has done STOPPED_AFTER steps when it does."""
    folder.mkdir()
    read, asked = Scenes.__getitem__, []

    def read_or_stop(self: Scenes, index: int) -> Any:
        asked.extend([index] if self.spec.split == "train" else [])
        if len(asked) == 4 * STOPPED_AFTER and self.spec.split == "train":
            signal.raise_signal(signal.SIGTERM)  # answered when the step is done
        return read(self, index)

    with patch.object(Scenes, "__getitem__", read_or_stop):
        try:
            train_run(run_from_values(RUN, source="records"), folder)
        except Interrupted:
            return folder
    raise AssertionError("the run did not stop")


def resume_run(folder: Path) -> Path:
    train_run(read_recipe(folder / "run.toml"), folder)
    return folder


def losses(folder: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {str(line["step"]): line["loss"] for line in lines if "loss" in line}


def weights(path: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "state.pt", weights_only=True)


def run_facts(folder: Path) -> dict[str, Any]:
    """Names of files, and their keys; weights differ between processors, so their values are not recorded."""
    header = dataclasses.asdict(read_header(folder / "last.safetensors"))
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "run.toml": (folder / "run.toml").read_text().splitlines(),
        "log.jsonl": [" ".join(keys(line)) for line in lines],
        "state.pt": state_facts(state(folder)),
        "last.safetensors": keys(header),
        "card.json": _of_any_machine(keys(json.loads((folder / "card.json").read_text()))),
        "summary.json": keys(json.loads((folder / "summary.json").read_text())),
    }


def _of_any_machine(found: list[str]) -> list[str]:
    """Without what there is on one machine and not on another: its parts, the packages that are installed."""
    return [key for key in found if ".machine." not in key and ".versions." not in key]


def state_facts(values: dict[str, Any]) -> dict[str, Any]:
    """Keys and shapes; of the optimizer's groups those that are ours, since further ones come with versions of torch."""
    groups = [
        {"lr_scale": group["lr_scale"], "weight_decay": group["weight_decay"], "params": group["params"]}
        for group in values["optimizer"]["param_groups"]
    ]
    optimizer = {"param_groups": digest(groups), "state": structure(values["optimizer"]["state"])}
    return structure(values) | {"optimizer": optimizer}


def keys(value: Any, where: str = "") -> list[str]:
    """The keys of JSON at every depth, dotted; those of the entries of a list together."""
    if isinstance(value, list):
        return sorted({key for each in value for key in keys(each, f"{where}[]")})
    if not isinstance(value, dict):
        return []
    own = {f"{where}.{key}".lstrip(".") for key in value}
    return sorted(own.union(*(keys(each, f"{where}.{key}".lstrip(".")) for key, each in value.items())))


MOST_ENTRIES = 40


def structure(value: Any) -> Any:
    """Keys, types and shapes; of a long mapping or list a digest of those."""
    if isinstance(value, torch.Tensor):
        return describe_tensor(value)
    if isinstance(value, dict):
        inner = {str(key): structure(each) for key, each in value.items()}
        return inner if len(inner) <= MOST_ENTRIES else f"{len(inner)} entries {digest(inner)}"
    if isinstance(value, list | tuple):
        entries = [structure(each) for each in value]
        return entries if len(entries) <= MOST_ENTRIES else f"{len(entries)} entries {digest(entries)}"
    if isinstance(value, str) and value.startswith("{"):
        return keys(json.loads(value))
    return type(value).__name__


def pack(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:xz") as file:
        for path in sorted(folder.iterdir()):
            file.add(path, arcname=path.name, filter=_without_owner)


def _without_owner(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def unpack(archive: Path, folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder


# The command line


def commands() -> dict[str, list[str]]:
    """The options and arguments of every command."""
    load_verbs()
    return _commands(typer.main.get_command(app), "refseg")


def _commands(command: Any, name: str) -> dict[str, list[str]]:
    options = sorted(
        text for each in command.params for text in ([*each.opts, *each.secondary_opts] or [each.name])
    )
    found = {name: options}
    for word, inner in getattr(command, "commands", {}).items():
        found |= _commands(inner, f"{name} {word}")
    return found
