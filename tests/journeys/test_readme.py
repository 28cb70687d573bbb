"""The README's commands and programs, run as they are written, from a folder that holds the package's sources."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.S)
COMMANDS = [
    line
    for kind, text in BLOCKS
    if kind == "bash"
    for line in text.splitlines()
    if line.startswith("refseg ")
]
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder where the README's relative paths hold, and where what the commands write does not disturb the clone."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "src").symlink_to(ROOT / "src", target_is_directory=True)
    return folder


def run(words, folder):
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def test_the_readme_runs_commands_in_order(folder):
    assert COMMANDS
    for command in COMMANDS:
        words = shlex.split(command)
        done = run(["-m", "refseg", *words[1:]], folder)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if "--out" in words:
            out = folder / words[words.index("--out") + 1]
            assert any(path.is_file() for path in out.rglob("*")), command


@pytest.mark.parametrize("program", PROGRAMS, ids=["short", "encoded once"])
def test_the_readme_python_runs_and_names_boxes(program, folder):
    done = run(["-c", program], folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\(\d+, \d+, \d+, \d+\)", done.stdout), done.stdout


def test_links_of_the_documentation_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_the_test_command_of_the_readme_is_what_continuous_integration_runs():
    assert "\nmake test " in "\n" + README.replace("```bash\n", "\n")
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_page_of_checkpoints_is_made_from_the_cards(folder):
    printed = run(["-m", "refseg", "models", "--markdown"], folder).stdout
    assert (ROOT / "docs" / "models.md").read_text(encoding="utf-8") == printed


def test_numbers_of_scout_in_the_readme_are_those_of_its_card():
    cards = tomllib.loads((ROOT / "src/refseg/models/scout/checkpoints.toml").read_text(encoding="utf-8"))
    measured = cards["checkpoint"][0]["measured"]
    told = {(m["dataset"], m["split"], m["metric"]): m["value"] for m in measured}
    for metric in ("mIoU", "P@0.5"):
        row = re.search(rf"^\| {metric} \|(.*)\|$", README, flags=re.M).group(1)
        registers = ("loc", "app", "rel", "multi", "all")
        assert [float(cell) for cell in row.split("|")] == [
            told["scenes", "val", f"{metric} {r}"] for r in registers
        ]
    for number, key in {
        r"refuses ([\d.]+) of": ("scenes", "val", "refused none"),
        r"answers ([\d.]+) of": ("scenes", "val", "kept all"),
        r"falls\s+to ([\d.]+) mIoU": ("scenes, control", "val", "mIoU all"),
        r"never showed: ([\d.]+) mIoU": ("scenes", "new", "mIoU all"),
        r"\(J ([\d.]+) on": ("scenes, clips", "val", "J mot2"),
    }.items():
        assert float(re.search(number, README).group(1)) == told[key]
