"""What is shown when depends on the seed and the position, and on nothing else."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from refseg.data.sampling import Order, Positions, generator_at


@given(count=st.integers(1, 30), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_every_epoch_shows_every_example_once(count, seed, epoch):
    order = Order(count, seed)
    assert sorted(order[epoch * count + place] for place in range(count)) == list(range(count))


def test_epochs_and_seeds_deal_differently():
    orders = [[Order(20, seed)[start + place] for place in range(20)] for seed in (0, 1) for start in (0, 20)]
    assert len({tuple(order) for order in orders}) == 4


@given(positions=st.lists(st.integers(0, 99), min_size=1))
def test_a_position_shows_the_same_example_whatever_was_asked_before(positions):
    order = Order(7, seed=3)
    straight = [Order(7, seed=3)[position] for position in positions]
    assert [order[position] for position in positions] == straight


def test_a_set_without_end_is_read_in_order():
    assert [Order(None, seed=5)[position] for position in (0, 1, 12345678901)] == [0, 1, 12345678901]


@given(start=st.integers(0, 5), size=st.integers(1, 4), ranks=st.integers(1, 4))
def test_the_ranks_together_take_what_one_process_would(start, size, ranks):
    alone = list(Positions(start, start + 3, batch_size=size * ranks))
    shared = [
        list(Positions(start, start + 3, batch_size=size, rank=r, world_size=ranks)) for r in range(ranks)
    ]
    for batch, parts in zip(alone, zip(*shared, strict=True), strict=True):
        assert sorted(position for part in parts for position in part) == batch


def test_batches_that_are_done_are_not_dealt_again():
    assert list(Positions(2, 4, batch_size=3)) == [[6, 7, 8], [9, 10, 11]]


def test_neighbouring_keys_draw_different_numbers():
    drawn = {
        torch.rand((), generator=generator_at(seed, position)).item()
        for seed in range(20)
        for position in range(50)
    }
    assert len(drawn) > 990  # of 1000; float32 has 2^24 values in [0, 1), so that one or two may meet
