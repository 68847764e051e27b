"""Late-interaction retrieval on CPUs: exact MaxSim, MUVERA encodings, any FAISS index for candidates."""

from typing import TYPE_CHECKING, Any

from chamfer._core import __version__
from chamfer._runtime import available_isas, best_isa
from chamfer.binary import RecurrentCodes, hamming_topk, sdc_topk
from chamfer.codecs import Codec, TokenCodes, codec
from chamfer.errors import CorruptIndexError, LockedIndexError
from chamfer.recurrent import RecurrentBinarizer
from chamfer.reducers import FixedDimensionalEncoder, Int8Encodings, LearnedReducer, SparseEncodings, ball_carving
from chamfer.scoring import Alignment, maxsim, maxsim_alignment, maxsim_topk
from chamfer.token_vectors import TokenVectors

if TYPE_CHECKING:
    from chamfer.binary_candidates import BinaryCandidates
    from chamfer.index import Index, SearchResult

__all__ = [
    "Alignment",
    "BinaryCandidates",
    "Codec",
    "CorruptIndexError",
    "FixedDimensionalEncoder",
    "Index",
    "Int8Encodings",
    "LearnedReducer",
    "LockedIndexError",
    "RecurrentBinarizer",
    "RecurrentCodes",
    "SearchResult",
    "SparseEncodings",
    "TokenCodes",
    "TokenVectors",
    "__version__",
    "available_isas",
    "ball_carving",
    "best_isa",
    "codec",
    "hamming_topk",
    "maxsim",
    "maxsim_alignment",
    "maxsim_topk",
    "sdc_topk",
]


def __getattr__(name: str) -> Any:
    """Import on first use what brings faiss, which takes longer to load than all the rest."""
    if name in ("Index", "SearchResult"):
        from chamfer import index

        return getattr(index, name)
    if name == "BinaryCandidates":
        from chamfer import binary_candidates

        return binary_candidates.BinaryCandidates
    raise AttributeError(f"module 'chamfer' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what completion should show, before it is imported too."""
    return sorted({*globals(), *__all__})
