"""RecurrentBinarizer against the definition of its recurrence, its files and fingerprints; without torch."""

from pathlib import Path

import numpy as np
import pytest

import chamfer
import reference
from chamfer import CorruptIndexError, RecurrentBinarizer, RecurrentCodes, hamming_topk, recurrent, sdc_topk
from chamfer._archives import read_archive, write_archive
from samples import random_binarizer

FORMAT = "chamfer.RecurrentBinarizer"
LOOPS = [0, 1, 2, 3]
GOLDEN = Path(__file__).parent / "data" / "binarizer_v1"


def vectors(n, dim=12, seed=1):
    return (np.random.default_rng(seed).standard_normal((n, dim)) * 3 + 0.5).astype(np.float32)


def assert_same_codes(one, other):
    np.testing.assert_array_equal(one.levels(), other.levels())
    np.testing.assert_array_equal(one.scales, other.scales)
    assert (one.bits, one.fingerprint, one.searches) == (other.bits, other.fingerprint, other.searches)


# ── codes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize(("dim", "output_dimension"), [(12, 20), (33, 5), (1, 1), (7, 64)])
def test_levels_are_those_of_the_recurrence(dim, output_dimension, loops):
    binarizer = random_binarizer(dim, output_dimension, loops)
    x = vectors(60, dim)
    for encode, side in ((binarizer.encode, "document"), (binarizer.encode_queries, "query")):
        codes = encode(x)
        center = binarizer._arrays[f"{side}_center"]
        values, numbers = reference.recurrent_stages(x, center, binarizer._arrays, loops)
        clear = (np.abs(numbers) > 1e-4).all(axis=(0, 2))  # no rounding turns a sign, nor what follows from it
        assert clear.mean() > 0.9
        stored = values / 2 if loops == 2 else values  # three bits in four
        found = reference.recurrent_values(codes.levels().astype(float), codes.bits)
        np.testing.assert_array_equal(found[clear], stored[clear])
        assert codes.bits == (1, 2, 4, 4)[loops]


@pytest.mark.parametrize("loops", [0, 1, 2])
def test_fine_queries_are_the_first_numbers_in_four_bits(loops):
    coarse, fine = (random_binarizer(loops=loops, has_fine_queries=is_fine) for is_fine in (False, True))
    x = vectors(60)
    codes = fine.encode_queries(x)
    _, numbers = reference.recurrent_stages(x, fine._arrays["query_center"], fine._arrays, loops)
    step = 0.3352 * np.sqrt(np.mean(numbers[0] ** 2, axis=1, keepdims=True))
    exact = np.clip(numbers[0] / step + 8, 0, 15.5)
    clear = np.abs(exact - np.round(exact)) > 1e-3
    assert codes.bits == 4
    np.testing.assert_array_equal(codes.levels()[clear], np.floor(exact)[clear])
    lengths = np.linalg.norm(reference.recurrent_values(codes.levels().astype(float), 4), axis=1) * codes.scales
    np.testing.assert_allclose(lengths, 1.5 * np.linalg.norm(x - fine._arrays["query_center"], axis=1), rtol=1e-5)
    np.testing.assert_array_equal(codes.to_bits(), coarse.encode_queries(x).to_bits())  # for Hamming distance
    np.testing.assert_array_equal(fine.encode(x).levels(), coarse.encode(x).levels())
    assert sdc_topk(codes, fine.encode(x), 3)[1].shape == (60, 3)
    assert fine.fingerprint != coarse.fingerprint == random_binarizer(loops=loops).fingerprint


def test_fine_queries_of_zeros_are_codes_too():
    binarizer = random_binarizer(loops=0, has_fine_queries=True)
    arrays = {name: np.zeros_like(array) for name, array in binarizer._arrays.items()}
    nothing = RecurrentBinarizer._of(binarizer._parameters, arrays).encode_queries(np.zeros((2, 12), np.float32))
    assert set(np.unique(nothing.levels())) == {7}  # a number of 0 is no sign above it, as in the codes searched
    assert (nothing.scales == 0).all()


def test_fine_queries_are_saved(tmp_path):
    binarizer = random_binarizer(loops=0, has_fine_queries=True)
    binarizer.save(tmp_path / "fine.npz")
    assert_same_codes(
        RecurrentBinarizer.load(tmp_path / "fine.npz").encode_queries(vectors(9)), binarizer.encode_queries(vectors(9))
    )


@pytest.mark.parametrize("loops", LOOPS)
def test_a_code_times_its_scale_is_as_long_as_its_vector(loops):
    binarizer = random_binarizer(loops=loops)
    x = vectors(40)
    for encode, side, factor in ((binarizer.encode, "document", 1.0), (binarizer.encode_queries, "query", 1.5)):
        codes = encode(x)
        values = reference.recurrent_values(codes.levels().astype(float), codes.bits) * codes.scales[:, None]
        lengths = np.linalg.norm(x - binarizer._arrays[f"{side}_center"], axis=1)
        np.testing.assert_allclose(np.linalg.norm(values, axis=1), factor * lengths, rtol=1e-5)


def test_documents_have_no_scales_if_training_found_them_idle():
    binarizer = random_binarizer(has_scales=False)
    assert binarizer.encode(vectors(5)).scales is None
    assert binarizer.encode_queries(vectors(5)).scales is not None


def test_codes_do_not_depend_on_threads_blocks_or_company(monkeypatch):
    binarizer = random_binarizer(loops=3)
    x = vectors(50)
    whole = binarizer.encode(x, num_threads=1)
    assert_same_codes(binarizer.encode(x, num_threads=3), whole)
    np.testing.assert_array_equal(binarizer.encode(x[17:18]).levels(), whole.levels()[17:18])
    monkeypatch.setattr(recurrent, "_BLOCK_ROWS", 7)
    assert_same_codes(binarizer.encode(x), whole)


def test_memory_grows_with_the_codes_only(monkeypatch):
    seen = []
    project = recurrent._core.project
    monkeypatch.setattr(
        recurrent._core, "project", lambda rows, *a, **k: seen.append(len(rows)) or project(rows, *a, **k)
    )
    random_binarizer().encode(vectors(10_000))
    assert max(seen) == recurrent._BLOCK_ROWS


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_numbers_of_any_kind_are_taken(dtype):
    x = np.round(vectors(9)).astype(dtype)
    binarizer = random_binarizer()
    assert_same_codes(binarizer.encode(x), binarizer.encode(x.astype(np.float32)))
    assert_same_codes(binarizer.encode(x.tolist()), binarizer.encode(x.astype(np.float32)))
    assert_same_codes(binarizer.encode(np.asfortranarray(x)), binarizer.encode(x.astype(np.float32)))


def test_no_vectors_give_no_codes():
    codes = random_binarizer().encode(np.empty((0, 12)))
    assert len(codes) == 0
    assert codes.dim == 20


def test_a_vector_at_the_centre_gets_a_code_that_weighs_nothing():
    binarizer = random_binarizer()
    codes = binarizer.encode(binarizer._arrays["document_center"][None])
    assert codes.scales.tolist() == [0.0]


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((3, 11)), ValueError, r"^x: expected shape \(n, 12\), got \(3, 11\)"),
        (np.zeros(12), ValueError, r"^x: expected shape \(n, 12\), got \(12,\)"),
        (np.zeros((3, 12), bool), TypeError, "^x: expected numbers, got bool"),
        ([["a"] * 12], TypeError, "^x: expected numbers, got <U1"),
        (np.full((2, 12), np.nan), ValueError, "^x: expected finite numbers, got nan in row 0"),
        (np.full((2, 12), 1e300), ValueError, "^x: expected finite numbers, got inf in row 0"),
        (np.full((2, 12), 1e30), ValueError, r"^x: expected numbers below 2\^50, got 1.0\d+e\+30 in row 0"),
    ],
)
def test_bad_vectors_are_named(x, error, message):
    for encode in (random_binarizer().encode, random_binarizer().encode_queries):
        with pytest.raises(error, match=message):
            encode(x)


def test_a_number_that_is_not_finite_is_named_by_its_row(monkeypatch):
    monkeypatch.setattr(recurrent, "_BLOCK_ROWS", 7)
    x = vectors(50)
    x[33, 2] = np.inf
    with pytest.raises(ValueError, match=r"^x: expected finite numbers, got inf in row 33$"):
        random_binarizer().encode(x)


def test_threads_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"^num_threads: expected at least 1, got 0"):
        random_binarizer().encode(vectors(3), num_threads=0)


# ── signs for Hamming search ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("loops", LOOPS)
def test_bits_are_the_signs_of_the_first_stage(loops):
    binarizer = random_binarizer(loops=loops)
    x = vectors(30)
    numbers = reference.recurrent_stages(x, binarizer._arrays["document_center"], binarizer._arrays, loops)[1]
    clear = (np.abs(numbers) > 1e-4).all(axis=(0, 2))
    bits = binarizer.encode(x).to_bits()
    assert bits.shape == (30, 3)
    np.testing.assert_array_equal(bits[clear], reference.sign_bits(numbers[0])[clear])


def test_with_one_stage_hamming_and_sdc_find_the_same():
    binarizer = random_binarizer(loops=0, has_scales=False)
    codes, queries = binarizer.encode(vectors(50)), binarizer.encode_queries(vectors(4, seed=2))
    distances, rows = hamming_topk(queries.to_bits(), codes.to_bits(), 10)
    similarities, by_sdc = sdc_topk(queries, codes, 10)
    np.testing.assert_array_equal(rows, by_sdc)
    np.testing.assert_allclose(similarities / queries.scales[:, None], 20 - 2 * distances, rtol=1e-6)


# ── fingerprints ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_fingerprint_tells_arrays_and_parameters_apart():
    same, other = random_binarizer(), random_binarizer()
    assert same.fingerprint == other.fingerprint
    different = [random_binarizer(seed=1), random_binarizer(loops=2), random_binarizer(has_scales=False)]
    assert len({binarizer.fingerprint for binarizer in [same, *different]}) == 4


def test_codes_of_another_binarizer_are_refused_unless_the_queries_were_fitted_to_them():
    old, other = random_binarizer(), random_binarizer(seed=1)
    new = random_binarizer(seed=2, searches=[old.fingerprint])
    x = vectors(20)
    codes = old.encode(x)
    assert codes.fingerprint == old.fingerprint
    with pytest.raises(
        ValueError, match=f"^query_codes: expected codes of binarizer {old.fingerprint}.*compatible_with"
    ):
        sdc_topk(other.encode_queries(x), codes, 3)
    assert sdc_topk(old.encode_queries(x), codes, 3)[1].shape == (20, 3)
    assert sdc_topk(new.encode_queries(x), codes, 3)[1].shape == (20, 3)
    with pytest.raises(ValueError, match=r"^query_codes: expected codes of binarizer"):
        sdc_topk(old.encode_queries(x), new.encode(x), 3)  # the other way round is not what it was trained for
    with pytest.raises(ValueError, match=r"^query_codes: expected codes of binarizer"):
        sdc_topk(new.encode(x), codes, 3)  # documents' codes of the new one are no queries


def test_codes_made_by_hand_fit_any():
    codes = random_binarizer().encode(vectors(20))
    by_hand = RecurrentCodes.from_levels(codes.levels(), codes.bits)
    assert by_hand.fingerprint is None
    for one, other in ((codes, by_hand), (by_hand, codes), (by_hand, by_hand)):
        assert sdc_topk(one, other, 2)[1].shape == (20, 2)


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("loops", LOOPS)
def test_a_loaded_binarizer_gives_the_same_codes(tmp_path, loops):
    binarizer = random_binarizer(loops=loops, searches=["0123"])
    binarizer.save(tmp_path / "b")
    loaded = RecurrentBinarizer.load(str(tmp_path / "b"))
    assert repr(loaded) == repr(binarizer)
    assert (loaded.bits, loaded.nbytes, loaded.searches) == (20 * (loops + 1), binarizer.nbytes, ("0123",))
    x = vectors(20)
    assert_same_codes(loaded.encode(x), binarizer.encode(x))
    assert_same_codes(loaded.encode_queries(x), binarizer.encode_queries(x))


def test_every_damaged_byte_is_noticed(tmp_path):
    path = tmp_path / "b"
    binarizer = random_binarizer(dim=2, output_dimension=2, loops=0)
    binarizer.save(path)
    whole = path.read_bytes()
    noticed = 0
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            again = RecurrentBinarizer.load(path)
        except (CorruptIndexError, ValueError):
            noticed += 1
        else:  # a byte of the container that says nothing, such as a date
            assert again.fingerprint == binarizer.fingerprint
    assert noticed > 0


@pytest.mark.parametrize(
    "change",
    [
        {"loops": 4},
        {"loops": 2},
        {"loops": "1"},
        {"dim": 13},
        {"dim": None},
        {"searches": 3},
        {"query_scale": float("nan")},
        {"query_scale": "x"},
    ],
)
def test_parameters_that_do_not_fit_the_arrays_are_refused(tmp_path, change):
    path = tmp_path / "b"
    random_binarizer().save(path)
    parameters, arrays = read_archive(path, FORMAT, 1)
    write_archive(path, FORMAT, 1, {k: v for k, v in (parameters | change).items() if v is not None}, arrays)
    with pytest.raises(CorruptIndexError, match="do not fit together"):
        RecurrentBinarizer.load(path)


@pytest.mark.parametrize("name", ["signs.hidden", "rest0.bias", "gains", "document_center"])
def test_missing_and_misshapen_arrays_are_refused(tmp_path, name):
    path = tmp_path / "b"
    random_binarizer().save(path)
    parameters, arrays = read_archive(path, FORMAT, 1)
    for changed in (None, np.float32(0), arrays[name][:0]):
        kept = {key: array for key, array in (arrays | {name: changed}).items() if array is not None}
        write_archive(path, FORMAT, 1, parameters, {key: np.asarray(array) for key, array in kept.items()})
        with pytest.raises(CorruptIndexError, match="do not fit together"):
            RecurrentBinarizer.load(path)


def test_files_of_other_kinds_and_times_are_refused(tmp_path):
    path = tmp_path / "b"
    with pytest.raises(FileNotFoundError):
        RecurrentBinarizer.load(path)
    write_archive(path, "chamfer.Codec", 1, {}, {})
    with pytest.raises(CorruptIndexError, match="not a saved RecurrentBinarizer"):
        RecurrentBinarizer.load(path)
    random_binarizer().save(path)
    write_archive(path, FORMAT, 2, *read_archive(path, FORMAT, 1))
    with pytest.raises(ValueError, match="upgrade chamfer"):
        RecurrentBinarizer.load(path)


def test_the_golden_file_of_format_1_opens_for_ever():
    binarizer = RecurrentBinarizer.load(GOLDEN / "binarizer.npz")
    with np.load(GOLDEN / "expected.npz") as expected:
        codes = binarizer.encode(expected["x"])
        np.testing.assert_array_equal(codes.levels(), expected["levels"])
        np.testing.assert_allclose(codes.scales, expected["scales"], rtol=1e-5)
        assert codes.fingerprint == str(expected["fingerprint"])


def test_a_binarizer_is_made_by_training_or_load():
    assert chamfer.RecurrentBinarizer is RecurrentBinarizer
    assert "fit_binarizer" in RecurrentBinarizer.__doc__
