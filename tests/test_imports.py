"""Who may import whom: a room imports only from rows below its own."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "refseg"

# Rows of the house, top first; rooms of one row do not import each other unless ALSO says so.
ROWS = [
    {"__main__"},
    {"cli"},
    {"training"},
    {"evaluation", "service", "export"},
    {"streaming"},
    {"predictor"},
    {"checkpoints", "prediction"},
    {"models", "data"},
    {"encoders", "framing"},
    {
        "layers",
        "losses",
        "metrics",
        "structures",
        "drawing",
        "drawing_explain",
        "download",
        "files",
        "distributed",
        "errors",
    },
]
ALSO = {
    ("drawing", "files"),
    ("drawing_explain", "drawing"),
    ("drawing_explain", "structures"),
    ("structures", "errors"),
    ("metrics", "structures"),
    ("metrics", "errors"),
    ("losses", "structures"),
    ("losses", "errors"),
    ("losses", "distributed"),
    ("layers", "errors"),
    ("layers", "distributed"),
}
UNDER_ANY = {"errors"}


def row_of(room: str) -> int:
    return next(i for i, row in enumerate(ROWS) if room in row)


def imports_of(path: Path) -> set[str]:
    """Dotted names below `refseg` that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("refseg.")}
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "refseg":
            base = node.module.removeprefix("refseg").strip(".")
            names |= {f"refseg.{base}"} if base else {f"refseg.{alias.name}" for alias in node.names}
    return {name.removeprefix("refseg.") for name in names if name not in ("refseg", "refseg.__version__")}


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rows_below(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports_of(path):
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
        if other[0] == "models" and len(other) > 1 and other[1] not in ("base", "renaming"):
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
