"""Parts: documents that lie in several collections, scored as if they were one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from chamfer.codecs import TokenCodes
from chamfer.scoring import maxsim, maxsim_topk
from chamfer.token_vectors import TokenVectors, offsets_of

Collection: TypeAlias = "TokenVectors | TokenCodes"

# Rows that are handed to the core at a time where all queries have the same ones: 64 MB.
_MOST_ROWS = 2**23


class Parts:
    """Collections of one dim, one after the other: row r of all is row r - bases[i] of part i.

    Args:
        parts: at least one; all token vectors, or codes of one codec.
    """

    def __init__(self, parts: Sequence[Collection]) -> None:
        self.parts = tuple(parts)
        self.bases: NDArray[np.int64] = offsets_of([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.bases[-1])

    @property
    def dim(self) -> int:
        """Numbers per vector."""
        return self.parts[0].dim

    @property
    def num_tokens(self) -> int:
        """Vectors of all documents."""
        return sum(part.num_tokens for part in self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts)

    def maxsim(self, queries: TokenVectors, candidates: NDArray[np.int64], num_threads: int) -> NDArray[np.float32]:
        """Return the scores of candidates, shape (num_queries, m), as `chamfer.maxsim`."""
        if len(self.parts) == 1:
            return maxsim(queries, self.parts[0], candidates=candidates, num_threads=num_threads)
        scores = np.full(candidates.shape, -np.inf, np.float32)
        for part, local in self._split(candidates):
            np.maximum(scores, maxsim(queries, part, candidates=local, num_threads=num_threads), out=scores)
        return scores

    def topk(
        self, queries: TokenVectors, k: int, *, candidates: NDArray[np.int64] | None = None, num_threads: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scores and rows of the k best, shape (num_queries, k), as `chamfer.maxsim_topk`.

        Args:
            queries: of the parts' dim.
            k: documents per query.
            candidates: int64, shape (num_queries, m), -1 for none; or of shape (m,), the same for all queries. None
                scores all.
            num_threads: threads to use.
        """
        if candidates is not None and candidates.ndim == 1:
            return self._topk_of_same(queries, k, candidates, num_threads)
        if len(self.parts) == 1:
            return maxsim_topk(queries, self.parts[0], k, candidates=candidates, num_threads=num_threads)
        pieces = [(part, None) for part in self.parts] if candidates is None else self._split(candidates)
        best_scores = [np.full((len(queries), k), -np.inf, np.float32)]
        best_rows = [np.full((len(queries), k), -1, np.int64)]
        for (part, local), base in zip(pieces, self.bases[:-1], strict=True):
            if len(part) == 0 or (local is not None and not (local >= 0).any()):
                continue
            scores, rows = maxsim_topk(queries, part, min(k, len(part)), candidates=local, num_threads=num_threads)
            best_scores.append(scores)
            best_rows.append(np.where(rows < 0, -1, rows + base))
        return merge_best(best_scores, best_rows, k)

    def _topk_of_same(
        self, queries: TokenVectors, k: int, rows: NDArray[np.int64], num_threads: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        batch = max(1, _MOST_ROWS // max(1, len(rows)))
        found = []
        for begin in range(0, len(queries), batch):
            some = queries._run(begin, min(begin + batch, len(queries)))
            same = np.repeat(rows[None], len(some), axis=0)
            found.append(self.topk(some, k, candidates=same, num_threads=num_threads))
        if not found:
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        return np.concatenate([scores for scores, _ in found]), np.concatenate([best for _, best in found])

    def _split(self, candidates: NDArray[np.int64]) -> list[tuple[Collection, NDArray[np.int64]]]:
        """Return each part with its own rows of the candidates, in their places; -1 elsewhere."""
        pieces = []
        for part, begin, end in zip(self.parts, self.bases[:-1], self.bases[1:], strict=True):
            pieces.append((part, np.where((candidates >= begin) & (candidates < end), candidates - begin, -1)))
        return pieces


def merge_best(
    scores: Sequence[NDArray[np.float32]], rows: Sequence[NDArray[np.int64]], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the k best of several lists per query, each best first; ties go to the earlier list.

    Args:
        scores: each of shape (num_queries, any); -inf where there is none.
        rows: of the same shapes, -1 where there is none.
        k: to keep; the lists have as many together.
    """
    all_scores, all_rows = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(all_scores, order, axis=1), np.take_along_axis(all_rows, order, axis=1)
