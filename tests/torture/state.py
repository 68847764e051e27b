"""A model of an index in plain Python, operations on both, and the comparison of one with the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import chamfer as ch
from chamfer.index import SearchSettings

DIM = 16
PLANS = ("plain", "coded", "growing")
KINDS = ("add", "add from an iterator", "update", "delete", "compact")


@dataclass(frozen=True)
class Document:
    """Token vectors and metadata."""

    vectors: np.ndarray
    metadata: Mapping[str, Any]

    def __eq__(self, other):
        return np.array_equal(self.vectors, other.vectors) and self.metadata == other.metadata


State = dict[Any, Document]


@dataclass(frozen=True)
class Operation:
    """A change of an index, and of its model."""

    kind: str
    documents: State  # those that come, or go, by id

    def run(self, index: ch.Index) -> None:
        ids = list(self.documents)
        vectors = [one.vectors for one in self.documents.values()]
        metadata = [dict(one.metadata) for one in self.documents.values()]
        if self.kind == "add":
            index.add(vectors, ids, metadata, num_threads=1)
        elif self.kind == "add from an iterator":
            index.add(iter(vectors), iter(ids), iter(metadata), num_threads=1)
        elif self.kind == "update":
            index.update(vectors, ids, metadata, num_threads=1)
        elif self.kind == "delete":
            index.delete(ids)
        else:
            index.compact(num_threads=1)

    def after(self, state: State) -> State:
        if self.kind == "delete":
            return {one: document for one, document in state.items() if one not in self.documents}
        return state | self.documents if self.documents else state


def random_document(rng: np.random.Generator) -> Document:
    num_tokens = 0 if rng.random() < 0.05 else int(rng.integers(1, 7))
    vectors = rng.standard_normal((num_tokens, DIM)).astype(np.float32)
    return Document(vectors, {"year": int(rng.integers(1990, 2030)), "name": f"n{rng.integers(5)}"})


def make_id(number: int, plan: str) -> int | str:
    return f"document {number} – é" if plan == "coded" else number


def random_operation(rng: np.random.Generator, state: State, plan: str, kind: str | None = None) -> Operation:
    """Return a change that keeps the collection at some 10 to 80 documents."""
    if kind is None:
        shares = [0.25, 0.15, 0.2, 0.25, 0.15] if len(state) > 10 else [0.5, 0.3, 0.1, 0.0, 0.1]
        if len(state) > 80:
            shares = [0.05, 0.05, 0.1, 0.65, 0.15]
        kind = str(rng.choice(KINDS, p=shares))
    present = list(state)
    some = [present[i] for i in rng.permutation(len(present))]
    if kind == "delete":
        return Operation(kind, {one: state[one] for one in some[: int(rng.integers(1, max(2, len(some) // 2)))]})
    if kind == "update":
        return Operation(kind, {one: random_document(rng) for one in some[: int(rng.integers(1, 9))]})
    if kind == "compact":
        return Operation(kind, {})
    # Some of the ids are there already: their documents are replaced.
    ids = {make_id(int(one), plan) for one in rng.integers(0, 400, int(rng.integers(1, 20)))}
    return Operation(kind, {one: random_document(rng) for one in sorted(ids)})


def random_state(plan: str, rng: np.random.Generator, size: int = 20) -> State:
    """Return what an index may hold."""
    state = {make_id(i, plan): random_document(rng) for i in range(size)}
    first = make_id(0, plan)
    state[first] = Document(np.ones((2, DIM), np.float32), state[first].metadata)  # one at least has a vector
    return state


def build(path: Path, plan: str, state: State) -> State:
    """Save an index of a state in a folder, and return the state."""
    reducer: Any = ch.FixedDimensionalEncoder(DIM, num_repetitions=2)
    rerank: Any = "exact"
    if plan == "coded":
        rerank = ["int8", "exact"]
        reducer = ch.LearnedReducer(DIM, output_dimension=16, num_features=32, num_samples=64)
    elif plan == "growing":
        reducer = "fde"  # by name: `compact` fits it anew
    ch.Index.build(
        [one.vectors for one in state.values()],
        list(state),
        path=path,
        reducer=reducer,
        candidates="SQ8",
        rerank=rerank,
        metadata=[dict(one.metadata) for one in state.values()],
        num_threads=1,
    )
    return state


# ── the comparison ────────────────────────────────────────────────────────────────────────────────────────────────────


def read_state(index: ch.Index) -> State:
    """Return what an index holds."""
    return {one: Document(np.array(index.get(one)), index.get_metadata(one)) for one in index.ids.tolist()}


def maxsim(query: np.ndarray, document: np.ndarray) -> float:
    return float((query.astype(np.float64) @ document.astype(np.float64).T).max(axis=1).sum())


def find_difference(index: ch.Index, state: State, rng: np.random.Generator) -> str | None:
    """Return how an index differs from its model, by contents and by searches; None if it does not."""
    found = read_state(index)
    if len(index) != len(state) or found.keys() != state.keys():
        lost, more = state.keys() - found.keys(), found.keys() - state.keys()
        return f"{len(index)} documents, {sorted(lost)} lost, {sorted(more)} too many"
    for one, document in state.items():
        if found[one] != document:
            return f"document {one!r} is another"
    return find_wrong_search(index, state, rng)


def find_wrong_search(index: ch.Index, state: State, rng: np.random.Generator) -> str | None:
    """Return how searches differ from brute force."""
    queries = [rng.standard_normal((int(n), DIM)).astype(np.float32) for n in rng.integers(1, 5, 2)]
    # All documents are candidates, and every stage hands all of them on: then this is the model's answer too.
    num_coded = len(index.stats()["rerank"]) - 1
    index.settings = SearchSettings(500, (500,) * num_coded, margin=float("inf"))
    year = int(rng.integers(1990, 2030))
    has_year = any("year" in one.metadata for one in state.values())
    filters = [(None, lambda _: True)]
    if has_year:
        filters.append((f"year >= {year}", lambda one: one.metadata.get("year", 0) >= year))
    some = set(list(state)[::2])
    for condition, fits in [*filters, (sorted(some), None)]:
        allowed = {
            one: document
            for one, document in state.items()
            if len(document.vectors) and (one in some if fits is None else fits(document))
        }
        for options in ({"exact": True}, {}):
            k = 7
            result = index.search(queries, k, filter=condition, num_threads=1, **options)
            for query, ids, scores in zip(queries, result.ids.tolist(), result.scores.tolist(), strict=True):
                wrong = _wrong_answer(query, ids, scores, allowed, k)
                if wrong:
                    return f"search({options}, filter={condition!r}): {wrong}"
    return None


def _wrong_answer(query: np.ndarray, ids: list[Any], scores: list[float], allowed: State, k: int) -> str | None:
    right = {one: maxsim(query, document.vectors) for one, document in allowed.items()}
    best = sorted(right.values(), reverse=True)[:k]
    found = [(one, score) for one, score in zip(ids, scores, strict=True) if score > -np.inf]
    if len(found) != len(best) or len({one for one, _ in found}) != len(found):
        return f"{len(found)} documents found of {len(best)}: {found}"
    for (one, score), wanted in zip(found, best, strict=True):
        if one not in right:
            return f"{one!r} should not be found"
        # Rounding may swap two of nearly equal scores, and nothing else.
        if abs(score - wanted) > 1e-4 or abs(score - right[one]) > 1e-4:
            return f"{one!r} has score {score}, expected {right[one]}, and {wanted} at this place"
    return None
