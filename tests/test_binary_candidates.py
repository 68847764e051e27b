"""BinaryCandidates against brute force over codes and signs, its files, and indexes that use it; without torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import chamfer as ch
import reference
from chamfer import BinaryCandidates, binary_candidates, sign_index
from chamfer._archives import read_archive, write_archive
from chamfer.index.filling import INSERTION_ORDERS
from samples import off_centre_collection, random_binarizer, read_npz

DIM = 12
LISTS = 7
KINDS = ["SDC", "IVF7,SDC", "Hamming", "IVF7,Hamming", "HNSW8,Hamming"]
SCANS = KINDS[:4]
GOLDEN = Path(__file__).parent / "data" / "binary_candidates_v1"


def vectors(n, seed=1):
    """Encodings around 12 centres."""
    rng = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(7).standard_normal((12, DIM))
    return (centres[rng.integers(0, 12, n)] + rng.standard_normal((n, DIM))).astype(np.float32)


@pytest.fixture(scope="module")
def binarizer():
    return random_binarizer(output_dimension=36)


@pytest.fixture(scope="module")
def encodings():
    return vectors(500)


@pytest.fixture(scope="module")
def wanted():
    return vectors(70, seed=2)


def filled(binarizer, kind, encodings):
    candidates = BinaryCandidates(binarizer, kind)
    if not candidates.is_trained:
        candidates.train(encodings, 1)
    candidates.add(encodings, 1)
    return candidates


def similarities(binarizer, kind, wanted, encodings):
    """All scores, by the definitions."""
    queries, codes = binarizer.encode_queries(wanted), binarizer.encode(encodings)
    if kind.endswith("SDC"):
        scales = queries.scales, codes.scales
        return reference.sdc_similarities(queries.levels(), codes.levels(), codes.bits, *scales, queries.bits)
    signs = [2.0 * (some.levels() >> (some.bits - 1)) - 1 for some in (queries, codes)]
    return (signs[0] @ signs[1].T).astype(np.float32)


def assert_best(kind, found, scores, k):
    """Found are the k best of all scores; ties go to the lower row, but for the last of a Hamming search."""
    expected_scores, expected = map(np.array, zip(*(reference.topk(line, k) for line in scores), strict=True))
    np.testing.assert_array_equal(found[0], expected_scores.astype(np.float32))
    certain = np.ones(expected.shape, bool)
    if kind.endswith("Hamming") and k < scores.shape[1]:
        certain = expected_scores > expected_scores[:, -1:]
    np.testing.assert_array_equal(found[1][certain], expected[certain])
    there = found[1] >= 0
    assert (there == np.isfinite(found[0])).all()
    np.testing.assert_array_equal(found[0][there], np.take_along_axis(scores, found[1], axis=1)[there])
    assert all(len(set(line[line >= 0])) == (line >= 0).sum() for line in found[1])


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


# ── search ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("has_fine_queries", [False, True])
@pytest.mark.parametrize("has_scales", [True, False])
@pytest.mark.parametrize("loops", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", SCANS)
def test_all_lists_hold_what_brute_force_finds(kind, loops, has_scales, has_fine_queries, encodings, wanted):
    of = {"has_scales": has_scales, "has_fine_queries": has_fine_queries}
    binarizer = random_binarizer(output_dimension=20, loops=loops, **of)
    candidates = filled(binarizer, kind, encodings)
    scores = similarities(binarizer, kind, wanted, encodings)
    for k in (1, 40, 500, 510):
        assert_best(kind, candidates.search(wanted, k, 1, nprobe=LISTS), scores, k)


@pytest.mark.parametrize("kind", ["IVF7,SDC", "IVF7,Hamming"])
def test_all_lists_hold_what_the_scan_finds(kind, binarizer, encodings, wanted):
    scores, rows = filled(binarizer, kind.partition(",")[2], encodings).search(wanted, 500, 1)
    assert_same(filled(binarizer, kind, encodings).search(wanted, 500, 1, nprobe=99), (scores, rows))


@pytest.mark.parametrize("output_dimension", [1, 7, 8, 9, 64, 257])
def test_signs_need_not_fill_bytes(output_dimension, encodings, wanted):
    binarizer = random_binarizer(output_dimension=output_dimension)
    scores = similarities(binarizer, "Hamming", wanted, encodings)
    for kind in SCANS[2:]:
        candidates = filled(binarizer, kind, encodings)
        assert_best(kind, candidates.search(wanted, 500, 1, nprobe=LISTS), scores, 500)
    found, rows = filled(binarizer, "HNSW8,Hamming", encodings).search(wanted, 10, 1)
    np.testing.assert_array_equal(found, np.take_along_axis(scores, rows, axis=1))


@pytest.mark.parametrize("number", [1, 40, 400])
def test_a_graph_finds_nearly_what_a_scan_finds(number, binarizer, encodings, wanted):
    scores, rows = filled(binarizer, "HNSW16,Hamming", encodings).search(wanted, number, 1)
    exact = similarities(binarizer, "Hamming", wanted, encodings)
    best = -np.sort(-exact, axis=1)[:, :number]
    assert (scores == best).mean() > 0.95  # at 400 only with an efSearch beyond the usual 128
    np.testing.assert_array_equal(scores[rows >= 0], np.take_along_axis(exact, rows, axis=1)[rows >= 0])
    assert (np.diff(scores, axis=1)[rows[:, 1:] >= 0] <= 0).all()


def test_lists_are_those_of_the_greatest_inner_products(binarizer, encodings, wanted):
    candidates = filled(binarizer, "IVF7,SDC", encodings)
    centres = candidates._held.arrays()["centres"]
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-5)  # spherical k-means
    lists = np.argmax(encodings @ centres.T, axis=1)
    assert len(set(lists)) > 3
    scores = similarities(binarizer, "SDC", wanted, encodings)
    order = np.argsort(-(wanted @ centres.T), axis=1)
    for nprobe in (1, 3):
        probed = (lists[None, :, None] == order[:, None, :nprobe]).any(axis=2)
        within = np.where(probed, scores, -np.inf)
        assert_best("IVF7,SDC", candidates.search(wanted, 60, 1, nprobe), within, 60)


def test_lists_break_ties_as_one(encodings, wanted):
    binarizer = random_binarizer(output_dimension=5, has_scales=False)  # codes tie by the dozen
    candidates = filled(binarizer, "IVF7,SDC", encodings)
    assert 1 < sum(len(rows) >= 70 for rows in candidates._held._rows) < LISTS
    scores = similarities(binarizer, "SDC", wanted, encodings)
    assert len(np.unique(scores[0])) < 100
    for k in (1, 7, 60, 300, 600):
        assert_best("IVF7,SDC", candidates.search(wanted, k, 1, LISTS), scores, k)


@pytest.mark.parametrize("kind", ["IVF7,SDC", "IVF7,Hamming"])
def test_more_lists_hold_more(kind, binarizer, encodings, wanted):
    candidates = filled(binarizer, kind, encodings)
    assert candidates.num_lists == LISTS
    counts = [(candidates.search(wanted, 500, 1, nprobe)[1] >= 0).sum() for nprobe in range(1, LISTS + 1)]
    assert counts == sorted(set(counts))
    assert counts[-1] == 500 * 70
    assert_same(candidates.search(wanted, 90, 1), candidates.search(wanted, 90, 1, nprobe=1))  # a quarter of 7
    assert filled(binarizer, kind.replace("7", "8"), encodings).search(wanted, 500, 1)[1].min() == -1


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_found_depends_neither_on_threads_nor_on_company(kind, binarizer, encodings, wanted):
    candidates = filled(binarizer, kind, encodings)
    for nprobe in (None, 2):
        expected = candidates.search(wanted, 30, 1, nprobe)
        for num_threads in (2, 3):
            assert_same(candidates.search(wanted, 30, num_threads, nprobe), expected)
        for i in (0, 33, 69):
            assert_same(candidates.search(wanted[i : i + 1], 30, 1, nprobe), [part[i : i + 1] for part in expected])


@pytest.mark.parametrize("kind", ["IVF7,SDC", "IVF7,Hamming", "HNSW8,Hamming"])
def test_searches_at_once_do_not_meet(kind, binarizer, encodings, wanted):
    candidates = filled(binarizer, kind, encodings)
    ways = [(10, 1), (300, 6), (40, 3)] * 6
    expected = {way: candidates.search(wanted, way[0], 1, way[1]) for way in set(ways)}
    with ThreadPoolExecutor(6) as pool:
        for way, found in zip(
            ways, pool.map(lambda way: candidates.search(wanted, way[0], 1, way[1]), ways), strict=True
        ):
            assert_same(found, expected[way])


@pytest.mark.parametrize("kind", KINDS)
def test_without_documents_or_queries_nothing_is_found(kind, binarizer, encodings, wanted):
    candidates = BinaryCandidates(binarizer, kind)
    if candidates.num_lists is not None:
        assert not candidates.is_trained
        candidates.train(encodings, 1)
    assert candidates.is_trained
    candidates.add(encodings[:0], 1)
    scores, rows = candidates.search(wanted, 3, 1)
    assert (scores == -np.inf).all()
    assert (rows == -1).all()
    assert filled(binarizer, kind, encodings).search(wanted[:0], 3, 2)[1].shape == (0, 3)


# ── queries of a newer binarizer ────────────────────────────────────────────────────────────────────────────────────


NEW_DIM = 17


def newer(binarizer, output_dimension, **parameters):
    """A binarizer of other vectors that says that it was fitted to search the codes of this one."""
    parameters |= {"loops": binarizer.loops, "searches": [binarizer.fingerprint]}
    return random_binarizer(dim=NEW_DIM, output_dimension=output_dimension, seed=1, **parameters)


def first_of(codes, dim):
    """The first dims of codes, and scales that leave the length of what each stands for."""
    values = 2.0 * codes.levels() - (2**codes.bits - 1)
    longer = np.linalg.norm(values, axis=1) / np.linalg.norm(values[:, :dim], axis=1)
    return codes.levels()[:, :dim], (codes.scales * longer).astype(np.float32)


@pytest.mark.parametrize("has_fine_queries", [False, True])
@pytest.mark.parametrize("output_dimension", [36, 51])
@pytest.mark.parametrize("loops", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_binarizer_searches(kind, loops, output_dimension, has_fine_queries, encodings):
    """Of as many numbers, or more: then the first of its codes search; codes are those of before there were fine."""
    binarizer = random_binarizer(output_dimension=36, loops=loops)
    new = newer(binarizer, output_dimension, has_fine_queries=has_fine_queries)
    candidates = filled(binarizer, kind, encodings)
    queries = np.random.default_rng(3).standard_normal((20, NEW_DIM)).astype(np.float32)
    asked, held = new.encode_queries(queries), binarizer.encode(encodings)
    levels, scales = first_of(asked, 36)
    if kind.endswith("SDC"):
        scores = reference.sdc_similarities(levels, held.levels(), held.bits, scales, held.scales, asked.bits)
    else:
        signs = [2.0 * (some >> (bits - 1)) - 1 for some, bits in ((levels, asked.bits), (held.levels(), held.bits))]
        scores = signs[0] @ signs[1].T
    if kind.startswith("HNSW"):
        found = candidates.search(queries, 50, 1, query_binarizer=new)
        np.testing.assert_array_equal(found[0], np.take_along_axis(scores, found[1], axis=1))
        return
    found = candidates.search(queries, 500, 1, nprobe=LISTS, query_binarizer=new)
    np.testing.assert_allclose(found[0], -np.sort(-scores, axis=1), rtol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(scores, found[1], axis=1), found[0], rtol=1e-6)


@pytest.mark.parametrize("has_fine_queries", [False, True])
@pytest.mark.parametrize("output_dimension", [36, 51])
def test_a_newer_binarizer_probes_the_lists_whose_centres_its_codes_are_the_nearest_to(
    output_dimension, has_fine_queries, binarizer, encodings
):
    new = newer(binarizer, output_dimension, has_fine_queries=has_fine_queries)
    candidates = filled(binarizer, "IVF7,SDC", encodings)
    queries = np.random.default_rng(3).standard_normal((20, NEW_DIM)).astype(np.float32)
    held = candidates._held
    nearest = ch.sdc_topk(new.encode_queries(queries), binarizer.encode(held._centres), 2)[1]
    found = candidates.search(queries, 500, 1, nprobe=2, query_binarizer=new)[1]
    for rows, lists in zip(found, nearest, strict=True):
        assert set(rows[rows >= 0]) == set(np.concatenate([held._rows[i] for i in lists]))


def test_the_binarizer_of_the_candidates_may_be_named(binarizer, encodings, wanted):
    candidates = filled(binarizer, "IVF7,SDC", encodings)
    assert_same(candidates.search(wanted, 9, 1, query_binarizer=binarizer), candidates.search(wanted, 9, 1))


def test_a_binarizer_that_was_not_fitted_to_search_is_refused(binarizer, encodings, wanted):
    candidates = filled(binarizer, "SDC", encodings)
    stranger = random_binarizer(output_dimension=36, seed=1)
    with pytest.raises(
        ValueError, match=r"^query_binarizer: expected .* \(compatible_with=\), got RecurrentBinarizer\(dim=12, "
    ):
        candidates.search(wanted, 3, 1, query_binarizer=stranger)
    with pytest.raises(TypeError, match=r"^query_binarizer: expected a RecurrentBinarizer, got str$"):
        candidates.search(wanted, 3, 1, query_binarizer="new")
    with pytest.raises(ValueError, match=r"^encodings: expected shape \(n, 17\), got \(70, 12\)$"):
        candidates.search(wanted, 3, 1, query_binarizer=newer(binarizer, 36))


# ── add and remove ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", SCANS)
def test_it_does_not_matter_how_encodings_come(kind, binarizer, encodings, wanted):
    expected = filled(binarizer, kind, encodings)
    by_parts, by_rows = BinaryCandidates(binarizer, kind), BinaryCandidates(binarizer, kind)
    order = np.random.default_rng(0).permutation(500)
    for candidates in (by_parts, by_rows):
        if not candidates.is_trained:
            candidates.train(encodings, 1)
    for begin, end in ((0, 1), (1, 33), (33, 33), (33, 96), (96, 411), (411, 500)):
        by_parts.add(encodings[begin:end], 2)
        by_rows.add(encodings[order[begin:end]], 1, order[begin:end])
    for candidates in (by_parts, by_rows):
        assert candidates.num_documents == 500
        for k, nprobe in ((500, LISTS), (500, 2)):
            assert_same(candidates.search(wanted, k, 1, nprobe), expected.search(wanted, k, 1, nprobe))
    if kind.endswith("SDC"):
        for name, array in expected._held.arrays().items():
            np.testing.assert_array_equal(by_rows._held.arrays()[name], array)


@pytest.mark.parametrize("kind", ["SDC", "IVF7,Hamming"])
def test_rows_are_each_held_once(monkeypatch, kind, binarizer, encodings):
    monkeypatch.setattr(binary_candidates, "_PAGE_BITS", 4)  # so that rows lie in many pages, most of them empty
    candidates = BinaryCandidates(binarizer, kind)
    candidates.train(encodings, 1)
    rng, held = np.random.default_rng(0), set()
    for _ in range(60):
        rows = rng.choice(3_000, rng.integers(1, 40), replace=False)
        if held.isdisjoint(rows.tolist()):
            candidates.add(encodings[: len(rows)], 1, rows)
            held |= set(rows.tolist())
        else:
            with pytest.raises(ValueError, match="that are not held yet"):
                candidates.add(encodings[: len(rows)], 1, rows)
        gone = rng.choice(3_000, 300, replace=False)
        assert candidates.remove(gone) == len(held & set(gone.tolist()))
        held -= set(gone.tolist())
        after = max(held, default=-1) + 1
        candidates.add(encodings[:2], 1)
        held |= {after, after + 1}
        assert sorted(candidates._held.rows().tolist()) == sorted(held)


def test_adding_does_not_look_at_all_rows(monkeypatch, binarizer, encodings):
    candidates = filled(binarizer, "SDC", encodings)
    monkeypatch.setattr(candidates._held, "rows", None)
    candidates.add(encodings[:3], 1)
    candidates.add(encodings[:3], 1, np.array([900, 700, 800]))
    assert candidates.num_documents == 506


def test_a_graph_of_signs_needs_a_recent_faiss(monkeypatch, binarizer):
    monkeypatch.setattr(sign_index.faiss, "__version__", "1.13.2")
    BinaryCandidates(binarizer, "IVF7,Hamming")
    with pytest.raises(ValueError, match=r"kind: HNSW<links>,Hamming needs faiss-cpu 1\.14 or later, got 1\.13\.2"):
        BinaryCandidates(binarizer, "HNSW8,Hamming")


@pytest.mark.parametrize("kind", SCANS)
def test_what_is_left_after_a_removal_keeps_its_rows(kind, binarizer, encodings, wanted):
    candidates = filled(binarizer, kind, encodings)
    gone = np.array([499, 3, 3, 77, 200, 10_000, *range(300, 350)])
    assert candidates.remove(gone) == 54
    assert candidates.remove(gone) == 0
    assert candidates.num_documents == 446
    scores = similarities(binarizer, kind, wanted, encodings)
    scores[:, gone[gone < 500]] = -np.inf
    for k in (25, 500):
        assert_best(kind, candidates.search(wanted, k, 1, LISTS), scores, k)
    candidates.add(encodings[[3, 77]], 1, np.array([77, 3]))
    candidates.add(encodings[:3], 1)
    _, rows = candidates.search(wanted[:1], 500, 1, LISTS)
    assert set(rows[0].tolist()) - {-1} == (set(range(499)) - set(gone.tolist())) | {3, 77, 499, 500, 501}
    assert candidates.remove(np.arange(600)) == 451
    assert (candidates.search(wanted, 5, 1)[1] == -1).all()
    candidates.add(encodings, 1)
    assert candidates.num_documents == 500


def test_faiss_cannot_remove_from_a_graph(binarizer, encodings, wanted):
    candidates = filled(binarizer, "HNSW8,Hamming", encodings)
    before = candidates.search(wanted, 9, 1)
    with pytest.raises(ValueError, match="candidates: FAISS cannot remove encodings with 'HNSW8,Hamming'"):
        candidates.remove(np.array([1]))
    assert_same(candidates.search(wanted, 9, 1), before)


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("has_scales", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_joined_codes_are_those_of_all(kind, has_scales, drops, encodings, wanted):
    binarizer = random_binarizer(has_scales=has_scales)
    template = filled(binarizer, kind, encodings).empty_copy()
    sides = [encodings[:300], encodings[300:301], encodings[:0], encodings[301:]]
    random = np.random.default_rng(4)
    rows = [np.flatnonzero(random.random(len(side)) < 0.7) if drops else np.arange(len(side)) for side in sides]
    parts = []
    for side in sides:
        parts.append(template.empty_copy())
        parts[-1].add(side, 1)
    found = template.joined(list(zip(parts, rows, strict=True)))
    if "SDC" not in kind:
        assert found is None
        return
    expected = template.empty_copy()
    expected.add(np.concatenate([side[some] for side, some in zip(sides, rows, strict=True)]), 1)
    assert template.num_documents == 0
    for one in (found, expected):
        one.add(encodings[:40], 1)
    assert found.num_documents == expected.num_documents
    assert_same(found.search(wanted, 60, 1, LISTS), expected.search(wanted, 60, 1, LISTS))
    assert_same(found.search(wanted, 60, 1, 2), expected.search(wanted, 60, 1, 2))
    assert template.joined([(parts[0], np.arange(301))]) is None  # the last is none of its rows


@pytest.mark.parametrize("kind", KINDS)
def test_documents_find_themselves(kind, encodings):
    candidates = filled(random_binarizer(output_dimension=64, has_scales=False), kind, encodings)
    rows = np.arange(0, 500, 9)
    assert candidates.holds(encodings[rows], rows)
    assert not candidates.holds(encodings[rows], rows[::-1])


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("has_fine_queries", [False, True])
@pytest.mark.parametrize("has_scales", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_answers_as_before(tmp_path, kind, has_scales, has_fine_queries, encodings, wanted):
    binarizer = random_binarizer(has_scales=has_scales, searches=["0123"], has_fine_queries=has_fine_queries)
    candidates = filled(binarizer, kind, encodings)
    if not kind.startswith("HNSW"):
        candidates.remove(np.array([3, 499]))
    for _ in range(2):
        candidates.save(tmp_path / "c")
        opened = BinaryCandidates.load(tmp_path / "c", DIM, candidates.description)
        assert repr(opened) == repr(candidates)
        assert opened.binarizer.fingerprint == binarizer.fingerprint
        assert (opened.nbytes, opened.num_lists) == (candidates.nbytes, candidates.num_lists)
        assert abs((tmp_path / "c").stat().st_size - opened.nbytes) < 8_000
        for nprobe in (None, 2):
            assert_same(opened.search(wanted, 40, 1, nprobe), candidates.search(wanted, 40, 1, nprobe))
        for one in (candidates, opened):
            one.add(encodings[:40], 1)
        if not kind.startswith("HNSW"):  # whose links follow from chance
            assert_same(opened.search(wanted, 600, 1, LISTS), candidates.search(wanted, 600, 1, LISTS))


@pytest.mark.parametrize("kind", KINDS)
def test_empty_ones_come_back(tmp_path, kind, binarizer, encodings):
    candidates = BinaryCandidates(binarizer, kind)
    candidates.save(str(tmp_path / "c"))
    opened = BinaryCandidates.load(str(tmp_path / "c"))
    assert opened.is_trained == candidates.is_trained
    assert opened.num_documents == 0


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_are_noticed(tmp_path, kind, encodings):
    candidates = filled(random_binarizer(output_dimension=2, loops=0), kind, encodings[:60])
    path = tmp_path / "c"
    candidates.save(path)
    whole = path.read_bytes()
    noticed = 0
    for place in range(0, len(whole), 101):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            again = BinaryCandidates.load(path, DIM, candidates.description)
        except (ch.CorruptIndexError, ValueError):
            noticed += 1
        else:  # a byte of the container that says nothing, such as a date
            assert_same(again.search(encodings[:5], 9, 1), candidates.search(encodings[:5], 9, 1))
    assert noticed > 0
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ch.CorruptIndexError, match="damaged, or not a saved BinaryCandidates"):
            BinaryCandidates.load(path, DIM, candidates.description)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_that_do_not_fit_together_are_corrupt(tmp_path, kind, binarizer, encodings):
    path = tmp_path / "c"
    candidates = filled(binarizer, kind, encodings)
    candidates.save(path)
    parameters, arrays = read_archive(path, "chamfer.BinaryCandidates", 1)
    for name in arrays:
        for changed in (None, arrays[name][:-1], np.float32(0)):
            others = {key: array for key, array in (arrays | {name: changed}).items() if array is not None}
            write_archive(
                path, "chamfer.BinaryCandidates", 1, parameters, {k: np.asarray(a) for k, a in others.items()}
            )
            with pytest.raises(ch.CorruptIndexError, match="do not fit together"):
                BinaryCandidates.load(path, DIM, candidates.description)
    for change in ({"kind": "IVF9,SDC"}, {"kind": "IVF9,Hamming"}, {"kind": "PQ"}, {"kind": 3}, {"binarizer": {}}):
        write_archive(path, "chamfer.BinaryCandidates", 1, parameters | change, arrays)
        with pytest.raises(ch.CorruptIndexError, match="do not fit together"):
            BinaryCandidates.load(path, DIM, candidates.description)
    write_archive(path, "chamfer.BinaryCandidates", 1, parameters, arrays)
    for dim, description in (
        (13, candidates.description),
        (0, candidates.description),
        (DIM, "SDC of 7 bits"),
        (DIM, ""),
    ):
        with pytest.raises(ch.CorruptIndexError, match=f"expected '{description}' of {dim} dims, got '{kind} of"):
            BinaryCandidates.load(path, dim, description)
    write_archive(path, "chamfer.BinaryCandidates", 2, parameters, arrays)
    with pytest.raises(ValueError, match="upgrade chamfer"):
        BinaryCandidates.load(path, DIM, candidates.description)
    with pytest.raises(FileNotFoundError):
        BinaryCandidates.load(tmp_path / "missing", DIM, candidates.description)


@pytest.mark.parametrize("name", ["sdc", "ivf_sdc", "hamming", "ivf_hamming", "hnsw_hamming"])
def test_golden_files_of_format_1_open_for_ever(name):
    expected = read_npz(GOLDEN / "expected.npz")
    candidates = BinaryCandidates.load(GOLDEN / f"{name}.npz", 4, str(expected[f"{name}_description"]))
    scores, rows = candidates.search(expected["queries"], 6, 1, nprobe=2)
    np.testing.assert_allclose(scores, expected[f"{name}_scores"], rtol=1e-5)
    certain = scores > scores[:, -1:]  # of equal ones at the end any may be found
    np.testing.assert_array_equal(rows[certain], expected[f"{name}_rows"][certain])


# ── arguments ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "sdc",
        "IVF,SDC",
        "IVF0,SDC",
        "IVF4",
        "HNSW8,SDC",
        "HNSW1,Hamming",
        "HNSW,Hamming",
        "SDC,IVF4",
        "SDC ",
        "Flat",
    ],
)
def test_other_kinds_are_refused(kind, binarizer):
    with pytest.raises(ValueError, match=f"^kind: expected SDC, IVF<lists>,SDC, Hamming, .* got '{kind}'$"):
        BinaryCandidates(binarizer, kind)


def test_arguments_of_another_type_are_named(binarizer):
    with pytest.raises(TypeError, match=r"^binarizer: expected a RecurrentBinarizer, got str$"):
        BinaryCandidates("SDC")
    with pytest.raises(TypeError, match=r"^kind: expected a str, got int$"):
        BinaryCandidates(binarizer, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_encodings_that_do_not_fit_are_named(kind, binarizer, encodings):
    candidates = filled(binarizer, kind, encodings)
    calls = [lambda x: candidates.add(x, 1), lambda x: candidates.search(x, 3, 1), lambda x: candidates.train(x, 1)]
    for call in calls:
        with pytest.raises(ValueError, match=r"^encodings: expected shape \(n, 12\), got \(3, 11\)$"):
            call(np.zeros((3, 11), np.float32))
    assert candidates.num_documents == 500


@pytest.mark.parametrize("kind", ["SDC", "IVF7,Hamming"])
def test_rows_that_do_not_fit_are_named(kind, binarizer, encodings):
    candidates = filled(binarizer, kind, encodings)
    with pytest.raises(ValueError, match=r"^rows: expected shape \(2,\), one per encoding, got \(3,\)$"):
        candidates.add(encodings[:2], 1, np.array([600, 601, 602]))
    for rows in ([600, 600], [-1, 600], [600, 499]):
        with pytest.raises(ValueError, match=r"^rows: expected rows from 0, each once, that are not held yet"):
            candidates.add(encodings[:2], 1, np.array(rows))
    assert candidates.num_documents == 500


@pytest.mark.parametrize("kind", ["IVF7,SDC", "IVF7,Hamming"])
def test_lists_are_trained_first_and_with_enough(kind, binarizer, encodings):
    candidates = BinaryCandidates(binarizer, kind)
    assert candidates.most_training == 256 * LISTS
    with pytest.raises(ValueError, match=f"^encodings: expected `train` before they are added to '{kind}'$"):
        candidates.add(encodings, 1)
    with pytest.raises(ValueError, match=f"^candidates: FAISS cannot train on 6 encodings with '{kind}'"):
        candidates.train(encodings[:6], 1)


def test_sizes_are_told(binarizer, encodings):
    small, large = (filled(binarizer, "SDC", encodings[:n]) for n in (32, 320))
    assert large.nbytes - small.nbytes == 288 * (10 + 4 + 8)  # 72 bits on 80, scale, row
    assert small.description == "SDC of 72 bits"
    assert filled(binarizer, "Hamming", encodings).description == "Hamming of 36 bits"
    assert small.most_training is None


# ── in an index ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def reducer(documents):
    return ch.FixedDimensionalEncoder(
        documents.dim, num_repetitions=2, num_simhash_projections=2, projection_dimension=None
    ).fit(documents)


@pytest.fixture(scope="module")
def of_encodings(documents, reducer):
    """A binarizer of random networks around the mean of these documents' encodings."""
    made = random_binarizer(reducer.output_dimension, 128, has_scales=False)
    centre = reducer.encode_documents(documents).mean(axis=0)
    arrays = made._arrays | {"document_center": centre, "query_center": centre}
    return ch.RecurrentBinarizer._of(made._parameters, arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_finds_saves_and_opens(tmp_path, kind, documents, queries, reducer, of_encodings):
    pattern = BinaryCandidates(of_encodings, kind)
    index = ch.Index.build(documents, reducer=reducer, candidates=pattern, path=tmp_path)
    assert pattern.num_documents == 0
    assert len(list(tmp_path.glob("s-*/candidates.npz"))) == 1
    assert list(tmp_path.rglob("candidates.faiss")) == []
    opened = ch.Index.open(tmp_path, verify=True)
    exact = index.search(queries, exact=True)
    assert index.stats()["candidates"].startswith(f"{kind} of ")
    assert opened.stats() == index.stats() | {"on_disk": ["token_vectors"]}
    for number in (30, 290):
        found, again = (one.search(queries, num_candidates=number) for one in (index, opened))
        assert_same((found.ids, found.scores), (again.ids, again.scores))
        assert not np.isin([7, 123], found.ids).any()  # are empty
    if not kind.startswith("IVF"):
        recall = np.mean([len(set(a) & set(b)) for a, b in zip(found.ids, exact.ids, strict=True)]) / 10
        assert recall > 0.9
    opened.save(tmp_path / "copy")
    assert_same([ch.Index.open(tmp_path / "copy").search(queries).ids], [index.search(queries).ids])


@pytest.mark.parametrize("kind", ["SDC", "IVF7,SDC", "IVF7,Hamming", "HNSW8,Hamming"])
def test_an_index_is_tuned(tmp_path, kind, documents, queries, reducer, of_encodings):
    index = ch.Index.build(documents, reducer=reducer, candidates=BinaryCandidates(of_encodings, kind))
    report = index.tune(queries, 0.8, 5)
    assert report.points
    assert (index.settings.nprobe is None) == (not kind.startswith("IVF"))
    index.save(tmp_path)
    assert ch.Index.open(tmp_path).settings == index.settings


@pytest.mark.parametrize("order", INSERTION_ORDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_documents_may_be_inserted_in_any_order(kind, order, documents, queries, reducer, of_encodings):
    pattern = BinaryCandidates(of_encodings, kind)
    index = ch.Index.build(documents, reducer=reducer, candidates=pattern, insertion_order=order, rerank=None)
    found = index.search(queries, 20)
    if kind == "SDC":
        expected = ch.Index.build(documents, reducer=reducer, candidates=pattern, rerank=None).search(queries, 20)
        assert_same((found.ids, found.scores), (expected.ids, expected.scores))
    full = np.flatnonzero(documents.lengths)
    assert index._snapshot.candidates.holds(reducer.encode_documents(documents.select(full)), full)


def test_filled_ones_are_taken_if_they_are_of_these_documents(documents, queries, reducer, of_encodings):
    encodings = reducer.encode_documents(documents)
    ready = filled(of_encodings, "SDC", encodings)
    index = ch.Index.build(documents, reducer=reducer, candidates=ready)
    expected = ch.Index.build(documents, reducer=reducer, candidates=BinaryCandidates(of_encodings))
    assert_same([index.search(queries).ids], [expected.search(queries).ids])
    with pytest.raises(ValueError, match="candidates: expected encodings of these documents, in order"):
        ch.Index.build(documents, reducer=reducer, candidates=filled(of_encodings, "SDC", encodings[::-1]))
    with pytest.raises(ValueError, match="candidates: expected an empty index or one of 300 encodings, got 299"):
        ch.Index.build(documents, reducer=reducer, candidates=filled(of_encodings, "SDC", encodings[1:]))
    with pytest.raises(ValueError, match="insertion_order: expected 'input', since candidates are filled already"):
        ch.Index.build(documents, reducer=reducer, candidates=ready, insertion_order="random")


def test_a_binarizer_of_other_dims_is_refused(documents, reducer, binarizer):
    wanted = reducer.output_dimension
    with pytest.raises(
        ValueError, match=rf"candidates: expected a binarizer of {wanted} dims \(the reducer's\), got 12"
    ):
        ch.Index.build(documents, reducer=reducer, candidates=BinaryCandidates(binarizer))


def test_learned_encodings_may_be_codes(documents, queries):
    reducer = ch.LearnedReducer(documents.dim, output_dimension=16, num_features=64, num_samples=512)
    index = ch.Index.build(
        documents, reducer=reducer, candidates=BinaryCandidates(random_binarizer(16, 64), "IVF4,SDC")
    )
    assert (index.search(queries, num_candidates=300).kept["candidates"]) > 0


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "other"])
def test_a_damaged_file_of_an_index_is_named(tmp_path, damage, documents, reducer, of_encodings):
    ch.Index.build(documents, reducer=reducer, candidates=BinaryCandidates(of_encodings), path=tmp_path)
    (file,) = tmp_path.rglob("candidates.npz")
    content = file.read_bytes()
    if damage == "flip":
        file.write_bytes(content[:-999] + bytes([content[-999] ^ 4]) + content[-998:])
    elif damage == "truncate":
        file.write_bytes(content[:-5])
    elif damage == "remove":
        file.unlink()
    else:
        file.rename(file.with_name("candidates.faiss"))
    with pytest.raises(ch.CorruptIndexError, match=r"candidates\.npz"):
        ch.Index.open(tmp_path)


def test_one_document_is_found():
    one = off_centre_collection(np.random.default_rng(0), [4])
    reducer = ch.FixedDimensionalEncoder(24, num_repetitions=1, num_simhash_projections=1, projection_dimension=None)
    binarizer = random_binarizer(reducer.output_dimension, 8)
    for kind in ("SDC", "IVF1,SDC", "Hamming", "IVF1,Hamming", "HNSW8,Hamming"):
        index = ch.Index.build(one, reducer=reducer, candidates=BinaryCandidates(binarizer, kind))
        assert index.search(one, 1).ids.tolist() == [[0]]
