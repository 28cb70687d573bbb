"""The published protocols from the command line to the end: data sets in their real forms, in miniature; a toy model."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.miniatures import CASES, place
from helpers.cli import call
from refseg.checkpoints import native
from refseg.data.catalog import open_dataset
from refseg.metrics.average_precision import Ranked, average_precision, best_masks
from refseg.models import catalog
from refseg.models.referformer import finish
from refseg.models.referformer.config import DATASET_FRAMES, VARIANTS
from refseg.models.referformer.model import best_candidate
from refseg.predictor import Predictor

IMAGE = {"frame": dataclasses.replace(DATASET_FRAMES, size=64, longest=112), "protocol": "image"}
SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def checkpoint(folder, name, variant="debug", **changes):
    """A file named like a card; its candidates differ from each other, so that choosing matters."""
    torch.manual_seed(5)
    text = dataclasses.replace(
        VARIANTS[variant].text, num_positions=514
    )  # as long phrases as the published tower
    model = catalog.build("referformer", variant, text=text, **changes)
    for head in (*model.decoder.class_heads, *(h.layers[-1] for h in model.decoder.box_heads)):
        torch.nn.init.normal_(head.weight, std=0.3)
    path = folder / f"{name}.safetensors"
    native.save(path, model, family="referformer", variant=variant, origin={})
    return path


@pytest.mark.parametrize(
    ("data", "name", "authors"),
    [
        ("refcoco", "referformer-r50-refcoco", ["85", "71.1"]),
        ("refcocog-umd", "referformer-swin-t-refcoco", ["80.6", "66.1"]),
    ],
)
def test_pictures_give_boxes_and_masks_beside_the_authors_numbers(data, name, authors, tmp_path):
    path = checkpoint(tmp_path, name, **IMAGE)
    done = call("evaluate", path, data, "--root", place(data, tmp_path), "--device", "cpu")
    assert done.exit_code == 0
    for number in authors:
        assert any(line.split()[-1] == number for line in done.stdout.splitlines() if line.strip())
    record = json.loads(
        call("evaluate", path, data, "--root", place(data, tmp_path), "--device", "cpu", "--json").stdout
    )
    assert {"referformer-masks", "referformer-boxes"} <= set(record["protocols"])
    assert record["protocols"]["referformer-boxes"]["scores"]["box P@0.5"] is not None


@pytest.mark.parametrize(("data", "frames"), [("a2d", 5), ("a2d", 6), ("jhmdb", 5)])
def test_single_frames_are_ranked_within_their_windows_as_published(data, frames, tmp_path):
    path = checkpoint(tmp_path, "referformer-video-swin-t-a2d", "debug-video", num_frames=frames, **IMAGE)
    root = place(data, tmp_path)
    done = call("evaluate", path, data, "--root", root, "--device", "cpu", "--json")
    record = json.loads(done.stdout)
    assert record["source"]["options"]["window"] == frames
    scores = record["protocols"]["a2d"]["scores"]
    wanted, best = by_hand(path, open_dataset(data, split="test", root=root), frames)
    assert scores["mAP"] == pytest.approx(wanted.mean, abs=1e-6)
    assert scores["oIoU"] == pytest.approx(best.overall_iou, abs=1e-6)
    assert scores["mIoU"] == pytest.approx(best.mean_iou, abs=1e-6)


def by_hand(path, dataset, frames):
    """The published evaluation in plain steps: a window of frames, all candidates of one of them, COCO's measure."""
    predictor = Predictor.load(path, device="cpu")
    predictor.model.tell_candidates()
    dataset = dataset.with_options(window=frames, text="squeezed")
    ranked = []
    for example in dataset:
        assert len(example.frames) == frames
        clip = predictor.encode(example.frames, target_frames=example.target_frames.tolist())
        for row, phrase in enumerate(example.phrases):
            (output,) = predictor.outputs(clip, [phrase])
            (offered,) = finish.all_candidates(output, [clip.placement])
            ranked.append(Ranked(len(ranked), offered.scores, offered.masks[:, 0], example.masks[row, 0]))
    return average_precision(ranked), best_masks(ranked)


def test_a_video_is_answered_whole_for_the_ref_youtube_vos_server(tmp_path):
    path, out = checkpoint(tmp_path, "referformer-r50-ytvos"), tmp_path / "out.zip"
    root = place("ref-youtube-vos", tmp_path)
    done = call("evaluate", path, "ref-youtube-vos", "--root", root, "--device", "cpu", "--submission", out)
    assert done.exit_code == 0
    checked = call("data", "check-submission", out, "--dataset", "ref-youtube-vos", "--root", root)
    assert checked.exit_code == 0 and "is complete" in checked.stdout


def test_ref_davis_is_merged_by_annotator_in_clips_of_36_frames(tmp_path, monkeypatch):
    path, out = checkpoint(tmp_path, "referformer-r50-ytvos"), tmp_path / "tree"
    root = place("ref-davis17", tmp_path)
    seen = []
    encode = Predictor.encode
    monkeypatch.setattr(Predictor, "encode", lambda s, f, **k: seen.append(len(f)) or encode(s, f, **k))
    words = ["evaluate", path, "ref-davis17", "--root", root, "--device", "cpu"]
    done = call(*words, "--submission", out)
    assert done.exit_code == 0
    assert max(seen) <= finish.DAVIS_CLIP
    table = call(*words).stdout
    assert "ref-davis" in table and "58.5" in table
    dataset = open_dataset("ref-davis17", split="valid", root=root)
    example = next(iter(dataset))
    wanted = merged_by_hand(path, example)
    for run, maps in wanted.items():
        for name, labels in zip(example.frame_names, maps, strict=True):
            stored = Image.open(out / f"anno_{run}" / example.name / f"{name}.png")
            differing = (np.asarray(stored) != labels.numpy()).mean()
            assert differing < 1e-3  # pixels at an edge, where phrases asked together are rounded otherwise


def merged_by_hand(path, example):
    """The published inference: a candidate for every clip of 36 frames, objects of a run on one map."""
    predictor = Predictor.load(path, device="cpu")
    predictor.model.tell_candidates()
    soft = {}
    for frames in example.frames.split(finish.DAVIS_CLIP):
        clip = predictor.encode(frames)
        for number, phrase in zip(example.ids, example.phrases, strict=True):
            (output,) = predictor.outputs(clip, [phrase])
            query = best_candidate(output.class_logits)[0][0]
            scores = finish.video_scores(output.mask_logits[0, query], clip.placement)
            soft.setdefault(int(number), []).append(scores)
    whole = {number: torch.cat(parts) for number, parts in soft.items()}
    runs = range(4)
    return {run: finish.merge_objects([whole[n] for n in sorted(whole) if n % 4 == run]) for run in runs}


@pytest.mark.skipif(not SHARED.is_dir(), reason="real samples of the data sets are absent")
def test_real_samples_of_the_data_sets_run_to_the_end(tmp_path):
    path = checkpoint(tmp_path, "referformer-r50-refcoco", **IMAGE)
    done = call("evaluate", path, SHARED / "coco_riders_refer", "--device", "cpu", "--count", 3)
    assert done.exit_code == 0
    video = checkpoint(tmp_path, "referformer-r50-ytvos")
    done = call("evaluate", video, SHARED / "davis_car_shadow", "--split", "train", "--device", "cpu")
    assert done.exit_code == 0


def test_variants_of_the_published_protocols_offer_all_candidates():
    for name, config in VARIANTS.items():
        if config.protocol == "image":
            assert config.detail == "candidates", name
    assert CASES.is_dir()
