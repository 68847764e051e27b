"""Small indexes for the tests of what changes them, and a plain dict of what they should hold."""

from __future__ import annotations

import numpy as np

import chamfer as ch
from chamfer.index import writing
from samples import off_centre_collection

DIM = 6
QUERIES = off_centre_collection(np.random.default_rng(1), [3, 1, 4], dim=DIM)


def small_reducer():
    return ch.FixedDimensionalEncoder(DIM, num_repetitions=2, num_simhash_projections=1, projection_dimension=None)


def some_documents(rng, n, least=1):
    if n == 0:
        return []
    collection = off_centre_collection(rng, [int(m) for m in rng.integers(least, 5, n)], dim=DIM)
    return [collection[i] for i in range(n)]


def build(n=20, path=None, ids=None, **options):
    documents = some_documents(np.random.default_rng(n), n)
    options = {"reducer": small_reducer(), "candidates": "Flat", **options}
    return ch.Index.build(documents, ids, path=path, **options), documents


def folders(path):
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir())


class Expected:
    """What an index should hold: vectors and metadata by id."""

    def __init__(self, ids, documents, metadata=None):
        self.documents = dict(zip(ids, documents, strict=True))
        self.metadata = dict(zip(ids, metadata or [{}] * len(ids), strict=True))

    def put(self, ids, documents, metadata):
        for one, document, row in zip(ids, documents, metadata, strict=True):
            self.documents[one], self.metadata[one] = document, row or {}

    def delete(self, ids):
        for one in ids:
            self.documents.pop(one, None)
            self.metadata.pop(one, None)

    def best(self, k, ids=None):
        """Return ids and scores of the k best of each query, by brute force."""
        names = [one for one in self.documents if ids is None or one in ids]
        filled = [one for one in names if len(self.documents[one])]
        if not filled:
            return [[] for _ in QUERIES], [[] for _ in QUERIES]
        scores = ch.maxsim(QUERIES, ch.TokenVectors.from_list([self.documents[one] for one in filled]))
        order = np.argsort(-scores, axis=1)[:, :k]
        return [[filled[i] for i in row] for row in order], np.take_along_axis(scores, order, 1).tolist()

    def check(self, index):
        assert len(index) == len(self.documents)
        assert set(index.ids.tolist()) == set(self.documents)
        assert len(index.ids) == len(self.documents)
        stats = index.stats()
        assert stats["num_documents"] == len(self.documents)
        assert stats["num_segments"] <= writing._MOST_SEGMENTS + 1
        for one, document in self.documents.items():
            assert one in index
            np.testing.assert_array_equal(index.get(one), document)
            assert index.get_metadata(one) == self.metadata[one]
        assert "nobody" not in index
        assert 10**9 not in index
        for k, options in ((3, {"exact": True}), (7, {}), (200, {}), (200, {"exact": True})):
            self._compare(index, k, None, options)
        some = set(list(self.documents)[::3])
        self._compare(index, 5, some, {"filter": some, "exact": True})
        self._compare(index, 5, some, {"filter": [one in some for one in index.ids.tolist()] or []})

    def _compare(self, index, k, some, options):
        found = index.search(QUERIES, k, **options)
        ids, scores = self.best(k, some)
        nothing = None if index.ids.dtype == object else -1
        for i in range(len(QUERIES)):
            missing = k - len(ids[i])
            assert found.ids[i].tolist() == ids[i] + [nothing] * missing
            assert found.scores[i].tolist() == scores[i] + [-np.inf] * missing
