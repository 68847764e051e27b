"""LearnedReducer: encodings fitted to a collection, a twentieth of an FDE's size at higher recall."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chamfer import _core
from chamfer._archives import read_archive, write_archive
from chamfer._progress import progress_bar
from chamfer._runtime import check_positive_int, resolve_isa, resolve_num_threads
from chamfer._sampling import spread
from chamfer.codecs.codec import Codec
from chamfer.codecs.token_codes import TokenCodes
from chamfer.errors import CorruptIndexError
from chamfer.reducers import regression
from chamfer.token_vectors import TokenVectors, TokenVectorsLike, as_token_vectors

# Documents that a fit regresses on; more only refine the directions that are kept.
_MAX_FIT_DOCUMENTS = 16_384

# Sample vectors that show, at each encoding, how much of their similarities an encoding misses.
_NUM_PROBES = 256

# Documents are encoded so many bytes of similarities at a time, and queries so many of features.
_BLOCK_BYTES = 64 * 2**20

_MAX_SIZE = 65_536

_PARAMETERS = ("dim", "output_dimension", "num_features", "num_samples", "seed")
_FORMAT = "chamfer.LearnedReducer"
_FORMAT_VERSION = 1

# Refit when encodings miss so many times what they missed of the documents of the fit. On the demo collection it is 1.0
# to 1.3 for the other half of it, 1.0 to 1.4 for one topic, 2.5 to 14 for vectors that are shifted by 0.3 of their
# length, and some 400 for random ones.
_DRIFT = 2.0
_FEWEST_FOR_DRIFT = 100
_LEAST_MISSED = 0.01  # what is less at the fit counts as so much: twice nothing is no drift

# What only encoding documents needs: nine tenths of a reducer.
_OF_DOCUMENTS = ("samples", "document_map")


class LearnedReducer:
    """Turn a set of vectors into one vector, fitted so that the inner product of two approximates MaxSim here.

    One regression per document, on features of query vectors (LEMUR); see `chamfer.reducers.regression` for the algebra
    and for what is chamfer's own. An encoding of 512 numbers finds more than an FDE of 10,240: on SciFact R10@100 is
    0.93 against 0.79. Encodings may be kept in 8 or 4 bits a number without loss.

    Documents that come later are encoded without another fit, by what the sample vectors find in them; `stats` tells
    when they have become too different.

    Args:
        dim: numbers per vector, at most 65,536.
        output_dimension: numbers of an encoding. Half as many cost about 0.04 of R10@100, twice as many gain 0.015.
        num_features: random features of a query vector. Half as many cost 0.01, or 0.03 where no sample queries are
            given; time and memory of the fit grow with the square, the time to encode a query in proportion.
        num_samples: vectors to regress on, half of them of sample queries. More: better, a slower fit, and slower
            encoding of documents.
        features: float32, shape (n, dim): weights of the features, such as `chamfer.training.fit_features` trains;
            their number replaces num_features. None draws them.
        seed: of the features and of the sample.

    Raises:
        TypeError: a parameter has a wrong type.
        ValueError: a parameter is out of range.

    Source: LEMUR (arXiv 2601.21853); set rows, cut passages, whitening and rank reduction are chamfer's own.
    """

    def __init__(
        self,
        dim: int,
        *,
        output_dimension: int = 512,
        num_features: int = 4096,
        num_samples: int = 32_768,
        features: ArrayLike | None = None,
        seed: int = 42,
    ) -> None:
        self.dim = _check_size(dim, "dim")
        self._output_dimension = _check_size(output_dimension, "output_dimension")
        self.num_features = _check_size(num_features, "num_features")
        self.num_samples = check_positive_int(num_samples, "num_samples")
        self.seed = regression.check_seed(seed)
        self._given_features = None if features is None else _check_features(features, self.dim)
        if self._given_features is not None:
            self.num_features = len(self._given_features)
        self._found: _Fit | None = None

    # ── the four verbs ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def output_dimension(self) -> int:
        """Numbers of an encoding."""
        return self._output_dimension

    @property
    def is_fitted(self) -> bool:
        """Whether vectors can be encoded: `fit` has been called."""
        return self._found is not None

    def fit(
        self,
        documents: TokenVectorsLike,
        queries: TokenVectorsLike | None = None,
        *,
        memory_budget: int = 2**30,
        num_threads: int | None = None,
        progress: bool = False,
    ) -> LearnedReducer:
        """Regress on a sample of vectors.

        Args:
            documents: the collection, or a sample of it; of more than 16,384 documents, so many, spread evenly.
            queries: sample queries, a hundred or more; without them passages of documents stand in, and R10@100 in 512
                dims is 0.04 lower on SciFact.
            memory_budget: bytes for the work, beside matrices of 16 num_features² + 4 num_features · num_documents
                bytes (by default 300 MB to 540 MB), codes of the documents that are looked at (a byte per number) and,
                of more than 16,384 documents, a copy of these. More than 2 GB are not used.
            num_threads: threads to use; None means the CPUs of this process. NumPy's products take those of its BLAS,
                which may change the last bits.
            progress: show a progress bar (needs tqdm: pip install "chamfer[cli]").

        Returns:
            The reducer itself.

        Raises:
            TypeError: an argument has a wrong type or dtype.
            ValueError: not vectors of this dim, or no document with a vector.
        """
        collection = self._check(documents, "documents")
        query_vectors = None if queries is None else self._check(queries, "queries")
        if query_vectors is not None and query_vectors.num_tokens == 0:
            raise ValueError("queries: expected at least one vector, got none")
        if isinstance(memory_budget, (int, np.integer)):
            memory_budget = min(memory_budget, 2**31 - 1)
        memory_budget = check_positive_int(memory_budget, "memory_budget")
        threads = resolve_num_threads(num_threads)
        some = _without_empty(collection)
        if len(some) == 0:
            raise ValueError("documents: expected at least one vector to fit to, got none")
        if len(some) > _MAX_FIT_DOCUMENTS:
            some = some.select(spread(len(some), _MAX_FIT_DOCUMENTS))
        random = np.random.default_rng(self.seed)
        num_samples = regression.sample_size(self.num_samples, some)
        sample = regression.draw_sample(some, query_vectors, num_samples, random)
        # In half precision, as they are kept.
        samples, sample_scales = _halves(np.asarray(sample.sets.vectors, np.float32))
        vectors = _floats(samples, sample_scales)
        sample = replace(sample, sets=TokenVectors._trusted(vectors, sample.sets.offsets))
        weights = self._given_features
        if weights is None:
            weights = regression.draw_weights(self.num_features, vectors, random)
        codec = Codec("int8", self.dim).fit(some)
        codes = codec.encode(some, num_threads=threads)
        assert codec._codebook is not None
        assert isinstance(codes, TokenCodes)
        isa = resolve_isa(None)
        uncentred = _core.FeatureMap(weights, np.zeros(len(weights), np.float32), isa=isa)
        everything = TokenVectors._trusted(vectors, np.array([0, len(vectors)]))
        center = uncentred.sum(everything._core_collection(), num_threads=threads)[0] / np.float32(len(vectors))
        # The last feature is 1: 0 less a centre of -1.
        feature_map = _core.FeatureMap(
            np.concatenate([weights, np.zeros((1, self.dim), np.float32)]),
            np.append(center, np.float32(-1)),
            isa=isa,
        )

        def features(part: TokenVectors) -> NDArray[np.float32]:
            return feature_map.sum(regression.one_by_one(part.vectors)._core_collection(), num_threads=threads)

        with progress_bar(2 * len(vectors), "fit reducer", progress, "vector") as advance:
            maps = regression.fit_maps(
                sample, codes, features, self.output_dimension, memory_budget, threads, random, advance
            )
        query_map, query_scales = _halves(maps.query_map[:, :-1])
        document_map, document_scales = _halves(maps.document_map)
        # What `encode_documents` computes of the means, so that rounding the map does not shift encodings.
        offset = _core.project(maps.token_means[None], document_map, isa=isa, num_threads=threads)[0] * document_scales
        probes = spread(len(vectors), _NUM_PROBES)
        found = _Fit(
            {
                "weights": weights,
                "center": center,
                "query_map": query_map,
                "query_scales": query_scales,
                "query_constants": maps.query_map[:, -1].copy(),
                "samples": samples,
                "sample_scales": sample_scales,
                "document_map": document_map,
                "document_scales": document_scales,
                "document_offset": offset,
                "codec_center": codec._codebook.center,
                "codec_direction": codec._codebook.direction,
                "probes": probes,
                "probe_means": maps.token_means[probes],
            }
        )
        found.arrays["probe_encodings"] = found.encode_queries(regression.one_by_one(vectors[probes]), threads)
        found.encode_documents(some.select(spread(len(some), _NUM_PROBES)), threads)
        found.arrays["missed_at_fit"] = found.seen[1:] / found.seen[0]
        found.seen[:] = 0
        self._found = found
        return self

    def encode_documents(self, documents: TokenVectorsLike, *, num_threads: int | None = None) -> NDArray[np.float32]:
        """Encode documents, those of the fit or others.

        Args:
            documents: a collection of documents of this dim, float32 or float16.
            num_threads: threads to use; None means the CPUs of this process. The numbers do not depend on it.

        Returns:
            float32, shape (num_documents, output_dimension); an empty document is all zeros.

        Raises:
            TypeError: documents have a wrong type or dtype.
            ValueError: another dim than the reducer's, or `fit` was not called.
        """
        items = self._check(documents, "documents")
        return self._fitted().encode_documents(items, resolve_num_threads(num_threads))

    def encode_queries(self, queries: TokenVectorsLike, *, num_threads: int | None = None) -> NDArray[np.float32]:
        """Encode queries.

        Args:
            queries: a collection of queries of this dim, float32 or float16; one 2-D array is one query.
            num_threads: as in `encode_documents`.

        Returns:
            float32, shape (num_queries, output_dimension); an empty query is all zeros.

        Raises:
            TypeError: queries have a wrong type or dtype.
            ValueError: another dim than the reducer's, or `fit` was not called.
        """
        items = self._check(queries, "queries")
        return self._fitted().encode_queries(items, resolve_num_threads(num_threads))

    # ── inspect ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def stats(self) -> dict[str, Any]:
        """Return what encodings miss, and whether documents have drifted from those of the fit.

        Returns:
            "missed_at_fit": of 256 sample vectors, what the encodings do not tell of their similarities with documents
            of the fit, in mean squares, as a share of the variance of these similarities. "missed_since": the same of
            the documents encoded since, which are "num_encoded", empty ones not counted, in the same unit; NaN if none.
            "refit_advised": whether it is twice as much, over at least 100 documents.

        Raises:
            ValueError: `fit` was not called.
        """
        found = self._fitted()
        missed_at_fit, total_at_fit = found.arrays["missed_at_fit"]
        with found.lock:
            num_encoded, missed, _ = found.seen
        unit = total_at_fit or 1.0
        at_fit = float(missed_at_fit / unit)
        since = float(missed / num_encoded / unit) if num_encoded else float("nan")
        return {
            "missed_at_fit": at_fit,
            "missed_since": since,
            "num_encoded": int(num_encoded),
            "refit_advised": bool(num_encoded >= _FEWEST_FOR_DRIFT and since > _DRIFT * max(at_fit, _LEAST_MISSED)),
        }

    def forget_drift(self) -> None:
        """Forget the documents encoded so far: `stats` then tells of those that come."""
        found = self._fitted()
        with found.lock:
            found.seen[:] = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the fitted arrays but those that an opened index leaves on disk; 0 before `fit`."""
        if self._found is None:
            return 0
        return sum(array.nbytes for name, array in self._found.arrays.items() if name not in self._found.mapped)

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, fitted arrays and format version to one file, atomically.

        Args:
            path: the file, an .npz of any name; replaced if it exists.

        Raises:
            ValueError: `fit` was not called.
        """
        write_archive(Path(path), _FORMAT, _FORMAT_VERSION, self._parameters, self._fitted().arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LearnedReducer:
        """Read a reducer that `save` wrote; it gives the same numbers.

        Args:
            path: the file given to `save`.

        Raises:
            FileNotFoundError: there is no such file.
            CorruptIndexError: the file is damaged (parameters and arrays carry a checksum) or not a reducer.
            ValueError: a newer chamfer wrote it.
        """
        return cls._load(Path(path), mapped=False)

    @classmethod
    def _load(cls, path: Path, *, mapped: bool) -> LearnedReducer:
        """Read a reducer; if mapped, what only documents need stays on disk: nine tenths of it.

        Then the file's checksum is to be checked by the caller.
        """
        parameters, arrays = read_archive(path, _FORMAT, _FORMAT_VERSION, mapped=_OF_DOCUMENTS if mapped else None)
        try:
            self = cls(**{name: parameters[name] for name in _PARAMETERS})
            shapes = self._expected_arrays(arrays)
            for name, (dtype, shape) in shapes.items():
                if arrays[name].dtype != dtype or arrays[name].shape != shape:
                    raise ValueError(f"{name}: expected {shape} of {dtype.__name__}, got {arrays[name].shape}")
            probes, num_samples = arrays["probes"], len(arrays["samples"])
            if set(arrays) != set(shapes) or num_samples == 0 or (probes < 0).any() or (probes >= num_samples).any():
                raise ValueError(f"arrays {sorted(arrays)}")
            if parameters["features_given"]:
                self._given_features = arrays["weights"]
        except (TypeError, ValueError, KeyError) as error:
            raise CorruptIndexError(f"{path}: its contents do not fit together ({error})") from None
        self._found = _Fit(arrays, _OF_DOCUMENTS if mapped else ())
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_found": self._found and self._found.arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state["_found"]
        self.__dict__.update(state | {"_found": None if arrays is None else _Fit(arrays)})

    @property
    def _parameters(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in _PARAMETERS}
        return own | {"features_given": self._given_features is not None}

    def _expected_arrays(self, arrays: dict[str, NDArray[Any]]) -> dict[str, tuple[type, tuple[int, ...]]]:
        r, n, num_probes = self.output_dimension, len(arrays["samples"]), len(arrays["probes"])
        return {
            "weights": (np.float32, (self.num_features, self.dim)),
            "center": (np.float32, (self.num_features,)),
            "query_map": (np.float16, (r, self.num_features)),
            "query_scales": (np.float32, (r,)),
            "query_constants": (np.float32, (r,)),
            "samples": (np.float16, (n, self.dim)),
            "sample_scales": (np.float32, (n,)),
            "document_map": (np.float16, (r, n)),
            "document_scales": (np.float32, (r,)),
            "document_offset": (np.float32, (r,)),
            "codec_center": (np.float32, (self.dim,)),
            "codec_direction": (np.float32, (self.dim,)),
            "probes": (np.int64, (num_probes,)),
            "probe_means": (np.float32, (num_probes,)),
            "probe_encodings": (np.float32, (num_probes, r)),
            "missed_at_fit": (np.float64, (2,)),
        }

    def _fitted(self) -> _Fit:
        if self._found is None:
            raise ValueError("this LearnedReducer is not fitted: call fit(documents) first")
        return self._found

    def _check(self, vectors: TokenVectorsLike, argument: str) -> TokenVectors:
        collection = as_token_vectors(vectors, argument)
        if collection.dim != self.dim:
            raise ValueError(f"{argument}: expected dim {self.dim} (the reducer's), got {collection.dim}")
        return collection

    def __repr__(self) -> str:
        state = "" if self.is_fitted else ", not fitted"
        return (
            f"LearnedReducer({self.dim}, output_dimension={self.output_dimension}, num_features={self.num_features}, "
            f"num_samples={self.num_samples}, seed={self.seed}{state})"
        )


class _Fit:
    """What a fit found, and what the documents encoded since have shown.

    A reducer replaces it as a whole: encoding during another fit, or after an interrupted one, goes by the old one.
    """

    def __init__(self, arrays: dict[str, NDArray[Any]], mapped: tuple[str, ...] = ()) -> None:
        self.arrays = arrays
        self.mapped = mapped  # names of arrays that stay on disk
        self.lock = threading.Lock()
        self.seen = np.zeros(3)  # documents encoded; squares missed and in all, of their probes
        self._feature_maps: dict[str, _core.FeatureMap] = {}  # by instruction set

    def encode_documents(self, documents: TokenVectors, num_threads: int) -> NDArray[np.float32]:
        arrays, isa = self.arrays, resolve_isa(None)
        codec = Codec._int8(arrays["codec_center"], arrays["codec_direction"])
        samples = _floats(arrays["samples"], arrays["sample_scales"])
        document_map = np.require(arrays["document_map"], requirements=["C", "A"])  # a copy if it is mapped
        out = np.zeros((len(documents), len(document_map)), np.float32)
        block = max(1, _BLOCK_BYTES // (8 * len(samples)))
        for begin in range(0, len(documents), block):
            some = documents._run(begin, min(begin + block, len(documents)))
            filled = np.flatnonzero(some.lengths)
            if len(filled) == 0:
                continue
            codes = codec.encode(_without_empty(some), num_threads=num_threads)
            assert isinstance(codes, TokenCodes)
            similarities = np.ascontiguousarray(regression.best_similarities(samples, codes, num_threads).T)
            encodings = _core.project(similarities, document_map, isa=isa, num_threads=num_threads)
            encodings *= arrays["document_scales"]
            encodings -= arrays["document_offset"]
            out[begin + filled] = encodings
            self._note(similarities[:, arrays["probes"]], encodings)
        return out

    def encode_queries(self, queries: TokenVectors, num_threads: int) -> NDArray[np.float32]:
        arrays, isa = self.arrays, resolve_isa(None)
        feature_map = self._feature_maps.get(isa)
        if feature_map is None:
            feature_map = self._feature_maps[isa] = _core.FeatureMap(arrays["weights"], arrays["center"], isa=isa)
        out = np.empty((len(queries), len(arrays["query_map"])), np.float32)
        block = max(1, _BLOCK_BYTES // (4 * len(arrays["weights"])))
        for begin in range(0, len(queries), block):
            some = queries._run(begin, min(begin + block, len(queries)))
            sums = feature_map.sum(some._core_collection(), num_threads=num_threads)
            encodings = _core.project(sums, arrays["query_map"], isa=isa, num_threads=num_threads)
            encodings *= arrays["query_scales"]
            encodings += some.lengths[:, None].astype(np.float32) * arrays["query_constants"]
            out[begin : begin + block] = encodings
        return out

    def _note(self, similarities: NDArray[np.float32], encodings: NDArray[np.float32]) -> None:
        """Add up what encodings miss of the probes' similarities, (n, num_probes), about their means at the fit."""
        varying = (similarities - self.arrays["probe_means"]).astype(np.float64)  # squares may overflow float32
        missed = varying - encodings @ self.arrays["probe_encodings"].T
        with self.lock:
            self.seen += (len(encodings), float(np.vdot(missed, missed)), float(np.vdot(varying, varying)))


def _check_size(value: int, argument: str) -> int:
    """Return `value` as int; TypeError if it is none, ValueError if it is not 1 to 65,536."""
    number = check_positive_int(value, argument)
    if number > _MAX_SIZE:
        raise ValueError(f"{argument}: expected at most {_MAX_SIZE}, got {number}")
    return number


def _check_features(features: ArrayLike, dim: int) -> NDArray[np.float32]:
    """Return weights of features as float32, C-contiguous."""
    try:
        given = np.asarray(features)
    except ValueError:
        raise ValueError("features: expected rows of equal length, got a ragged list") from None
    if given.dtype.kind not in "fiu":
        raise TypeError(f"features: expected numbers, got {given.dtype}")
    if given.ndim != 2 or given.shape[1] != dim or not 1 <= len(given) <= _MAX_SIZE:
        raise ValueError(f"features: expected shape (n, {dim}), n from 1 to {_MAX_SIZE}, got {given.shape}")
    with np.errstate(over="ignore"):
        weights = np.array(given, np.float32, order="C")
    if not np.isfinite(weights).all():
        raise ValueError("features: expected finite numbers")
    return weights


def _without_empty(items: TokenVectors) -> TokenVectors:
    """Return the items that have vectors, not copied."""
    return TokenVectors._trusted(items.vectors, np.unique(items.offsets)) if (items.lengths == 0).any() else items


def _halves(rows: NDArray[np.float32]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Return rows in half precision, each over a scale, and the scales."""
    scales = np.abs(rows).max(axis=1)
    scales[scales == 0] = 1.0
    return (rows / scales[:, None]).astype(np.float16), scales


def _floats(halves: NDArray[np.float16], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows that `_halves` rounded."""
    return halves.astype(np.float32) * scales[:, None]
