"""Locks of folders: one process at a time writes a run or a comparison.

The lock belongs to the open folder, so it leaves no file behind and ends with the process, however that
ends. File systems and platforms without such locks go without.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_held: set[int] = set()
"""Descriptors of the locked folders of this process."""


class FolderInUseError(ValueError):
    """Another process writes the folder."""


@contextmanager
def locked_folder(folder: Path, option: str = "--out") -> Iterator[None]:
    """Create a folder and hold its lock.

    Args:
        folder: of the run or the comparison.
        option: the flag that chooses another one, for the message.

    Raises:
        FolderInUseError: another process holds the lock.
        OSError: the folder cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUseError(
                f"{folder} is in use by another process: wait for its end, or choose another {option}"
            ) from error
        except OSError:
            pass  # the file system has no locks
        yield
    finally:
        with suppress(OSError):  # at once, also if a process that was just started still shares it
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        _held.discard(descriptor)
        os.close(descriptor)


def _close_in_child() -> None:
    """Keep processes that read images from holding the lock longer than the run."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_in_child)
