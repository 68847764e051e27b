"""What needs a process of its own: memory at its highest, and the time of an import."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from typing import Any

_MEMORY = """
import numpy as np
import chamfer as ch

def highest():
    try:  # not getrusage: its peak is inherited from the process that started this one
        with open("/proc/self/status") as status:
            return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
    except OSError:
        return None

num, length, dim, layout, final = {num}, {length}, {dim}, {layout!r}, {final}
documents = ch.TokenVectors(
    np.random.default_rng(0).standard_normal((num * length, dim), np.float32), np.arange(num + 1) * length
)
encoder = ch.FixedDimensionalEncoder(dim, layout=layout, final_projection_dimension=final, center=False)
encoder.encode_documents(documents.select(np.arange(2)))  # code, matrices and stacks are there
before = highest()
encodings = encoder.encode_documents(documents)
print(None if before is None else highest() - before - encodings.nbytes, documents.nbytes, encodings.nbytes)
"""

_IMPORT = "import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=dict(os.environ)
    ).stdout


def memory_rows(num: int, length: int, dim: int) -> list[dict[str, Any]]:
    """Return the peak of encoding a collection beyond input and output; None where there is no /proc."""
    rows = []
    for layout, final in (("paper", None), ("google", None), ("google", 1024), ("paper", 1024)):
        kind = layout if final is None else f"{layout}, final {final}"
        extra, read, written = _python(
            _MEMORY.format(num=num, length=length, dim=dim, layout=layout, final=final)
        ).split()
        rows.append(
            {
                "name": f"memory_fde_documents_f32[{num}x{length}x{dim}, {kind}]",
                "group": "memory",
                "extra_bytes": None if extra == "None" else int(extra),
                "input_bytes": int(read),
                "output_bytes": int(written),
            }
        )
    return rows


def import_rows(rounds: int) -> list[dict[str, Any]]:
    """Return seconds to import chamfer, numpy with it, and numpy alone, each in a fresh interpreter, by turns."""
    modules = ("chamfer", "numpy")
    seconds: dict[str, list[float]] = {module: [] for module in modules}
    for _ in range(rounds):
        for module in modules:
            seconds[module].append(float(_python(_IMPORT.format(module=module))))
    return [
        {
            "name": f"import_{module}",
            "group": "import",
            "best_seconds": min(seconds[module]),
            "median_seconds": statistics.median(seconds[module]),
            "seconds": seconds[module],
        }
        for module in modules
    ]
