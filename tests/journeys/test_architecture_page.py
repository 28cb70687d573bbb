"""What the documentation says of the code exists: modules, functions and paths."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "src").rglob("README.md")),
]


def resolve(name):
    """The object of a dotted name below refseg, or None."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_name_and_path_of_a_page_exists(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`(refseg(?:\.\w+)+)(?:\([^`]*\))?`", text):
        assert resolve(name) is not None, f"{page.name} names {name}"
    for path in re.findall(r"`(src/refseg/[\w./+-]+)`", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_the_architecture_page_names_every_room():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {
        p.name for p in (ROOT / "src/refseg").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    for room in rooms - {"__init__.py", "__main__.py"}:
        assert room in text or room.removesuffix(".py") in text, room
