import dataclasses
import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import refseg
from checkpoints import tiny
from refseg.checkpoints import native
from refseg.checkpoints.configs import from_plain, to_plain
from refseg.errors import CheckpointMismatch, InvalidInput, UnknownName
from refseg.framing import FrameSpec

ORIGIN = {"file": "tiny.pth", "sha256": "ab" * 32}


def model_of(variant="debug", seed=0):
    torch.manual_seed(seed)
    model = tiny.TinyModel(tiny.VARIANTS[variant])
    model.steps.fill_(12)
    return model


def saved(path, **changes):
    settings = {"family": "tiny", "variant": "debug", "origin": ORIGIN, **changes}
    model = settings.pop("model", None) or model_of()
    return model, native.save(path, model, **settings)


def rewritten(path, change):
    """The file with its JSON header changed by `change`."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    data = json.loads(metadata["refseg"])
    change(data)
    save_file(load_file(path), path, metadata={**metadata, "refseg": json.dumps(data)})


def test_a_loaded_model_has_the_weights_and_configuration_of_the_saved_one(tmp_path):
    model, _ = saved(tmp_path / "m.safetensors")
    loaded, header = native.load(tmp_path / "m.safetensors")
    assert loaded.config == tiny.VARIANTS["debug"]
    assert isinstance(loaded.config.stages[1], tiny.StageSpec) and loaded.config.stages[1].kernel == (3, 1)
    assert not loaded.training
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert (header.family, header.variant, header.origin) == ("tiny", "debug", ORIGIN)
    assert header.version == refseg.__version__


def test_texts_beside_the_weights_travel_in_the_header(tmp_path):
    model = model_of()
    model.words = '{"vocab": ["a", "\u00e9"]}'
    saved(tmp_path / "m.safetensors", model=model)
    loaded, header = native.load(tmp_path / "m.safetensors")
    assert loaded.words == model.words and header.extra == {"tokenizer.json": model.words}


def test_half_precision_files_are_smaller_and_load_as_float32(tmp_path):
    big = tiny.TinyModel(tiny.TinyConfig(width=64))
    saved(tmp_path / "full.safetensors", model=big)
    saved(tmp_path / "half.safetensors", model=big, dtype=torch.float16)
    stored = load_file(tmp_path / "half.safetensors")
    assert stored["both.weight"].dtype == torch.float16 and stored["steps"].dtype == torch.int64
    loaded, _ = native.load(tmp_path / "half.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.both.weight, big.both.weight.half().float())
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]


def test_the_hash_depends_on_values_and_not_on_the_order_of_tensors(tmp_path):
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3])}
    other = dict(reversed(one.items()))
    assert native.tensors_sha256(one) == native.tensors_sha256(other)
    assert native.tensors_sha256(one) != native.tensors_sha256(one | {"b": torch.tensor([4])})
    assert native.tensors_sha256(one) != native.tensors_sha256(one | {"b": torch.tensor([[3]])})


def test_tensors_that_share_memory_are_stored_apart(tmp_path):
    model = model_of()
    model.register_buffer("tied", model.both.weight.detach())
    model.register_buffer("part", model.both.weight.detach()[1:3, 1:])
    saved(tmp_path / "m.safetensors", model=model)
    stored = load_file(tmp_path / "m.safetensors")
    assert torch.equal(stored["tied"], model.both.weight)
    assert torch.equal(stored["part"], model.both.weight[1:3, 1:])


def test_verifying_finds_one_changed_value(tmp_path):
    path = tmp_path / "m.safetensors"
    _, header = saved(path)
    assert native.verify(path) == header
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=r"weights in .* are damaged"):
        native.verify(path)


def test_loading_leaves_the_global_generator_alone(tmp_path):
    saved(tmp_path / "m.safetensors")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    native.load(tmp_path / "m.safetensors")
    assert torch.equal(torch.rand(2), expected)


def test_a_variant_unknown_here_loads_when_its_configuration_fits(tmp_path):
    model = tiny.TinyModel(tiny.TinyConfig(width=3, note="mine"))
    saved(tmp_path / "m.safetensors", model=model, variant="made-elsewhere")
    loaded, header = native.load(tmp_path / "m.safetensors")
    assert loaded.config.note == "mine" and header.variant == "made-elsewhere"


def test_an_unknown_family_is_told_with_the_nearest(tmp_path):
    saved(tmp_path / "m.safetensors", family="referfrmer")
    with pytest.raises(UnknownName, match="'referformer'"):
        native.load(tmp_path / "m.safetensors")


def test_a_configuration_field_unknown_here_is_named_with_the_version_that_wrote_it(tmp_path):
    path = tmp_path / "m.safetensors"
    saved(path)
    rewritten(path, lambda data: (data["config"]["frame"].update(tilt=3), data.update(version="9.8.7")))
    with pytest.raises(CheckpointMismatch, match=r"9\.8\.7.*unknown field frame\.tilt"):
        native.load(path)


def test_a_missing_configuration_field_is_named_even_where_it_has_a_default(tmp_path):
    path = tmp_path / "m.safetensors"
    saved(path)
    rewritten(path, lambda data: data["config"]["stages"][0].pop("kernel"))
    with pytest.raises(CheckpointMismatch, match=r"missing field stages\[0\]\.kernel"):
        native.load(path)


def test_a_field_that_came_after_the_file_was_written_means_what_the_file_computed(tmp_path):
    path = tmp_path / "m.safetensors"
    saved(path)
    rewritten(path, lambda data: data["config"]["frame"].pop("rounding"))
    assert native.load(path)[0].config.frame.rounding == "down"


@pytest.mark.parametrize("value", ["4", 4.5, None, True])
def test_a_configuration_value_of_another_type_is_refused(value):
    plain = to_plain(tiny.VARIANTS["debug"]) | {"width": value}
    with pytest.raises(CheckpointMismatch, match="field width"):
        from_plain(tiny.TinyConfig, plain, version="0")


def test_a_configuration_survives_json_with_every_field_changed():
    config = tiny.TinyConfig(
        frame=FrameSpec("letterbox", 7, 11, 2, "bicubic", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), -1.5),
        threshold=0.25,
        stages=(tiny.StageSpec(1, (2, 3)),),
        width=8,
        note="n",
    )
    untouched = tiny.TinyConfig()
    assert all(
        getattr(config, f.name) != getattr(untouched, f.name) for f in dataclasses.fields(tiny.TinyConfig)
    )
    plain = json.loads(json.dumps(to_plain(config)))
    assert from_plain(tiny.TinyConfig, plain, version="0") == config


def test_left_over_and_absent_weights_are_both_listed(tmp_path):
    path = tmp_path / "m.safetensors"
    saved(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    state["extra.weight"] = state.pop("both.weight")
    save_file(state, path, metadata=metadata)
    with pytest.raises(CheckpointMismatch) as caught:
        native.load(path)
    assert caught.value.missing == ("both.weight",) and caught.value.unexpected == ("extra.weight",)


def test_a_shape_that_differs_is_told_with_both_shapes(tmp_path):
    path = tmp_path / "m.safetensors"
    saved(path)
    rewritten(path, lambda data: data["config"].update(width=5))
    with pytest.raises(CheckpointMismatch, match=r"both\.weight is \[8, 4\] in the file and \[10, 5\]"):
        native.load(path)


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_a_file_cut_short_is_one_sentence(tmp_path, keep):
    path = tmp_path / "m.safetensors"
    saved(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InvalidInput, match="cut short or not a refseg checkpoint") as caught:
        native.load(path)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="no checkpoint file"):
        native.read_header(tmp_path / "none.safetensors")


def test_safetensors_of_another_program_lead_to_convert(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InvalidInput, match="refseg convert"):
        native.read_header(tmp_path / "other.safetensors")


def test_a_layout_from_the_future_asks_for_an_upgrade(tmp_path):
    path = tmp_path / "m.safetensors"
    saved(path)
    rewritten(path, lambda data: data.update(format=native.FORMAT + 1))
    with pytest.raises(InvalidInput, match="upgrade refseg"):
        native.read_header(path)


def test_a_header_without_its_fields_is_damaged(tmp_path):
    path = tmp_path / "m.safetensors"
    saved(path)
    rewritten(path, lambda data: data.pop("origin"))
    with pytest.raises(InvalidInput, match=r"damaged.*origin"):
        native.read_header(path)


def test_a_failed_save_leaves_the_older_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    saved(path)
    before = path.read_bytes()

    def full(part, *_values, **_named):
        Path(part).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(native, "write_one_by_one", full)
    with pytest.raises(InvalidInput, match="No space left on device"):
        saved(path, model=model_of(seed=1))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_saving_below_what_is_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot write"):
        saved(tmp_path / "file" / "m.safetensors")


def test_a_process_killed_while_saving_leaves_no_half_file(tmp_path):
    path = tmp_path / "m.safetensors"
    code = (
        "import sys, time; from pathlib import Path; from refseg.checkpoints import native\n"
        "with native.written_whole(Path(sys.argv[1])) as part:\n"
        "    part.write_bytes(b'half'); print('written', flush=True); time.sleep(60)"
    )
    paths = {"PYTHONPATH": str(Path(refseg.__file__).parents[1])}
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env=paths)
    assert child.stdout.readline().strip() == b"written"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not path.exists()


def test_a_saved_file_is_readable_like_any_other_file(tmp_path):
    saved(tmp_path / "m.safetensors")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
