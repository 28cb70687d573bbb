"""Published data sets by published protocols: a model that answers with the left half scores what masks say by hand."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from evaluation.miniatures import FOLDERS, TwoModel, opened, predictor
from refseg.data.catalog import open_dataset
from refseg.errors import InvalidInput, UnknownName
from refseg.evaluation import examples
from refseg.evaluation.prepare import EvaluationRequest, authors_numbers, choose_protocols
from refseg.evaluation.run import evaluate
from refseg.evaluation.scoring import Merged
from refseg.evaluation.table import result_table
from refseg.metrics import contour, protocols


def left_half(height, width):
    mask = np.zeros((height, width), dtype=bool)
    mask[:, np.arange(width) + 0.5 < width / 2] = True
    return mask


def pairs_of(dataset):
    """Left halves and targets [T', H, W] of every phrase."""
    for example in dataset:
        for masks in example.masks.numpy():
            yield np.stack([left_half(*masks.shape[1:])] * len(masks)), masks


def values(dataset, *chosen, model=None, **options):
    asked = predictor(model) if model else predictor()
    result = evaluate(asked, dataset, protocols=chosen, **options)
    return {scored.protocol.name: scored.values for scored in result.scored()}


@pytest.mark.parametrize("name", FOLDERS)
def test_every_data_set_is_evaluated_by_its_protocols(name, tmp_path):
    dataset = opened(name, tmp_path)
    chosen = choose_protocols(EvaluationRequest(), dataset, "referformer")
    table = result_table(evaluate(predictor(TwoModel), dataset, protocols=chosen))
    assert all(protocol.name in table for protocol in chosen[1:])
    assert f"{len(dataset)} examples" in table


@pytest.mark.parametrize("name", ["refcocog-umd", "grefcoco"])
def test_pictures_score_by_their_masks(name, tmp_path):
    dataset = opened(name, tmp_path)
    counts = [((a & t).sum(), (a | t).sum()) for a, t in pairs_of(dataset)]
    got = values(dataset, protocols.VLFORMER, protocols.HONEST)
    assert got["vlformer"]["mIoU"] == pytest.approx(np.mean([i / u for i, u in counts]), abs=1e-9)
    real = [(i, u) for (i, u), (_, t) in zip(counts, pairs_of(dataset), strict=True) if t.any()]
    assert got["source"]["oIoU"] == pytest.approx(sum(i for i, _ in real) / sum(u for _, u in real), abs=1e-9)


def test_the_network_size_and_overlapping_parts_change_what_is_compared(tmp_path):
    dataset = opened("refcocog-umd", tmp_path)
    result = evaluate(predictor(), dataset, protocols=(protocols.HONEST, protocols.LGFORMER))
    ours, theirs = result.plan.views
    assert (theirs.at, theirs.parts) == ("canvas", "exactly-one")
    rows = [row for example in result.done for row in example.rows]
    assert all(sum(row.views[theirs.name][1]) == 64 * 32 for row in rows)  # half of the 64 x 64 canvas
    assert any(row.pixels(ours.name)[2] for row in rows)


def test_parts_that_overlap_are_no_target_where_the_protocol_says_so(tmp_path):
    dataset = opened("refcoco", tmp_path, "train")
    once = dataclasses.replace(protocols.REFER, at="source")
    result = evaluate(predictor(), dataset, protocols=(protocols.HONEST, once))
    _, other = result.plan.views
    dataset = dataset.with_options(masks="exactly-one")
    wanted = [
        int(masks[row].sum())
        for masks in map(dataset.masks, range(len(dataset)))
        for row in range(len(masks))
    ]
    got = [row.pixels(other.name)[2] for example in result.done for row in example.rows]
    assert got == wanted
    assert got != [row.pixels()[2] for example in result.done for row in example.rows]


@pytest.mark.parametrize("name", ["mevis", "ref-youtube-vos"])
def test_videos_average_frames_and_then_phrases(name, tmp_path):
    dataset = opened(name, tmp_path)
    clips = [contour.clip_accuracy(a, t) for a, t in pairs_of(dataset)]
    got = values(dataset, protocols.MEVIS)["mevis"]
    assert got["J"] == pytest.approx(np.mean([clip.region for clip in clips]), abs=1e-9)
    assert got["F"] == pytest.approx(np.mean([clip.contour for clip in clips]), abs=1e-9)
    assert got["J&F"] == pytest.approx((got["J"] + got["F"]) / 2)


@pytest.mark.parametrize("window", [2, 3, 36])
def test_a_clip_in_pieces_scores_as_the_whole(window, tmp_path):
    dataset = opened("mevis", tmp_path)
    whole = values(dataset, protocols.MEVIS, window=0)
    assert values(dataset, protocols.MEVIS, window=window) == whole


@pytest.mark.parametrize("name", ["mevis", "ref-youtube-vos"])
def test_targets_too_many_for_memory_are_read_one_by_one(name, tmp_path, monkeypatch):
    dataset = opened(name, tmp_path)
    whole = values(dataset, protocols.MEVIS)
    read = []
    real = type(dataset).read_masks
    monkeypatch.setattr(examples, "MOST_PIXELS", 1)
    monkeypatch.setattr(
        type(dataset), "read_masks", lambda self, v, rows, f: read.append(len(rows)) or real(self, v, rows, f)
    )
    assert values(dataset, protocols.MEVIS) == whole
    assert set(read) == {1}


def test_ref_davis_scores_each_annotator_apart_and_takes_their_mean(tmp_path):
    dataset = opened("ref-davis17", tmp_path)
    result = evaluate(predictor(), dataset, protocols=(protocols.REF_DAVIS,), window=2)
    (scored,) = result.scored()
    assert len(scored.runs) == 4
    assert scored.values["J&F"] == pytest.approx(np.mean([run["J&F"] for run in scored.runs]))
    expected = []
    for index in range(len(dataset)):
        truth = dataset.true_objects(index)
        # Every phrase of a run is answered by the same half: the first object keeps it, the others are left empty.
        answers = np.zeros(truth.masks.shape[1:], dtype=np.uint8)
        answers[:, left_half(*answers.shape[1:])] = 1
        labels = sum((number + 1) * mask.numpy().astype(np.uint8) for number, mask in enumerate(truth.masks))
        accuracy = contour.unsupervised(answers, labels, truth.void.numpy())
        expected += [contour.statistics(series).mean for series in accuracy.region]
    assert scored.runs[0]["J"] == pytest.approx(np.mean(expected), abs=1e-9)


def test_ref_davis_in_the_converted_layout_scores_the_same(tmp_path):
    """ReferFormer's conversion: the layout of Ref-YouTube-VOS, with the label pictures as they were."""
    raw = opened("ref-davis17", tmp_path)
    folder = tmp_path / "converted" / "ref-davis"
    for name, content in raw.published_form().items():
        path = folder / (
            "meta_expressions/valid/meta_expressions.json" if "expr" in name else "valid/meta.json"
        )
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    place = raw.folder / "DAVIS"
    for kind, source in (("JPEGImages", "JPEGImages"), ("Annotations", "Annotations_unsupervised")):
        for video in raw.videos:
            shutil.copytree(place / source / "480p" / video.name, folder / "valid" / kind / video.name)
    converted = open_dataset("ref-davis17", root=tmp_path / "converted")
    assert type(converted) is not type(raw)
    assert values(converted, protocols.REF_DAVIS) == values(raw, protocols.REF_DAVIS)


def test_objects_by_their_number_leave_out_the_first_and_the_last_frame(tmp_path):
    dataset = opened("ref-davis17", tmp_path)
    result = evaluate(predictor(), dataset, protocols=(protocols.REF_DAVIS, protocols.DAVIS))
    frames = [
        {entry["protocol"]: len(entry["region"][0]) for entry in example.objects} for example in result.done
    ]
    assert frames == [{"ref-davis": n.frames, "davis": n.frames - 2} for n in result.done]


def test_the_first_of_equal_objects_wins_and_low_scores_are_background():
    import torch

    merged = Merged()
    merged.add(0, 1, torch.tensor([[[0.5, 0.6, 0.49, 0.9]]]))
    merged.add(0, 2, torch.tensor([[[0.5, 0.7, 0.49, 0.2]]]))
    merged.end_piece()
    assert merged.maps()[0].tolist() == [[[1, 2, 0, 1]]]


def test_ranked_protocols_score_all_candidates_and_the_best(tmp_path):
    dataset = opened("a2d", tmp_path)
    got = values(dataset, protocols.A2D, model=TwoModel)["a2d"]
    shares = [t.mean() for _, t in pairs_of(dataset)]  # the best-scored candidate is the whole frame
    assert got["mIoU"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert 0 <= got["mAP"] <= 1


def test_boxes_are_compared_with_those_annotated(tmp_path):
    dataset = opened("refcocog-umd", tmp_path)
    got = values(dataset, protocols.REFERFORMER_BOXES, model=TwoModel)["referformer-boxes"]
    wanted = []
    for index, example in enumerate(dataset):
        height, width = example.frames.shape[-2:]
        for row, _ in dataset.pairs(index):
            x, y, w, h = dataset.table.reference(row).objects[0].box
            inside = max(0, min(x + w, width) - max(x, 0)) * max(0, min(y + h, height) - max(y, 0))
            wanted.append(inside / (width * height + w * h - inside))
    assert got["box mIoU"] == pytest.approx(np.mean(wanted), abs=1e-5)


def test_a_model_without_boxes_has_no_numbers_of_boxes(tmp_path):
    got = values(opened("refcoco", tmp_path), protocols.REFERFORMER_MASKS, protocols.REFERFORMER_BOXES)
    assert got["referformer-boxes"] == {}
    assert got["referformer-masks"]["mAP"] >= 0


def test_small_answers_are_refusals_by_the_published_protocol_alone(tmp_path):
    dataset = opened("grefcoco", tmp_path)
    result = evaluate(predictor(), dataset, protocols=(protocols.GRES,))
    for example in result.done:
        for row in example.rows:
            for counts in row.views.values():
                counts[0], counts[1] = [0], [49]
    (scored,) = result.scored()
    assert scored.values["N-acc"] == 1
    assert scored.values["T-acc"] == 0
    result.plan = dataclasses.replace(result.plan, protocols=(protocols.HONEST_GENERALISED,))
    assert result.scored()[0].values["N-acc"] == 0


def test_an_unknown_protocol_is_told_with_the_nearest(tmp_path):
    dataset = opened("refcoco", tmp_path)
    with pytest.raises(UnknownName, match="vlformer"):
        choose_protocols(EvaluationRequest(protocols=("vlfromer",)), dataset, "referformer")
    with pytest.raises(InvalidInput, match="several boxes"):
        choose_protocols(EvaluationRequest(protocols=("grec",)), dataset, "referformer")


@pytest.mark.parametrize(
    ("name", "split", "values"),
    [
        ("refcocog-umd", "val", {79.0, 64.1}),
        ("refcocog-google", "val", set()),
        ("refcocog-umd", "test", set()),
    ],
)
def test_the_authors_numbers_are_those_of_the_very_split(name, split, values):
    from types import SimpleNamespace

    numbers = authors_numbers("referformer-r50-refcoco", SimpleNamespace(name=name, split=split))
    assert {number.value for number in numbers} == values


def test_a_folder_of_videos_is_measured_as_videos(tmp_path):
    opened("ref-youtube-vos", tmp_path)
    folder = next(tmp_path.glob("*/ref-youtube-vos")).rename(tmp_path / "mine")
    dataset = open_dataset(folder, split="train")
    assert choose_protocols(EvaluationRequest(), dataset, "scout")[0] == protocols.HONEST_VIDEO


def test_merging_needs_a_data_set_that_knows_its_objects(tmp_path):
    with pytest.raises(InvalidInput, match="Ref-DAVIS17"):
        evaluate(predictor(), opened("mevis", tmp_path), protocols=(protocols.REF_DAVIS,))
