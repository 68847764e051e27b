"""Collections and encoding of the compiled module called directly: what does not fit is refused, what fits is kept."""

from contextlib import suppress

import numpy as np
import pytest

from chamfer import _core
from door import (
    BAD_CODES,
    BAD_CODES8,
    BAD_FRAME,
    BAD_LEVELS,
    BAD_OFFSETS,
    BAD_SHORT_CODES,
    BAD_VECTORS,
    EXPECTED,
    HUGE,
    KINDS,
    OFFSETS,
    REFUSED,
    VECTORS,
    F,
    bfloat16,
    codes8,
    collection,
    maxsim,
    short_codes,
    spoiled,
)

# ── collections ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
def test_the_collections_that_these_tests_spoil_are_good(isa, kind):
    np.testing.assert_array_equal(maxsim(documents=KINDS[kind](), isa=isa), EXPECTED)


@pytest.mark.parametrize("name", set(BAD_VECTORS) - {"other dim"})
def test_vectors_that_are_no_matrix_make_no_collection(name):
    with pytest.raises(REFUSED):
        collection(BAD_VECTORS[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAD_OFFSETS)
def test_offsets_that_do_not_fit_make_no_collection(kind, name):
    with pytest.raises(REFUSED):
        KINDS[kind](offsets=BAD_OFFSETS[name])


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_changed_afterwards_do_not_matter(isa, kind):
    offsets = OFFSETS.copy()
    documents = KINDS[kind](offsets=offsets)
    offsets[:] = HUGE
    np.testing.assert_array_equal(maxsim(documents=documents, isa=isa), EXPECTED)


@pytest.mark.parametrize("kind", KINDS)
def test_a_collection_keeps_its_arrays_alive(isa, kind):
    documents = KINDS[kind]()  # all its arrays were made for the call
    churn = [np.full((6, size), 77, np.uint8) for size in (2, 4, 8, 16)]
    np.testing.assert_array_equal(maxsim(documents=documents, isa=isa), EXPECTED)
    del churn


@pytest.mark.parametrize("make", [bfloat16, codes8, short_codes])
@pytest.mark.parametrize("of", ["the same offsets", "others", "None"])
def test_a_collection_may_share_the_offsets_of_another(make, of):
    like = {"the same offsets": collection(), "others": collection(VECTORS, np.array([0, 6])), "None": None}[of]
    np.testing.assert_array_equal(maxsim(documents=make(like=like)), EXPECTED)


@spoiled([case for case in BAD_CODES if case[1] != "too wide"])
def test_bfloat16_that_does_not_fit_makes_no_collection(argument, value):
    good = {"codes": np.zeros((6, 4), np.uint8), "dim": 2}
    with pytest.raises(REFUSED):
        bfloat16(**good | {argument: value})


@spoiled(BAD_CODES8)
def test_codes_of_8_bits_that_do_not_fit_make_no_collection(argument, value):
    with pytest.raises(REFUSED):
        codes8(**{argument: value})


@spoiled(BAD_SHORT_CODES)
def test_short_codes_that_do_not_fit_make_no_collection(argument, value):
    with pytest.raises(REFUSED):
        short_codes(**{argument: value})


@pytest.mark.parametrize("what", ["scales", "errors", "norms", "center", "direction"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_codes_refuse_numbers_that_are_not_finite(what, number):
    size = 3 if what in ("scales", "errors", "norms") else 4
    with pytest.raises(ValueError, match=f"^{what}: "):
        codes8(**{what: np.full(size, number, F)})


@pytest.mark.parametrize(("what", "number"), [("scales", 0.0), ("scales", -1.0), ("errors", -1.0), ("norms", -1.0)])
def test_codes_refuse_numbers_below_their_range(what, number):
    with pytest.raises(ValueError, match=f"^{what}: "):
        codes8(**{what: np.full(3, number, F)})


@pytest.mark.parametrize("stretch", [0.0, -1.0, 0.99, 1025.0, np.inf, np.nan])
def test_codes_refuse_an_impossible_stretch(stretch):
    with pytest.raises(ValueError, match=r"^stretch: "):
        codes8(stretch=stretch)


@pytest.mark.parametrize("what", ["scales", "errors", "norms", "center", "direction"])
def test_scoring_survives_codes_whose_numbers_are_huge(isa, what):
    size = 3 if what in ("scales", "errors", "norms") else 4
    nonsense = codes8(**{what: np.full(size, 3e38, F)})
    assert maxsim(documents=nonsense, isa=isa).shape == (2, 3)
    for function in ("maxsim", "maxsim_topk"):
        with suppress(ValueError):  # a few vectors are compared with their codes
            maxsim(function, screen=nonsense, isa=isa)


# ── encoding ────────────────────────────────────────────────────────────────────────────────────────────────────────

ENCODE8 = {"center": np.zeros(4, F), "direction": np.zeros(4, F), "stretch": 1.0}
ENCODE_SHORT = {
    "bits": 4,
    "center": np.zeros(4, F),
    "direction": np.zeros(4, F),
    "levels": np.arange(120, 136, dtype=np.uint8),
    "levels_per_rms": 3.0,
    "dim_scales": np.ones(4, F),
}
ENCODERS = {
    "encode_bfloat16": {},
    "encode_codes8": ENCODE8,
    "encode_codes": ENCODE_SHORT,
}


@pytest.mark.parametrize("function", ENCODERS)
@pytest.mark.parametrize("items", [codes8(), short_codes(), bfloat16(), VECTORS, None], ids=lambda x: type(x).__name__)
def test_what_is_no_collection_of_vectors_is_not_encoded(function, items):
    with pytest.raises(REFUSED):
        getattr(_core, function)(items, num_threads=1, **ENCODERS[function])


@pytest.mark.parametrize("function", ENCODERS)
@pytest.mark.parametrize("num_threads", [0, -1, -HUGE, 2**64, 1.5, None])
def test_encoding_refuses_a_number_of_threads_below_one(function, num_threads):
    with pytest.raises(REFUSED):
        getattr(_core, function)(collection(), num_threads=num_threads, **ENCODERS[function])


@spoiled([*BAD_FRAME, ("stretch", "None", None), ("stretch", "str", "1")])
def test_encoding_in_8_bits_refuses_what_does_not_fit(argument, value):
    with pytest.raises(REFUSED):
        _core.encode_codes8(collection(), num_threads=1, **ENCODE8 | {argument: value})


@spoiled([*BAD_FRAME, *BAD_LEVELS])
def test_encoding_in_few_bits_refuses_what_does_not_fit(argument, value):
    with pytest.raises(REFUSED):
        _core.encode_codes(collection(), num_threads=1, **ENCODE_SHORT | {argument: value})
