import sys

import pytest

from refseg.cli import main


@pytest.fixture
def command(monkeypatch, capsys):
    """The command line in this process: exit code, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["refseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        told = capsys.readouterr()
        return end.value.code or 0, told.out, told.err

    return run
