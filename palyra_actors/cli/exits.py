"""How a command ends: its exit code, and one line that says why.

A person gets one red line with code, field and hint; with `--json` a program gets the same as one
JSON object. Both on standard error; never a traceback for what this package raises on purpose.
"""

import errno
import functools
import json
import os
import sys
from collections.abc import Callable
from typing import Final, ParamSpec

import typer

from palyra_actors.errors import Broken, InternalFault, PalyraError, Unavailable

OK: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 3
BROKEN: Final = 4
DAMAGED: Final = 5
INTERRUPTED: Final = 130

HELP: Final = (
    "Exit codes: 0 done; 1 refused, change the request; 2 wrong usage; 3 engine unavailable or"
    " not there, try again; 4 broken: configuration, database file or engine; 5 verify found"
    " damage; 130 interrupted."
)

P = ParamSpec("P")


def code_of(error: PalyraError) -> int:
    """The exit code for an error: by what the caller does next."""
    match error:
        case Unavailable():
            return UNAVAILABLE
        case InternalFault() | Broken():
            return BROKEN
        case _:
            return REFUSED


def reporting(command: Callable[P, None]) -> Callable[P, None]:
    """Ends a command that raises one of our errors as the module says."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except PalyraError as error:
            say(error, as_json=bool(kwargs.get("as_json")))
            raise typer.Exit(code_of(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            _print_no_more()  # the reader has seen enough
            raise typer.Exit(OK) from None
        except OSError as error:
            if error.errno not in _CANNOT_BE_WRITTEN:
                raise
            _print_no_more()
            say(
                Broken(
                    f"the output cannot be written: {os.strerror(error.errno)}",
                    hint="what the command did before stands",
                ),
                as_json=bool(kwargs.get("as_json")),
            )
            raise typer.Exit(BROKEN) from None

    return run


_CANNOT_BE_WRITTEN: Final = frozenset({errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG})


def _print_no_more() -> None:
    """What is still buffered must not fail at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(error: PalyraError, *, as_json: bool) -> None:
    """One line on standard error."""
    if as_json:
        wire = error.to_wire()
        wire["detail"] = {**error.detail, "outcome": error.outcome}
        sys.stderr.write(json.dumps({"error": wire}, default=str) + "\n")
        return
    from rich.text import Text

    from palyra_actors.cli.shape import console, plain

    line = Text(no_wrap=False)
    line.append(error.code, style="bold red")
    line.append(f": {plain(error.message)}", style="red")
    if error.field:
        line.append(f" [{plain(error.field)}]", style="red")
    if error.hint:
        line.append(f" ({plain(error.hint)})", style="red")
    console(stderr=True).print(line, soft_wrap=True)
