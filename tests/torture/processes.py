"""Forked children: what one of them does to itself is told to the parent, who goes on."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class Findings(list[str]):
    """What was found wrong, told at once too: a long run may be stopped."""

    def append(self, finding: str) -> None:
        print(f"\n{finding}", file=sys.stderr)
        super().append(finding)


@dataclass(frozen=True)
class Ending:
    """How a child ended: what it told, the signal that killed it, and what it raised."""

    told: list[Any]
    signal: int = 0
    error: str = ""
    has_hung: bool = False


Tell = Callable[[Any], None]


def run_child(
    work: Callable[[Tell], None], timeout: float, on_told: Callable[[int, Any], None] | None = None
) -> Ending:
    """Run one child; see `run_children`."""
    return run_children([work], timeout, on_told)[0]


def run_children(
    works: Sequence[Callable[[Tell], None]], timeout: float, on_told: Callable[[int, Any], None] | None = None
) -> list[Ending]:
    """Call each work(tell) in a forked child, where tell(value) sends what JSON holds, and return how they ended.

    Args:
        works: what the children do. A return ends a child, without Python's cleaning up.
        timeout: seconds after which children are killed.
        on_told: called with a child's process id and each value, as soon as it is told.
    """
    children = {}
    for work in works:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            _be_child(work, writer)
        os.close(writer)
        children[reader] = _Child(child)
    deadline = time.monotonic() + timeout
    running = set(children)
    while running:
        ready, _, _ = select.select(list(running), [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            for reader in running:
                children[reader].has_hung = True
                os.kill(children[reader].process, signal.SIGKILL)
            break
        for reader in ready:
            received = os.read(reader, 1 << 16)
            if received:
                children[reader].take(received, on_told)
            else:
                running.remove(reader)
    endings = []
    for reader, one in children.items():
        os.close(reader)
        _, status = os.waitpid(one.process, 0)
        by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        endings.append(Ending(one.told, by, one.error, one.has_hung))
    return endings


class _Child:
    def __init__(self, process: int) -> None:
        self.process = process
        self.told: list[Any] = []
        self.error = ""
        self.has_hung = False
        self._pending = b""

    def take(self, received: bytes, on_told: Callable[[int, Any], None] | None) -> None:
        *lines, self._pending = (self._pending + received).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "error" in message:
                self.error = message["error"]
                continue
            self.told.append(message["told"])
            if on_told is not None:
                on_told(self.process, message["told"])


def _be_child(work: Callable[[Tell], None], writer: int) -> None:
    status = 1
    try:
        work(lambda value: _send(writer, {"told": value}))
        status = 0
    except BaseException:
        _send(writer, {"error": "".join(traceback.format_exc(chain=False).splitlines(keepends=True)[-9:])})
    finally:
        os._exit(status)


def _send(writer: int, message: Any) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(writer, data) :]
