"""Who may import whom: a room imports only from rows below its own."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "refseg"

# Rows of rooms, top first; rooms of one row do not import each other unless ALSO says so. Rooms that are still to be built
# stand where they belong.
ROWS = [
    {"__main__"},
    {"cli"},
    {"training"},
    {"evaluation", "service", "export", "batch"},
    {"streaming"},
    {"predictor"},
    {"checkpoints", "prediction"},
    {"models", "data"},
    {"encoders", "framing", "media", "answer_formats"},
    {
        "layers",
        "losses",
        "metrics",
        "structures",
        "distributed",
        "download",
        "device",
        "files",
        "errors",
        "version",
    },
]
ALSO = {
    ("metrics", "structures"),
    ("losses", "structures"),
    ("losses", "distributed"),
    ("layers", "distributed"),
}
UNDER_ANY = {"errors", "version"}

# Circles of modules, found by imports of every kind: at the top of a file, inside functions, and for typing alone. A circle
# that is gone must be taken out of this list; a new one is not let in.
CIRCLES = {
    ("models.scout.model", "models.scout.objectives"),
}


def row_of(room: str) -> int:
    return next(i for i, row in enumerate(ROWS) if room in row)


def module_of(path: Path) -> str:
    """The dotted name below `refseg`; "" is the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
FILES = [path for module, path in MODULES.items() if module]


def imports_of(path: Path) -> set[str]:
    """The modules of the package that a file imports, wherever in the file; dotted names below `refseg`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = ".".join(part for part in (*package_of(path, node.level), node.module) if part)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {to_module(name) for name in found if name.split(".")[0] == "refseg"}


def package_of(path: Path, level: int) -> tuple[str, ...]:
    """The package that an import with so many leading dots starts from."""
    return ("refseg", *path.relative_to(PACKAGE).parts[:-level]) if level else ()


def to_module(name: str) -> str:
    """The module of a dotted name, which may be that of something in it."""
    name = name.removeprefix("refseg").removeprefix(".")
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def circles(imports: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """The sets of modules from each of which all others of the set can be reached."""
    reached = {module: _reached_from(module, imports) for module in imports}
    found = set()
    for module, others in reached.items():
        if module in others:
            found.add(tuple(sorted(other for other in others if module in reached[other])))
    return found


def _reached_from(module: str, imports: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    ahead = [module]
    while ahead:
        for other in imports[ahead.pop()] - reached:
            reached.add(other)
            ahead.append(other)
    return reached


def test_no_modules_import_each_other_in_a_circle():
    found = circles({module: imports_of(path) for module, path in MODULES.items()})
    assert found - CIRCLES == set(), "modules import each other in a circle"
    assert CIRCLES - found == set(), "no circle any more, or another one: take it out of CIRCLES"


def test_imports_of_every_kind_and_circles_are_found(tmp_path, monkeypatch):
    package = tmp_path / "refseg"
    texts = {
        "__init__": "",
        "a": "from refseg.b import thing",
        "b": "def f():\n    import refseg.c\n",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from refseg import a, d",
        "d": "from .e.inner import thing",
        "e/__init__": "",
        "e/inner": "from ..d import thing\nfrom . import other",
        "e/other": "import torch",
        "own": "import refseg.own",
    }
    for name, text in texts.items():
        (package / f"{name}.py").parent.mkdir(exist_ok=True, parents=True)
        (package / f"{name}.py").write_text(text)
    monkeypatch.setitem(globals(), "PACKAGE", package)
    modules = {module_of(path): path for path in package.rglob("*.py")}
    monkeypatch.setitem(globals(), "MODULES", modules)
    found = circles({module: imports_of(path) for module, path in modules.items()})
    assert found == {("a", "b", "c"), ("d", "e.inner"), ("own",)}
    assert imports_of(modules["e.inner"]) == {"d", "e.other"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rows_below(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports_of(path) - {""}:
        other = name.split(".")[0]
        if other == room or other in UNDER_ANY or (room, other) in ALSO:
            continue
        assert row_of(other) > row_of(room), f"{path.name} ({room}) imports refseg.{name}"


@pytest.mark.parametrize("path", [p for p in FILES if p.relative_to(PACKAGE).parts[0] == "models"], ids=str)
def test_a_family_never_imports_another_family(path):
    parts = path.relative_to(PACKAGE).parts
    family = parts[1] if len(parts) > 2 else None
    for name in imports_of(path):
        other = name.split(".")
        if other[0] == "models" and len(other) > 1 and other[1] not in ("base", "family", "renaming"):
            assert other[1] == family, f"{path} imports refseg.{name}"


@pytest.mark.parametrize("library", ["torch", "cv2", "diffusers", "transformers", "torchvision"])
def test_importing_refseg_and_its_command_loads_no_heavy_library(library):
    code = f"import refseg, refseg.cli, sys; sys.exit('{library}' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


def test_no_file_of_the_package_imports_torchvision_or_transformers():
    for path in FILES:
        tops = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [getattr(node, "module", None) or ""]
            )
        }
        assert not tops & {"torchvision", "transformers", "timm"}, path
