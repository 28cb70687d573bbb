"""What docs/data-form.md shows is what happens."""

import re
from pathlib import Path

import pytest

from refseg.data.formats.phrase_line import KEYS, parse_line
from refseg.errors import InvalidInput

PAGE = (Path(__file__).parents[2] / "docs" / "data-form.md").read_text()
EXAMPLES = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()
MISTAKES = re.findall(r"^\| `(\{.*?\})` \| (.*) \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_is_a_line(text):
    assert parse_line(text).phrase


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_every_mistake_is_told_as_the_page_says(text, said):
    with pytest.raises(InvalidInput) as refusal:
        parse_line(text)
    assert str(refusal.value) == said


def test_the_page_names_every_key_and_shows_mistakes():
    assert set(re.findall(r"^\| `([a-z_]+)` \|", PAGE, re.MULTILINE)) == set(KEYS)
    assert len(MISTAKES) > 15
