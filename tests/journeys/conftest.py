"""The command line, run in the test's own process."""

import sys

import pytest

from refseg.cli import main


@pytest.fixture
def refseg(monkeypatch, capsys):
    """Runs the command line; gives its exit code, stdout and stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["refseg", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run
