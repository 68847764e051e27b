"""Forked children: what one of them does to itself is told to the parent, who goes on."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
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


def run_child(
    work: Callable[[Callable[[Any], None]], None],
    timeout: float,
    on_told: Callable[[int, Any], None] | None = None,
) -> Ending:
    """Call work(tell) in a forked child, where tell(value) sends what JSON holds, and return how it ended.

    Args:
        work: what the child does. Its return ends the child, without Python's cleaning up.
        timeout: seconds after which the child is killed.
        on_told: called with the child's process id and each value, as soon as it is told.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            work(lambda value: _send(writer, {"told": value}))
            status = 0
        except BaseException:
            _send(writer, {"error": "".join(traceback.format_exc(chain=False).splitlines(keepends=True)[-9:])})
        finally:
            os._exit(status)
    os.close(writer)
    told: list[Any] = []
    error, pending, has_hung = "", b"", False
    deadline = time.monotonic() + timeout
    try:
        while True:
            ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                has_hung = True
                os.kill(child, signal.SIGKILL)
                break
            received = os.read(reader, 1 << 16)
            if not received:
                break
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "error" in message:
                    error = message["error"]
                else:
                    told.append(message["told"])
                    if on_told is not None:
                        on_told(child, message["told"])
    finally:
        os.close(reader)
        _, status = os.waitpid(child, 0)
    return Ending(told, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, error, has_hung)


def _send(writer: int, message: Any) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(writer, data) :]
