"""Published files: by name, by order, the backbone alone, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from helpers.keras_files import write_keras
from models.vlt.files import DEBUG, fresh, layers_of, published_file, renumbered
from refseg.checkpoints import conversion, native
from refseg.checkpoints.readers import read
from refseg.errors import CheckpointMismatch, InvalidInput
from refseg.models.vlt.config import VARIANTS
from refseg.models.vlt.convert import convert, published_shapes
from refseg.models.vlt.keras_layout import backbone_parts, parts


def converted(path, config=DEBUG):
    return convert(read(path), config)[0]


def test_a_file_is_taken_by_its_names(tmp_path):
    layers = layers_of()
    state = converted(write_keras(tmp_path / "best_map.h5", layers))
    kernel = layers["conv2d_1"]["conv2d_1/kernel"]
    assert torch.equal(state["backbone.stem.conv.weight"], torch.from_numpy(kernel).permute(3, 2, 0, 1))
    dense = layers["dense_2"]["dense_2/kernel"]
    assert torch.equal(state["fusion.phrase.weight"], torch.from_numpy(dense).T)
    assert torch.equal(
        state["phrase.backward_gru.bias"],
        torch.from_numpy(layers["bidirectional_1"]["gru_module/bidirectional_1/backward_gru_1/bias"]),
    )


def test_names_decide_where_they_fit_whatever_the_order(tmp_path):
    layers = layers_of()
    there = converted(write_keras(tmp_path / "a.h5", layers))
    back = converted(write_keras(tmp_path / "b.h5", dict(reversed(layers.items()))))
    assert all(torch.equal(there[name], back[name]) for name in there)


@pytest.mark.parametrize("is_whole_model", [False, True])
def test_a_file_with_other_names_is_taken_by_order(tmp_path, is_whole_model):
    layers = layers_of()
    by_name = converted(write_keras(tmp_path / "a.h5", layers))
    path = write_keras(tmp_path / "b.h5", renumbered(layers), is_whole_model=is_whole_model)
    by_order = converted(path)
    assert by_order.keys() == by_name.keys()
    assert all(torch.equal(by_order[name], by_name[name]) for name in by_name)


@pytest.mark.parametrize(
    "changes",
    [
        {"is_bidirectional": False},
        {"num_encoder_layers": 2, "num_decoder_layers": 3},
        {"stride": 8},
        {"num_queries": 7, "stride": 4},
    ],
)
def test_every_configuration_is_converted_both_ways(tmp_path, changes):
    config = dataclasses.replace(DEBUG, **changes)
    layers = layers_of(config)
    by_name = converted(write_keras(tmp_path / "a.h5", layers), config)
    by_order = converted(write_keras(tmp_path / "b.h5", renumbered(layers)), config)
    assert set(published_shapes(config)) == set(by_name)
    assert all(torch.equal(by_order[name], by_name[name]) for name in by_name)


def test_a_file_of_another_shape_is_refused_with_what_differs(tmp_path):
    path = published_file(tmp_path / "m.h5", dataclasses.replace(DEBUG, num_queries=9))
    with pytest.raises(CheckpointMismatch, match=r"conv2d_73 holds \[\(1, 1, 38, 9\), \(9,\)\]"):
        converted(path)


def test_a_file_that_lacks_a_layer_is_refused(tmp_path):
    layers = layers_of()
    del layers["dense_7"]
    with pytest.raises(CheckpointMismatch, match="183 layers with weights, and 184"):
        converted(write_keras(tmp_path / "m.h5", layers))


def test_a_layer_too_much_beside_fitting_names_is_told(tmp_path):
    layers = layers_of() | {"dense_13": {"dense_13/kernel": np.ones((2, 2), np.float32)}}
    _, report = convert(read(write_keras(tmp_path / "m.h5", layers)), DEBUG)
    assert report.left == ["dense_13.dense_13.kernel"]


def test_the_published_counts():
    config = VARIANTS["refcoco"]
    shapes = published_shapes(config)
    assert len(shapes) == 524
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 89_377_674
    assert len(parts(config)) == 194


def detector(path):
    """A detector's file: other layers after the backbone, some with our names."""
    of_detectors = ("conv2d_", "batch_normalization_")
    layers = {name: weights for name, weights in layers_of().items() if name.startswith(of_detectors)}
    layers["conv2d_59"] = {"conv2d_59/kernel": np.ones((1, 1, 4, 255), np.float32)}
    return write_keras(path, layers)


def test_a_detectors_file_gives_the_backbone_alone(tmp_path):
    state, report = convert(read(detector(tmp_path / "yolov3.h5")), DEBUG)
    assert set(state) == {part.ours for part in backbone_parts()}
    assert len(state) == 58 * 5
    assert "conv2d_59.conv2d_59.kernel" in report.dropped
    assert "conv2d_65.conv2d_65.kernel" in report.dropped  # whose name and shape agree by accident


def test_a_detectors_file_starts_a_model_whose_rest_is_fresh(tmp_path):
    path = detector(tmp_path / "yolov3.h5")
    done = conversion.convert(
        path, tmp_path / "m.safetensors", family="vlt", variant="debug", part="backbone"
    )
    model, _ = native.load(done.path)
    assert torch.equal(model.backbone.stem.conv.weight, converted(path)["backbone.stem.conv.weight"])
    assert "phrase.attention.weight" in done.report.fresh
    assert len(done.report.fresh) + 58 * 5 == len(model.state_dict())


def test_a_detectors_file_is_no_checkpoint_to_predict_with(tmp_path):
    with pytest.raises(CheckpointMismatch, match="the model needs, and the file lacks"):
        conversion.convert(
            detector(tmp_path / "yolov3.h5"), tmp_path / "m.safetensors", family="vlt", variant="debug"
        )


def test_a_file_without_the_whole_backbone_is_refused(tmp_path):
    layers = layers_of()
    del layers["conv2d_58"]
    with pytest.raises(CheckpointMismatch, match=r"1 names absent: conv2d_58.*nor by the order"):
        converted(write_keras(tmp_path / "m.h5", layers))


def test_a_converted_file_carries_the_vectors_of_the_words_given(tmp_path):
    (tmp_path / "phrases.txt").write_text("the man's hat\nleft zebra\n")
    done = conversion.convert(
        published_file(tmp_path / "m.h5"),
        tmp_path / "m.safetensors",
        family="vlt",
        variant="debug",
        words=tmp_path / "phrases.txt",
    )
    carried = json.loads(done.header.extra["word_vectors"])
    assert carried["tokens"] == ["'s", "hat", "left", "man", "the", "zebra"]


def test_without_vectors_on_the_machine_weights_are_converted_and_prediction_says_what_to_do(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("REFSEG_HOME", str(tmp_path))
    config = dataclasses.replace(DEBUG, vectors="glove.840B.300d")
    model = fresh(config)
    assert json.loads(model.extra_state()["word_vectors"])["tokens"] == []
    with pytest.raises(InvalidInput, match="run once: refseg vectors"):
        model.tokenize(["a dog"])
