"""The command line: `refseg VERB ...`. Each verb's module imports what it needs when it runs, so that help is instant.

Exit codes: 0 everything worked; 1 some inputs failed, the others are whole; 2 nothing worked, or the command was wrong;
130 interrupted. With `--json`, a failure is also a JSON object `{"error": ...}` on stdout.
"""

from __future__ import annotations

import errno
import importlib
import json
import sys
from typing import Annotated, NoReturn

import typer

from refseg.errors import RefsegError, is_full_memory
from refseg.version import __version__

_VERBS = (
    "demo",
    "predict.verb",
    "train",
    "calibrate",
    "evaluate",
    "data.scenes",
    "data.check",
    "data.list",
    "data.show",
    "data.doctor",
    "data.convert",
    "data.get",
    "data.overlap",
    "data.submission",
    "models",
    "convert",
    "merge",
    "vectors",
    "bench",
)

app = typer.Typer(
    name="refseg",
    help="Which pixels does this phrase refer to? Masks for phrases, in images and video.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Runs the command line; a user's mistake is one sentence on stderr and exit code 2."""
    try:
        load_verbs()
        app()
    except RefsegError as error:
        _stop(str(error))
    except OSError as error:
        _stop(_describe(error))
    except (MemoryError, RuntimeError) as error:
        if not is_full_memory(error):
            raise
        _stop("memory ran out; give smaller or fewer frames (--every), fewer phrases, or another --device")
    except KeyboardInterrupt:
        sys.exit(130)


def load_verbs() -> None:
    """Imports the verbs' modules, each of which adds its verb to `app`, in the order in which help lists them."""
    for name in _VERBS:
        importlib.import_module(f"{__name__}.{name}")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"refseg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _describe(error: OSError) -> str:
    """One sentence about what the system refused."""
    where = f" {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full, writing{where or ' a file'}; free some space, or write to another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"the system does not allow access to{where or ' a file'} ({error.strerror}); change its permissions, or choose another"
    return f"the system refused{where or ' an operation on a file'}: {error.strerror or error}"


def _stop(sentence: str) -> NoReturn:
    print(f"refseg: {sentence}", file=sys.stderr)
    if "--json" in sys.argv:
        print(json.dumps({"error": sentence}, ensure_ascii=False))
    sys.exit(2)
