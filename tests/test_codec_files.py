"""Codecs and codes on disk: they come back bit for bit, and what is damaged never reaches a kernel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import chamfer as ch
from chamfer import _archives
from chamfer.codecs import load_codes
from samples import off_centre_collection, read_npz

DATA = Path(__file__).parent / "data"
NAMES = ("float16", "bfloat16", "int8", "scalar:4", "scalar:2", "binary", "recurrent:4", "recurrent:2", "recurrent:1")
DOCUMENTS = off_centre_collection(np.random.default_rng(0), [3, 0, 5, 1, 8], dim=13)
QUERIES = off_centre_collection(np.random.default_rng(1), [4, 2], dim=13)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "codes.npz"


def save(name, path):
    """Write a codec with its codes; return both."""
    codec = ch.codec(name, 13).fit(DOCUMENTS, QUERIES)
    codes = codec.encode(DOCUMENTS)
    codec.save(path, codes)
    return codec, codes


def rewrite(path, header=None, parameters=None, **arrays):
    """Write the file again with parts changed (None removes one), its checksum right."""
    old = read_npz(path)
    changed = json.loads(str(old.pop("header"))) | (header or {})
    changed["parameters"] = changed["parameters"] | (parameters or {})
    kept = {name: array for name, array in (old | arrays).items() if array is not None}
    changed["checksum"] = _archives.checksum(changed["parameters"], kept)
    np.savez(path, header=np.array(json.dumps(changed)), **kept)


# ── round trips ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("as_path", [str, lambda path: path])
@pytest.mark.parametrize("name", NAMES)
def test_loaded_codes_give_the_same_bits(path, name, as_path):
    codec, codes = save(name, as_path(path))
    loaded, stored = load_codes(as_path(path))
    assert (loaded.name, loaded.dim, type(stored)) == (name, 13, type(codes))
    np.testing.assert_array_equal(ch.maxsim(QUERIES, stored), ch.maxsim(QUERIES, codes))
    again = loaded.encode(DOCUMENTS)
    np.testing.assert_array_equal(ch.maxsim(QUERIES, again), ch.maxsim(QUERIES, codes))
    np.testing.assert_array_equal(loaded.decode(stored).vectors, codec.decode(codes).vectors)
    np.testing.assert_array_equal(stored.offsets, codes.offsets)
    if name == "binary":
        asked, expected = loaded.encode_queries(QUERIES), codec.encode_queries(QUERIES)
        np.testing.assert_array_equal(asked.codes, expected.codes)
        np.testing.assert_array_equal(ch.maxsim(asked, stored), ch.maxsim(expected, codes))


@pytest.mark.parametrize("name", NAMES)
def test_a_codec_alone_comes_back(path, name):
    codec, codes = save(name, path)
    codec.save(path)
    np.testing.assert_array_equal(ch.maxsim(QUERIES, ch.Codec.load(path).encode(DOCUMENTS)), ch.maxsim(QUERIES, codes))
    with pytest.raises(ValueError, match="expected codes beside the codec, got none"):
        load_codes(path)


def test_a_codec_that_is_not_fitted_comes_back_so(path):
    ch.codec("int8", 13).save(path)
    loaded = ch.Codec.load(path)
    assert repr(loaded) == "Codec('int8', 13, not fitted)"
    loaded.fit(DOCUMENTS).encode(DOCUMENTS)


@pytest.mark.parametrize("name", NAMES)
def test_codes_of_no_vector_come_back(path, name):
    codec = ch.codec(name, 13).fit(DOCUMENTS)
    codec.save(path, codec.encode(DOCUMENTS.select([1])))
    assert np.isneginf(ch.maxsim(QUERIES, load_codes(path)[1])).all()


def test_loaded_codes_screen(path):
    screen = (save("int8", path), load_codes(path))[1][1]
    best = ch.maxsim_topk(QUERIES, DOCUMENTS, 2, screen=screen)
    np.testing.assert_array_equal(best[0], ch.maxsim_topk(QUERIES, DOCUMENTS, 2)[0])


def test_a_codec_in_a_file_with_codes_is_read_by_load_too(path):
    codec, _ = save("scalar:2", path)
    np.testing.assert_array_equal(ch.Codec.load(path).encode(DOCUMENTS).codes, codec.encode(DOCUMENTS).codes)


def test_codes_of_an_earlier_version_score_as_then():
    """Of format 1, from 2026-11-22: made by `save("recurrent:2", …)` above, with scores and what they decode to."""
    codec, codes = load_codes(DATA / "codec_v1" / "recurrent_2.npz")
    with np.load(DATA / "codec_v1" / "expected.npz") as expected:
        np.testing.assert_allclose(ch.maxsim(QUERIES, codes), expected["scores"], rtol=1e-6)
        np.testing.assert_allclose(codec.decode(codes).vectors, expected["decoded"], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(codec.encode(DOCUMENTS).codes, codes.codes)


# ── what is not saved ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_codes_of_another_codec_are_not_saved(path):
    codec = ch.codec("scalar:2", 13).fit(DOCUMENTS)
    binary = ch.codec("binary", 13).fit(DOCUMENTS, QUERIES)
    for wrong in (
        ch.codec("scalar:4", 13).fit(DOCUMENTS).encode(DOCUMENTS),
        ch.codec("scalar:2", 13).fit(QUERIES).encode(DOCUMENTS),
        DOCUMENTS,
    ):
        with pytest.raises(ValueError, match="codes: expected codes that this codec made"):
            codec.save(path, wrong)
    with pytest.raises(ValueError, match="codes: expected codes that this codec made"):
        binary.save(path, binary.encode_queries(QUERIES))
    with pytest.raises(ValueError, match="not fitted"):
        ch.codec("scalar:2", 13).save(path, codec.encode(DOCUMENTS))
    with pytest.raises(TypeError, match="codes: expected what encode returned, got str"):
        codec.save(path, "codes")
    assert not path.exists()


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["float16", "int8", "binary", "recurrent:2"])
def test_a_flipped_bit_anywhere_is_noticed_or_harmless(path, name):
    save(name, path)
    content, expected = path.read_bytes(), ch.maxsim(QUERIES, load_codes(path)[1])
    surprises = []
    for i in range(0, len(content), 5):
        path.write_bytes(content[:i] + bytes([content[i] ^ (1 << i % 8)]) + content[i + 1 :])
        try:
            scores = ch.maxsim(QUERIES, load_codes(path)[1])
        except ch.CorruptIndexError:
            continue
        except Exception as error:
            surprises.append(f"byte {i}: {type(error).__name__}: {error}")
            continue
        if not np.array_equal(scores, expected):
            surprises.append(f"byte {i}: other scores")
    assert not surprises, f"{len(surprises)}, such as " + "\n".join(surprises[:5])


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_corrupt(path, part):
    save("scalar:4", path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ch.CorruptIndexError, match=r"codes\.npz: damaged, or not a saved Codec"):
        ch.Codec.load(path)


SHORT, LONG = np.zeros((16, 4), np.uint8), np.zeros((18, 4), np.uint8)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("int8", {"header": {"format": "chamfer.FixedDimensionalEncoder"}}),
        ("int8", {"parameters": {"name": "int9"}}),
        ("int8", {"parameters": {"name": "scalar:2"}}),
        ("int8", {"parameters": {"name": "float16"}}),
        ("int8", {"parameters": {"name": None}}),
        ("int8", {"parameters": {"dim": 14}}),
        ("int8", {"parameters": {"dim": "13"}}),
        ("int8", {"parameters": {"codebook": None}}),
        ("int8", {"parameters": {"codebook": {"stretch": 0.5, "levels_per_rms": 1.0}}}),
        ("int8", {"parameters": {"codebook": {"stretch": 3.0}}}),
        ("int8", {"parameters": {"holds_codes": False}}),
        ("int8", {"codebook_center": np.zeros(12, np.float32)}),
        ("int8", {"codebook_center": np.zeros(13)}),
        ("int8", {"codebook_direction": np.full(13, np.nan, np.float32)}),
        ("int8", {"codes": np.zeros((16, 16), np.uint8)}),
        ("int8", {"codes": np.zeros((17, 12), np.uint8)}),
        ("int8", {"codes": np.zeros((17, 16), np.int8)}),
        ("int8", {"codes": np.zeros(17 * 16, np.uint8)}),
        ("int8", {"codes": None}),
        ("int8", {"offsets": np.array([0, 3, 3, 8, 9, 18])}),
        ("int8", {"offsets": np.array([0, 3, 2, 8, 9, 17])}),
        ("int8", {"offsets": np.array([0, 3, 3, 8, 9, 17], np.int32)}),
        ("int8", {"offsets": np.zeros(0, np.int64)}),
        ("int8", {"offsets": None}),
        ("int8", {"scales": np.zeros(5, np.float32)}),
        ("int8", {"scales": np.ones(4, np.float32)}),
        ("int8", {"norms": np.full(5, -1, np.float32)}),
        ("int8", {"errors": None}),
        ("int8", {"more": np.zeros(3)}),
        ("scalar:4", {"token_terms": np.zeros((16, 2), np.float16)}),
        ("scalar:4", {"token_terms": np.zeros((17, 2), np.float32)}),
        ("scalar:4", {"token_terms": np.full((17, 2), np.inf, np.float16)}),
        ("scalar:4", {"codebook_levels": np.zeros(15, np.uint8)}),
        ("scalar:4", {"codebook_dim_scales": np.zeros(13, np.float32)}),
        ("scalar:2", {"codes": SHORT}),
        ("scalar:2", {"codes": LONG}),
        ("binary", {"parameters": {"query_codebook": None}}),
        ("binary", {"query_codebook_center": np.zeros(12, np.float32)}),
        ("binary", {"query_codebook_center": None}),
        ("bfloat16", {"codes": np.zeros((17, 26), np.uint8)}),
        ("float16", {"vectors": np.zeros((17, 13), np.float32)}),
        ("float16", {"vectors": np.zeros((17, 12), np.float16)}),
        ("float16", {"vectors": np.full((17, 13), np.nan, np.float16)}),
        ("float16", {"vectors": np.zeros((16, 13), np.float16)}),
        ("recurrent:2", {"codebook_rotation": None}),
        ("recurrent:2", {"codebook_rotation": np.eye(12, dtype=np.float32)}),
        ("recurrent:2", {"codebook_rotation": 2 * np.eye(13, dtype=np.float32)}),
        ("recurrent:2", {"codebook_rotation": np.full((13, 13), np.nan, np.float32)}),
        ("recurrent:2", {"parameters": {"name": "scalar:2"}}),
        ("scalar:2", {"codebook_rotation": np.eye(13, dtype=np.float32)}),
    ],
    ids=lambda value: value if isinstance(value, str) else str({k: getattr(v, "shape", v) for k, v in value.items()}),
)
def test_parts_that_do_not_fit_together_are_corrupt(path, name, change):
    save(name, path)
    rewrite(path, **change)
    with pytest.raises(ch.CorruptIndexError, match=r"codes\.npz"):
        load_codes(path)


def test_a_file_of_a_newer_format_asks_to_upgrade(path):
    save("binary", path)
    rewrite(path, header={"version": 2}, codes=None)
    with pytest.raises(ValueError, match=r"format version 2.*upgrade chamfer") as caught:
        ch.Codec.load(path)
    assert not isinstance(caught.value, ch.CorruptIndexError)


def test_a_missing_file_is_not_found(path):
    with pytest.raises(FileNotFoundError):
        ch.Codec.load(path)


def test_a_save_that_fails_leaves_the_old_file(path, monkeypatch):
    codec, _ = save("int8", path)
    before = path.read_bytes()

    def no_space(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("numpy.savez", no_space)
    with pytest.raises(OSError, match="No space left"):
        codec.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
