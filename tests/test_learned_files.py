"""A saved reducer: it comes back bit for bit, and a damaged file is refused as such."""

import json
from pathlib import Path

import numpy as np
import pytest

from chamfer import CorruptIndexError, LearnedReducer, TokenVectors
from chamfer._archives import read_archive, write_archive
from samples import off_centre_collection, read_npz

DOCUMENTS = off_centre_collection(np.random.default_rng(0), [3, 0, 5] * 5, dim=6)
REDUCER = LearnedReducer(6, output_dimension=4, num_features=7, num_samples=40).fit(DOCUMENTS)
ARRAYS = REDUCER._found.arrays


@pytest.fixture
def path(tmp_path):
    REDUCER.save(tmp_path / "reducer")
    return tmp_path / "reducer"


def rewrite(path, *, version=1, parameters=None, **arrays):
    """Write the file again with parts changed (None removes one), its checksum right."""
    old_parameters, old_arrays = read_archive(path, "chamfer.LearnedReducer", 1)
    parameters = old_parameters | parameters if isinstance(parameters, dict) else parameters or old_parameters
    kept = {name: value for name, value in parameters.items() if value is not None} if parameters != [1] else [1]
    arrays = {name: array for name, array in (old_arrays | arrays).items() if array is not None}
    write_archive(path, "chamfer.LearnedReducer", version, kept, arrays)


@pytest.mark.parametrize("as_path", [str, lambda path: path])
def test_a_loaded_reducer_gives_the_same_bits(path, as_path):
    loaded = LearnedReducer.load(as_path(path))
    assert repr(loaded) == repr(REDUCER)
    assert loaded.nbytes == REDUCER.nbytes > 0
    assert loaded.stats()["missed_at_fit"] == REDUCER.stats()["missed_at_fit"]
    for verb in ("encode_documents", "encode_queries"):
        np.testing.assert_array_equal(getattr(loaded, verb)(DOCUMENTS), getattr(REDUCER, verb)(DOCUMENTS))


def test_a_loaded_reducer_is_fitted_again_as_the_first(path):
    again = LearnedReducer.load(path).fit(DOCUMENTS)
    np.testing.assert_array_equal(again.encode_documents(DOCUMENTS), REDUCER.encode_documents(DOCUMENTS))


def test_given_features_are_kept_for_the_next_fit(path):
    features = np.random.default_rng(5).standard_normal((9, 6))
    reducer = LearnedReducer(6, output_dimension=4, num_samples=40, features=features).fit(DOCUMENTS)
    reducer.save(path)
    again = LearnedReducer.load(path).fit(DOCUMENTS)
    np.testing.assert_array_equal(again.encode_queries(DOCUMENTS), reducer.encode_queries(DOCUMENTS))


def test_what_only_documents_need_may_stay_on_disk(path):
    mapped = LearnedReducer._load(path, mapped=True)
    left_out = sum(ARRAYS[name].nbytes for name in ("samples", "document_map"))
    assert mapped.nbytes == REDUCER.nbytes - left_out
    for verb in ("encode_documents", "encode_queries"):
        np.testing.assert_array_equal(getattr(mapped, verb)(DOCUMENTS), getattr(REDUCER, verb)(DOCUMENTS))
    for name in ("samples", "document_map"):
        array = mapped._found.arrays[name]
        assert isinstance(array.base, np.memmap)
        np.testing.assert_array_equal(array, ARRAYS[name])
    mapped.save(path)  # over the file that it maps
    np.testing.assert_array_equal(
        LearnedReducer.load(path).encode_documents(DOCUMENTS), mapped.encode_documents(DOCUMENTS)
    )


def test_the_golden_reducer_of_version_1_loads_for_ever():
    golden = Path(__file__).parent / "data" / "learned_v1"
    reducer, expected = LearnedReducer.load(golden / "reducer.npz"), read_npz(golden / "expected.npz")
    items = TokenVectors(expected["vectors"], expected["offsets"])
    for verb in ("encode_documents", "encode_queries"):
        np.testing.assert_allclose(getattr(reducer, verb)(items), expected[verb], rtol=1e-4, atol=1e-5)


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        LearnedReducer.load(tmp_path / "none")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_file_cut_short_is_corrupt(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(CorruptIndexError, match="reducer"):
        LearnedReducer.load(path)


def test_a_changed_byte_anywhere_is_noticed_or_harmless(path):
    content, expected = path.read_bytes(), REDUCER.encode_documents(DOCUMENTS)
    surprises = []
    for i in range(0, len(content), 23):  # at each place in a number of 2, 4 or 8 bytes
        path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        try:
            loaded = LearnedReducer.load(path).encode_documents(DOCUMENTS)
        except CorruptIndexError:
            continue
        except Exception as error:
            surprises.append(f"byte {i}: {type(error).__name__}: {error}")
            continue
        if not np.array_equal(loaded, expected):
            surprises.append(f"byte {i}: other numbers")
    assert not surprises, f"{len(surprises)}, such as " + "\n".join(surprises[:5])


@pytest.mark.parametrize("name", ARRAYS)
def test_a_bit_of_an_array_is_found_by_the_checksum(path, name):
    # written anew, so that the zip file's own checksum is right
    arrays = read_npz(path)
    arrays[name].reshape(-1).view(np.uint8)[-1] ^= 1
    with path.open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(CorruptIndexError, match="checksum differs"):
        LearnedReducer.load(path)


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("change", ["missing", "longer", "shorter", "flat", "scalar", "dtype", "byte order"])
def test_an_array_that_does_not_fit_is_corrupt(path, name, change):
    array = ARRAYS[name]
    changed = {
        "missing": None,
        "longer": np.concatenate([array, array[:1]]),
        "shorter": array[:-1],
        "flat": array.reshape(1, -1) if array.ndim == 1 else array.ravel(),
        "scalar": array.ravel()[0],
        "dtype": array.astype(np.float64 if array.dtype != np.float64 else np.float32),
        "byte order": array.astype(array.dtype.newbyteorder(">")),
    }[change]
    rewrite(path, **{name: changed})
    with pytest.raises(CorruptIndexError, match="reducer"):
        LearnedReducer.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": [1]},
        *({"parameters": {name: None}} for name in ("dim", "num_samples", "seed", "features_given")),
        *({"parameters": {name: 3}} for name in ("dim", "output_dimension", "num_features")),
        {"parameters": {"dim": "6"}},
        {"parameters": {"num_samples": 0}},
        {"parameters": {"seed": -1}},
        {"probes": np.full(40, 40)},
        {"probes": np.full(40, -1)},
        {"another": np.zeros(3)},
        {
            "samples": np.zeros((0, 6), np.float16),
            "sample_scales": np.zeros(0, np.float32),
            "document_map": np.zeros((4, 0), np.float16),
            "probes": np.zeros(0, np.int64),
            "probe_means": np.zeros(0, np.float32),
            "probe_encodings": np.zeros((0, 4), np.float32),
        },
    ],
    ids=lambda change: str(change)[:50],
)
def test_parts_that_do_not_fit_together_are_corrupt(path, change):
    rewrite(path, **change)
    with pytest.raises(CorruptIndexError, match="reducer"):
        LearnedReducer.load(path)


def test_a_file_of_a_newer_format_asks_to_upgrade_and_is_not_called_corrupt(path):
    rewrite(path, version=2, parameters={"something": "new"}, samples=None)
    with pytest.raises(ValueError, match=r"format version 2.*upgrade chamfer") as caught:
        LearnedReducer.load(path)
    assert not isinstance(caught.value, CorruptIndexError)


@pytest.mark.parametrize("content", [b"", b"not a reducer", b"PK\x03\x04"])
def test_a_file_that_is_no_reducer_is_corrupt(path, content):
    path.write_bytes(content)
    with pytest.raises(CorruptIndexError, match="reducer"):
        LearnedReducer.load(path)


def test_a_file_of_another_format_is_corrupt(path):
    arrays = read_npz(path)
    header = json.loads(str(arrays["header"])) | {"format": "chamfer.Codec"}
    with path.open("wb") as file:
        np.savez(file, **arrays | {"header": np.array(json.dumps(header))})
    with pytest.raises(CorruptIndexError, match=r"chamfer\.Codec"):
        LearnedReducer.load(path)
