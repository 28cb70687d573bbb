"""A run begins with fresh weights, with those of a checkpoint, or with a part that the recipe names."""

from dataclasses import dataclass

import pytest
import torch

from refseg.checkpoints import native
from refseg.errors import CheckpointMismatch, InvalidInput, UnknownName
from refseg.framing import FrameSpec
from refseg.models import catalog
from refseg.training.initial_weights import initial_model, load_matching, new_words, with_changes
from refseg.training.recipe import run_from_values

WORDS = ("red", "left", "dog")


def run_of(**top):
    values = {
        "family": "scout",
        "variant": "debug",
        "data": {"name": "scenes"},
        "optimizer": {"lr": 0.1},
        "run": {"steps": 1, "batch_size": 1},
    }
    return run_from_values(values | top, source="test")


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of scout's debug variant that knows three words."""
    torch.manual_seed(11)
    model = catalog.build("scout", catalog.variant("scout", "debug").for_words(WORDS))
    path = tmp_path / "trained.safetensors"
    native.save(path, model, family="scout", variant="debug", origin={})
    return path


def test_a_model_from_scratch_learns_the_words_of_the_data():
    model, origin = initial_model(run_of(), WORDS)
    assert model.config.vocabulary == WORDS
    assert origin == "from scratch"


def test_equal_seeds_give_equal_first_weights():
    def build():
        torch.manual_seed(7)
        return initial_model(run_of(), WORDS)[0].state_dict()

    one, other = build(), build()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_from_a_checkpoint_has_its_weights_and_words(trained):
    model, origin = initial_model(run_of(init=str(trained)), ("dog", "a"))
    weights = native.load(trained)[0].state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert model.config.vocabulary == WORDS
    assert origin == f"from {trained}"


def test_words_that_the_checkpoint_does_not_know_are_named(trained):
    with pytest.raises(
        InvalidInput, match=r"uses 2 words that init .* does not know: cat, mouse; set init_new_words"
    ):
        initial_model(run_of(init=str(trained)), ("dog", "cat", "cat-mouse"))


def test_new_words_get_rows_of_their_own_behind_the_known_ones(trained):
    model, origin = initial_model(run_of(init=str(trained), init_new_words=True), ("dog", "cat"))
    weights = native.load(trained)[0].state_dict()
    assert model.config.vocabulary == (*WORDS, "cat")
    table = model.state_dict()["text.words.weight"]
    assert torch.equal(table[:-1], weights["text.words.weight"])
    assert "1 with new rows: text.words.weight" in origin
    assert all(
        torch.equal(t, weights[name]) for name, t in model.state_dict().items() if name != "text.words.weight"
    )


def test_fillers_are_no_new_words(trained):
    assert new_words(native.load(trained)[0], ("the", "a", "please", "dog")) == []


def test_a_changed_part_must_be_named_to_start_fresh(trained):
    changes = {"model": {"mask_channels": 16}, "init": str(trained)}
    with pytest.raises(CheckpointMismatch, match="init_allow names no pattern"):
        initial_model(run_of(**changes), WORDS)


def test_a_part_that_is_named_starts_fresh_and_is_reported(trained):
    changes = {"model": {"mask_channels": 16}, "init": str(trained), "init_allow": ["."]}
    model, origin = initial_model(run_of(**changes), WORDS)
    assert model.config.mask_channels == 16
    assert "start fresh" in origin


def test_a_checkpoint_of_another_family_is_refused(trained):
    with pytest.raises(InvalidInput, match=r"is of family scout; the recipe trains referformer"):
        initial_model(run_of(family="referformer", init=str(trained)), WORDS)


def test_what_is_left_on_either_side_is_listed():
    model = torch.nn.ModuleDict(
        {"a": torch.nn.Linear(2, 2, bias=False), "b": torch.nn.Linear(2, 2, bias=False)}
    )
    weights = {"a.weight": torch.ones(2, 2), "c.weight": torch.ones(2, 2)}
    with pytest.raises(CheckpointMismatch) as caught:
        load_matching(model, weights, ())
    assert caught.value.missing == ("b.weight",)
    assert caught.value.unexpected == ("c.weight",)
    report = load_matching(model, weights, ["^[bc]"])
    assert (report.taken, report.fresh, report.unused) == (("a.weight",), ("b.weight",), ("c.weight",))
    assert torch.equal(model["a"].weight, torch.ones(2, 2))


def test_a_pattern_that_names_one_side_does_not_excuse_the_other():
    model = torch.nn.Linear(2, 2, bias=False)
    with pytest.raises(CheckpointMismatch, match="the file has, and the model lacks, 1 names: old"):
        load_matching(model, {"old": torch.ones(1)}, ["^weight"])


@dataclass(frozen=True)
class Settings:
    frame: FrameSpec
    width: int = 4
    dropout: float = 0.5
    channels: tuple[int, ...] = (1, 2)
    limit: int | None = None


PLAIN = Settings(FrameSpec(fit="stretch", size=8))


def test_fields_are_replaced_by_kind():
    settings = with_changes(
        PLAIN, {"dropout": 0, "channels": [3], "limit": 5, "frame": {"size": 16}}, "model"
    )
    assert settings == Settings(FrameSpec(fit="stretch", size=16), 4, 0.0, (3,), 5)
    assert isinstance(settings.dropout, float)


def test_a_field_that_does_not_exist_suggests_the_nearest():
    with pytest.raises(UnknownName, match=r"key of \[model\] named 'widht'; did you mean 'width'"):
        with_changes(PLAIN, {"widht": 3}, "model")


@pytest.mark.parametrize("value", ["wide", 4.5, True, [1]])
def test_a_value_of_another_kind_is_refused(value):
    with pytest.raises(InvalidInput, match=r"model.width is .*; a int such as 4 was expected"):
        with_changes(PLAIN, {"width": value}, "model")
