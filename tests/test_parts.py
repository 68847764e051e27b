"""Parts: several collections are scored as the one that they are together."""

import numpy as np
import pytest

import chamfer as ch
from chamfer.parts import Parts
from samples import off_centre_collection


@pytest.fixture(scope="module")
def documents():
    return off_centre_collection(np.random.default_rng(1), [5, 0, 9, 1, 30] * 20)


@pytest.fixture(scope="module")
def queries():
    return off_centre_collection(np.random.default_rng(2), [4, 1, 7])


def split(documents, ends):
    return Parts([documents._run(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)])


ENDS = [[100], [40, 100], [1, 2, 2, 50, 99, 100], [100, 100]]


@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("codes", [None, "int8", "scalar:2", "float16"])
def test_parts_score_as_one(documents, queries, ends, codes):
    whole, parts = documents, split(documents, ends)
    if codes:
        codec = ch.codec(codes, documents.dim).fit(documents)
        whole, parts = codec.encode(documents), Parts([codec.encode(part) for part in parts.parts])
    rows = np.random.default_rng(3).integers(-1, 100, (3, 30))
    assert len(parts) == 100
    assert parts.num_tokens == documents.num_tokens
    np.testing.assert_array_equal(parts.maxsim(queries, rows, 1), ch.maxsim(queries, whole, candidates=rows))
    same = np.array([3, 99, 40, 41, 1, 0])
    for candidates in (None, rows, same):
        given = np.tile(same, (3, 1)) if candidates is same else candidates
        for k in (1, 7, 120):
            scores, found = parts.topk(queries, k, candidates=candidates, num_threads=2)
            expected = ch.maxsim_topk(queries, whole, k, candidates=given)
            np.testing.assert_array_equal(scores, expected[0])
            np.testing.assert_array_equal(found, expected[1])


def test_ties_go_to_the_lower_row_across_parts():
    documents = ch.TokenVectors(np.ones((6, 4), np.float32), np.arange(7))
    scores, rows = split(documents, [2, 3, 6]).topk(documents._run(0, 1), 4, num_threads=1)
    assert rows.tolist() == [[0, 1, 2, 3]]
    assert scores.tolist() == [[4] * 4]


def test_no_query_finds_nothing(documents, queries):
    scores, rows = split(documents, [40, 100]).topk(queries._run(0, 0), 5, candidates=np.array([3, 50]), num_threads=1)
    assert scores.shape == rows.shape == (0, 5)
