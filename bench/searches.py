"""Cases that end in the best k: codes by Hamming distance and by recurrent codes' similarity, reranking, screening."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import chamfer as ch
from bench.cases import AbsentError, collection, fitted_codec
from bench.data import load
from bench.measure import Contestant, bytes_from
from chamfer import TokenVectors
from chamfer.binary import _cache_aligned

K = 10
NUM_CANDIDATES = 500


# ── codes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class HammingCase:
    """Codes of single vectors, uint8 (n, code_size), searched by Hamming distance."""

    queries: NDArray[np.uint8]
    codes: NDArray[np.uint8]

    @classmethod
    def make(cls, num_queries: int, num_codes: int, code_size: int) -> HammingCase:
        """Draw codes; a query is a stored code with one bit in four flipped."""
        rng = np.random.default_rng(0)
        codes = rng.integers(0, 256, (num_codes, code_size), np.uint8)
        flips = np.packbits(rng.random((num_queries, code_size * 8)) < 0.25, axis=1)
        return cls(codes[:num_queries] ^ flips, codes)

    @property
    def shape(self) -> str:
        """How the names of its rows tell the sizes."""
        return f"{len(self.queries)}x{self.codes.shape[1] * 8}, {len(self.codes)}x{self.codes.shape[1] * 8}, k{K}"

    def distances(self, query: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the distance of every code by the definition: bits that differ."""
        differing = self.codes.view(np.uint64) ^ query.view(np.uint64)
        return np.bitwise_count(differing).sum(axis=1, dtype=np.int64)

    @cached_property
    def expected(self) -> NDArray[np.int64]:
        """The k smallest distances of each query."""
        return np.stack([np.sort(np.partition(self.distances(query), K)[:K]) for query in self.queries])

    def errors(self, distances: Any) -> dict[str, float]:
        """Return the share of the k distances that are not the right ones."""
        found = np.sort(np.asarray(distances, np.int64).reshape(self.expected.shape), axis=1)
        return {"wrong_distances": float((found != self.expected).mean())}

    def contestant(
        self,
        name: str,
        call: Callable[[], Any],
        *,
        library: str = "chamfer",
        num_threads: int = 1,
        check: Callable[[Any], dict[str, float]] | None = None,
    ) -> Contestant:
        """Return what times `call`, which must return the distances first."""
        pairs = float(len(self.queries)) * len(self.codes)
        return Contestant(
            "hamming_topk",
            "1bit",
            name,
            self.shape + (f", {num_threads} threads" if num_threads > 1 else ""),
            call,
            items=len(self.queries),
            check=check or (lambda found: self.errors(found[0])),
            library=library,
            operations={"popcount": pairs * self.codes.shape[1] * 8},
            bytes_read=bytes_from(self.codes.nbytes),
            codes=pairs,
            num_threads=num_threads,
        )

    def chamfer(self, isa: str, num_threads: int = 1) -> Contestant:
        """Return chamfer's search."""
        call = partial(ch.hamming_topk, self.queries, self.codes, K, num_threads=num_threads, isa=isa)
        return self.contestant(isa, call, num_threads=num_threads)


@dataclass(frozen=True)
class SdcCase:
    """Recurrent codes, levels uint8 (n, dim) below 2^bits, searched by Σ_i w(q_i) w(d_i), w(c) = 2c - (2^bits - 1)."""

    query_levels: NDArray[np.uint8]
    levels: NDArray[np.uint8]
    bits: int

    @classmethod
    def make(cls, num_queries: int, num_codes: int, dim: int, bits: int) -> SdcCase:
        """Draw levels; a query is a stored code with its levels moved by up to a quarter of their range."""
        rng = np.random.default_rng(0)
        levels = rng.integers(0, 2**bits, (num_codes, dim), np.uint8)
        noise = rng.integers(-(2 ** (bits - 2)), 2 ** (bits - 2) + 1, (num_queries, dim))
        queries = np.clip(levels[:num_queries] + noise, 0, 2**bits - 1).astype(np.uint8)
        return cls(queries, levels, bits)

    @property
    def shape(self) -> str:
        """How the names of its rows tell the sizes."""
        dim = f"{self.levels.shape[1]}x{self.bits}bit"
        return f"{len(self.query_levels)}x{dim}, {len(self.levels)}x{dim}, k{K}"

    def values(self, levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return w of levels: odd integers, whose products float32 sums exactly."""
        return levels.astype(np.float32) * 2 - (2**self.bits - 1)

    @cached_property
    def codes(self) -> Any:
        """The stored codes as chamfer keeps them."""
        return ch.RecurrentCodes.from_levels(self.levels, self.bits)

    @cached_property
    def query_codes(self) -> Any:
        """The queries' codes as chamfer keeps them."""
        return ch.RecurrentCodes.from_levels(self.query_levels, self.bits)

    @cached_property
    def expected(self) -> NDArray[np.float32]:
        """The k largest similarities of each query."""
        queries, chunk = self.values(self.query_levels), 50_000
        best = [
            np.partition(queries @ self.values(self.levels[i : i + chunk]).T, -K, axis=1)[:, -K:]
            for i in range(0, len(self.levels), chunk)
        ]
        return np.sort(np.concatenate(best, axis=1), axis=1)[:, : -K - 1 : -1]

    def errors(self, similarities: Any) -> dict[str, float]:
        """Return the largest relative difference from the k largest; a constant factor between them is none."""
        found = np.asarray(similarities, np.float64).reshape(self.expected.shape)
        found = found * ((found * self.expected).sum() / (found * found).sum())
        return {"max_relative": float((np.abs(found - self.expected) / np.abs(self.expected)).max())}

    def contestant(
        self,
        name: str,
        call: Callable[[], Any],
        *,
        library: str = "chamfer",
        num_threads: int = 1,
        operations: dict[str, float] | None = None,
    ) -> Contestant:
        """Return what times `call`, which must return the similarities first."""
        pairs, dim = float(len(self.query_levels)) * len(self.levels), self.levels.shape[1]
        return Contestant(
            "sdc_topk",
            f"{self.bits}bit",
            name,
            self.shape + (f", {num_threads} threads" if num_threads > 1 else ""),
            call,
            items=len(self.query_levels),
            check=lambda found: self.errors(found[0]),
            library=library,
            operations=operations or {"dot_i8": 2.0 * pairs * dim},
            bytes_read=bytes_from(self.levels.size * self.bits / 8),
            codes=pairs,
            num_threads=num_threads,
        )

    def chamfer(self, isa: str, num_threads: int = 1) -> Contestant:
        """Return chamfer's search."""
        search = partial(ch.sdc_topk, self.query_codes, self.codes, K)
        return self.contestant(isa, partial(search, num_threads=num_threads, isa=isa), num_threads=num_threads)

    def chamfer_formula(self, formula: str, isa: str) -> Contestant:
        """Return one of the core's formulas, of which `sdc_topk` takes the fastest but never the bitwise one."""
        core: Any = ch._core
        num_codes, dim = self.levels.shape
        packed = _cache_aligned(
            core.packed_bytes(dim, self.bits, formula, num_codes)
        )  # as RecurrentCodes keeps its own
        core.pack_levels(self.levels, self.bits, formula, packed)
        search = partial(core.sdc_topk, self.query_levels, packed, num_codes, K, bits=self.bits, formula=formula)
        counted = {"popcount": float(len(self.query_levels)) * num_codes * dim * self.bits**2}
        return self.contestant(
            f"{isa}-{formula}",
            partial(search, num_threads=1, isa=isa),
            operations=counted if formula == "bitwise" else None,
        )


# ── reranking and exact screening ───────────────────────────────────────────────────────────────────────────────────


def real_collection(name: str, num_queries: int) -> tuple[TokenVectors, TokenVectors]:
    """Return queries and documents of a collection in the folder that CHAMFER_SHARED names, or ../shared."""
    shared = Path(os.environ.get("CHAMFER_SHARED") or Path(__file__).resolve().parent.parent.parent / "shared")
    if not (shared / "data" / name / "docs").is_dir():
        raise AbsentError(f"no vectors of {name}: CHAMFER_SHARED and ../shared have no data/{name}")
    data = load(shared / "data" / name, num_queries)
    return data.queries, data.documents


@dataclass(frozen=True)
class RerankCase:
    """Queries against documents: exact scores of all, or the best k of candidates, with screening or without."""

    queries: TokenVectors
    documents: TokenVectors
    name: str

    @classmethod
    def synthetic(cls, num_queries: int, query_length: int, num_documents: int, length: int, dim: int) -> RerankCase:
        """Draw unit vectors, which screening can tell apart least."""
        rng = np.random.default_rng(0)
        queries = collection(rng, [query_length] * num_queries, dim)
        return cls(queries, collection(rng, [length] * num_documents, dim), "random")

    @cached_property
    def screen(self) -> Any:
        """The documents' int8 codes."""
        return fitted_codec("int8", self.documents).encode(self.documents)

    @cached_property
    def candidates(self) -> NDArray[np.int64]:
        """The best 500 documents of each query in the order of rows: the hardest to tell apart."""
        rows = ch.maxsim_topk(self.queries, self.documents, min(NUM_CANDIDATES, len(self.documents)))[1]
        return np.sort(rows, axis=1)

    @cached_property
    def exact(self) -> NDArray[np.float32]:
        """The plain float32 scores, whose bits screening must give."""
        return ch.maxsim(self.queries, self.documents)

    def screening(self, storage: str, isa: str, num_threads: int = 1) -> Contestant:
        """All scores: plainly ("f32") or by int8 screening ("f32-screened"), which must give the same bits."""
        call = partial(ch.maxsim, self.queries, self.documents, **self._arguments(storage, isa, num_threads))
        return self._contestant("maxsim", storage, isa, call, None, num_threads)

    def search(self, storage: str, isa: str, num_threads: int = 1) -> Contestant:
        """The best 10 of all documents."""
        call = partial(ch.maxsim_topk, self.queries, self.documents, K, **self._arguments(storage, isa, num_threads))
        return self._contestant("topk", storage, isa, call, None, num_threads)

    def rerank(self, storage: str, isa: str, num_threads: int = 1) -> Contestant:
        """The best 10 of the candidates."""
        arguments = self._arguments(storage, isa, num_threads)
        call = partial(ch.maxsim_topk, self.queries, self.documents, K, candidates=self.candidates, **arguments)
        return self._contestant("rerank", storage, isa, call, self.candidates, num_threads)

    def _arguments(self, storage: str, isa: str, num_threads: int) -> dict[str, Any]:
        screen = None if storage == "f32" else self.screen
        return {"screen": screen, "num_threads": num_threads, "isa": isa}

    def _contestant(
        self,
        operation: str,
        storage: str,
        isa: str,
        call: Callable[[], Any],
        candidates: NDArray[np.int64] | None,
        num_threads: int,
    ) -> Contestant:
        queries, documents = self.queries, self.documents
        rows = np.tile(np.arange(len(documents)), (len(queries), 1)) if candidates is None else candidates
        pairs = float((queries.lengths * documents.lengths[rows].sum(axis=1)).sum())
        read = int(documents.lengths[np.unique(rows)].sum()) * documents.dim
        kind, element = ("fma_f32", 4) if storage == "f32" else ("dot_i8", 1)

        def check(found: Any) -> dict[str, float]:
            if operation == "maxsim":
                return {"differing_scores": float((np.asarray(found) != self.exact).mean())}
            best = -np.sort(-np.take_along_axis(self.exact, rows, axis=1), axis=1)[:, :K]
            return {"differing_scores": float((found[0] != best).mean())}

        shape = f"{len(queries)}x{queries.lengths.min()}x{queries.dim}, {len(documents)} of {self.name}"
        if candidates is not None:
            shape += f", {candidates.shape[1]} candidates"
        if operation != "maxsim":
            shape += f", k{K}"
        return Contestant(
            operation,
            storage,
            isa,
            shape + (f", {num_threads} threads" if num_threads > 1 else ""),
            call,
            items=rows.size,
            check=check,
            # what screening cannot avoid: the int8 product; the pairs that it then scores again are not counted
            operations={kind: 2.0 * pairs * queries.dim},
            bytes_read=bytes_from(read * element),
            num_threads=num_threads,
        )
