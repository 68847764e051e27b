"""The other systems that `python -m bench search` compares; bench/__init__.py says how to install them.

Read in each one's own environment, so that its library is imported by `load` only.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.systems import OURS, Collection, System, UnavailableError, candidate_points, rerank

_LEMUR_SAMPLE = 16_384  # query tokens that LEMUR's least squares ask for, see fit(ols_sample_size=)


class Tachiom(System):
    """TACHIOM: k-means per vocabulary id, HNSW over centroids, product quantization; its own defaults."""

    package = peer = "tachiom"

    def load(self) -> None:
        import tachiom

        self._class = tachiom.Tachiom

    def build(self, data: Collection, folder: Path, num_threads: int) -> None:
        lengths = np.diff(data.offsets).astype(np.int32)
        vectors = data.vectors.astype(np.float16).view(np.uint16)  # bits of float16 are what it takes
        index = self._class.build_from_arrays(vectors, data.token_ids(), lengths)
        index.save(str(folder / "index"))

    def open(self, data: Collection, folder: Path, num_threads: int) -> None:
        self._index, self._threads = self._class.load(str(folder / "index")), num_threads

    def points(self, data: Collection) -> list[dict[str, Any]]:
        # 20 and 500 are its defaults; without ef_search it finds fewer of many centroids. Other alphas find no more.
        sweep = ((10, 100, None), (10, 500, None), (20, 500, None), (40, 500, 100), (80, 500, 200), (200, 2000, 400))
        names = ("k_centroids", "k_docs_to_score", "ef_search")
        return [{n: v for n, v in zip(names, point, strict=True) if v is not None} for point in sweep]

    def search(self, query: NDArray[np.float32], k: int, **point: Any) -> Any:
        return self._index.search(query, k, **point)[1]

    def search_batch(self, queries: NDArray[Any], offsets: NDArray[Any], k: int, **point: Any) -> Any:
        """Search all queries in one call."""
        n, starts = len(offsets) - 1, offsets.astype(np.uint64)
        return self._index.batch_search(queries, n, k, offsets=starts, num_threads=self._threads, **point)[1]


class FastPlaid(System):
    """fast-plaid on the CPU: centroids and 4-bit residuals, its defaults; probes are swept."""

    package, peer = "fast-plaid", "fastplaid"

    def load(self) -> None:
        import torch
        from fast_plaid import search

        self._torch, self._class = torch, search.FastPlaid

    def _index_in(self, folder: Path, num_threads: int) -> Any:
        self._torch.set_num_threads(num_threads)
        return self._class(index=str(folder / "index"), device="cpu")

    def build(self, data: Collection, folder: Path, num_threads: int) -> None:
        vectors = self._torch.from_numpy(np.array(data.vectors))
        documents = list(vectors.split(np.diff(data.offsets).tolist()))
        self._index_in(folder, num_threads).create(documents_embeddings=documents, nbits=4)

    def open(self, data: Collection, folder: Path, num_threads: int) -> None:
        self._index, self._threads = self._index_in(folder, num_threads), num_threads

    def points(self, data: Collection) -> list[dict[str, Any]]:
        sweep = ((2, 128), (2, 512), (4, 1024), (8, 4096))  # the last are its defaults
        return [{"n_ivf_probe": probes, "n_full_scores": scores} for probes, scores in sweep]

    def _search(self, queries: list[NDArray[Any]], k: int, num_processes: int, **point: Any) -> list[list[int]]:
        tensors = [self._torch.from_numpy(query) for query in queries]
        found = self._index.search(tensors, top_k=k, show_progress=False, n_processes=num_processes, **point)
        return [[row for row, _ in results] for results in found]

    def search(self, query: NDArray[np.float32], k: int, **point: Any) -> Any:
        return self._search([query], k, 1, **point)[0]

    def search_batch(self, queries: NDArray[Any], offsets: NDArray[Any], k: int, **point: Any) -> Any:
        """Search all queries in one call, in chunks side by side, as many as there are threads."""
        return self._search(np.split(queries, offsets[1:-1]), k, self._threads, **point)


class LanceDb(System):
    """LanceDB: a multivector column by cosine; with an IVF_PQ index of all token vectors, or a scan."""

    package = peer = "lancedb"

    def __init__(self, *, indexed: bool) -> None:
        self._indexed = indexed

    def load(self) -> None:
        import lancedb
        import pyarrow

        self._lancedb, self._arrow = lancedb, pyarrow

    def build(self, data: Collection, folder: Path, num_threads: int) -> None:
        pa, dim = self._arrow, data.vectors.shape[1]
        tokens = pa.FixedSizeListArray.from_arrays(pa.array(data.vectors.reshape(-1)), dim)
        documents = pa.ListArray.from_arrays(pa.array(data.offsets.astype(np.int32)), tokens)
        columns = {"row": pa.array(np.arange(data.num_documents)), "vectors": documents}
        table = self._lancedb.connect(str(folder)).create_table("documents", pa.table(columns))
        if self._indexed:
            lists, parts = max(1, int(len(data.vectors) ** 0.5)), dim // 4 if dim % 4 == 0 else dim
            table.create_index(
                metric="cosine", num_partitions=lists, num_sub_vectors=parts, vector_column_name="vectors"
            )

    def open(self, data: Collection, folder: Path, num_threads: int) -> None:
        self._table = self._lancedb.connect(str(folder)).open_table("documents")

    def points(self, data: Collection) -> list[dict[str, Any]]:
        if not self._indexed:
            return [{}]
        return [{"nprobes": n, "refine_factor": r} for n, r in ((5, 1), (20, 1), (20, 10), (50, 20))]

    def search(self, query: NDArray[np.float32], k: int, **point: Any) -> Any:
        asked = self._table.search(query, vector_column_name="vectors").distance_type("cosine").limit(k)
        for name, value in point.items():
            asked = getattr(asked, name)(value)
        return asked.select(["row", "_distance"]).to_arrow()["row"].to_numpy()


class Lemur(System):
    """LEMUR by its own code: MLP of 2,048 features, 10 epochs, scan of float32 weights, its C++ rerank."""

    package = peer = "lemur"
    reads = ("documents.npy", "offsets.npy")

    def __init__(self, *, from_queries: bool) -> None:
        self._from_queries = from_queries

    def load(self) -> None:
        import torch
        from lemur import Lemur as Model
        from lemur.maxsim import MaxSim

        self._torch, self._class, self._rerank_class = torch, Model, MaxSim

    def build(self, data: Collection, folder: Path, num_threads: int) -> None:
        torch, learn = self._torch, {}
        torch.set_num_threads(num_threads)
        torch.manual_seed(0)
        if self._from_queries:
            if data.sample is None or len(data.sample[0]) < _LEMUR_SAMPLE:
                raise UnavailableError(f"needs {_LEMUR_SAMPLE:,} tokens of sample queries, queries.train")
            counts = np.diff(data.sample[1]).astype(np.int32)
            learn = {"learn": torch.from_numpy(data.sample[0]), "learn_counts": torch.from_numpy(counts)}
        lengths = torch.from_numpy(np.diff(data.offsets).astype(np.int32))
        vectors = torch.from_numpy(np.array(data.vectors))
        self._class(index=str(folder), device="cpu").fit(vectors, lengths, epochs=10, verbose=False, **learn)

    def open(self, data: Collection, folder: Path, num_threads: int) -> None:
        self._torch.set_num_threads(num_threads)
        self._model, self._threads = self._class(index=str(folder), device="cpu"), num_threads
        self._model.load_mlp()
        self._model.load_w()
        self._kept = data.vectors, np.diff(data.offsets).astype(np.int32)  # it keeps pointers only
        self._scorer = self._rerank_class(*self._kept)

    def points(self, data: Collection) -> list[dict[str, Any]]:
        return candidate_points(data.num_documents)

    def search(self, query: NDArray[np.float32], k: int, **point: Any) -> Any:
        return self.search_batch(query, np.array([0, len(query)]), k, **point)[0]

    def search_batch(self, queries: NDArray[Any], offsets: NDArray[Any], k: int, num_candidates: int) -> Any:
        """Search all queries in one call."""
        torch, lengths = self._torch, np.diff(offsets).astype(np.int32)
        with torch.inference_mode():
            features = self._model.compute_features((torch.from_numpy(queries), torch.from_numpy(lengths)))
            candidates = torch.topk(features @ self._model.W.T, num_candidates, dim=1).indices
        rows = np.ascontiguousarray(candidates.numpy().astype(np.int32))
        return self._scorer.rerank_subset(queries, lengths, k, rows, num_threads=self._threads)


class FastEmbed(System):
    """fastembed's MUVERA encodings (R = 20, k = 5, 16 dims, float32), FAISS's flat scan, NumPy's exact rerank."""

    package = peer = "fastembed"
    reads = ("documents.npy", "offsets.npy")

    def load(self) -> None:
        import faiss
        from fastembed.postprocess import Muvera

        self._faiss, self._class = faiss, Muvera

    def _encoder(self, data: Collection) -> Any:
        return self._class(dim=data.vectors.shape[1], k_sim=5, dim_proj=16, r_reps=20)

    def build(self, data: Collection, folder: Path, num_threads: int) -> None:
        encoder = self._encoder(data)
        documents = np.split(data.vectors, data.offsets[1:-1])
        encodings = np.stack([encoder.process_document(document) for document in documents]).astype(np.float32)
        index = self._faiss.IndexFlatIP(encodings.shape[1])
        index.add(encodings)
        self._faiss.write_index(index, str(folder / "index"))

    def open(self, data: Collection, folder: Path, num_threads: int) -> None:
        self._faiss.omp_set_num_threads(num_threads)
        self._data, self._muvera = data, self._encoder(data)
        self._index = self._faiss.read_index(str(folder / "index"))

    def points(self, data: Collection) -> list[dict[str, Any]]:
        return candidate_points(data.num_documents)

    def search(self, query: NDArray[np.float32], k: int, **point: Any) -> Any:
        encoding = self._muvera.process_query(query).astype(np.float32)[None]
        rows = self._index.search(encoding, point["num_candidates"])[1][0]
        return rerank(query, self._data, rows[rows >= 0], k)


PEERS: dict[str, Any] = {
    "TACHIOM": Tachiom,
    "fast-plaid": FastPlaid,
    "LanceDB scan": partial(LanceDb, indexed=False),
    "LanceDB IVF_PQ": partial(LanceDb, indexed=True),
    "LEMUR": partial(Lemur, from_queries=False),
    "LEMUR, query sample": partial(Lemur, from_queries=True),
    "fastembed + FAISS": FastEmbed,
}
SYSTEMS = OURS | PEERS
