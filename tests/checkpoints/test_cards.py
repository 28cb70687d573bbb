import tomllib
from pathlib import Path

import pytest

from refseg.checkpoints.cards import read_cards
from refseg.errors import InvalidInput
from refseg.models import catalog

GOOD = (Path(__file__).parent / "tiny_checkpoints.toml").read_text()
REAL = ("scout", "referformer", "vlformer")


def cards(tmp_path, text):
    (tmp_path / "checkpoints.toml").write_text(text)
    return read_cards(tmp_path / "checkpoints.toml", "tiny")


def test_a_card_tells_everything_it_was_given(tmp_path):
    (card,) = cards(tmp_path, GOOD)
    assert (card.name, card.family, card.variant, card.licence) == ("tiny-debug", "tiny", "debug", "CC0-1.0")
    assert card.source.address == "http://127.0.0.1:9/tiny.pth"
    assert (card.published[0].metric, card.published[0].value) == ("oIoU", 12.5)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('licence = "CC0-1.0"\n', "", "card tiny-debug .*licence: Field required"),
        ('licence = "', 'colour = "red"\nlicence = "', "colour: Extra inputs"),
        (', url = "http://127.0.0.1:9/tiny.pth"', "", "exactly one of url, drive, hub and asset"),
        ('url = "', 'drive = "abc", url = "', "exactly one of url, drive, hub and asset"),
        ('url = "', 'sha256 = "short", url = "', "source.sha256"),
        ('format = "pth"', 'format = "onnx"', "source.format"),
        ("value = 12.5", 'value = "high"', "published.0.value"),
        ("[[checkpoint]]", "[[checkpoints]]", "cards are .*tables"),
        ('name = "tiny-debug"', "name = ", "cannot be read"),
    ],
)
def test_a_card_that_is_not_as_it_must_be_is_named_with_its_field(tmp_path, old, new, expected):
    assert GOOD.replace(old, new) != GOOD
    with pytest.raises(InvalidInput, match=expected):
        cards(tmp_path, GOOD.replace(old, new))


def test_absent_cards_are_told(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_cards(tmp_path / "none.toml", "tiny")


@pytest.mark.parametrize("name", REAL)
def test_the_cards_of_a_family_name_variants_that_exist(name):
    family = catalog.family(name)
    found = read_cards(family.cards, name)
    assert found and {card.variant for card in found} <= set(family.variants)
    assert all(card.name == name or card.name.startswith(f"{name}-") for card in found)


def test_no_two_cards_share_a_name_or_a_file():
    tables = [t for name in REAL for t in tomllib.loads(catalog.family(name).cards.read_text())["checkpoint"]]
    assert len({t["name"] for t in tables}) == len(tables)
    sources = [str(t["source"]) for t in tables if not {"unpublished", "by_hand"} & set(t["source"])]
    assert len(set(sources)) == len(sources)
