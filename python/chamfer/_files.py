"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from chamfer.errors import LockedIndexError

if os.name == "nt":  # here, and not where it is used: at the interpreter's end nothing can be imported
    import msvcrt
else:
    import fcntl


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` when the block ends well, after its bytes are on disk.

    A crash or an exception leaves the old file, or none.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Make a file's contents durable."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def make_folder(path: Path) -> None:
    """Make a folder, and those it is in, where there is none, and make their names durable."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where the system has a way to."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Hold a lock of the system's on a file; it falls with the process that holds it, however that ends.

    Raises:
        LockedIndexError: somebody holds it.
    """
    with path.open("ab") as file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                raise
            raise LockedIndexError(
                f"{path.parent}: somebody else is writing to it, or has it open with mode='a'; "
                "try again when that has ended"
            ) from None
        holder = os.getpid()
        try:
            yield
        finally:
            if os.getpid() == holder:  # a forked child has the same lock, and would let go its parent's
                _unlock(file)


def _lock(file: IO[bytes]) -> None:
    if os.name == "nt":
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(file: IO[bytes]) -> None:
    """Let go a lock now, and not when the last forked child that inherited the file has ended."""
    if os.name != "nt":
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
