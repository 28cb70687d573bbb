"""The command line: `refseg VERB ...`. Each verb's module imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import sys

import typer

app = typer.Typer(
    name="refseg",
    help="Which pixels does this phrase refer to? Masks for phrases, in images and video.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _verbs() -> None:
    """Keeps verbs in front of their arguments, however many there are."""


def main() -> None:
    """Runs the command line; a user's mistake is one sentence on stderr and exit code 2."""
    from refseg.errors import RefsegError

    try:
        app()
    except RefsegError as error:
        print(f"refseg: {error}", file=sys.stderr)
        sys.exit(2)


from refseg.cli import train as train  # noqa: E402 - verbs add themselves to `app`
