"""The door to torch: imported on first use, with the threads of one call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def import_torch() -> Any:
    """Return torch.

    Raises:
        ModuleNotFoundError: it is not installed; says how to.
    """
    try:
        import torch
    except ImportError:
        raise ModuleNotFoundError('chamfer.training needs torch: pip install "chamfer[training]"') from None
    return torch


def resolve_device(torch: Any, device: Any) -> Any:
    """Return a torch.device that this machine has; `device` is a name such as "cuda:0", or a torch.device."""
    try:
        resolved = torch.device(device)
        torch.zeros(1, device=resolved).cpu()
    except (TypeError, RuntimeError, AssertionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f'device: expected one that torch has here, such as "cpu", got {device!r}') from None
    return resolved


@contextmanager
def torch_threads(torch: Any, num_threads: int) -> Iterator[None]:
    """Let torch use so many threads inside, and as many as before after."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
