"""The naming objective: labels of cells, and learning to name."""

import numpy as np
import pytest
import torch

from refseg.data.collate import collate
from refseg.errors import InvalidInput
from refseg.models import catalog
from refseg.models.scout.config import VARIANTS
from refseg.models.scout.family import FAMILY
from refseg.models.scout.objectives import cell_labels
from refseg.structures import Example, Things

DEBUG = VARIANTS["debug"]


def things(ids, nouns=(4,), colours=(2,)):
    return Things(ids, torch.tensor(nouns), torch.tensor(colours))


def test_a_cell_is_named_after_the_object_that_covers_most_of_it():
    ids = torch.zeros(1, 16, 16, dtype=torch.uint8)
    ids[0, :8, :8] = 1  # the first cell whole
    ids[0, :8, 8:10] = 1  # a quarter of the second
    nouns, colours, weights = cell_labels([things(ids)], DEBUG)
    assert nouns[0].tolist() == [5, 0, 0, 0]
    assert colours[0].tolist() == [4, 0, 0, 0]
    assert weights[0].tolist() == pytest.approx([1.0, 0.0, 0.075, 0.075])  # 0.15 shared by two empty cells


def test_a_large_object_weighs_as_much_as_a_small_one():
    ids = torch.zeros(1, 32, 32, dtype=torch.uint8)
    ids[0, :8, :8] = 1
    ids[0, 16:] = 2
    nouns, _, weights = cell_labels([things(ids, (0, 1), (-1, -1))], DEBUG)
    assert weights[nouns == 1].sum() == pytest.approx(1.0)
    assert weights[nouns == 2].sum() == pytest.approx(1.0)


def test_a_thing_without_a_colour_word_has_a_class_of_its_own():
    ids = torch.ones(1, 8, 8, dtype=torch.uint8)
    _, colours, _ = cell_labels([things(ids, (0,), (-1,))], DEBUG)
    assert colours.tolist() == [[1]]


def test_more_kinds_than_the_head_has_are_refused():
    ids = torch.ones(1, 8, 8, dtype=torch.uint8)
    with pytest.raises(InvalidInput, match="num_nouns"):
        cell_labels([things(ids, (DEBUG.num_nouns,))], DEBUG)


def squares(count=6):
    """Red and green squares on grey, one in each picture."""
    examples = []
    rng = np.random.default_rng(0)
    for index in range(count):
        frame = torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)
        ids = torch.zeros(1, 64, 64, dtype=torch.uint8)
        top, left = rng.integers(0, 40, 2)
        frame[0, :, top : top + 24, left : left + 24] = 0
        frame[0, index % 2, top : top + 24, left : left + 24] = 255
        ids[0, top : top + 24, left : left + 24] = 1
        examples.append(
            Example(
                f"square {index}",
                frame,
                (),
                torch.zeros(0, 1, 64, 64, dtype=torch.bool),
                things=things(ids, (index % 2,), (index % 2,)),
            )
        )
    return examples


def test_twenty_steps_of_naming_lower_the_loss_and_leave_the_words_alone():
    torch.manual_seed(0)
    model = catalog.build("scout", "debug").train()
    words = model.text.words.weight.clone()
    batch = collate(squares(), DEBUG.frame)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = sum(FAMILY.objectives["naming"](model, batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(model.text.words.weight, words)


def test_data_that_name_nothing_are_refused():
    model = catalog.build("scout", "debug")
    example = Example(
        "unnamed",
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        ("dog",),
        torch.zeros(1, 1, 64, 64, dtype=torch.bool),
    )
    with pytest.raises(InvalidInput, match="names its things"):
        FAMILY.objectives["naming"](model, collate([example], DEBUG.frame))
