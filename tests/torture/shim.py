"""The library that makes file calls fail or kill (faulty.c): compiled, loaded by a new process, and armed."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

OPEN, READ, WRITE, SYNC, RENAME, TRUNCATE, UNLINK, MAP, MKDIR = (1 << i for i in range(9))
ALL = (1 << 9) - 1
COUNT, FAIL, SHORT, KILL_BEFORE, KILL_AFTER, KILL_WITHIN = range(6)

_VARIABLE = "CHAMFER_TORTURE_SHIM"


def missing() -> str | None:
    """Return why the library cannot be had; None if it can."""
    if sys.platform != "linux":
        return "needs Linux, whose loader takes LD_PRELOAD"
    if shutil.which(os.environ.get("CC", "cc")) is None:
        return "needs a C compiler, named cc or by CC"
    return None


def environment(folder: Path) -> dict[str, str]:
    """Compile the library into a folder, and return the environment of a process that is to have it."""
    library = folder / "faulty.so"
    source = Path(__file__).with_name("faulty.c")
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return os.environ | {"LD_PRELOAD": str(library), _VARIABLE: str(library)}


def is_loaded() -> bool:
    """Return whether this process has the library."""
    return _VARIABLE in os.environ


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(os.environ[_VARIABLE])


def arm(folder: Path, calls: int, number: int, action: int, error: int = 0, *, is_lasting: bool = False) -> None:
    """Let one of the coming calls on files under a folder do something; with calls = 0, only note which files are."""
    _library().torture_arm(os.fsencode(folder), calls, ctypes.c_long(number), action, error, int(is_lasting))


def disarm() -> int:
    """Let all calls be as they are, and return how many there were of those that were armed."""
    return int(_library().torture_disarm())


def counts() -> dict[int, int]:
    """Return how many calls there were of each kind since `arm`."""
    _library().torture_count.restype = ctypes.c_long
    return {1 << i: int(_library().torture_count(1 << i)) for i in range(9)}


def unsynced(folder: Path) -> list[str]:
    """Return what of a folder, and of the one it is in, was written and not synced: a power cut may undo that."""
    inodes = (ctypes.c_ulonglong * 4096)()
    found = set(inodes[: _library().torture_unsynced(inodes, len(inodes))])
    entries = {"..": folder.parent, ".": folder, **{str(one.relative_to(folder)): one for one in folder.rglob("*")}}
    names = [name for name, entry in entries.items() if entry.stat().st_ino in found]
    # SQLite makes -shm anew, and what it has not moved from its log to the database is in the log.
    spared = {"catalogue.sqlite-shm"} | ({"catalogue.sqlite"} if "catalogue.sqlite-wal" in entries else set())
    return [name for name in names if name not in spared]


def fast_folder() -> str | None:
    """Return a folder in memory, where syncing costs nothing, if there is one: for faults that do not need a disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() and os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
