"""The page says of every protocol what the code does."""

from pathlib import Path

from refseg.cli import app, load_verbs
from refseg.evaluation.table import protocol_markdown, protocol_text
from refseg.metrics.protocols import PROTOCOLS

PAGE = Path(__file__).parents[2] / "docs" / "evaluate.md"


def test_the_table_on_the_page_is_that_of_the_code():
    text = PAGE.read_text()
    table = text.partition("<!-- protocols -->\n")[2].partition("\n<!-- /protocols -->")[0]
    assert table == protocol_markdown()


def test_the_command_lists_every_protocol():
    from typer.testing import CliRunner

    load_verbs()
    done = CliRunner().invoke(app, ["evaluate", "--protocols"])
    assert done.exit_code == 0
    assert done.stdout.strip() == protocol_text()
    assert all(f"{protocol.name}: {protocol.title}" in done.stdout for protocol in PROTOCOLS.values())
