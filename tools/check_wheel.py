#!/usr/bin/env python3
"""Checks wheels: nothing bundled, nothing foreign linked, the demo collection under 5 MB, and they work alone.

check_wheel.py dist/*.whl
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

# What a Linux system has without asking (PEP 600's list, as far as the core uses it).
SYSTEM_LIBRARIES = ("libstdc++.so", "libm.so", "libgcc_s.so", "libc.so", "libpthread.so", "ld-linux")
LARGEST_DATA_BYTES = 5_000_000
TESTS = Path(__file__).resolve().parents[1] / "tests"


def check_contents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        modules = [name for name in names if name.startswith("chamfer/_core.") and name.endswith((".so", ".pyd"))]
        shared = [name for name in names if ".so" in name or name.endswith((".dll", ".dylib", ".pyd"))]
        assert len(modules) == 1, f"{wheel.name}: expected one chamfer._core, got {modules}"
        assert shared == modules, f"{wheel.name}: bundled libraries {sorted(set(shared) - set(modules))}"
        stray = [name for name in names if not name.startswith(("chamfer/", "chamfer-"))]
        assert not stray, f"{wheel.name}: files outside the package {stray}"
        for needed in ("chamfer/py.typed", "chamfer/_core.pyi", "chamfer/data/stdlib.npz"):
            assert needed in names, f"{wheel.name}: {needed} is missing"
        data_bytes = sum(info.file_size for info in archive.infolist() if info.filename.startswith("chamfer/data/"))
        assert data_bytes <= LARGEST_DATA_BYTES, f"{wheel.name}: the demo collection has {data_bytes} bytes"
        if sys.platform == "linux":
            with tempfile.TemporaryDirectory() as folder:
                check_linked(wheel.name, Path(archive.extract(modules[0], folder)))


def check_linked(name: str, module: Path) -> None:
    dynamic = subprocess.run(["readelf", "-d", module], check=True, capture_output=True, text=True).stdout
    needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line]
    foreign = [library for library in needed if not library.startswith(SYSTEM_LIBRARIES)]
    assert not foreign, f"{name}: links {foreign}"


def check_installed(wheel: Path) -> None:
    """Installs the wheel into an environment of its own, with what it declares and pytest, and runs test_minimal.py."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / sysconfig.get_path("scripts", "venv", vars={"base": folder}) / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel.resolve(), "pytest"], check=True)
        ini = Path(folder) / "pytest.ini"  # not the repository's configuration, whose plugins are not here
        ini.write_text("[pytest]\n")
        options: list[str | Path] = ["-q", "-p", "no:cacheprovider", "-c", ini, "--rootdir", folder]
        command: list[str | Path] = [python, "-m", "pytest", *options, TESTS / "test_minimal.py"]
        subprocess.run(command, check=True, cwd=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="+", type=Path)
    for wheel in parser.parse_args().wheels:
        check_contents(wheel)
        tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
        if tag in wheel.name:
            check_installed(wheel)
        print(f"{wheel.name}: nothing bundled, {'works alone' if tag in wheel.name else 'not run: another Python'}")


if __name__ == "__main__":
    main()
