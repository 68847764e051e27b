"""Fixtures. Imports nothing but what every machine has, since each wheel runs test_minimal.py with it."""

import importlib.util
import os
from pathlib import Path

# The products of the oracle are small: on a shared machine several BLAS threads wait ten times longer than they work.
# Set before NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

import chamfer
from samples import off_centre_collection

REPOSITORY = Path(__file__).resolve().parent.parent
ISAS = ("scalar", "avx2", "avx512", "avx512_bf16", "neon", "neon_dotprod")

if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    # The same examples on each run: a red test is a change of the code.
    settings.register_profile("chamfer", deadline=None, derandomize=True, database=None, max_examples=50)
    settings.load_profile("chamfer")


@pytest.fixture(params=chamfer.available_isas())
def isa(request):
    """Each instruction set of this machine; test_runtime.py skips the others by name, once."""
    return request.param


@pytest.fixture
def fused_isas():
    """The instruction sets that promise equal bits, scalar not being one."""
    isas = [name for name in chamfer.available_isas() if name != "scalar"]
    if len(isas) < 2:
        pytest.skip(f"needs two instruction sets besides scalar; this machine has {', '.join(isas) or 'none'}")
    return isas


@pytest.fixture(scope="session")
def shared():
    """The folder of data shared by all who work on chamfer: CHAMFER_SHARED, or beside the repository."""
    folder = Path(os.environ.get("CHAMFER_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no shared folder at {folder}; set CHAMFER_SHARED")
    return folder


@pytest.fixture(scope="session")
def shared_file(shared):
    """Return a function: name of a shared file -> its path; a missing one is skipped by name."""

    def find(name):
        if not (shared / name).exists():
            pytest.skip(f"the shared folder {shared} has no {name}")
        return shared / name

    return find


@pytest.fixture(scope="session")
def documents():
    """300 documents, off centre as modern encoders' are, two of them empty."""
    rng = np.random.default_rng(0)
    lengths = [int(n) for n in rng.integers(1, 30, 300)]
    lengths[7] = lengths[123] = 0
    return off_centre_collection(rng, lengths)


@pytest.fixture(scope="session")
def queries():
    """70 queries of 1 to 39 vectors."""
    rng = np.random.default_rng(1)
    return off_centre_collection(rng, [int(n) for n in rng.integers(1, 40, 70)])


@pytest.fixture
def index(documents):
    """An index of the documents, ids being rows."""
    return chamfer.Index.build(documents)


@pytest.fixture(params=[False, True], ids=["in memory", "on disk"])
def place(request, tmp_path):
    """Where an index lives: nowhere but in memory, or in a folder."""
    return tmp_path / "index" if request.param else None
