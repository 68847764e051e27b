"""Cascade: candidates are reranked by cheap codes first, and by ever finer ones the fewer are left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chamfer._runtime import check_positive_int, resolve_num_threads
from chamfer._sampling import spread
from chamfer.codecs import Codec, TokenCodes, codec
from chamfer.parts import Collection, Parts
from chamfer.scoring import maxsim
from chamfer.token_vectors import TokenVectors, TokenVectorsLike, as_token_vectors

EXACT = "exact"

# Codecs from coarse to fine, and documents that a stage hands on for k results: a factor of k, and some more, since of
# one result chance takes more than of a hundred. Of SciFact's exact top 1, 10 and 100 codes then lose at most 0.002
# each, among 500 candidates or among all 5,183 documents.
_BUDGETS = {
    "binary": (12, 20),
    "recurrent:1": (4, 20),
    "scalar:2": (4, 10),
    "recurrent:2": (3, 4),
    "scalar:4": (2, 4),
    "recurrent:4": (2, 4),
    "int8": (2, 2),
    "bfloat16": (2, 2),
    "float16": (2, 2),
}

# A document that is behind the k-th by more than so many errors of a stage is left there. On SciFact that loses 0.000
# to 0.001 of the exact top 10 and spares a third of what the budgets would hand on. 3 would do where errors are
# measured on queries; on passages those of 8 and 16 bits come out half as large, and 4 loses 0.002 (int8) and 0.004
# (bfloat16). Of the exact top 1 recurrent:1 loses one in 300.
_DEFAULT_MARGIN = 4.0

# What a stage's error is measured on.
_ERROR_QUERIES = 64
_ERROR_QUERY_TOKENS = 32
_ERROR_DOCUMENTS = 256


@dataclass(frozen=True)
class CascadeStage:
    """One stage.

    Attributes:
        name: of a codec, or "exact".
        documents: what it scores: codes, or the documents themselves, in parts.
        codec: what made the codes; None of "exact".
        error: how far its scores are from exact ones: the root mean square, over documents, of the difference less its
            mean for the query, per query token. 0 of "exact".
    """

    name: str
    documents: Parts
    codec: Codec | None = None
    error: float = 0.0


class FittedStage(NamedTuple):
    """A stage without documents; see `CascadeStage`."""

    name: str
    codec: Codec | None
    error: float


class CascadeResult(NamedTuple):
    """What a cascade found.

    Attributes:
        scores: float32, shape (num_queries, k): of the last stage, best first; -inf where there are fewer.
        rows: int64, shape (num_queries, k): documents; -1 where there are fewer.
        timings: seconds by stage, named "rerank int8", "rerank exact" and so on.
        kept: documents that each stage handed on, for the query with the most.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    timings: dict[str, float]
    kept: dict[str, int]


class Cascade:
    """Reranks candidates in stages from cheap to exact; make one with `build`.

    Args:
        stages: from cheap to exact, at least one, all of the same documents.
    """

    def __init__(self, stages: Sequence[CascadeStage]) -> None:
        self._stages = tuple(stages)

    @classmethod
    def build(
        cls,
        documents: TokenVectors,
        names: Sequence[str],
        queries: TokenVectorsLike | None = None,
        *,
        num_threads: int | None = None,
    ) -> Cascade:
        """Fit a codec to the documents for each stage, encode them, and measure how far its scores are from exact.

        Args:
            documents: the collection; it may be memory-mapped: "exact" reads the survivors' vectors only.
            names: of codecs, from cheap to exact; the last may be "exact", the documents as they are.
            queries: sample queries, to fit codecs that take them and to measure the error with up to 64; without them
                passages of documents serve.
            num_threads: threads to use; None means the CPUs of this process.

        Raises:
            TypeError: an argument has a wrong type or dtype.
            ValueError: an unknown name or order, dims differ, or documents that a codec cannot hold.
        """
        threads = resolve_num_threads(num_threads)
        stages = fit_stages(documents, check_stage_names(names, "names"), queries, threads)
        codes = encode_stages(stages, documents, threads)
        return cls.of_parts(stages, [documents], [codes])

    @classmethod
    def of_parts(
        cls,
        stages: Sequence[FittedStage],
        documents: Sequence[TokenVectors],
        codes: Sequence[Mapping[str, Collection]],
    ) -> Cascade:
        """Make a cascade of documents in parts, and of what `encode_stages` made of each."""
        return cls(
            [
                CascadeStage(
                    stage.name,
                    Parts(documents if stage.codec is None else [part[stage.name] for part in codes]),
                    stage.codec,
                    stage.error,
                )
                for stage in stages
            ]
        )

    @property
    def stages(self) -> tuple[CascadeStage, ...]:
        """The stages, from cheap to exact."""
        return self._stages

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the stages."""
        return tuple(stage.name for stage in self._stages)

    def default_budgets(self, k: int) -> tuple[int, ...]:
        """Return how many documents each stage but the last hands on for k results, where nobody says."""
        return tuple(factor * k + more for factor, more in (_BUDGETS[stage.name] for stage in self._stages[:-1]))

    def run(
        self,
        queries: TokenVectors,
        rows: NDArray[np.int64],
        k: int,
        *,
        budgets: Sequence[int] | None = None,
        margin: float | None = None,
        num_threads: int | None = None,
    ) -> CascadeResult:
        """Rerank candidates; the scores are those of the last stage.

        Each stage scores what is left and hands on its budget of the best, ties going to the lower row; of these,
        documents that are behind the k-th by more than margin · error · query tokens, `error` being the stage's, are
        dropped.

        Args:
            queries: a collection of queries of the documents' dim.
            rows: int64, shape (num_queries, m): candidates of each query; -1 stands for none.
            k: documents to return per query, at least 1.
            budgets: documents per query that each stage but the last hands on, each at least k. None means what loses
                about nothing, by codec and k.
            margin: how many errors of a stage a document may be behind its k-th, at least 0; infinity drops none, 0 all
                that are behind. None means 4.
            num_threads: threads to use; None means the CPUs of this process. The result does not depend on it.

        Raises:
            TypeError: an argument has a wrong type.
            ValueError: k below 1, budgets that do not fit, a negative margin, or a candidate out of range.
        """
        k = check_positive_int(k, "k")
        budgets = self.default_budgets(k) if budgets is None else self._check_budgets(budgets, k)
        margin = _DEFAULT_MARGIN if margin is None else check_margin(margin)
        threads = resolve_num_threads(num_threads)
        timings: dict[str, float] = {}
        kept: dict[str, int] = {}
        lengths = queries.lengths
        if queries.dtype != np.float32:  # once, and not in each stage
            queries = TokenVectors._trusted(queries.vectors.astype(np.float32), queries.offsets)
        for stage, budget in zip(self._stages, (*budgets, k), strict=True):
            begin = time.perf_counter()
            is_last = stage is self._stages[-1]
            width = k if is_last else max(k, min(budget, rows.shape[1]))
            scores, rows = stage.documents.topk(queries, width, candidates=rows, num_threads=threads)
            if not is_last:
                rows = _near_the_kth(scores, rows, k, margin, (stage.error * lengths).astype(np.float64))
            kept[f"rerank {stage.name}"] = int((rows >= 0).sum(axis=1).max(initial=0))
            timings[f"rerank {stage.name}"] = time.perf_counter() - begin
        return CascadeResult(scores, rows, timings, kept)

    def _check_budgets(self, budgets: Sequence[int], k: int) -> tuple[int, ...]:
        checked = check_budgets(budgets)
        if len(checked) != len(self._stages) - 1:
            raise ValueError(
                f"budgets: expected {len(self._stages) - 1}, one for each stage but the last, got {len(checked)}"
            )
        if checked and min(checked) < k:
            raise ValueError(f"budgets: expected at least k = {k} each, got {min(checked)}")
        return checked

    def __repr__(self) -> str:
        return f"Cascade({', '.join(self.names)})"


def fit_stages(
    documents: TokenVectors, names: Sequence[str], queries: TokenVectorsLike | None, num_threads: int
) -> tuple[FittedStage, ...]:
    """Fit a codec for each stage, and measure how far its scores are from exact; see `Cascade.build`."""
    sample = None if queries is None else as_token_vectors(queries, "queries")
    if sample is not None and sample.num_tokens == 0:
        sample = None
    stages = []
    for name in names:
        if name == EXACT:
            stages.append(FittedStage(name, None, 0.0))
            continue
        made = codec(name, documents.dim).fit(documents, sample)
        stages.append(FittedStage(name, made, _score_error(documents, made, sample, num_threads)))
    return tuple(stages)


def encode_stages(
    stages: Sequence[FittedStage], documents: TokenVectors, num_threads: int
) -> dict[str, TokenCodes | TokenVectors]:
    """Return the codes of each stage that has such, by its name."""
    return {
        stage.name: stage.codec.encode(documents, num_threads=num_threads)
        for stage in stages
        if stage.codec is not None
    }


def check_stage_names(names: Sequence[str], argument: str) -> tuple[str, ...]:
    """Return the names of stages: codecs from coarse to fine, and then "exact" or not; errors name `argument`."""
    checked = tuple(names) if isinstance(names, (list, tuple)) else (names,)
    known = (*_BUDGETS, EXACT)
    for name in checked:
        if not isinstance(name, str):
            raise TypeError(f"{argument}: expected names of stages, got {type(name).__name__}")
        if name not in known:
            raise ValueError(f"{argument}: expected stages out of {', '.join(map(repr, known))}, got {name!r}")
    places = [known.index(name) for name in checked]
    if not checked or places != sorted(set(places)):  # a finer stage before a coarser one would be lost on it
        raise ValueError(
            f"{argument}: expected at least one stage, none twice, in the order {', '.join(known)}; got {list(checked)}"
        )
    return checked


def check_budgets(budgets: Sequence[int]) -> tuple[int, ...]:
    """Return budgets as positive ints."""
    if not isinstance(budgets, (list, tuple)):
        raise TypeError(f"budgets: expected a list of ints, got {type(budgets).__name__}")
    return tuple(check_positive_int(budget, f"budgets[{i}]") for i, budget in enumerate(budgets))


def check_margin(margin: float) -> float:
    """Return a margin as a float of at least 0."""
    if isinstance(margin, bool) or not isinstance(margin, (int, float, np.integer, np.floating)):
        raise TypeError(f"margin: expected a number, got {type(margin).__name__}")
    if not margin >= 0:
        raise ValueError(f"margin: expected at least 0, got {margin}")
    return float(margin)


def _near_the_kth(
    scores: NDArray[np.float32], rows: NDArray[np.int64], k: int, margin: float, errors: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return rows, best first, with -1 for those too far behind the k-th, and no column that nobody needs."""
    if np.isfinite(margin):
        least = scores[:, k - 1].astype(np.float64) - margin * errors
        rows = np.where(scores < least[:, None], -1, rows)
    return np.ascontiguousarray(rows[:, : max(k, int((rows >= 0).sum(axis=1).max(initial=0)))])


# ── the error of a stage ──────────────────────────────────────────────────────────────────────────────────────────────


def _score_error(documents: TokenVectors, codec: Codec, queries: TokenVectors | None, num_threads: int) -> float:
    """Return the root mean square of code scores less exact scores, and less the query's mean, per query token."""
    filled = np.flatnonzero(documents.lengths)
    sample = filled[spread(len(filled), _ERROR_DOCUMENTS)]
    if len(sample) < 2:
        return 0.0  # with one document there is nothing to get in a wrong order
    if queries is None:
        queries = document_passages(documents, filled[spread(len(filled), _ERROR_QUERIES)])
    else:
        asked = np.flatnonzero(queries.lengths)
        queries = queries.select(asked[spread(len(asked), _ERROR_QUERIES)])
    some = documents.select(sample)
    exact = maxsim(queries, some, num_threads=num_threads)
    coded = maxsim(queries, codec.encode(some, num_threads=num_threads), num_threads=num_threads)
    differences = coded.astype(np.float64) - exact
    differences -= differences.mean(axis=1, keepdims=True)
    differences /= queries.lengths[:, None]
    # The mean of a query takes one degree of freedom: it counts where documents are few.
    return float(np.sqrt((differences**2).sum() / (len(queries) * (len(sample) - 1))))


def document_passages(documents: TokenVectors, rows: NDArray[np.int64]) -> TokenVectors:
    """Return a passage of each document: up to 32 tokens from its middle."""
    passages = []
    for row in rows:
        vectors = documents[int(row)]
        begin = max(0, (len(vectors) - _ERROR_QUERY_TOKENS) // 2)
        passages.append(vectors[begin : begin + _ERROR_QUERY_TOKENS])
    return TokenVectors.from_list(passages)
