"""Candidates that are joined, emptied or told what they may find, for each kind of FAISS index."""

import functools

import faiss
import numpy as np
import pytest

from chamfer.candidates import FaissCandidates

DIM = 32
JOINED = ["Flat", "SQ8", "SQfp16", "PQ32x4fs", "PQ16", "OPQ16,PQ16x4fs", "PCA16,Flat"]
LISTS = ["IVF8,Flat", "IVF8,SQ8", "IVF8,PQ32x4fs"]
SELECTING = ["Flat", "SQ8", "PCA16,Flat", *LISTS, "PCA16,IVF8,SQ8"]


def encodings(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


@functools.cache
def trained(kind):
    """Empty candidates, which nobody adds to: codebooks of 8 bits take half a minute."""
    made = FaissCandidates(kind, DIM)
    made.train(encodings(10_000 if kind == "PQ16" else 800), 1)
    return made


def filled(template, vectors):
    made = template.empty_copy()
    made.add(vectors, 1)
    return made


@pytest.mark.parametrize("kind", [*JOINED, *LISTS])
@pytest.mark.parametrize("drops", [False, True])
def test_joined_candidates_are_those_of_all(kind, drops):
    template = trained(kind)
    sides = [encodings(300, 1), encodings(1, 2), encodings(200, 3)]
    random = np.random.default_rng(4)
    rows = [np.flatnonzero(random.random(len(side)) < 0.7) if drops else np.arange(len(side)) for side in sides]
    found = template.joined(list(zip((filled(template, side) for side in sides), rows, strict=True)))
    if drops and kind in LISTS:
        assert found is None
        return
    expected = filled(template, np.concatenate([side[some] for side, some in zip(sides, rows, strict=True)]))
    assert found.num_documents == expected.num_documents
    for one in (found, expected):
        one.add(encodings(40, 5), 1)
    (scores, rows), wanted = found.search(encodings(20, 6), 30, 1), expected.search(encodings(20, 6), 30, 1)
    if "," in kind and kind not in LISTS:  # what is turned first differs in the last bit with the size of a batch
        np.testing.assert_allclose(scores, wanted[0], rtol=1e-5, atol=1e-5)
        assert (rows == wanted[1]).mean() > 0.97
    else:
        np.testing.assert_array_equal(scores, wanted[0])
        np.testing.assert_array_equal(rows, wanted[1])


@pytest.mark.parametrize("kind", ["PQ32x4fs", "IVF8,PQ32x4fs", "SQ8", "IVF8,Flat"])
def test_what_is_added_after_a_removal_is_found(kind):
    """FAISS's fast scans keep removed codes behind the last, and would add others to their bits."""
    template = trained(kind)
    changed, expected = filled(template, encodings(300, 1)), filled(template, encodings(250, 1))
    changed.remove(np.arange(250, 300))
    changed.add(encodings(40, 2), 1, np.arange(250, 290))
    expected.add(encodings(40, 2), 1, np.arange(250, 290))
    for a, b in zip(changed.search(encodings(20, 3), 30, 1), expected.search(encodings(20, 3), 30, 1), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["PQ32x4fs_64", "PQ32x4fs_128", "IVF8,PQ32x4fs_64", "PCA16,PQ16x4fs_64"])
def test_blocks_that_faiss_garbles_are_neither_joined_nor_removed_from(kind):
    candidates = filled(trained(kind), encodings(300))
    before = candidates.search(encodings(20, 3), 30, 1)
    assert candidates.joined([(candidates, np.arange(300))]) is None
    with pytest.raises(ValueError, match=r"^candidates: FAISS cannot remove from .*; choose blocks of 32 codes"):
        candidates.remove(np.arange(10))
    for a, b in zip(candidates.search(encodings(20, 3), 30, 1), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["HNSW8", "HNSW8,SQ8", "SQ8,RFlat"])
def test_what_faiss_cannot_join_is_none(kind):
    template = trained(kind)
    assert template.joined([(filled(template, encodings(50)), np.arange(1, 50))]) is None


@pytest.mark.parametrize("kind", SELECTING)
def test_only_what_is_allowed_is_found(kind):
    candidates = filled(trained(kind), encodings(500, 1))
    assert candidates.takes_allowed
    allowed = np.random.default_rng(2).random(500) < 0.2
    scores, rows = candidates.search(encodings(40, 3), 20, 2, None, allowed)
    assert allowed[rows[rows >= 0]].all()
    assert (rows >= 0).mean() > 0.8  # a quarter of the lists may hold fewer
    if kind == "Flat":
        products = np.where(allowed, encodings(40, 3) @ encodings(500, 1).T, -np.inf)
        np.testing.assert_array_equal(rows[:, 0], products.argmax(axis=1))
    assert np.isneginf(scores[rows < 0]).all()


def test_rows_of_an_index_that_keeps_ids_may_be_chosen_by_many_threads():
    """FAISS puts another selector into the parameters while it searches, which threads must not share."""
    candidates = FaissCandidates(faiss.IndexIDMap(faiss.IndexFlatIP(DIM)), DIM)
    candidates.add(encodings(400, 1), 1, np.arange(400)[::-1].copy())
    allowed = np.arange(400) % 3 == 0
    expected = candidates.search(encodings(640, 2), 10, 1, None, allowed)
    for _ in range(5):
        for a, b in zip(candidates.search(encodings(640, 2), 10, 4, None, allowed), expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["PQ32x4fs", "PQ16", "HNSW8"])
def test_others_are_not_told(kind):
    assert not trained(kind).takes_allowed
