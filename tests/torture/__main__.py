"""The command line of the torture: every part in a process of its own, and a table of figures at the end."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from torture import shim

# Of each part: what its argument counts, and how much of it the full and the short form do.
PARTS: dict[str, tuple[str, int, int]] = {
    "kills": ("kills", 500, 20),
    "faults": ("failing calls", 3_000, 60),
    "mutations": ("damaged files", 10_000, 250),
    "soak": ("seconds", 300, 8),
    "fuzz": ("seconds per reader", 30, 1),
}
_NEEDS_SHIM = ("kills", "faults")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without")
    parser.add_argument("--quick", action="store_true", help="the short form, under a minute")
    parser.add_argument("--count", type=int, help="; ".join(f"{name}: {unit}" for name, (unit, *_) in PARTS.items()))
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--output", type=Path, help="write figures to this file, as JSON")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # in a process of its own already
    arguments = parser.parse_args()
    names = arguments.parts or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"expected parts of {', '.join(PARTS)}, got {', '.join(unknown)}")
    if arguments.alone:
        (name,) = names
        figures = run_part(name, arguments.count, arguments.seed)
        arguments.output.write_text(json.dumps(figures))
        return 0
    results = {}
    for name in names:
        count = arguments.count or PARTS[name][2 if arguments.quick else 1]
        results[name] = run_alone(name, count, arguments.seed)
    print(table(results))
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if any(figures["findings"] for figures in results.values()) else 0


def run_alone(name: str, count: int, seed: int) -> dict[str, Any]:
    """Run a part in a new process, with the library of failing calls if it needs it, and return its figures."""
    with tempfile.TemporaryDirectory(prefix="chamfer-torture-") as folder:
        environment = dict(os.environ)
        if name in _NEEDS_SHIM:
            reason = shim.missing()
            if reason is None:
                environment = shim.environment(Path(folder))
            elif name == "faults":
                return {"skipped": reason, "findings": []}
        output = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "torture", name, "--alone"]
        command += ["--count", str(count), "--seed", str(seed), "--output", str(output)]
        ended = subprocess.run(command, env=environment, cwd=Path(__file__).parent.parent, check=False)
        if ended.returncode != 0 or not output.exists():
            return {"findings": [f"the part itself ended with {ended.returncode}"]}
        figures: dict[str, Any] = json.loads(output.read_text())
        return figures


def run_part(name: str, count: int, seed: int) -> dict[str, Any]:
    from tqdm import tqdm

    part = importlib.import_module(f"torture.{name}")
    with tqdm(total=count, desc=name, unit="", mininterval=1.0) as bar:
        figures: dict[str, Any] = part.run(count, seed, bar.update)
    return figures


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return figures as lines of text."""
    lines = []
    for name, figures in results.items():
        lines.append(name)
        for figure, value in figures.items():
            if figure == "findings":
                continue
            lines.append(f"  {figure:<40} {value:>12,}" if isinstance(value, int) else f"  {figure:<40} {value!s:>12}")
        lines.append(f"  {'findings':<40} {len(figures['findings']):>12}")
        lines += [f"    {line}" for finding in figures["findings"] for line in finding.splitlines()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
