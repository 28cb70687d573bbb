"""Several sets as one: in an order that only the seed and the position decide, with bad examples told and counted."""

import json
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.datasets import ListedExamples
from refseg.data.sampling import JointOrder, Order
from refseg.errors import InvalidInput
from refseg.framing import FrameSpec
from refseg.structures import Example
from refseg.training import loop
from refseg.training.batches import batches
from refseg.training.data import MOST_TRIES, ExamplesByPosition, TrainingSets, build_training_set
from refseg.training.recipe import run_from_values

FRAME = FrameSpec("letterbox", 8, mean=(0, 0, 0), std=(1 / 255,) * 3)


class Made(ListedExamples):
    """Pictures that show their number; some cannot be read, some show no object."""

    vocabulary = ("left", "half")

    def __init__(self, name, count, *, first=0, broken=(), empty=()):
        self.name, self.count, self.first = name, count, first
        self.broken, self.empty = broken, empty

    def __len__(self):
        return self.count

    def example(self, index, frames=None):
        if index in self.broken:
            raise InvalidInput(f"{self.name} {index} cannot be read")
        pixels = torch.full((1, 3, 8, 8), self.first + index, dtype=torch.uint8)
        masks = torch.ones(1, 1, 8, 8, dtype=torch.bool) & (index not in self.empty)
        return Example(f"{self.name} {index}", pixels, ("left half",), masks)


class Endless(Made):
    """Examples that are drawn, not stored."""

    is_endless = True


def run_of(sets=None, *, seed=0, ends="run_on", steps=6, **data):
    data = {"name": "made"} | data if sets is None else {"sets": sets} | data
    return run_from_values(
        {
            "family": "scout",
            "variant": "debug",
            "seed": seed,
            "data": data,
            "optimizer": {"lr": 0.1},
            "run": {"steps": steps, "batch_size": 2, "epoch_ends": ends},
        },
        source="test",
    )


def positions(examples, run):
    pairs = zip(examples, run.data.each, strict=True)
    return ExamplesByPosition(
        TrainingSets([build_training_set(one, own, run.data) for one, own in pairs], run)
    )


def numbers(dealt, count):
    return [int(dealt[position].example.frames[0, 0, 0, 0]) for position in range(count)]


TWO = [{"name": "few"}, {"name": "many"}]
SETS = [Made("few", 3), Made("many", 6, first=100)]


def test_sets_without_shares_are_dealt_out_as_one():
    shown = numbers(positions(SETS, run_of(TWO)), 18)
    everything = [0, 1, 2, 100, 101, 102, 103, 104, 105]
    assert sorted(shown[:9]) == sorted(shown[9:]) == everything
    assert shown[:9] != everything


def test_every_round_shows_the_shares_of_the_sets():
    shares = [{"name": "few", "share": 1}, {"name": "many", "share": 3}]
    shown = numbers(positions(SETS, run_of(shares)), 24)
    for start in range(0, 24, 4):
        assert sum(number < 100 for number in shown[start : start + 4]) == 1
    assert Counter(number for number in shown if number < 100) == {0: 2, 1: 2, 2: 2}
    assert Counter(number for number in shown if number >= 100) == dict.fromkeys(range(100, 106), 3)
    assert len({tuple(n < 100 for n in shown[s : s + 4]) for s in range(0, 24, 4)}) > 1


@given(order=st.permutations(list(range(30))), seed=st.integers(0, 99), shared=st.booleans())
def test_a_position_shows_the_same_whatever_was_asked_before(order, seed, shared):
    def dealt():
        return JointOrder([3, 4], seed, shares=[2, 1] if shared else None)

    straight = [dealt()[position] for position in range(30)]
    jumping = dealt()
    assert {position: jumping[position] for position in order} == dict(enumerate(straight))


def test_one_set_alone_is_dealt_out_as_ever():
    alone, joint = Order(7, seed=3), JointOrder([7], seed=3)
    assert [joint[position] for position in range(20)] == [(0, alone[position]) for position in range(20)]


def test_seeds_deal_joint_sets_differently():
    assert numbers(positions(SETS, run_of(TWO, seed=1)), 9) != numbers(positions(SETS, run_of(TWO)), 9)


def test_an_epoch_that_drops_its_rest_begins_anew_with_the_next_step():
    shown = numbers(positions([Made("made", 5)], run_of(ends="drop")), 12)
    epochs = [shown[start : start + 4] for start in range(0, 12, 4)]
    assert all(len(set(epoch)) == 4 for epoch in epochs)
    assert len({frozenset(range(5)) - frozenset(epoch) for epoch in epochs}) > 1  # another one is left out


def test_an_epoch_that_is_filled_wraps_around_to_its_own_beginning():
    shown = numbers(positions([Made("made", 5)], run_of(ends="fill")), 12)
    for start in (0, 6):
        epoch = shown[start : start + 6]
        assert sorted(epoch[:5]) == list(range(5))
        assert epoch[5] == epoch[0]


def test_steps_of_a_set_go_before_those_of_all_sets():
    run = run_of(
        [{"name": "few", "augment": [{"step": "resize", "short": [16]}]}, {"name": "many"}],
        augment=[{"step": "crop", "least": 4, "most": 12}],
    )
    dealt = positions(SETS, run)
    sizes = {dealt[p].example.name.split()[0]: dealt[p].example.frames.shape[-1] for p in range(18)}
    assert sizes["many"] <= 8
    widths = [dealt[p].example.frames.shape[-1] for p in range(60) if dealt[p].example.name.startswith("few")]
    assert max(widths) > 8  # cropped from the resized sixteen


class Shaped(Made):
    """Every third picture is tall."""

    def size(self, index):
        return (9, 5) if index % 3 == 0 else (5, 9)


def test_a_batch_holds_wide_pictures_or_tall_ones():
    dealt = positions(
        [Shaped("shaped", 14)], run_of(same_shape=True)
    )  # 5 tall, 9 wide; 12 fill batches of two
    shown = numbers(dealt, 24)
    for start in range(0, 24, 2):
        assert len({number % 3 == 0 for number in shown[start : start + 2]}) == 1
    epochs = shown[:12], shown[12:]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert [number % 3 == 0 for number in epochs[0]] != [number % 3 == 0 for number in epochs[1]]
    assert numbers(positions([Shaped("shaped", 14)], run_of(same_shape=True)), 24) == shown
    jumping = positions([Shaped("shaped", 14)], run_of(same_shape=True))
    assert int(jumping[17].example.frames[0, 0, 0, 0]) == shown[17]


def test_shapes_that_cannot_be_kept_apart_are_told():
    with pytest.raises(InvalidInput, match="made does not know the sizes of its pictures"):
        positions([Endless("made", 4)], run_of(same_shape=True))
    with pytest.raises(InvalidInput, match="neither the wide nor the tall ones fill a batch"):
        positions([Shaped("shaped", 2)], run_of(same_shape=True))
    with pytest.raises(InvalidInput, match=r"leave out run.epoch_ends"):
        run_of(same_shape=True, ends="drop")


def test_sets_without_a_root_have_that_of_the_section():
    each = run_of([{"name": "few"}, {"name": "many", "root": "own"}], root="all").data.each
    assert [one.root for one in each] == ["all", "own"]


def test_a_bad_example_ends_the_run_with_its_sentence():
    feed = batches(Made("made", 4, broken=[2]), run_of(), FRAME, start=0)
    with pytest.raises(InvalidInput, match="made 2 cannot be read"):
        list(feed)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_examples_are_skipped_and_counted_where_the_recipe_says_so(workers):
    run = run_of(skip_bad=True, workers=workers)
    feed = batches(Made("made", 4, broken=[2]), run, FRAME, start=0)
    shown = [number for batch in feed for number in batch.clips.pixels.amax((1, 2, 3, 4)).tolist()]
    skipped = feed.take_skipped()
    assert len(shown) == 12
    assert 2.0 not in shown
    assert len(skipped) >= 3  # once in every epoch of four, and perhaps as a replacement
    assert set(skipped) == {"made 2 cannot be read"}
    assert feed.take_skipped() == []


def test_examples_without_an_object_are_kept_unless_the_recipe_says_so():
    kept = [
        one.example.name
        for one in map(positions([Made("made", 3, empty=[1])], run_of()).__getitem__, range(3))
    ]
    assert "made 1" in kept
    dealt = positions([Made("made", 3, empty=[1])], run_of(skip_unseen=True))
    drawn = [dealt[position] for position in range(9)]
    assert "made 1" not in {one.example.name for one in drawn}
    reasons = [reason for one in drawn for reason in one.skipped]
    assert set(reasons) == {"made 1: no object is to be seen after the augmentation"}


def test_a_run_taken_up_later_skips_the_same_examples():
    run, made = run_of(skip_bad=True, steps=8), Made("made", 5, broken=[0, 3])

    def shown(start):
        return [b.clips.pixels.amax((1, 2, 3, 4)).tolist() for b in batches(made, run, FRAME, start=start)]

    assert shown(5) == shown(0)[5:]


def test_a_set_in_which_nothing_can_be_used_ends_the_run():
    dealt = positions([Made("made", 3, broken=[0, 1, 2])], run_of(skip_bad=True))
    with pytest.raises(InvalidInput, match=f"{MOST_TRIES} examples in a row .* made . cannot be read"):
        dealt[0]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"sets": TWO, "name": "made"}, "give either name, for one data set, or sets"),
        ({"sets": []}, "data.name is missing"),
        ({"sets": TWO, "phrases": 2}, "phrases belong to each of the sets"),
        ({"sets": [{"name": "few", "share": 1}, {"name": "many"}]}, "give a share to every one"),
        ({"sets": [{"name": "few"}, {"name": "scenes"}]}, "scenes are drawn without end and stand alone"),
        ({"sets": [{"name": "few", "shares": 1}]}, r"unknown key 'shares' in section \[data.sets\[0\]\]; did you mean 'share'"),
        ({"name": "a", "sample": {"rule": "round", "frames": 3}}, r"data.sample: there is no rule named 'round'; did you mean 'around'"),
        ({"name": "a", "sample": {"frames": 3}}, "data.sample is a table that names its rule, one of around, drawn, window"),
        ({"name": "a", "augment": [{"step": "flp"}]}, r"data.augment\[0\]: there is no step named 'flp'; did you mean 'flip'"),
        ({"name": "a", "augment": [{"step": "flip", "probabilty": 1}]}, r"unknown key 'probabilty' .*; did you mean 'probability'"),
        ({"name": "a", "augment": [{"step": "resize"}]}, r"data.augment\[0\].resize.short is missing"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_data_section_is_named(data, said):
    with pytest.raises(InvalidInput, match=said):
        run_from_values(
            {
                "family": "scout",
                "variant": "debug",
                "data": data,
                "optimizer": {"lr": 0.1},
                "run": {"steps": 3, "batch_size": 2},
            },
            source="test",
        )


def test_a_run_counts_what_it_skips_and_tells_the_first_ones(tmp_path, capsys, monkeypatch):
    made = Made("made", 4, broken=[2])
    made.vocabulary = ("left", "half")
    run = run_of(skip_bad=True, steps=6)
    run = run.model_copy(
        update={"run": run.run.model_copy(update={"evaluate_examples": 0, "log_every": 3, "save_every": 2})}
    )
    monkeypatch.setattr(loop, "open_training_data", lambda run, side: made)
    (tmp_path / "run").mkdir()
    loop.train(run, tmp_path / "run", device=torch.device("cpu"))
    told = capsys.readouterr().err
    steps = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    total = sum(line.get("skipped", 0) for line in steps)
    assert total >= 3
    assert f"{total} examples were skipped; log.jsonl counts them by step" in told
    assert told.count("skipped an example: made 2 cannot be read") == min(total, loop.MOST_TOLD)
    assert torch.load(tmp_path / "run/state.pt", weights_only=True)["skipped"] == total
