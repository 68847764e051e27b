"""Candidates beside FAISS: HNSW graphs find what Flat finds, and documents may be inserted in any order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

import chamfer as ch
from chamfer.candidates import FaissCandidates, local_dimensions
from chamfer.index.filling import INSERTION_ORDERS
from samples import off_centre_collection

DIM = 32


def clustered(rng, n):
    """Encodings around 20 centres."""
    centres = np.random.default_rng(7).standard_normal((20, DIM))
    return (centres[rng.integers(0, 20, n)] + 0.7 * rng.standard_normal((n, DIM))).astype(np.float32)


@pytest.fixture(scope="module")
def encodings():
    """2,000 encodings, some twenty times as long as others."""
    rng = np.random.default_rng(0)
    return clustered(rng, 2_000) * np.exp(0.5 * rng.standard_normal(2_000)[:, None]).astype(np.float32)


@pytest.fixture(scope="module")
def wanted():
    return clustered(np.random.default_rng(1), 70)


def filled(description, encodings):
    candidates = FaissCandidates(description, encodings.shape[1])
    if not candidates.is_trained:
        candidates.train(encodings, 1)
    candidates.add(encodings, 1)
    return candidates


def agreement(rows, others):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(rows, others, strict=True)])


# ── graphs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# What a description finds of what a scan of its codes finds, and the codes that it scans.
GRAPHS = {
    "HNSW32": ("Flat", 0.97),
    "HNSW32,SQ8": ("SQ8", 0.97),
    "PCA24,HNSW32": ("PCA24,Flat", 0.97),
    "HNSW32,RFlat": ("Flat", 0.97),
}


@pytest.mark.parametrize("description", GRAPHS)
def test_a_graph_finds_as_many_candidates_as_a_scan(description, encodings, wanted):
    scanned, least = GRAPHS[description]
    _, rows = filled(description, encodings).search(wanted, 300, 1)
    _, expected = filled(scanned, encodings).search(wanted, 300, 1)
    assert agreement(rows, expected) > least


def test_faiss_alone_stops_at_its_own_width(encodings, wanted):
    alone = faiss.IndexHNSWFlat(DIM, 32, faiss.METRIC_INNER_PRODUCT)
    alone.add(encodings)
    _, expected = filled("Flat", encodings).search(wanted, 300, 1)
    _, rows = FaissCandidates(alone, DIM).search(wanted, 300, 1)
    assert agreement(alone.search(wanted, 300)[1], expected) < 0.8 < 0.97 < agreement(rows, expected)
    assert alone.hnsw.efSearch == 16


def test_linking_by_inner_product_finds_more_than_by_distance_at_equal_length(encodings, wanted):
    """The other way: nearest in L2 is largest in inner product where one more coordinate makes all equally long."""
    squares = (encodings**2).sum(axis=1)
    longer = np.hstack([encodings, np.sqrt(squares.max() - squares)[:, None]])
    by_distance = faiss.IndexHNSWFlat(DIM + 1, 32)
    by_distance.hnsw.efSearch = 300
    by_distance.add(longer)
    _, expected = filled("Flat", encodings).search(wanted, 300, 1)
    _, rows = filled("HNSW32", encodings).search(wanted, 300, 1)
    other = by_distance.search(np.pad(wanted, ((0, 0), (0, 1))), 300)[1]
    assert agreement(rows, expected) > agreement(other, expected) + 0.01


@pytest.mark.parametrize("description", GRAPHS)
def test_scores_of_a_graph_are_inner_products(description, encodings, wanted):
    candidates = filled(description, encodings)
    scores, rows = candidates.search(wanted, 50, 1)
    found = rows >= 0
    products = np.einsum("qkd,qd->qk", encodings[rows], wanted)
    tolerance = {"HNSW32,SQ8": 0.02, "PCA24,HNSW32": 0.5}.get(description, 1e-5)
    scale = np.abs(products).max()
    np.testing.assert_allclose(scores[found] / scale, products[found] / scale, atol=tolerance)
    assert (np.diff(scores, axis=1)[found[:, 1:]] <= 0).all()


@pytest.mark.parametrize("description", ["HNSW32", "HNSW32,SQ8", "IVF20_HNSW16,Flat"])
def test_a_saved_graph_answers_as_before(tmp_path, description, encodings, wanted):
    candidates = filled(description, encodings)
    candidates.save(tmp_path / "candidates")
    opened = FaissCandidates.load(tmp_path / "candidates", DIM, description)
    for before, after in zip(candidates.search(wanted, 40, 1), opened.search(wanted, 40, 1), strict=True):
        np.testing.assert_array_equal(before, after)


def test_lists_chosen_by_a_graph_are_those_chosen_by_a_scan(encodings, wanted):
    _, rows = filled("IVF50_HNSW16,Flat", encodings).search(wanted, 100, 1)
    _, expected = filled("IVF50,Flat", encodings).search(wanted, 100, 1)
    assert agreement(rows, expected) > 0.95


@pytest.mark.parametrize("description", ["HNSW32", "HNSW32,SQ8"])
def test_odd_encodings_are_found(description):
    rng = np.random.default_rng(3)
    equally_long = rng.standard_normal((200, DIM)).astype(np.float32)
    equally_long /= np.linalg.norm(equally_long, axis=1, keepdims=True)
    some_zero = equally_long.copy()
    some_zero[::7] = 0
    for odd in (equally_long, some_zero, equally_long[:1]):
        scores, rows = filled(description, odd).search(odd, 1, 1)
        full = odd.any(axis=1)
        np.testing.assert_array_equal(rows[full, 0], np.flatnonzero(full))
        np.testing.assert_allclose(scores[full, 0], 1, atol=0.02)
    _, rows = filled(description, np.zeros((300, DIM), np.float32)).search(odd, 10, 1)
    assert (rows >= 0).all()


def test_searches_of_other_widths_at_once_do_not_meet(encodings, wanted):
    candidates = filled("HNSW32", encodings)
    widths = [10, 400] * 8
    expected = {width: candidates.search(wanted, width, 1)[1] for width in set(widths)}
    with ThreadPoolExecutor(8) as pool:
        for width, found in zip(
            widths, pool.map(lambda width: candidates.search(wanted, width, 1), widths), strict=True
        ):
            np.testing.assert_array_equal(found[1], expected[width])


@pytest.mark.parametrize("description", ["HNSW32,PQ16x4", "HNSW32_PQ8", "HNSW32_2+PQ4"])
def test_what_faiss_links_by_l2_only_is_refused(description):
    with pytest.raises(ValueError, match="candidates: expected HNSW without PQ, which FAISS links by L2 only, got 'HN"):
        FaissCandidates(description, DIM)


# ── orders ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", INSERTION_ORDERS)
@pytest.mark.parametrize("description", ["Flat", "HNSW16", "SQ8", "IVF8,SQ8", "PCA64,HNSW16", "PCA64,IVF8,Flat"])
def test_rows_are_those_of_documents_in_any_order(tmp_path, order, description, documents, queries):
    index = ch.Index.build(documents, candidates=description, insertion_order=order, path=tmp_path)
    full = np.flatnonzero(documents.lengths)
    encodings = index.reducer.encode_documents(documents.select(full))
    for candidates in (index._snapshot.candidates, ch.Index.open(tmp_path)._snapshot.candidates):
        assert candidates.num_documents == len(documents)
        assert (candidates.search(encodings, 20, 1)[1] == full[:, None]).any(axis=1).mean() > 0.95
    found, opened = index.search(queries), ch.Index.open(tmp_path).search(queries)
    np.testing.assert_array_equal(found.ids, opened.ids)
    np.testing.assert_array_equal(found.scores, opened.scores)


def test_a_scan_finds_the_same_in_any_order(documents, queries):
    encoder = ch.FixedDimensionalEncoder(documents.dim).fit(documents, queries)
    expected = ch.Index.build(documents, reducer=encoder, candidates="Flat").search(queries)
    for order in INSERTION_ORDERS:
        found = ch.Index.build(documents, reducer=encoder, candidates="Flat", insertion_order=order).search(queries)
        np.testing.assert_array_equal(found.ids, expected.ids)


def test_documents_are_inserted_in_the_order_asked_for(documents):
    encoder = ch.FixedDimensionalEncoder(documents.dim, num_repetitions=2).fit(documents)
    encodings = encoder.encode_documents(documents)
    dimensions = local_dimensions(encodings, encodings, 1)
    inserted = {}
    for order in INSERTION_ORDERS[1:]:
        index = ch.Index.build(documents, reducer=encoder, candidates="Flat", insertion_order=order)
        inserted[order] = faiss.vector_to_array(index._snapshot.candidates._index.id_map)
        np.testing.assert_array_equal(np.sort(inserted[order]), np.arange(len(documents)))
    assert (np.diff(dimensions[inserted["lid_desc"]]) <= 1e-6).all()
    assert (np.diff(dimensions[inserted["lid_asc"]]) >= -1e-6).all()
    assert not np.array_equal(inserted["random"], np.arange(len(documents)))


@pytest.mark.parametrize("dim", [2, 5])
def test_the_local_dimension_of_a_flat_piece_is_its_dimension(dim):
    rng = np.random.default_rng(0)
    points = np.zeros((4_000, 16), np.float32)
    points[:, :dim] = rng.random((4_000, dim))
    found = local_dimensions(points, points, 1)
    assert np.median(found) == pytest.approx(dim, rel=0.2)


def test_equal_points_have_no_local_dimension():
    points = np.ones((30, 4), np.float32)
    assert (local_dimensions(points, points, 1) == 0).all()
    assert (local_dimensions(points[:1], points[:1], 1) == 0).all()
    assert (local_dimensions(points * 0, points * 0, 1) == 0).all()


def test_bad_orders_are_refused(documents):
    with pytest.raises(ValueError, match=r"insertion_order: expected one of 'input', 'random', .* got 'best'"):
        ch.Index.build(documents, insertion_order="best")
    encoder = ch.FixedDimensionalEncoder(documents.dim).fit(documents)
    ready = faiss.IndexFlatIP(encoder.output_dimension)
    ready.add(encoder.encode_documents(documents))
    with pytest.raises(ValueError, match="insertion_order: expected 'input', since candidates are filled already"):
        ch.Index.build(documents, reducer=encoder, candidates=ready, insertion_order="random")


def test_a_ready_empty_index_is_filled_in_the_order_asked_for(documents, queries):
    ready = faiss.IndexHNSWFlat(10240, 16, faiss.METRIC_INNER_PRODUCT)
    index = ch.Index.build(documents, candidates=ready, insertion_order="random")
    assert ready.ntotal == 0
    assert (index.search(queries, num_candidates=100).ids >= 0).all()


def test_one_document_has_an_order():
    one = off_centre_collection(np.random.default_rng(0), [4])
    for order in INSERTION_ORDERS:
        index = ch.Index.build(one, candidates="HNSW16", insertion_order=order)
        assert index.search(one, 1).ids.tolist() == [[0]]


def test_lists_found_by_a_graph_may_hold_product_codes():
    vectors = np.random.default_rng(0).standard_normal((1300, 16)).astype(np.float32)
    candidates = FaissCandidates("IVF8_HNSW4,PQ4x4fs", 16)
    candidates.train(vectors, 1)
    candidates.add(vectors, 1)
    assert candidates.num_lists == 8
    _, rows = candidates.search(vectors[:20], 50, 1, nprobe=8)
    assert (rows == np.arange(20)[:, None]).any(axis=1).mean() > 0.8
    _, few = candidates.search(vectors[:20], 1300, 1, nprobe=1)
    assert (few >= 0).sum() < (candidates.search(vectors[:20], 1300, 1, nprobe=8)[1] >= 0).sum()
    assert FaissCandidates("Flat", 16).num_lists is None


def test_an_empty_index_that_faiss_cannot_copy_is_named():
    quantizer = faiss.IndexFlatIP(8)
    index = faiss.IndexIVFIndependentQuantizer(
        quantizer, faiss.IndexIVFFlat(quantizer, 8, 4, faiss.METRIC_INNER_PRODUCT), None
    )
    with pytest.raises(ValueError, match="candidates: FAISS cannot copy an empty IndexIVFIndependentQuantizer"):
        FaissCandidates(index, 8)


# ── removal ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rows_given", [False, True])
@pytest.mark.parametrize(
    "description", ["Flat", "SQ8", "IVF8,Flat", "PCA16,Flat", "PCA16,IVF8,SQ8", "PQ8x4fs", "IVF8,PQ8x4fs", "IDMap,Flat"]
)
def test_what_is_left_after_a_removal_keeps_its_rows(tmp_path, description, rows_given, encodings, wanted):
    candidates = FaissCandidates(description, DIM)
    if not candidates.is_trained:
        candidates.train(encodings, 1)
    order = np.random.default_rng(2).permutation(2_000) if rows_given else None
    candidates.add(encodings if order is None else encodings[order], 1, order)
    lists = candidates.num_lists
    scores, rows = candidates.search(wanted, 2_000, 1, lists)
    gone = np.array([3, 999, 1_999, 4, 17, 3])
    assert candidates.remove(gone) == 5
    assert candidates.num_documents == 1_995
    candidates.save(tmp_path / "candidates")
    for one in (candidates, FaissCandidates.load(tmp_path / "candidates", DIM, description)):
        left_scores, left = one.search(wanted, 1_995, 1, lists)
        for query in range(len(wanted)):
            staying = ~np.isin(rows[query], gone)
            np.testing.assert_array_equal(np.sort(left[query]), np.sort(rows[query][staying]))
            np.testing.assert_allclose(left_scores[query], scores[query][staying], rtol=1e-5, atol=1e-5)
        assert one.remove(gone) == 0
        one.remove(np.arange(100))
        assert one.num_documents == 1_898


@pytest.mark.parametrize("description", ["Flat", "IVF8,Flat"])
def test_what_comes_after_a_removal_follows_the_highest_row(tmp_path, description, encodings):
    candidates = filled(description, encodings[:500])
    candidates.remove(np.array([5, 499]))
    candidates.save(tmp_path / "candidates")
    candidates.add(encodings[500:510], 1)
    found = candidates.search(encodings[500:510], 1, 1, candidates.num_lists)[1][:, 0]
    again = FaissCandidates.load(tmp_path / "candidates", DIM, description)  # 498 is the highest that it knows of
    again.add(encodings[500:510], 1)
    others = candidates.search(encodings[500:510], 510, 1, candidates.num_lists)[1]
    assert set(others[0].tolist()) - {-1} == set(range(510)) - {5, 499}
    assert set(again.search(encodings[:1], 510, 1, candidates.num_lists)[1][0].tolist()) - {-1} == set(range(509)) - {5}
    assert (found >= 0).all()
    candidates.add(encodings[:2], 1, np.array([5, 499]))
    assert candidates.num_documents == 510


@pytest.mark.parametrize("description", ["HNSW16", "PCA16,HNSW16", "SQ8,RFlat"])
def test_where_faiss_cannot_remove_it_says_so(description, encodings, wanted):
    candidates = filled(description, encodings)
    before = candidates.search(wanted, 20, 1)
    with pytest.raises(ValueError, match=f"candidates: FAISS cannot remove encodings with '{description}': remove_ids"):
        candidates.remove(np.array([1]))
    for one, other in zip(before, candidates.search(wanted, 20, 1), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_ready_index_is_not_changed_by_being_wrapped(encodings, wanted):
    ready = faiss.IndexFlatIP(DIM)
    ready.add(encodings)
    candidates = FaissCandidates(ready, DIM)
    assert candidates.remove(np.array([7])) == 1
    del candidates
    assert ready.search(wanted, 1)[1].shape == (70, 1)
