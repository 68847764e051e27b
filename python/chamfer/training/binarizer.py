"""fit_binarizer: networks that turn vectors into recurrent binary codes, trained to rank as inner products do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chamfer._archives import checksum, read_archive, write_archive
from chamfer._progress import progress_bar
from chamfer._rotation import STEPS, rotation_to_levels
from chamfer._runtime import check_positive_int, resolve_num_threads
from chamfer._sampling import spread
from chamfer.binary import RecurrentCodes, sdc_topk
from chamfer.recurrent import MAX_LOOPS, RecurrentBinarizer, as_floats, blocks, check_matrix
from chamfer.reducers.regression import check_seed
from chamfer.training._networks import EPOCH_ROWS, Data, Start, Training, directions_of, mixed_rows
from chamfer.training._torch import import_torch, resolve_device, torch_threads

MIN_ROWS = 64

_HIDDEN = 512  # units of a network
_RIDGE = 1e-3  # of the regression on old codes, in parts of the mean square of a column

# Rows held out tell when to stop: after so many epochs without a higher recall.
_VALIDATION_SHARE = 0.1
_VALIDATION_QUERIES = 500
_MOST_VALIDATION_ROWS = 16_384
_K = 10
_PATIENCE = 5

# Parts of the queries' mean to take off. All of it, which codes would be full of, or none, which ranks as before; half
# where queries lie in a narrow cone, as token vectors of modern encoders.
_CENTERS = (0.0, 0.5, 1.0)

_MOST_NUMBERS = 65_536

_FORMAT = "chamfer.training.fit_binarizer"
_FORMAT_VERSION = 1


def fit_binarizer(
    x: ArrayLike,
    *,
    bits: int,
    loops: int = 1,
    fine_queries: bool = True,
    pairs: tuple[ArrayLike, ArrayLike] | None = None,
    compatible_with: RecurrentBinarizer | None = None,
    old_x: ArrayLike | None = None,
    epochs: int = 10,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 42,
    device: str = "cpu",
    num_threads: int | None = None,
    progress: bool = False,
) -> RecurrentBinarizer:
    """Train a RecurrentBinarizer, so that codes rank these vectors as inner products do.

    Training begins with a rotation of the principal components that is fitted to the levels, as iterative quantization
    does for signs, and a network beside it that starts from nothing. What a query is to find is what inner products
    find: without labels, and of x alone, where rows mixed by eight stand for queries. Most of what codes find is the
    start's; training after it has added up to 0.01. With fine queries a bit a number (loops=0) finds more than two bits
    of half as many, as long as there are no more bits than numbers; without, two bits do.

    SciFact's encodings of 512 numbers (R10@100 of floats is 0.940, R10@10 0.580), 300 queries, pairs of 809 others,
    scales of 4 bytes counted, one thread; peers are FAISS's, with vectors less their mean and queries as floats, RaBitQ
    of randomly rotated vectors, or by definition (`python -m bench binary`, beside other work):

    | codes | bytes | R10@100 | R10@10 | fitted in |
    | --- | --- | --- | --- | --- |
    | OPQ256, 4 bits each | 128 | 0.934 | 0.563 | 87 s |
    | 1,024 bits, loops=1 | 132 | 0.932 | 0.561 | 35 s |
    | 1,024 bits, loops=1, no fine queries | 132 | 0.921 | 0.539 | 39 s |
    | PQ256, 4 bits each | 128 | 0.918 | 0.514 | 2 s |
    | RaBitQ, 1,024 numbers | 136 | 0.911 | 0.521 | 1 s |
    | iterative quantization, 1,024 signs | 128 | 0.883 | 0.476 | 11 s |
    | OPQ128, 4 bits each | 64 | 0.904 | 0.494 | 63 s |
    | 512 bits, loops=0 | 68 | 0.903 | 0.507 | 37 s |
    | RaBitQ, 512 numbers | 72 | 0.879 | 0.465 | 0 s |
    | 512 bits, loops=1, no fine queries | 68 | 0.863 | 0.445 | 33 s |
    | PQ128, 4 bits each | 64 | 0.835 | 0.419 | 1 s |
    | iterative quantization, 512 signs | 64 | 0.833 | 0.419 | 5 s |

    A binarizer that is compatible with an older one takes on its numbers. The old encoder being the eighth layer of the
    new one, queries of 1,024 bits find so many of the documents judged relevant to them (of the new encoder's exact top
    10): old ones in old codes 0.790 (0.667), new ones in old codes 0.882 (0.829), in new codes 0.873 (0.833); without
    compatibility in old codes 0.025 (0.022), in new codes 0.912 (0.929). See docs/upgrade.md.

    Args:
        x: numbers, shape (n, dim), n at least 64: the vectors that are to be searched, or a sample of them.
        bits: of a code in all, a multiple of loops + 1.
        loops: residual loops, 0 to 3: a number of a code takes loops + 1 bits, of which three are stored in four.
        fine_queries: code queries in 4 bits a number, whatever loops is: it finds more, most so with a bit a number,
            where a scan takes a tenth longer; with two bits it takes a third longer. False: as what they search, as
            BEBR does.
        pairs: queries, 64 or more, and what each is to find, of the same dim as x: labels, or the rows of x of the
            highest inner products. A tenth of the queries is held out for the recall. None: x alone.
        compatible_with: a binarizer whose codes are to be searched by the queries' codes of the new one, of the same
            loops and at most as many bits: of more, the first of the queries' codes search old ones. It needs old_x.
        old_x: numbers, shape (n, compatible_with.dim): the old vectors of the items of x.
        epochs: passes over x, or 16,384 rows of it, at most; training stops earlier when the recall of rows held out
            has not risen for 5 epochs.
        checkpoint: a file that is written after each epoch. If it is there, training goes on where it ended.
        seed: of the start, the rows held out and the order. Equal arguments give equal binarizers on the same machine.
        device: of torch, such as "cpu" or "cuda".
        num_threads: threads to use; None means the CPUs of this process. Sums of torch may change in the last bits.
        progress: show a bar with loss and recall (needs tqdm: pip install "chamfer[cli]").

    Returns:
        The binarizer of the epoch with the highest recall: of the top 10 by inner products, in the top 10 by codes.

    Raises:
        ModuleNotFoundError: torch is not installed.
        TypeError: an argument has a wrong type.
        ValueError: a number out of range, shapes that do not fit, too few rows, a column that does not vary, a device
            that torch lacks, or a checkpoint of other arguments.
        CorruptIndexError: the checkpoint is damaged.

    Source: BEBR (arXiv 2302.08714); its loss with the neighbourhood by inner products as what is to be found.
    """
    output_dimension = _check_sizes(bits, loops)
    check_positive_int(epochs, "epochs")
    if not isinstance(fine_queries, (bool, np.bool_)):
        raise TypeError(f"fine_queries: expected a bool, got {type(fine_queries).__name__}")
    is_fine = bool(fine_queries) and loops < MAX_LOOPS  # the most loops code as finely
    check_seed(seed)
    threads = resolve_num_threads(num_threads)
    data = _as_data(x, pairs)
    old = _as_old(compatible_with, old_x, bits, loops, data.num_rows)
    torch = import_torch()
    where = resolve_device(torch, device)
    random = np.random.default_rng(seed)
    with torch_threads(torch, threads), progress_bar(epochs, "fit binarizer", progress, "epoch") as advance:
        validation, rows, pair_rows = _hold_out(data, old, threads, random)
        start = _start(data, rows, output_dimension, loops, is_fine, old, validation, threads, random)
        training = Training(torch, where, data, start, rows, pair_rows, epochs, seed)
        arguments = {"epochs": epochs, "seed": int(seed), "start": start.parameters}
        arrays = {"documents": data.documents, "queries": data.queries}
        arrays |= {} if old is None else {"old_x": old.vectors}
        state = _State(None if checkpoint is None else Path(checkpoint), checksum(arguments, arrays))
        state.read(training)
        if state.best is None:
            state.note(training, validation.recall(training.binarizer()))
        advance(state.epoch, f"recall {state.best_recall:.4f}")
        while state.epoch < epochs and state.since < _PATIENCE:
            loss = training.train(state.epoch)
            state.epoch += 1
            recall = validation.recall(training.binarizer())
            state.note(training, recall)
            state.write(training)
            advance(1, f"loss {loss:.4f}, recall {recall:.4f}")
        assert state.best is not None
        return _finished(start.parameters, state.best, validation)


# ── arguments ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _as_data(x: ArrayLike, pairs: tuple[ArrayLike, ArrayLike] | None) -> Data:
    rows = as_floats(check_matrix(x, "x"), "x")
    if len(rows) < MIN_ROWS:
        raise ValueError(f"x: expected at least {MIN_ROWS} rows to learn from, got {len(rows)}")
    constant = np.flatnonzero(rows.max(axis=0) == rows.min(axis=0))
    if len(constant):
        raise ValueError(f"x: expected columns that vary, got the same number in all rows of column {constant[0]}")
    if pairs is None:
        return Data(rows, len(rows), np.empty((0, rows.shape[1]), np.float32))
    if not isinstance(pairs, tuple) or len(pairs) != 2:
        raise TypeError("pairs: expected a tuple of queries and documents")
    queries = as_floats(check_matrix(pairs[0], "pairs: queries", rows.shape[1]), "pairs: queries")
    if len(queries) < MIN_ROWS:
        raise ValueError(f"pairs: expected at least {MIN_ROWS}, got {len(queries)}")
    documents = _as_rows(pairs[1], "pairs: documents", len(queries), rows.shape[1])
    return Data(np.concatenate([rows, documents]), len(rows), queries)


def _check_sizes(bits: int, loops: int) -> int:
    """Return numbers of a code."""
    check_positive_int(bits, "bits")
    if isinstance(loops, bool) or not isinstance(loops, (int, np.integer)):
        raise TypeError(f"loops: expected an int, got {type(loops).__name__}")
    if not 0 <= loops <= MAX_LOOPS:
        raise ValueError(f"loops: expected 0 to {MAX_LOOPS}, got {loops}")
    if bits % (loops + 1):
        raise ValueError(f"bits: expected a multiple of {loops + 1} (loops={loops}), got {bits}")
    if bits // (loops + 1) > _MOST_NUMBERS:
        raise ValueError(f"bits: expected at most {_MOST_NUMBERS} for each stage, got {bits} for {loops + 1}")
    return bits // (loops + 1)


@dataclass(frozen=True)
class _Old:
    """The binarizer whose codes are to be searched, and the old vectors of the rows of x."""

    binarizer: RecurrentBinarizer
    vectors: NDArray[np.float32]


def _as_old(
    binarizer: RecurrentBinarizer | None, vectors: ArrayLike | None, bits: int, loops: int, num_rows: int
) -> _Old | None:
    if binarizer is None:
        if vectors is not None:
            raise ValueError("old_x: expected None without compatible_with")
        return None
    if not isinstance(binarizer, RecurrentBinarizer):
        raise TypeError(f"compatible_with: expected a RecurrentBinarizer, got {type(binarizer).__name__}")
    if binarizer.loops != loops or binarizer.bits > bits:
        raise ValueError(
            f"compatible_with: expected a binarizer of loops={loops}, as the new one, and of at most bits={bits}, "
            f"got loops={binarizer.loops} and bits={binarizer.bits}"
        )
    if vectors is None:
        raise ValueError("old_x: expected the old vectors of the rows of x, since compatible_with is given; got None")
    return _Old(binarizer, _as_rows(vectors, "old_x", num_rows, binarizer.dim))


def _as_rows(x: ArrayLike, argument: str, num_rows: int, dim: int) -> NDArray[np.float32]:
    rows = as_floats(check_matrix(x, argument, dim), argument)
    if len(rows) != num_rows:
        raise ValueError(f"{argument}: expected {num_rows} rows, got {len(rows)}")
    return rows


# ── what is held out ────────────────────────────────────────────────────────────────────────────────────────────────


class _Validation:
    """Queries held out: how many of their top 10 by inner products are in the top 10 by codes.

    Rows that a query is mixed of count for nothing.
    """

    def __init__(
        self,
        queries: NDArray[np.float32],
        documents: NDArray[np.float32],
        mixed_of: NDArray[np.int64],
        old: RecurrentCodes | None,
        num_threads: int,
    ) -> None:
        self.queries, self.documents = queries, documents
        self._mixed_of, self._old, self._num_threads = mixed_of, old, num_threads
        k = min(_K + mixed_of.shape[1], len(documents))
        products = queries @ documents.T
        best = np.argpartition(products, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(products, best, axis=1), axis=1)
        self._k, self._exact = k, self._shown(np.take_along_axis(best, order, axis=1))

    def recall(self, binarizer: RecurrentBinarizer) -> float:
        """Return the recall; if old codes are to be searched too, the mean of both."""
        recalls = [self._found(self.search(binarizer)[1])]
        if self._old is not None:
            queries = binarizer.encode_queries(self.queries, num_threads=self._num_threads)
            recalls.append(self._found(sdc_topk(queries, self._old, self._k, num_threads=self._num_threads)[1]))
        return float(np.mean(recalls))

    def search(self, binarizer: RecurrentBinarizer) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return similarities and rows that the queries' codes find."""
        codes = binarizer.encode(self.documents, num_threads=self._num_threads)
        queries = binarizer.encode_queries(self.queries, num_threads=self._num_threads)
        return sdc_topk(queries, codes, self._k, num_threads=self._num_threads)

    def _found(self, rows: NDArray[np.int64]) -> float:
        pairs = zip(self._exact, self._shown(rows), strict=True)
        return float(np.mean([np.isin(exact, found).mean() for exact, found in pairs]))

    def _shown(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return [found[~np.isin(found, own)][:_K] for found, own in zip(rows, self._mixed_of, strict=True)]


def _hold_out(
    data: Data, old: _Old | None, threads: int, random: np.random.Generator
) -> tuple[_Validation, NDArray[np.int64], NDArray[np.int64]]:
    """Return what is held out, and rows and pairs to learn from: of pairs some are held out, else some of the rows."""
    has_pairs = len(data.queries) > 0
    order = random.permutation(len(data.queries) if has_pairs else data.num_rows)
    size = min(_VALIDATION_QUERIES, round(_VALIDATION_SHARE * len(order)))
    held_out, left = np.sort(order[:size]), np.sort(order[size:])
    shown = spread(data.num_rows, _MOST_VALIDATION_ROWS)
    if has_pairs:
        # Few are held out of few: mixed by two, as in training, they tell recalls apart that differ by little.
        two = random.choice(held_out, (2, _VALIDATION_QUERIES - size))
        queries = np.concatenate([data.queries[held_out], (data.queries[two[0]] + data.queries[two[1]]) / 2])
        mixed_of = np.empty((len(queries), 0), np.int64)
    else:
        queries, mixed_of = mixed_rows(data.documents, held_out, _VALIDATION_QUERIES, random)
        places = np.full(data.num_rows, -1)
        places[shown] = np.arange(len(shown))
        mixed_of = places[mixed_of]
    old_codes = None if old is None else old.binarizer.encode(old.vectors[shown], num_threads=threads)
    validation = _Validation(queries, data.documents[shown], mixed_of, old_codes, threads)
    return (validation, np.arange(data.num_rows), left) if has_pairs else (validation, left, np.empty(0, np.int64))


# ── the start ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _start(
    data: Data,
    training_rows: NDArray[np.int64],
    output_dimension: int,
    loops: int,
    is_fine: bool,
    old: _Old | None,
    validation: _Validation,
    threads: int,
    random: np.random.Generator,
) -> Start:
    """Return maps that quantize uniformly, as normal numbers are best, with the best of three centres of queries."""
    rows = data.documents[: data.num_rows]
    dim = rows.shape[1]
    center = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    directions = directions_of(rows - center)
    old_values = None
    if old is None:
        some = training_rows[spread(len(training_rows), EPOCH_ROWS)]
        signs = _rotation(directions[some], output_dimension, loops, random)
    else:
        old_values = _values(old.binarizer.encode(old.vectors, num_threads=threads))
        signs = _regression(directions, old_values)
        if len(signs) < output_dimension:
            some = training_rows[spread(len(training_rows), EPOCH_ROWS)]
            new = _rotation(_missed(directions[some], signs), output_dimension - len(signs), loops, random)
            signs = np.concatenate([_of_size_1(signs, directions), _of_size_1(new, directions)])
    signs = _of_size_1(signs, directions)
    numbers = directions @ signs.T
    back = np.linalg.pinv(signs).astype(np.float32)  # numbers to directions
    step = STEPS[loops + 1] * 2.0 ** (loops - 1)  # of the last stage, in parts of what is added there
    values, gains = np.where(numbers > 0, 1.0, -1.0), []
    for i in range(loops):
        gains.append(step * np.mean(np.linalg.norm(values @ back.T, axis=1)))
        values += np.where(numbers > step * values, 0.5, -0.5) * 0.5**i
    back /= np.sqrt(np.mean(back**2))  # only its direction counts; so large, since steps of Adam are absolute
    arrays = {"document_center": center, "query_center": np.zeros_like(center), "gains": np.array(gains, np.float32)}
    for block, size_in, size_out in blocks(dim, output_dimension, loops):
        # What is missed is the smaller the later the loop; its numbers are to be of size 1, where gradients pass.
        linear = (
            back if block.startswith("told") else signs * np.float32(1 if block == "signs" else 2 ** int(block[-1]))
        )
        arrays |= {
            f"{block}.linear": linear,
            f"{block}.hidden": random.standard_normal((_HIDDEN, size_in), np.float32),
            f"{block}.hidden_bias": np.zeros(_HIDDEN, np.float32),
            f"{block}.output": np.zeros((size_out, _HIDDEN), np.float32),
            f"{block}.bias": np.zeros(size_out, np.float32),
        }
    parameters = {
        "dim": dim,
        "output_dimension": output_dimension,
        "loops": loops,
        "searches": [] if old is None else [old.binarizer.fingerprint],
        "query_scale": 1.0,
        "has_scales": True,
        "has_fine_queries": is_fine,
    }
    mean = (data.queries if len(data.queries) else rows).mean(axis=0, dtype=np.float64).astype(np.float32)
    starts = [Start(parameters, arrays | {"query_center": np.float32(part) * mean}, old_values) for part in _CENTERS]
    return max(starts, key=lambda start: validation.recall(RecurrentBinarizer._of(start.parameters, start.arrays)))


def _rotation(
    directions: NDArray[np.float32], size: int, loops: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """Return so many directions, shape (size, dim): principal components, rotated so that levels tell most of them."""
    components = np.linalg.eigh(directions.T @ directions)[1][:, ::-1][:, :size]
    rotation = rotation_to_levels(directions @ components, size, loops + 1, random)
    return np.asarray(rotation @ components.T, np.float32)


def _of_size_1(maps: NDArray[np.float32], directions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a linear map times what makes its numbers of these vectors 1 in the quadratic mean."""
    return np.asarray(maps / np.sqrt(np.mean((directions @ maps.T) ** 2)), np.float32)


def _missed(directions: NDArray[np.float32], maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a linear map does not tell of these vectors; all if it tells everything."""
    if len(maps) >= directions.shape[1]:
        return directions
    told = np.linalg.qr(maps.T)[0]
    return np.asarray(directions - (directions @ told) @ told.T, np.float32)


def _regression(directions: NDArray[np.float32], old_values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the linear map, shape (size, dim), that tells best what old codes of the same items stand for."""
    moments = directions.T.astype(np.float64) @ directions
    moments += _RIDGE * np.trace(moments) / len(moments) * np.eye(len(moments))
    return np.asarray(np.linalg.solve(moments, directions.T @ directions_of(old_values)).T, np.float32)


def _values(codes: RecurrentCodes) -> NDArray[np.float32]:
    """Return what codes stand for, times their scales."""
    numbers = 2 * codes.levels().astype(np.float32) - np.float32(2**codes.bits - 1)
    numbers /= np.float32(2 ** (codes.bits - 1))
    return numbers if codes.scales is None else numbers * codes.scales[:, None]


# ── the state that a checkpoint holds ───────────────────────────────────────────────────────────────────────────────


class _State:
    """How far training is, and the best so far; kept in a file if one is given."""

    def __init__(self, path: Path | None, digest: str) -> None:
        self._path, self._digest = path, digest
        self.epoch = self.since = 0
        self.best_recall = -1.0
        self.best: dict[str, NDArray[np.float32]] | None = None

    def note(self, training: Training, recall: float) -> None:
        """Take the networks for the best if they are."""
        self.since += 1
        if recall > self.best_recall:
            self.best, self.best_recall, self.since = training.arrays(), recall, 0

    def read(self, training: Training) -> None:
        """Go on where the file ended, if there is one."""
        if self._path is None or not self._path.exists():
            return
        found, arrays = read_archive(self._path, _FORMAT, _FORMAT_VERSION)
        if found["arguments"] != self._digest:
            raise ValueError(f"checkpoint: {self._path} is of other arguments; give another file, or delete it")
        self.epoch, self.since, self.best_recall = found["epoch"], found["since"], found["best_recall"]
        self.best = {name.removeprefix("best/"): a for name, a in arrays.items() if name.startswith("best/")}
        training.restore(
            {name: array for name, array in arrays.items() if not name.startswith("best/")}, found["steps"]
        )

    def write(self, training: Training) -> None:
        """Replace the file, if one is wanted."""
        if self._path is None:
            return
        assert self.best is not None
        arrays, steps = training.state()
        arrays |= {f"best/{name}": array for name, array in self.best.items()}
        found = {
            "arguments": self._digest,
            "epoch": self.epoch,
            "since": self.since,
            "best_recall": self.best_recall,
            "steps": steps,
        }
        write_archive(self._path, _FORMAT, _FORMAT_VERSION, found, arrays)


# ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _finished(
    parameters: dict[str, Any], arrays: dict[str, NDArray[np.float32]], validation: _Validation
) -> RecurrentBinarizer:
    """Return the binarizer with scales if they find more, and with similarities of the size of inner products."""
    kinds = [RecurrentBinarizer._of(parameters | {"has_scales": kept}, arrays) for kept in (False, True)]
    best = max(kinds, key=validation.recall)
    similarities, rows = validation.search(best)
    documents = validation.documents - arrays["document_center"]
    products = np.einsum("qd,qkd->qk", validation.queries, documents[rows])
    scale = float(np.vdot(similarities, products) / np.vdot(similarities, similarities))
    return RecurrentBinarizer._of(best._parameters | {"query_scale": scale}, arrays)
