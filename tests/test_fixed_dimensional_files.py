"""A saved encoder: it comes back bit for bit, a damaged file is refused as such, and writing leaves no half a file."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from chamfer import CorruptIndexError, FixedDimensionalEncoder, _archives
from samples import positive_vectors, unit_vectors

SMALL = {"num_repetitions": 2, "num_simhash_projections": 2, "projection_dimension": 3}
KINDS = {
    "paper": SMALL,
    "paper, no projection": SMALL | {"projection_dimension": None},
    "paper, final": SMALL | {"final_projection_dimension": 11},
    "google": SMALL | {"layout": "google"},
    "google, final, no fill": SMALL
    | {"layout": "google", "final_projection_dimension": 11, "fill_empty_partitions": False},
    "one partition": SMALL | {"num_simhash_projections": 0},
}
POINTS = positive_vectors(np.random.default_rng(0), 9, 5)
QUERIES = unit_vectors(np.random.default_rng(1), 4, 5)


@pytest.fixture(params=KINDS)
def encoder(request):
    return FixedDimensionalEncoder(5, **KINDS[request.param], seed=7).fit(POINTS, QUERIES)


@pytest.fixture
def path(tmp_path):
    """A saved encoder: google's layout with a final projection has one array of each kind that the core reads."""
    FixedDimensionalEncoder(5, **KINDS["google, final, no fill"]).fit(POINTS, QUERIES).save(tmp_path / "encoder.npz")
    return tmp_path / "encoder.npz"


def read(path):
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(str(arrays.pop("header"))), arrays


def rewrite(path, header=None, parameters=None, **arrays):
    """Write the file again with parts changed (None removes one), its checksums right."""
    old_header, old_arrays = read(path)
    changed = old_header | (header or {})
    if parameters:
        changed["parameters"] = changed["parameters"] | parameters
    changed = {name: value for name, value in changed.items() if value is not None}
    kept = {name: array for name, array in (old_arrays | arrays).items() if array is not None}
    if header is None or "checksum" not in header:
        changed["checksum"] = _archives.checksum(changed.get("parameters"), kept)
    np.savez(path, header=np.array(json.dumps(changed)), **kept)


# ── round trip ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_loaded_encoder_gives_the_same_bits(isa, encoder, tmp_path, as_path):
    path = as_path(tmp_path / "encoder")  # no extension is added
    encoder.save(path)
    loaded = FixedDimensionalEncoder.load(path)
    for verb, vectors in (("encode_documents", POINTS), ("encode_queries", QUERIES)):
        np.testing.assert_array_equal(getattr(loaded, verb)(vectors, isa=isa), getattr(encoder, verb)(vectors, isa=isa))


def test_a_loaded_encoder_has_the_same_parameters(encoder, tmp_path):
    encoder.save(tmp_path / "encoder.npz")
    assert repr(FixedDimensionalEncoder.load(tmp_path / "encoder.npz")) == repr(encoder)


def test_an_encoder_saved_before_fit_still_wants_it(tmp_path):
    FixedDimensionalEncoder(5, **SMALL).save(tmp_path / "encoder.npz")
    with pytest.raises(ValueError, match=r"call fit\(documents\)"):
        FixedDimensionalEncoder.load(tmp_path / "encoder.npz").encode_documents(POINTS)


def test_the_numbers_come_from_the_stored_matrices_and_not_from_the_seed(path):
    loaded = FixedDimensionalEncoder.load(path).encode_documents(POINTS)
    rewrite(path, parameters={"seed": 8})
    np.testing.assert_array_equal(FixedDimensionalEncoder.load(path).encode_documents(POINTS), loaded)


def test_the_file_holds_format_version_and_seed(path):
    header, _ = read(path)
    assert (header["format"], header["version"]) == ("chamfer.FixedDimensionalEncoder", 1)
    assert header["parameters"]["seed"] == 42


def test_the_file_holds_the_means(path):
    _, arrays = read(path)
    np.testing.assert_array_equal(arrays["document_mean"], POINTS.mean(axis=0, dtype=float).astype(np.float32))
    np.testing.assert_array_equal(arrays["query_mean"], QUERIES.mean(axis=0, dtype=float).astype(np.float32))


def test_a_changed_array_is_found_by_the_checksum(path):
    header, arrays = read(path)
    rewrite(path, header={"checksum": header["checksum"]}, document_mean=arrays["document_mean"] + np.float32(1))
    with pytest.raises(CorruptIndexError, match="checksum differs"):
        FixedDimensionalEncoder.load(path)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])
def test_a_copied_encoder_gives_the_same_bits(encoder, copier):
    np.testing.assert_array_equal(copier(encoder).encode_documents(POINTS), encoder.encode_documents(POINTS))


# ── damaged files ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        FixedDimensionalEncoder.load(tmp_path / "none.npz")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_file_cut_short_is_corrupt(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(CorruptIndexError, match=r"encoder\.npz"):
        FixedDimensionalEncoder.load(path)


@pytest.mark.parametrize(("kind", "mask"), [("google, final, no fill", 0x01), ("paper, final", 0xFF)])
def test_a_changed_byte_anywhere_is_noticed_or_harmless(path, kind, mask):
    FixedDimensionalEncoder(5, **KINDS[kind]).fit(POINTS, QUERIES).save(path)
    content, expected = path.read_bytes(), FixedDimensionalEncoder.load(path).encode_documents(POINTS)
    surprises = []
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ mask]) + content[i + 1 :])
        try:
            loaded = FixedDimensionalEncoder.load(path).encode_documents(POINTS)
        except CorruptIndexError:
            continue
        except Exception as error:
            surprises.append(f"byte {i}: {type(error).__name__}: {error}")
            continue
        if not np.array_equal(loaded, expected):
            surprises.append(f"byte {i}: other numbers")
    assert not surprises, f"{len(surprises)} of {len(content)}, such as " + "\n".join(surprises[:5])


def write_text(path):
    path.write_text("not an encoder")


def write_foreign_npz(path):
    np.savez(path, header=np.arange(3))


def write_npz_without_header(path):
    np.savez(path, vectors=POINTS)


def write_npy(path):
    with path.open("wb") as file:
        np.save(file, POINTS)


def write_npz_of_objects(path):
    np.savez(path, header=np.array([{"format": "x"}], object), allow_pickle=True)


@pytest.mark.parametrize(
    "write", [write_text, write_foreign_npz, write_npz_without_header, write_npy, write_npz_of_objects]
)
def test_a_file_that_is_no_encoder_is_corrupt(tmp_path, write):
    write(tmp_path / "file.npz")
    with pytest.raises(CorruptIndexError, match=r"file\.npz"):
        FixedDimensionalEncoder.load(tmp_path / "file.npz")


@pytest.mark.parametrize(
    "change",
    [
        {"header": {"format": "faiss"}},
        {"header": {"format": None}},
        {"header": {"version": None}},
        {"header": {"parameters": None}},
        {"header": {"parameters": [1, 2]}},
        {"header": {"parameters": {}}},
        {"parameters": {"dim": 6}},
        {"parameters": {"dim": None}},
        {"parameters": {"dim": "5"}},
        {"parameters": {"num_repetitions": 3}},
        {"parameters": {"num_simhash_projections": 3}},
        {"parameters": {"projection_dimension": 4}},
        {"parameters": {"final_projection_dimension": 5}},  # the sketch adds to columns up to 10
        {"parameters": {"final_projection_dimension": None}},
        {"parameters": {"layout": "other"}},
        {"simhash": None},
        {"projections": None},
        {"sketch_columns": None},
        {"sketch_signs": None},
        {"simhash": np.zeros((2, 2, 5))},
        {"simhash": np.zeros((2, 2, 4), np.float32)},
        {"projections": np.zeros((2, 3, 4), np.float32)},
        {"sketch_columns": np.full(24, 11, np.int32)},
        {"sketch_columns": np.full(24, -1, np.int32)},
        {"sketch_signs": np.ones(23, np.float32)},
        {"document_mean": np.zeros(4, np.float32)},
        {"document_mean": np.zeros(5)},
        {"document_mean": None},
        {"query_mean": np.zeros(4, np.float32)},
    ],
    ids=lambda change: str({name: getattr(value, "shape", value) for name, value in change.items()}),
)
def test_parts_that_do_not_fit_together_are_corrupt(path, change):
    rewrite(path, **change)
    with pytest.raises(CorruptIndexError, match=r"encoder\.npz"):
        FixedDimensionalEncoder.load(path)


@pytest.mark.parametrize("shape", [(24, 1), (23, 2)], ids=str)
def test_a_final_matrix_of_another_shape_is_corrupt(tmp_path, shape):
    path = tmp_path / "encoder.npz"
    FixedDimensionalEncoder(5, **KINDS["paper, final"]).fit(POINTS).save(path)
    rewrite(path, final_bits=np.zeros(shape, np.uint8))
    with pytest.raises(CorruptIndexError, match=r"encoder\.npz"):
        FixedDimensionalEncoder.load(path)


def test_a_file_of_a_newer_format_asks_to_upgrade_and_is_not_called_corrupt(path):
    rewrite(path, header={"version": 2})
    with pytest.raises(ValueError, match=r"format version 2.*upgrade chamfer") as caught:
        FixedDimensionalEncoder.load(path)
    assert not isinstance(caught.value, CorruptIndexError)


def test_a_newer_format_is_recognised_whatever_else_it_holds(path):
    rewrite(path, header={"version": 2, "parameters": {"something": "new"}}, simhash=None)
    with pytest.raises(ValueError, match="format version 2"):
        FixedDimensionalEncoder.load(path)


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def no_space(*arguments, **keywords):
    raise OSError("No space left on device")


@pytest.mark.parametrize("step", ["numpy.savez", "os.fsync", "pathlib.Path.replace"])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(path, monkeypatch, step):
    before = path.read_bytes()
    monkeypatch.setattr(step, no_space)
    with pytest.raises(OSError, match="No space left"):
        FixedDimensionalEncoder(5, **SMALL).save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_save_replaces_the_old_file(path):
    FixedDimensionalEncoder(5, **SMALL, seed=9).save(path)
    assert FixedDimensionalEncoder.load(path).seed == 9


def test_a_save_into_a_missing_folder_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        FixedDimensionalEncoder(5, **SMALL).save(tmp_path / "none" / "encoder.npz")


def test_a_loaded_encoder_needs_its_file_no_more(path):
    loaded = FixedDimensionalEncoder.load(path)
    expected = loaded.encode_documents(POINTS)
    shutil.rmtree(path.parent)
    np.testing.assert_array_equal(loaded.encode_documents(POINTS), expected)
