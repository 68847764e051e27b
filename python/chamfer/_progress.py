"""Progress bars of long work, shown when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, description: str, shown: bool, unit: str = "doc") -> Iterator[Callable[..., object]]:
    """Yield a function that advances the bar by so many units, and writes its second argument, if any, behind the bar.

    It does nothing if `shown` is false.

    Raises:
        ModuleNotFoundError: tqdm, which draws it, is not installed.
    """
    if not shown:
        yield lambda *_: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        raise ModuleNotFoundError('progress=True needs tqdm: pip install "chamfer[cli]"') from None
    with tqdm(total=total, desc=description, unit=unit, unit_scale=unit == "B") as bar:

        def advance(units: int, note: str = "") -> None:
            if note:
                bar.set_postfix_str(note, refresh=False)
            bar.update(units)

        yield advance
