"""Torture in short: kills, failing file calls, damaged files, a soak, fuzzing. `make torture` is the long form."""

import os
import sys

import pytest

if not hasattr(os, "fork") or sys.platform != "linux":
    pytest.skip("needs fork and /proc, which Linux has", allow_module_level=True)

from torture import __main__ as torture
from torture import fuzz, shim


@pytest.mark.parametrize("part", torture.PARTS)
def test_nothing_is_found(part):
    pytest.importorskip("tqdm")
    if part == "faults" and shim.missing():
        pytest.skip(shim.missing())
    if part == "fuzz" and fuzz.missing():
        pytest.skip(fuzz.missing())
    figures = torture.run_alone(part, torture.PARTS[part][2], seed=0)
    assert figures["findings"] == [], torture.table({part: figures})
    assert "skipped" not in figures
