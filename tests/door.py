"""Arguments of the compiled module, good ones and bad: what the tests of its door share."""

import numpy as np
import pytest

from chamfer import _core

F = np.float32
QUERIES, QUERY_OFFSETS = np.ones((3, 4), F), np.array([0, 1, 3])
VECTORS, OFFSETS = np.ones((6, 4), F), np.array([0, 2, 2, 6])
UNALIGNED = np.zeros(6 * 4 * 4 + 1, np.uint8)[1:].view(F).reshape(6, 4)
HUGE = 2**62
REFUSED = (ValueError, TypeError)

BAD_VECTORS = {
    "1-D": np.ones(4, F),
    "3-D": np.ones((1, 6, 4), F),
    "0-D": F(1),
    "float64": np.ones((6, 4)),
    "int32": np.ones((6, 4), np.int32),
    "uint16": np.ones((6, 4), np.uint16),
    "big-endian float32": VECTORS.astype(">f4"),
    "big-endian float16": VECTORS.astype(">f2"),
    "Fortran order": np.asfortranarray(VECTORS),
    "negative stride": VECTORS[::-1],
    "every second column": np.ones((6, 8), F)[:, ::2],
    "broadcast": np.broadcast_to(F(1), (6, 4)),
    "unaligned": UNALIGNED,
    "other dim": np.ones((6, 5), F),
    "no dim": np.ones((6, 0), F),
    "too few rows": np.ones((5, 4), F),
    "list": VECTORS.tolist(),
    "None": None,
}
BAD_OFFSETS = {
    "empty": np.empty(0, np.int64),
    "2-D": OFFSETS[None],
    "0-D": np.int64(6),
    "int32": OFFSETS.astype(np.int32),
    "uint64": OFFSETS.astype(np.uint64),
    "float": OFFSETS.astype(float),
    "big-endian": OFFSETS.astype(">i8"),
    "strided": np.repeat(OFFSETS, 2)[::2],
    "not from 0": np.array([1, 2, 2, 6]),
    "negative": np.array([0, -2, 2, 6]),
    "negative first": np.array([-HUGE, 2, 2, 6]),
    "huge between": np.array([0, HUGE, 2, 6]),
    "decreasing": np.array([0, 4, 2, 6]),
    "end too low": np.array([0, 2, 2, 5]),
    "end too high": np.array([0, 2, 2, 7]),
    "end huge": np.array([0, 2, 2, HUGE]),
    "list": OFFSETS.tolist(),
    "None": None,
}
BAD_CANDIDATES = {
    "too high": np.array([[3], [0]]),
    "huge": np.array([[HUGE], [0]]),
    "-2": np.array([[-2], [0]]),
    "lowest": np.array([[-(2**63)], [0]]),
    "too few rows": np.array([[0]]),
    "too many rows": np.array([[0]] * 3),
    "1-D": np.array([0, 1]),
    "3-D": np.zeros((2, 1, 1), np.int64),
    "int32": np.zeros((2, 1), np.int32),
    "strided": np.zeros((2, 4), np.int64)[:, ::2],
}
BAD_WEIGHTS = {
    "too few": np.ones(2, F),
    "too many": np.ones(4, F),
    "2-D": np.ones((3, 1), F),
    "float64": np.ones(3),
    "strided": np.ones(6, F)[::2],
}


def collection(vectors=VECTORS, offsets=OFFSETS):
    return _core.Collection(vectors, offsets)


def codes8(**changed):
    """8-bit codes that score as VECTORS do."""
    arguments = {
        "codes": np.full((6, 4), 129, np.uint8),
        "offsets": OFFSETS,
        "dim": 4,
        "center": np.zeros(4, F),
        "direction": np.zeros(4, F),
        "stretch": 1.0,
        "scales": np.ones(3, F),
        "errors": np.zeros(3, F),
        "norms": np.full(3, 2, F),
    }
    return _core.Collection.codes8(**arguments | changed)


def short_codes(**changed):
    arguments = {
        "codes": np.zeros((6, 4), np.uint8),
        "offsets": OFFSETS,
        "dim": 4,
        "bits": 4,
        "center": np.zeros(4, F),
        "direction": np.zeros(4, F),
        "levels": np.full(16, 129, np.uint8),
        "levels_per_rms": 1.0,
        "dim_scales": np.ones(4, F),
        "token_terms": np.tile(np.array([1, 0], np.float16), (6, 1)),
    }
    return _core.Collection.short_codes(**arguments | changed)


def bfloat16(**changed):
    codes = np.full((6, 4), 0x3F80, np.uint16).view(np.uint8)
    return _core.Collection.bfloat16(**{"codes": codes, "offsets": OFFSETS, "dim": 4} | changed)


KINDS = {"vectors": collection, "bfloat16": bfloat16, "codes8": codes8, "short_codes": short_codes}


def maxsim(function="maxsim", **changed):
    arguments = {
        "queries": collection(QUERIES, QUERY_OFFSETS),
        "documents": collection(),
        "num_threads": 1,
        "isa": "scalar",
    }
    if function == "maxsim_topk":
        arguments["k"] = 2
    return getattr(_core, function)(**arguments | changed)


EXPECTED = [[4, -np.inf, 4], [8, -np.inf, 8]]  # of QUERIES and VECTORS


def bad_arrays(name, good):
    """Arrays like a good one that do not fit."""
    bad = {
        "too few": good[:-1],
        "too many": np.concatenate([good, good]),
        "another rank": good[None],
        "float64": good.astype(np.float64),
        "strided": np.repeat(good, 2, axis=0)[::2],
        "big-endian": good.astype(good.dtype.newbyteorder(">")) if good.itemsize > 1 else good.astype(np.int8),
        "list": good.tolist(),
        "None": None,
    }
    if good.ndim == 2:
        bad |= {"too wide": np.repeat(good, 2, axis=1), "too narrow": good[:, :-1].copy(), "1-D": good.ravel()}
        bad |= {"Fortran order": np.asfortranarray(good)}
    return [(name, key, array) for key, array in bad.items()]


BAD_CODES = [
    *bad_arrays("codes", np.zeros((6, 4), np.uint8)),
    *(("dim", str(dim), dim) for dim in (0, -1, 3.5, None, 65_537, HUGE, 2**64)),
    ("like", "no collection", VECTORS),
]
BAD_FRAME = [*bad_arrays("center", np.zeros(4, F)), *bad_arrays("direction", np.zeros(4, F))]
BAD_CODES8 = [
    *BAD_CODES,
    ("dim", "5", 5),
    *BAD_FRAME,
    *bad_arrays("scales", np.ones(3, F)),
    *bad_arrays("errors", np.ones(3, F)),
    *bad_arrays("norms", np.ones(3, F)),
    *(("stretch", str(stretch), stretch) for stretch in (0.5, 0.0, -1.0, np.nan, "1", None)),
]
BAD_LEVELS = [
    *bad_arrays("levels", np.full(16, 129, np.uint8)),
    *bad_arrays("dim_scales", np.ones(4, F)),
    *(("bits", str(bits), bits) for bits in (0, 3, 8, 16, -1, HUGE, 1.5, None)),
    *(("levels_per_rms", str(value), value) for value in ("1", None)),
]
BAD_SHORT_CODES = [
    *BAD_CODES,
    ("dim", "9", 9),
    *BAD_FRAME,
    *BAD_LEVELS,
    *bad_arrays("token_terms", np.ones((6, 2), np.float16)),
    ("token_terms", "float32", np.ones((6, 2), F)),
    ("token_terms", "uint16", np.ones((6, 2), np.uint16)),
]


def spoiled(cases):
    return pytest.mark.parametrize(
        ("argument", "value"), [case[::2] for case in cases], ids=[f"{c[0]} {c[1]}" for c in cases]
    )
