"""Lengths in epochs follow from the data; what they come to is worked out by hand here."""

import pytest

from refseg.errors import InvalidInput
from refseg.training.recipe import in_steps, read_recipe, run_from_values, to_toml


def run_of(*, steps="12 epochs", batch=2, ends="drop", accumulate=1, name="mine.jsonl", **schedule):
    return run_from_values(
        {
            "family": "scout",
            "variant": "debug",
            "data": {"name": name},
            "optimizer": {"lr": 0.1, "accumulate": accumulate},
            "schedule": schedule,
            "run": {"steps": steps, "batch_size": batch, "epoch_ends": ends, "save_every": "1 epoch"},
        },
        source="test",
    )


@pytest.mark.parametrize(
    ("count", "ends", "world", "accumulate", "steps"),
    [
        (42404, "drop", 8, 1, 40 * (42404 // 32)),  # LGFormer on RefCOCO, 8 processes of 4
        (42404, "fill", 1, 1, 40 * 10601),
        (7, "drop", 1, 1, 40 * 1),
        (7, "fill", 1, 1, 40 * 2),
        (7, "run_on", 1, 1, 70),  # 280 examples in steps of 4
        (7, "fill", 1, 2, 40 * 1),
    ],
)
def test_an_epoch_has_as_many_steps_as_its_end_leaves(count, ends, world, accumulate, steps):
    run = run_of(steps="40 epochs", batch=4, ends=ends, accumulate=accumulate)
    assert in_steps(run, count, world).run.steps == steps


def test_every_length_of_a_recipe_may_be_in_epochs():
    run = run_of(kind="step", drops=["8 epochs", 100, 0.5], warmup_steps="0.5 epochs")
    plain = in_steps(run, 21, 1)  # 10 steps an epoch, the last example is dropped
    assert (plain.run.steps, plain.run.save_every) == (120, 10)
    assert plain.schedule.drops == (80, 100, 0.5)
    assert plain.schedule.warmup_steps == 5


def test_a_run_in_steps_stays_as_it_is():
    run = run_of(steps=500)
    assert in_steps(run, 21, 1).run.steps == 500


def test_scenes_have_no_epochs():
    with pytest.raises(InvalidInput, match=r"run.steps is '12 epochs', and scenes have no epochs"):
        in_steps(run_of(name="scenes", ends="run_on"), None, 1)


def test_a_set_smaller_than_a_step_is_refused_where_its_rest_is_dropped():
    with pytest.raises(
        InvalidInput, match=r"holds 3 examples, fewer than the 4 of one step.*lower run.batch_size"
    ):
        in_steps(run_of(batch=4), 3, 1)
    assert in_steps(run_of(batch=4, ends="fill"), 3, 1).run.steps == 12


def test_a_warm_up_longer_than_the_run_is_refused_in_epochs_too():
    with pytest.raises(InvalidInput, match=r"schedule.warmup_steps 130 is longer than run.steps 120"):
        in_steps(run_of(warmup_steps="13 epochs"), 20, 1)


@pytest.mark.parametrize(
    "steps", ["12 epoch s", "twelve epochs", "0 epochs", "epochs", "-1 epochs", 0, 1.5, True]
)
def test_what_is_no_length_is_refused_with_an_example(steps):
    with pytest.raises(
        InvalidInput, match=r'run.steps: a number of steps from 1 on, or a text such as "12 epochs"'
    ):
        run_of(steps=steps)


@pytest.mark.parametrize("drop", [1.5, -1, "8 epoks", "half"])
def test_what_is_no_drop_is_refused(drop):
    with pytest.raises(InvalidInput, match=r"schedule.drops\[0\]: a part of the run"):
        run_of(kind="step", drops=[drop])


def test_the_resolved_file_keeps_the_lengths_as_they_were_given(tmp_path):
    run = run_of(kind="step", drops=["8 epochs", 0.5, 70])
    (tmp_path / "run.toml").write_text(to_toml(run))
    again = read_recipe(tmp_path / "run.toml")
    assert again.schedule.drops == ("8 epochs", 0.5, 70)
    assert [type(drop) for drop in again.schedule.drops] == [str, float, int]
    assert again.run.steps == "12 epochs"
