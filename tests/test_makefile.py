"""What `make scout` does at each stage, with a `refseg` that only writes down what it is asked."""

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_stage_goes_on_wherever_a_run_was_begun(tmp_path):
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    for name in (
        "pyproject.toml",
        "constraints.txt",
        "venv/.runtime",
    ):  # the last one is newer: nothing to install
        (tmp_path / name).touch()
    program = tmp_path / "venv" / "bin" / "refseg"
    program.write_text('#!/bin/sh\necho "$@" >> asked.txt\n')
    program.chmod(0o755)
    for name in ("runs/scout-naming/state.pt", "runs/scout-naming/run.toml", "runs/scout-scenes/run.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    subprocess.run(
        ["make", "-f", MAKEFILE, "scout", "VENV=venv"], cwd=tmp_path, check=True, capture_output=True
    )
    assert (tmp_path / "asked.txt").read_text().splitlines()[:4] == [
        "train scout/naming --resume",
        "train scout/scenes --resume",  # killed before its first save
        "train scout/motion",
        "train scout/clips",
    ]
