"""What the toolkit computes stays what was recorded: names of weights, data sets, batches of recipes, runs, options.

The records are files beside this one. After a change that is meant to change them, make them anew and look at the
difference:

    python -m pytest tests/records --record
    git diff tests/records

One code path computes both (observe.py). Whole numbers, texts and masks are compared exactly; averages of pixels, boxes and
losses within the tolerances below, because they differ in their last bits between processors and builds of libraries.

`old_run.tar.xz` is a run that was stopped by an earlier version. It is written only where it is not there: what it stands
for are the folders that people have. Delete it to record another.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from records import observe

HERE = Path(__file__).parent
OLD_RUN = HERE / "old_run.tar.xz"

TOLERANCES = {
    "levels": 0.5,  # of 255: averages over a quarter of decoded pictures
    "pixels": 0.01,  # the same of normalised ones, where half a level is 0.5 / 255 / 0.225
    "boxes": 2e-3,
    "sums": 1.0,  # of soft masks
    "losses": 1e-3,  # relative: sums in another order, amplified by a few steps of Adam
}
MOST_SHOWN = 20


@pytest.fixture
def check(request):
    """Compares with the record in `<name>.json`, or under a key of it; with --record writes it."""

    def compare(name, found, key=None):
        path = HERE / f"{name}.json"
        found = json.loads(json.dumps(found))
        if request.config.getoption("--record"):
            _write(path, found, key)
            return
        recorded = json.loads(path.read_text())
        recorded = recorded if key is None else recorded[key]
        wrong = list(differences(recorded, found))
        assert not wrong, "\n".join([f"{len(wrong)} differences from {path.name}:", *wrong[:MOST_SHOWN]])

    return compare


def _write(path, found, key):
    if key is not None:
        before = json.loads(path.read_text()) if path.exists() else {}
        found = before | {key: found}
    path.write_text(_to_text(found) + "\n")


def _to_text(value, depth=0):
    """JSON with sorted keys and lists of numbers on one line."""
    inner, outer = "\n" + " " * (depth + 1), "\n" + " " * depth
    if isinstance(value, dict) and value:
        items = (f"{json.dumps(key)}: {_to_text(value[key], depth + 1)}" for key in sorted(value))
        return "{" + inner + ("," + inner).join(items) + outer + "}"
    if isinstance(value, list) and any(isinstance(each, str | dict) for each in value):
        return "[" + inner + ("," + inner).join(_to_text(each, depth + 1) for each in value) + outer + "]"
    return json.dumps(value, ensure_ascii=False)


def differences(recorded, found, where=""):
    """Where two records differ, told in lines; floats may differ by the tolerance of the nearest key that has one."""
    key = next((part for part in reversed(where.split(" / ")) if part in TOLERANCES), "")
    if isinstance(recorded, dict) and isinstance(found, dict):
        for name in sorted({*recorded, *found}):
            yield from _entry(recorded, found, name, f"{where} / {name}")
    elif isinstance(recorded, list) and isinstance(found, list):
        if all(isinstance(each, str) for each in (*recorded, *found)):
            yield from (f"{where}: lacks {text!r}" for text in recorded if text not in found)
            yield from (f"{where}: has {text!r}, which is new" for text in found if text not in recorded)
        if len(recorded) != len(found):
            yield f"{where}: {len(found)} entries, not {len(recorded)}"
            return
        for number, (one, other) in enumerate(zip(recorded, found, strict=True)):
            yield from differences(one, other, f"{where} / {number}")
    elif key and isinstance(recorded, float) and isinstance(found, float):
        slack = TOLERANCES[key] * (abs(recorded) if key == "losses" else 1)
        if not math.isclose(recorded, found, rel_tol=0, abs_tol=slack):
            yield f"{where}: {found}, not {recorded}"
    elif recorded != found or type(recorded) is not type(found):
        yield f"{where}: {found!r}, not {recorded!r}"


def _entry(recorded, found, name, where):
    if name not in found:
        yield f"{where}: is gone"
    elif name not in recorded:
        yield f"{where}: is new"
    else:
        yield from differences(recorded[name], found[name], where)


def test_a_difference_is_found_and_named():
    recorded = {"a": [1, 2], "levels": [1.0, 2.0], "names": ["x", "y"], "losses": {"4": 2.0}, "n": 1}
    assert not list(differences(recorded, {**recorded, "levels": [1.4, 2.0], "losses": {"4": 2.001}}))
    for key, value in {
        "a": [1, 3],
        "levels": [1.0, 2.6],
        "names": ["y", "x"],
        "losses": {"4": 2.003},
        "n": 1.0,
    }.items():
        (line, *_) = differences(recorded, {**recorded, key: value})
        assert line.startswith(f" / {key}")
    assert list(differences(recorded, {**recorded, "more": 1})) == [" / more: is new"]
    assert list(differences(recorded, {})) == [f" / {key}: is gone" for key in sorted(recorded)]


FAMILIES = ("lgformer", "referformer", "scout", "vlformer", "vlt", "vpd")


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_shapes_of_weights(family, check):
    debug = [name for name in observe.family_variants(family) if name.startswith("debug")]
    check("state_dicts", {name: observe.state_dict_lines(family, name) for name in debug}, key=family)
    check("configurations", observe.config_digests(family), key=family)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_shapes_of_weights_of_every_variant(family, check):
    check("all_state_dicts", observe.state_dict_digests(family), key=family)


@pytest.mark.parametrize(("case", "name"), [entry[:2] for entry in observe.STORED])
def test_published_data_sets(case, name, tmp_path, check):
    check("data_sets", observe.stored_set(case, name, tmp_path), key=name)


@pytest.mark.parametrize("kind", ["phrase_files", "own_refer_form", "video_sentences"])
def test_data_sets_of_ones_own(kind, tmp_path, check):
    check("data_sets", getattr(observe, kind)(tmp_path), key=kind)


@pytest.mark.parametrize("number", range(len(observe.SCENES)))
def test_scenes(number, check):
    check("data_sets", observe.scenes_set(number), key=f"scenes {json.dumps(observe.SCENES[number])}")


@pytest.mark.parametrize("name", observe.recipe_names())
def test_batches_of_recipes(name, tmp_path, check):
    check("recipes", observe.recipe_facts(name, tmp_path), key=name)


def test_no_recipe_is_gone():
    assert sorted(json.loads((HERE / "recipes.json").read_text())) == sorted(observe.recipe_names())


def test_a_stopped_run_goes_on_bit_for_bit_and_leaves_the_same_files(tmp_path, check):
    whole, stopped = observe.whole_run(tmp_path / "whole"), observe.stopped_run(tmp_path / "stopped")
    assert observe.state(stopped)["step"] == observe.STOPPED_AFTER
    observe.resume_run(stopped)
    for name in ("last.safetensors", "best.safetensors"):
        assert observe.weights(whole / name) == observe.weights(stopped / name)
    assert observe.losses(whole) == observe.losses(stopped)
    assert len(observe.losses(whole)) == observe.STEPS
    one, other = observe.state(whole), observe.state(stopped)
    assert equal(one, other)
    assert not equal(one, other | {"step": 5})
    check("run", observe.run_facts(whole))


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def test_the_folder_of_an_old_run_is_resumed(tmp_path, check, request):
    if request.config.getoption("--record") and not OLD_RUN.exists():
        observe.pack(observe.stopped_run(tmp_path / "made"), OLD_RUN)
    folder = observe.unpack(OLD_RUN, tmp_path / "old")
    before = observe.losses(folder)
    assert observe.state(folder)["step"] == len(before) == observe.STOPPED_AFTER
    observe.resume_run(folder)
    after = observe.losses(folder)
    assert {step: after[step] for step in before} == before
    assert observe.state(folder)["step"] == len(after) == observe.STEPS
    check("old_run", {"losses": after})


def test_no_command_and_no_option_is_gone(check):
    check("commands", observe.commands())
