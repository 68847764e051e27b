"""Codes of token vectors that score a whole collection by themselves, for `python -m bench binary`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

import chamfer as ch
from bench.binary_methods import DEPTHS, median_ms
from bench.data import Data
from bench.search_results import K, overlap

Floats = NDArray[np.float32]
Items = ch.TokenVectors | ch.TokenCodes

# Names of the package's codecs, a row each.
CODECS = ("binary", "recurrent:1", "scalar:2", "recurrent:2", "scalar:4", "recurrent:4", "int8")

# Distance of neighbouring levels that code normal numbers of variance 1 with the least error: Max (1960), table 2.
_STEPS = {2: 0.9957, 4: 0.3352}
_PQ_TRAINING = 2**16
_PARTS = (0.0, 0.5, 1.0)
_CHOOSING_QUERIES = 30
_SCALE_BYTES = 4


@dataclass(frozen=True)
class Coded:
    """A collection as codes, or as the vectors that codes stand for.

    Attributes:
        items: what is scored.
        queries: turns queries, less some part of their mean, into what scores them.
        bytes_per_token: of a stored code and its terms.
        parts: of the queries' mean, of which sample queries choose.
    """

    items: Items
    queries: Callable[[ch.TokenVectors], Items]
    bytes_per_token: float
    parts: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class TokenMethod:
    """A kind of code.

    Attributes:
        name: of the row.
        query: what a query is compared as.
        encode: makes the codes of a collection.
        is_decoded: whether decoded vectors are scored instead of codes, so that times of search tell nothing.
    """

    name: str
    query: str
    encode: Callable[[Data], Coded]
    is_decoded: bool = True


def row_of(method: TokenMethod, data: Data, exact: NDArray[np.int64]) -> dict[str, Any]:
    """Encode a collection, score all of it on one thread, and return the row."""
    begin = time.perf_counter()
    coded = method.encode(data)
    seconds = time.perf_counter() - begin
    part = _best_part(coded, data)
    most = max(DEPTHS)
    found = ch.maxsim_topk(coded.queries(_less(part, data.queries, data)), coded.items, most, num_threads=1)[1]
    per_document = data.documents.num_tokens / len(data.documents)
    ms = None
    if not method.is_decoded:
        one_by_one = [data.queries.select([i]) for i in range(len(data.queries))]
        ms = median_ms(lambda query: ch.maxsim_topk(coded.queries(query), coded.items, most, num_threads=1), one_by_one)
    return {
        "method": method.name,
        "queries": method.query,
        "query_mean_taken_off": part,
        "bytes_per_token": coded.bytes_per_token,
        "bytes_per_document": coded.bytes_per_token * per_document,
        **{f"R{K}@{n}": overlap(found[:, :n].tolist(), exact.tolist()) for n in DEPTHS},
        "fit_and_encode_seconds_per_1000": seconds / data.documents.num_tokens * 1e3,
        "search_ms": ms,
        "engine": "decoded" if method.is_decoded else "chamfer",
    }


def _best_part(coded: Coded, data: Data) -> float:
    """Return the part of the queries' mean to take off, with which some sample queries find most."""
    if len(coded.parts) == 1 or data.sample_queries is None:
        return coded.parts[0]
    sample = data.sample_queries.select(np.arange(min(_CHOOSING_QUERIES, len(data.sample_queries))))
    exact = ch.maxsim_topk(sample, data.documents, K, num_threads=1)[1].tolist()
    finds = {}
    for part in coded.parts:
        asked = coded.queries(_less(part, sample, data))
        finds[part] = overlap(ch.maxsim_topk(asked, coded.items, K, num_threads=1)[1].tolist(), exact)
    return max(coded.parts, key=finds.__getitem__)


def _less(part: float, asked: ch.TokenVectors, data: Data) -> ch.TokenVectors:
    return asked if part == 0 else _of(asked, lambda vectors: vectors - np.float32(part) * _centers(data)[1])


def token_methods(dim: int) -> Iterator[TokenMethod]:
    """Yield the package's codecs, then plain codes, and product quantization of the same bytes."""
    for name in CODECS:
        yield TokenMethod(name, "8 bits", partial(_by_codec, name), is_decoded=False)
    yield TokenMethod("binary", "signs", partial(_by_codec, "binary", signs=True), is_decoded=False)
    yield TokenMethod("sign, nothing centred", "signs", _plain_signs)
    yield TokenMethod("sign", "signs", partial(_signs, float_queries=False))
    yield TokenMethod("random rotation + sign", "signs", partial(_signs, rotated=True, float_queries=False))
    yield TokenMethod("random rotation + sign", "float32", partial(_signs, rotated=True))
    for bits in (2, 4):
        yield TokenMethod(f"uniform {bits} bits", "float32", partial(_uniform, bits))
    yield TokenMethod("uniform 4 bits", "4 bits", partial(_uniform, 4, coded_queries=True))
    sizes = (dim // 8, dim // 8 + _SCALE_BYTES, dim // 4, dim // 2)  # of signs without and with terms, 2 and 4 bits
    for size in dict.fromkeys(max(s for s in range(1, size + 1) if dim % s == 0) for size in sizes):
        yield TokenMethod("PQ x8", "float32", partial(_product, size))


def _by_codec(name: str, data: Data, *, signs: bool = False) -> Coded:
    codec = ch.codec(name, data.documents.dim).fit(data.documents, data.sample_queries)
    codes = codec.encode(data.documents, num_threads=1)

    def queries(asked: ch.TokenVectors) -> Items:
        return codec.encode_queries(asked, num_threads=1) if signs else asked

    return Coded(codes, queries, codes.nbytes / data.documents.num_tokens)


# ── plain codes, as the vectors that they stand for ─────────────────────────────────────────────────────────────────


def _plain_signs(data: Data) -> Coded:
    return Coded(_of(data.documents, _signed), lambda asked: _of(asked, _signed), data.documents.dim / 8)


def _signs(data: Data, *, rotated: bool = False, float_queries: bool = True) -> Coded:
    """Signs of what centring leaves of each side; of float queries with RaBitQ's factor of each stored vector."""
    center = _centers(data)[0]
    dim = data.documents.dim
    rotation = np.eye(dim, dtype=np.float32)
    if rotated:
        rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, dim)))[0].astype(np.float32)

    def encode(vectors: Floats) -> Floats:
        turned = np.asarray((vectors - center) @ rotation, np.float32)
        signs = _signed(turned)
        if float_queries:
            signs *= (np.einsum("ij,ij->i", turned, turned) / np.abs(turned).sum(axis=1))[:, None]
        return signs

    def encode_query(vectors: Floats) -> Floats:
        turned = np.asarray(vectors @ rotation, np.float32)
        return turned if float_queries else _signed(turned)

    size = dim / 8 + (_SCALE_BYTES if float_queries else 0)
    return Coded(_of(data.documents, encode), lambda asked: _of(asked, encode_query), size, _PARTS)


def _uniform(bits: int, data: Data, *, coded_queries: bool = False) -> Coded:
    """Levels of one distance for all dims, that of least error for normal numbers."""
    center = _centers(data)[0]

    def quantize(centred: Floats) -> Floats:
        step = np.float32(_STEPS[bits] * float(np.sqrt(np.mean(np.square(centred), dtype=np.float64))))
        half = 2 ** (bits - 1)
        levels = np.clip(np.floor(centred / step), -half, half - 1) + np.float32(0.5)
        return np.asarray(levels * step, np.float32)

    def queries(asked: ch.TokenVectors) -> Items:
        return _of(asked, quantize) if coded_queries else asked

    items = _of(data.documents, lambda vectors: quantize(vectors - center))
    return Coded(items, queries, data.documents.dim * bits / 8, _PARTS)


def _product(size: int, data: Data) -> Coded:
    """FAISS's product quantization of what centring leaves: so many bytes, of 256 centroids each."""
    documents = data.documents
    center = _centers(data)[0]
    vectors = np.asarray(documents.vectors, np.float32) - center
    index = faiss.IndexPQ(documents.dim, size, 8)
    index.pq.cp.min_points_per_centroid = 1  # no warnings
    index.train(vectors[np.random.default_rng(0).permutation(len(vectors))[:_PQ_TRAINING]])
    decoded = index.sa_decode(index.sa_encode(vectors))
    return Coded(ch.TokenVectors(decoded, documents.offsets), lambda asked: asked, size, _PARTS)


def _centers(data: Data) -> tuple[Floats, Floats]:
    """Return the means of documents and of sample queries, or of documents twice."""
    sides = (data.documents, data.sample_queries or data.documents)
    first, second = (side.vectors.mean(axis=0, dtype=np.float64).astype(np.float32) for side in sides)
    return first, second


def _signed(vectors: Floats) -> Floats:
    return np.where(vectors > 0, np.float32(1), np.float32(-1))


def _of(items: ch.TokenVectors, encode: Callable[[Floats], Floats]) -> ch.TokenVectors:
    return ch.TokenVectors(encode(np.asarray(items.vectors, np.float32)), items.offsets)
