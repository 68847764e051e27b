"""MaxSim: all documents, given candidates, the best k, and which tokens matched."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chamfer import _core
from chamfer._runtime import check_positive_int, resolve_isa, resolve_num_threads
from chamfer.codecs import TokenCodes
from chamfer.token_vectors import MAGNITUDE_LIMIT, TokenVectors, TokenVectorsLike, as_token_vectors

# What is scored: vectors, or the codes of a codec.
Documents: TypeAlias = "TokenVectorsLike | TokenCodes"


class Alignment(NamedTuple):
    """How one query matched one document.

    Attributes:
        score: the MaxSim score, equal to that of `maxsim`.
        similarities: float32, shape (num_query_tokens,): the largest inner product of each query token with the
            document.
        document_tokens: int64, shape (num_query_tokens,): the document token that gave it, the first of equals; -1 if
            the document is empty.
    """

    score: float
    similarities: NDArray[np.float32]
    document_tokens: NDArray[np.int64]


def maxsim(
    queries: Documents,
    documents: Documents,
    *,
    candidates: ArrayLike | None = None,
    query_weights: ArrayLike | None = None,
    screen: TokenCodes | None = None,
    num_threads: int | None = None,
    isa: str | None = None,
) -> NDArray[np.float32]:
    """Score queries against documents by MaxSim: query tokens' largest inner products with the document, summed.

    Inner products with float32 and float16 documents are float32, each a chain of fused multiply-adds (off by at most
    dim · 2⁻²⁴ · Σ|q_i d_i|); those with codes are what `Codec` says of them. Their weighted sum is taken in double. A
    score is the same for any `num_threads`, any batch, and on avx2, avx512 and neon; "scalar" may differ within that
    bound for float32, float16 and bfloat16, as may "avx512_bf16" for bfloat16. An empty document scores -inf; an empty
    query scores 0 against any other.

    Args:
        queries: a collection of queries (see TokenVectors), or one 2-D array, one query. float16 is computed as
            float32. For "binary" codes of documents, codes of `Codec.encode_queries` too.
        documents: a collection of documents of the same dim, float32 or float16, or the codes of a codec.
        candidates: int64, shape (num_queries, m): score only these documents of each query; -1 stands for none. None
            scores all.
        query_weights: float32, shape (query tokens of all queries,): factor of each query token's similarity. None
            means 1.
        screen: "int8" codes of exactly these documents (a float16 copy of them needs its own): they tell, with a proven
            bound, which tokens cannot be the largest, and only the others are multiplied in float32. Scores are the
            same bits. Pays for documents of a hundred tokens and more from a real encoder; where many tokens are about
            as near as the nearest (random vectors, few dims), and for few documents, it is slower. A few vectors
            are compared with their codes, to catch a screen of others. None multiplies all.
        num_threads: threads to use; None means the CPUs of this process.
        isa: instruction set, one of `available_isas()`; None means `best_isa()`.

    Returns:
        float32, shape (num_queries, num_documents), or (num_queries, m) with candidates, -inf where the candidate is
        -1.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: dims differ, vectors are not finite, a candidate is out of range, or the screen is seen to be of
            other documents.

    Source: ColBERT (arXiv 2004.12832), equation 3.
    """
    q, d = _collections(queries, documents)
    return _core.maxsim(
        q._core_collection(),
        d._core_collection(),
        query_weights=_check_weights(query_weights, q),
        candidates=_check_candidates(candidates, q, d),
        screen=_check_screen(screen, d),
        num_threads=resolve_num_threads(num_threads),
        isa=resolve_isa(isa),
    )


def maxsim_topk(
    queries: Documents,
    documents: Documents,
    k: int,
    *,
    candidates: ArrayLike | None = None,
    query_weights: ArrayLike | None = None,
    screen: TokenCodes | None = None,
    num_threads: int | None = None,
    isa: str | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k documents with the highest MaxSim of each query; ties go to the lower row.

    Memory grows with k, not with the number of documents; with a screen, bounds of 4 bytes a document come on top, for
    as many queries at a time as 64 MB hold. Empty documents are never returned; a candidate named twice counts once.
    Candidates of several queries are scored together, so that a document that they share is fetched once.

    Args:
        queries: as in `maxsim`.
        documents: as in `maxsim`.
        k: documents to return per query, at least 1; may exceed the number of documents.
        candidates: as in `maxsim`.
        query_weights: as in `maxsim`.
        screen: as in `maxsim`; here a document whose highest possible score, by codes and their proven bound, is below
            the k-th best so far is left without a look at its vectors. Scores and rows are the same.
        num_threads: as in `maxsim`.
        isa: as in `maxsim`.

    Returns:
        scores, float32, and rows, int64, both of shape (num_queries, k), best first; -inf and -1 where there are fewer
        than k.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: dims differ, k is below 1, vectors are not finite, a candidate is out of range, or the screen is
            seen to be of other documents.
    """
    q, d = _collections(queries, documents)
    return _core.maxsim_topk(
        q._core_collection(),
        d._core_collection(),
        check_positive_int(k, "k"),
        query_weights=_check_weights(query_weights, q),
        candidates=_check_candidates(candidates, q, d),
        screen=_check_screen(screen, d),
        num_threads=resolve_num_threads(num_threads),
        isa=resolve_isa(isa),
    )


def maxsim_alignment(query: Documents, document: Documents, *, isa: str | None = None) -> Alignment:
    """Explain a MaxSim score: the best similarity of each query token and the document token that gave it.

    Args:
        query: one query, float32 or float16, shape (num_query_tokens, dim); or its codes, as in `maxsim`.
        document: one document, float32 or float16, shape (num_document_tokens, dim); or its codes.
        isa: instruction set, one of `available_isas()`; None means `best_isa()`.

    Returns:
        An Alignment (score, similarities, document_tokens). The similarities sum to the score of `maxsim`, but for
        their rounding to float32.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: dims differ, vectors are not finite, or an argument holds more than one item.
    """
    q, d = _collections(query, document, ("query", "document"))
    for items, argument in ((q, "query"), (d, "document")):
        if len(items) != 1:
            raise ValueError(
                f"{argument}: expected one item, an array of shape (num_tokens, dim), got a collection of {len(items)}"
            )
    return Alignment(*_core.maxsim_alignment(q._core_collection(), d._core_collection(), isa=resolve_isa(isa)))


def _collections(
    queries: Documents, documents: Documents, arguments: tuple[str, str] = ("queries", "documents")
) -> tuple[TokenVectors | TokenCodes, TokenVectors | TokenCodes]:
    q = queries if isinstance(queries, TokenCodes) else as_token_vectors(queries, arguments[0])
    d = documents if isinstance(documents, TokenCodes) else as_token_vectors(documents, arguments[1])
    if isinstance(q, TokenCodes) and not (q._are_signs and isinstance(d, TokenCodes) and d._are_signs):
        raise ValueError(
            f'{arguments[0]}: codes of queries go with "binary" codes of {arguments[1]} only; pass the vectors'
        )
    if q.dim != d.dim:
        raise ValueError(f"{arguments[0]}: expected dim {d.dim} as the {arguments[1]}, got {q.dim}")
    if isinstance(q, TokenVectors) and q.dtype != np.float32:
        q = TokenVectors._trusted(q.vectors.astype(np.float32), q.offsets)
    if isinstance(q, TokenVectors) and isinstance(d, TokenCodes):
        q = d._rotated(q)
    return q, d


def _check_screen(screen: TokenCodes | None, documents: TokenVectors | TokenCodes) -> _core.Collection | None:
    if screen is None:
        return None
    if not isinstance(screen, TokenCodes) or screen.bits != 8:
        kind = f"codes of {screen.bits} bits" if isinstance(screen, TokenCodes) else type(screen).__name__
        raise TypeError(f'screen: expected codes of codec("int8", dim), got {kind}')
    if isinstance(documents, TokenCodes):
        raise ValueError("screen: expected documents that are vectors; codes are scored as they are")
    if screen.dim != documents.dim or len(screen) != len(documents) or screen.num_tokens != documents.num_tokens:
        raise ValueError(f"screen: expected codes of these documents, {documents!r}, got {screen!r}")
    return screen._core_collection()


def _check_weights(query_weights: ArrayLike | None, queries: TokenVectors | TokenCodes) -> NDArray[np.float32] | None:
    if query_weights is None:
        return None
    weights = np.asarray(query_weights)
    if weights.dtype.kind not in "fiu":
        raise TypeError(f"query_weights: expected numbers, got {weights.dtype}")
    if weights.shape != (queries.num_tokens,):
        raise ValueError(
            f"query_weights: expected shape ({queries.num_tokens},), one per token of all queries, got {weights.shape}"
        )
    with np.errstate(over="ignore"):  # becomes an infinity, which is refused
        weights = np.require(weights, np.float32, ["C", "A"])
    fitting = np.abs(weights) < MAGNITUDE_LIMIT  # False for NaN
    if not fitting.all():
        wrong = weights[~fitting][0]
        wanted = "numbers below 2^50" if np.isfinite(wrong) else "finite numbers"
        raise ValueError(f"query_weights: expected {wanted}, got {wrong}")
    return weights


def _check_candidates(
    candidates: ArrayLike | None, queries: TokenVectors | TokenCodes, documents: TokenVectors | TokenCodes
) -> NDArray[np.int64] | None:
    if candidates is None:
        return None
    try:
        rows = np.asarray(candidates)
    except ValueError:
        raise ValueError("candidates: expected rows of equal length, got a ragged list; pad them with -1") from None
    if rows.size == 0 and rows.dtype.kind == "f":
        rows = rows.astype(np.int64)  # NumPy's dtype of an empty list
    if rows.dtype.kind not in "iu":
        raise TypeError(f"candidates: expected integers (document rows, -1 for none), got {rows.dtype}")
    if rows.ndim != 2 or len(rows) != len(queries):
        raise ValueError(f"candidates: expected shape ({len(queries)}, m), a row per query, got {rows.shape}")
    if rows.size and (rows.min() < -1 or rows.max() >= len(documents)):
        wrong = rows[(rows < -1) | (rows >= len(documents))][0]
        raise ValueError(f"candidates: expected rows from -1 (none) to {len(documents) - 1}, got {wrong}")
    return np.require(rows, np.int64, ["C", "A"])
