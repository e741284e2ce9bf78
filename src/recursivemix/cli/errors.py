"""Errors that end a command with one line on standard error."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from recursivemix.data.printable import counted

LONGEST = 1200
"""Characters of a message; what is in the middle of a longer one, such as a label, is left out."""


class UsageError(ValueError):
    """A mistake that the user can fix: exit code 2. The message is one line."""


class Failed(Exception):
    """A command that failed after it began to work: exit code 1. The message is one line."""


def failed_runs(names: Collection[str], part: str = "") -> Failed:
    """Return the error for runs that failed, whose reasons have been printed."""
    runs = counted(len(names), f"run{part}", f"runs{part}")
    return Failed(
        f"{runs} failed, for the reasons above: {', '.join(names)}; the same command "
        f"tries {'it' if len(names) == 1 else 'them'} again"
    )


class Interrupted(Exception):
    """Ctrl-C or a signal to stop: exit code 130. The message is one line."""


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line.

    An error of a data loader's worker holds its traceback, whose last line is the message.
    """
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:
        last = text.splitlines()[-1]
        text = last.partition(f"{type(error).__name__}: ")[2] or last
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


@contextmanager
def usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Raise UsageError instead of ValueError, OSError and the given errors."""
    try:
        yield
    except (UsageError, BrokenPipeError):
        raise
    except Exception as error:
        if not isinstance(error, (ValueError, OSError, *kinds)):
            raise
        raise UsageError(one_line(error)) from error
