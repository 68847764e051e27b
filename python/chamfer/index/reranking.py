"""The stages of an index's reranking, and which of them "auto" stands for."""

from __future__ import annotations

from collections.abc import Sequence

from chamfer.cascade import EXACT, check_stage_names
from chamfer.token_vectors import TokenVectors

# "auto" scores a smaller collection exactly: there is little to save, and a search of it may have all documents as
# candidates, which then is the exact answer.
_SMALLEST_CODED = 1_000

# "auto": reranking 300 candidates of SciFact takes 3.2 ms exactly, 1.1 by int8 first, 1.5 by scalar:4 and 1.7 by
# scalar:2, for 96, 52 and 28 bytes a token at 96 dims; binary takes 2.3, since far more documents have to follow. So
# the fastest, int8, where its codes are small; and where memory counts the smallest.
_FAST = ("int8", EXACT)
_SMALL = ("scalar:2", EXACT)
_MOST_FAST_BYTES = 32 * 10**6


def resolve_stages(rerank: str | Sequence[str] | None, documents: TokenVectors) -> tuple[str, ...] | None:
    """Return the names of the stages that `rerank` asks for, None for none.

    Raises:
        TypeError, ValueError: it is no name, list of names or None, or an order that no cascade has.
    """
    if rerank is None:
        return None
    if isinstance(rerank, str) and rerank == "auto":
        if len(documents) < _SMALLEST_CODED:
            return (EXACT,)
        return _FAST if documents.num_tokens * documents.dim <= _MOST_FAST_BYTES else _SMALL
    return check_stage_names(rerank, "rerank")
