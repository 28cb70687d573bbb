"""What goes wrong slowly is said once, in words, and what is only noise is not."""

import pytest

from refseg.training import log
from refseg.training.data import Skip, Tally
from refseg.training.log import Watch


def interval(first, losses, *, norm=1.0, waiting=0.0):
    return [
        {"step": first + n, "loss": loss, "norm": norm, "seconds": 1.0, "waiting": waiting}
        for n, loss in enumerate(losses)
    ]


@pytest.fixture
def said():
    return []


@pytest.fixture
def looking(said, monkeypatch):
    monkeypatch.setattr(log, "usable_cores", lambda: 4)
    return Watch(said.append, workers=0)


def feed(looking, rows, **more):
    """Intervals of ten steps with these losses."""
    start = more.pop("start", 1)
    for number, loss in enumerate(rows):
        looking.interval(interval(start + 10 * number, [loss] * 10, **more))


def test_a_loss_that_stays_four_times_its_median_is_told_once(looking, said):
    feed(looking, [2.0] * 5)
    feed(looking, [9.0, 9.5], start=51)
    assert said == []
    feed(looking, [10.0, 11.0, 12.0, 13.0], start=71)
    assert len(said) == 1
    assert said[0].startswith(
        "step 80: the loss has been more than 4 times its usual 2 for 3 intervals, now 10;"
    )
    assert "optimizer.lr" in said[0]


def test_what_exploded_does_not_become_usual(looking, said):
    feed(looking, [2.0] * 5 + [9.0] * 2 + [2.0] + [9.0] * 2 + [2.0] + [9.0] * 3)
    assert len(said) == 1
    assert "usual 2 for" in said[0]


@pytest.mark.parametrize(
    "rows", [[2.0] * 5 + [20.0, 20.0, 2.0] * 3, [2.0] * 5 + [7.9] * 8, [40.0, 30.0, 10.0, 5.0, 1.0]]
)
def test_jumps_that_come_back_small_rises_and_a_falling_loss_are_no_news(looking, said, rows):
    feed(looking, rows)
    assert said == []


def test_the_norm_is_told_by_itself(looking, said):
    feed(looking, [2.0] * 4, norm=1.0)
    feed(looking, [2.0] * 3, norm=11.0, start=41)
    assert len(said) == 1
    assert "the gradient's norm has been more than 10 times its usual 1 for 3 intervals" in said[0]


def test_an_infinite_norm_of_float16_is_left_out(looking, said):
    feed(looking, [2.0] * 4)
    feed(looking, [2.0] * 9, norm=float("inf"), start=41)
    assert said == []


def test_waiting_for_data_is_told_once_with_the_workers_that_would_help(looking, said):
    feed(looking, [2.0] * 9, waiting=0.6)  # 0.6 s of every second prepare: 0.6 / 0.4 workers keep up
    assert len(said) == 1
    assert said[0].startswith(
        "step 40: 60% of the time is spent waiting for data; data.workers=2 would prepare"
    )


def test_the_first_interval_and_rare_waiting_are_no_news(looking, said):
    looking.interval(interval(1, [2.0] * 10, waiting=0.9))
    feed(looking, [2.0] * 2, waiting=0.5, start=11)
    feed(looking, [2.0] * 2, waiting=0.1, start=31)
    feed(looking, [2.0] * 2, waiting=0.5, start=51)
    assert said == []


def test_more_workers_than_cores_are_not_advised(said, monkeypatch):
    monkeypatch.setattr(log, "usable_cores", lambda: 2)
    feed(Watch(said.append, workers=2), [2.0] * 5, waiting=0.5)
    assert "the 2 cores that this process may use are too few" in said[0]
    assert "data.workers" not in said[0]


def skips(count, kind="unreadable", source="made train"):
    return [Skip.of(f"picture {n} cannot be read", kind=kind, source=source) for n in range(count)]


def test_a_kind_that_is_skipped_often_is_told_once_with_its_share():
    tally = Tally()
    tally.note(["made train"] * 95, skips(5))
    assert tally.news() == [
        "5% of the 100 examples of made train tried so far were skipped: 5 cannot be read; `refseg data doctor` or "
        "`refseg data check` looks through the files"
    ]
    tally.note(["made train"] * 9, skips(1))
    assert tally.news() == []


def test_a_few_bad_files_of_many_are_no_news():
    tally = Tally()
    tally.note(["made train"] * 1000, skips(9))
    assert tally.news() == []
    tally.note([], skips(2))
    assert "1% of the 1011" in tally.news()[0]


def test_a_set_of_which_nothing_is_shown_is_told_though_others_are_sound():
    tally = Tally()
    tally.note(["good train"] * 5000, skips(6, "unseen", "other train"))
    (sentence,) = tally.news()
    assert sentence.startswith(
        "all of the 6 examples of other train tried so far were skipped: 6 show no object"
    )


def test_the_summary_counts_by_set_and_kind():
    tally = Tally()
    tally.note(["a"] * 96 + ["b"] * 10, skips(3, "unreadable", "a") + skips(1, "unseen", "a"))
    assert tally.summary() == [
        "skipped of 100 examples of a: 3 that cannot be read (3.0%), 1 that show no object after the augmentation (1.0%)"
    ]
    assert Tally().summary() == []


def test_a_reason_keeps_its_kind_on_the_way_from_a_worker():
    import pickle

    sent = pickle.loads(pickle.dumps(skips(1)[0]))
    assert (sent, sent.kind, sent.source) == ("picture 0 cannot be read", "unreadable", "made train")
