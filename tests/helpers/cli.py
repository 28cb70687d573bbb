"""The command line called inside the test's own process."""

from typer.testing import CliRunner

from refseg.cli import app, load_verbs


def call(*words):
    """What `refseg WORDS...` prints and returns; what it raises is raised."""
    load_verbs()
    done = CliRunner().invoke(app, [*map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done
