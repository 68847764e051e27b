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
from chamfer._runtime import check_positive_int, resolve_num_threads
from chamfer._sampling import spread
from chamfer.binary import RecurrentCodes, sdc_topk
from chamfer.recurrent import MAX_LOOPS, TINY, RecurrentBinarizer, as_floats, blocks, check_matrix
from chamfer.reducers.regression import check_seed
from chamfer.training._torch import import_torch, resolve_device, torch_threads

MIN_ROWS = 64

# Of an epoch at most, so that an epoch of a large collection takes minutes too.
_EPOCH_ROWS = 16_384
_BATCH_ROWS = 256
_QUEUE_ROWS = 4096
_HARDEST = 64  # candidates with the highest similarities by codes that a query's loss looks at, and as many by floats
_HIDDEN = 512

_LEARNING_RATE = 1e-3
_LINEAR_SHARE = 0.3  # of the learning rate, for maps that start near the best linear ones
_WARM_UP = 20  # batches
_MOMENTUM = 0.99
_NEIGHBOURS = 10  # in the neighbourhood of a query that the temperature of the loss is set for
_PAIR_SHARE = 0.5  # of its pair in what a query is to find; the rest are its neighbours
_MOST_MIXED = 1.0  # of another row in a query, in parts of its own
_RIDGE = 1e-3  # of the regression on old codes, in parts of the mean square of a column
_VARIANCE_FLOOR = 1e-5

# Rows held out tell when to stop: after so many epochs without a higher recall.
_VALIDATION_SHARE = 0.1
_MOST_VALIDATION_QUERIES = 500
_MOST_VALIDATION_ROWS = 16_384
_K = 10
_PATIENCE = 8

# Distance of neighbouring levels that codes normal numbers of variance 1 with the least error: Max (1960), table 2.
_STEPS = (1.596, 0.9957, 0.586, 0.3352)

_MOST_NUMBERS = 65_536

_OF_ADAM = ("exp_avg", "exp_avg_sq")

_FORMAT = "chamfer.training.fit_binarizer"
_FORMAT_VERSION = 1


def fit_binarizer(
    x: ArrayLike,
    *,
    bits: int,
    loops: int = 1,
    pairs: tuple[ArrayLike, ArrayLike] | None = None,
    compatible_with: RecurrentBinarizer | None = None,
    old_x: ArrayLike | None = None,
    epochs: int = 30,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 42,
    device: str = "cpu",
    num_threads: int | None = None,
    progress: bool = False,
) -> RecurrentBinarizer:
    """Train a RecurrentBinarizer, so that codes rank these vectors as inner products do.

    Without labels: rows of x, mixed by two, are the queries, and what they are to find is what their inner products
    find. The start is a random rotation of the principal components, so that training begins with the recall of
    quantized rotations.

    Args:
        x: numbers, shape (n, dim), n at least 64: the vectors that are to be searched, or a sample of them.
        bits: of a code in all, a multiple of loops + 1.
        loops: residual loops, 0 to 3: a number of a code takes loops + 1 bits, of which three are stored in four.
        pairs: queries and documents, row by row, of the same dim as x: queries are learned from too, and so is what
            they are paired with. Recall is then that of queries held out. None: x alone.
        compatible_with: a binarizer whose codes are to be searched by the queries' codes of the new one, of the same
            bits and loops. It needs old_x.
        old_x: numbers, shape (n, compatible_with.dim): the old vectors of the items of x.
        epochs: passes over x, or 16,384 rows of it, at most; training stops earlier when the recall of rows held out
            has not risen for 8 epochs.
        checkpoint: a file that is written after each epoch. If it is there, training goes on where it ended.
        seed: of the start, the rows held out and the order. Equal arguments give equal binarizers on the same machine.
        device: of torch, such as "cpu" or "cuda".
        num_threads: threads to use; None means the CPUs of this process. Sums of torch may change in the last bits.
        progress: show a bar with loss and recall (needs tqdm: pip install "chamfer[cli]").

    Returns:
        The binarizer of the epoch with the highest recall: of the top 10 by inner products, in the top 100 by codes.

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
    check_seed(seed)
    threads = resolve_num_threads(num_threads)
    data = _as_data(x, pairs)
    old = _as_old(compatible_with, old_x, bits, loops, data.num_rows)
    torch = import_torch()
    where = resolve_device(torch, device)
    random = np.random.default_rng(seed)
    with torch_threads(torch, threads), progress_bar(epochs, "fit binarizer", progress, "epoch") as advance:
        validation, rows, pair_rows = _hold_out(data, old, threads, random)
        start = _start(data, output_dimension, loops, old, validation, threads, random)
        training = _Training(torch, where, data, start, rows, pair_rows, epochs, seed)
        arguments = {"epochs": epochs, "seed": int(seed), "start": start.parameters}
        arrays = {"documents": data.documents, "queries": data.queries}
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


@dataclass(frozen=True)
class _Data:
    """What is learned from.

    Attributes:
        documents: rows of x, then the documents of pairs.
        num_rows: of x.
        queries: of pairs, shape (0, dim) without.
    """

    documents: NDArray[np.float32]
    num_rows: int
    queries: NDArray[np.float32]


def _as_data(x: ArrayLike, pairs: tuple[ArrayLike, ArrayLike] | None) -> _Data:
    rows = as_floats(check_matrix(x, "x"), "x")
    if len(rows) < MIN_ROWS:
        raise ValueError(f"x: expected at least {MIN_ROWS} rows to learn from, got {len(rows)}")
    constant = np.flatnonzero(rows.max(axis=0) == rows.min(axis=0))
    if len(constant):
        raise ValueError(f"x: expected columns that vary, got the same number in all rows of column {constant[0]}")
    if pairs is None:
        return _Data(rows, len(rows), np.empty((0, rows.shape[1]), np.float32))
    if not isinstance(pairs, tuple) or len(pairs) != 2:
        raise TypeError("pairs: expected a tuple of queries and documents")
    queries = as_floats(check_matrix(pairs[0], "pairs: queries", rows.shape[1]), "pairs: queries")
    if len(queries) < MIN_ROWS:
        raise ValueError(f"pairs: expected at least {MIN_ROWS}, got {len(queries)}")
    documents = _as_rows(pairs[1], "pairs: documents", len(queries), rows.shape[1])
    return _Data(np.concatenate([rows, documents]), len(rows), queries)


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
    if (binarizer.bits, binarizer.loops) != (bits, loops):
        raise ValueError(
            f"compatible_with: expected a binarizer of bits={bits} and loops={loops}, as the new one, "
            f"got {binarizer.bits} and {binarizer.loops}"
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
    """Queries held out: how many of their top 10 by inner products are in the top 100 by codes, or in a 20th of all."""

    def __init__(
        self,
        queries: NDArray[np.float32],
        documents: NDArray[np.float32],
        own: NDArray[np.int64],
        old: RecurrentCodes | None,
        num_threads: int,
    ) -> None:
        self.queries, self.documents = queries, documents
        self._own, self._old, self._num_threads = own, old, num_threads
        self._depth = int(np.clip(len(documents) // 20, 2 * _K, 100))
        products = queries @ documents.T
        products[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf
        self._exact = np.argpartition(products, -_K, axis=1)[:, -_K:]

    def recall(self, binarizer: RecurrentBinarizer) -> float:
        """Return the recall; if old codes are to be searched too, the mean of both."""
        recalls = [self._found(self.search(binarizer)[1])]
        if self._old is not None:
            queries = binarizer.encode_queries(self.queries, num_threads=self._num_threads)
            recalls.append(self._found(sdc_topk(queries, self._old, self._depth + 1, num_threads=self._num_threads)[1]))
        return float(np.mean(recalls))

    def search(self, binarizer: RecurrentBinarizer) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return similarities and rows that the queries' codes find."""
        codes = binarizer.encode(self.documents, num_threads=self._num_threads)
        queries = binarizer.encode_queries(self.queries, num_threads=self._num_threads)
        return sdc_topk(queries, codes, self._depth + 1, num_threads=self._num_threads)

    def _found(self, rows: NDArray[np.int64]) -> float:
        # One more is asked for than looked at: the query itself, where it is one of the documents.
        shown = [found[found != own][: self._depth] for found, own in zip(rows, self._own, strict=True)]
        return float(np.mean([np.isin(e, s).mean() for e, s in zip(self._exact, shown, strict=True)]))


def _hold_out(
    data: _Data, old: _Old | None, threads: int, random: np.random.Generator
) -> tuple[_Validation, NDArray[np.int64], NDArray[np.int64]]:
    """Return what is held out, and rows and pairs to learn from: of pairs some are held out, else some of the rows."""
    has_pairs = len(data.queries) > 0
    order = random.permutation(len(data.queries) if has_pairs else data.num_rows)
    size = min(_MOST_VALIDATION_QUERIES, round(_VALIDATION_SHARE * len(order)))
    held_out, left = np.sort(order[:size]), np.sort(order[size:])
    shown = spread(data.num_rows, _MOST_VALIDATION_ROWS)
    own = np.full(len(held_out), -1)
    if not has_pairs:
        places = np.full(data.num_rows, -1)
        places[shown] = np.arange(len(shown))
        own = places[held_out]
    queries = data.queries if has_pairs else data.documents
    old_codes = None if old is None else old.binarizer.encode(old.vectors[shown], num_threads=threads)
    validation = _Validation(queries[held_out], data.documents[shown], own, old_codes, threads)
    if has_pairs:
        return validation, np.arange(data.num_rows), left
    return validation, left, np.empty(0, np.int64)


# ── the start ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Start:
    """What training begins with.

    Attributes:
        parameters: of a RecurrentBinarizer.
        arrays: its arrays; hidden units count for nothing yet.
        old_values: what old codes of the rows of x stand for, if they are to be searched.
    """

    parameters: dict[str, Any]
    arrays: dict[str, NDArray[np.float32]]
    old_values: NDArray[np.float32] | None


def _start(
    data: _Data,
    output_dimension: int,
    loops: int,
    old: _Old | None,
    validation: _Validation,
    threads: int,
    random: np.random.Generator,
) -> _Start:
    """Return maps that quantize uniformly, as normal numbers are best, with the better of two centres of queries."""
    rows = data.documents[: data.num_rows]
    dim = rows.shape[1]
    center = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    directions = _directions(rows - center)
    old_values = None
    if old is None:
        signs = _rotation(directions, output_dimension, random)
    else:
        old_values = _values(old.binarizer.encode(old.vectors, num_threads=threads))
        signs = _regression(directions, old_values)
    numbers = directions @ signs.T
    signs /= np.sqrt(np.mean(numbers**2))
    numbers = directions @ signs.T
    back = np.linalg.pinv(signs).astype(np.float32)  # numbers to directions
    step = _STEPS[loops] * 2.0 ** (loops - 1)  # of the last stage, in parts of what is added there
    values, gains = np.where(numbers > 0, 1.0, -1.0), []
    for i in range(loops):
        gains.append(step * np.mean(np.linalg.norm(values @ back.T, axis=1)))
        values += np.where(numbers > step * values, 0.5, -0.5) * 0.5**i
    arrays = {"document_center": center, "query_center": np.zeros_like(center), "gains": np.array(gains, np.float32)}
    for block, size_in, size_out in blocks(dim, output_dimension, loops):
        # What is missed is the smaller the later the loop; its numbers are to be of size 1, where gradients pass.
        linear = (
            back if block.startswith("told") else signs * np.float32(1 if block == "signs" else 2 ** int(block[-1]))
        )
        hidden = random.standard_normal((_HIDDEN, size_in), np.float32)
        arrays |= {
            f"{block}.linear": linear,
            f"{block}.hidden": hidden / np.sqrt(np.float32(size_in)),
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
    }
    mean = (data.queries if len(data.queries) else rows).mean(axis=0, dtype=np.float64).astype(np.float32)
    starts = [
        _Start(parameters, arrays | {"query_center": part * mean}, old_values)
        for part in (np.float32(0), np.float32(1))
    ]
    return max(starts, key=lambda start: validation.recall(RecurrentBinarizer._of(start.parameters, start.arrays)))


def _directions(x: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), TINY)
    return np.asarray(x / lengths, np.float32)


def _rotation(directions: NDArray[np.float32], size: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Return so many directions, shape (size, dim), that share the variance evenly: principal components, rotated."""
    components = np.linalg.eigh(directions.T @ directions)[1][:, ::-1][:, :size]
    rotation = np.linalg.qr(random.standard_normal((size, components.shape[1])))[0]
    return np.asarray(rotation @ components.T, np.float32)


def _regression(directions: NDArray[np.float32], old_values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the linear map, shape (size, dim), that tells best what old codes of the same items stand for."""
    moments = directions.T.astype(np.float64) @ directions
    moments += _RIDGE * np.trace(moments) / len(moments) * np.eye(len(moments))
    return np.asarray(np.linalg.solve(moments, directions.T @ _directions(old_values)).T, np.float32)


def _values(codes: RecurrentCodes) -> NDArray[np.float32]:
    """Return what codes stand for, times their scales."""
    numbers = 2 * codes.levels().astype(np.float32) - np.float32(2**codes.bits - 1)
    numbers /= np.float32(2 ** (codes.bits - 1))
    return numbers if codes.scales is None else numbers * codes.scales[:, None]


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Training:
    """The networks, their slowly following copy, and Adam.

    Hidden units are normalized over a batch while training, which `binarizer` folds into their weights.
    """

    def __init__(
        self,
        torch: Any,
        device: Any,
        data: _Data,
        start: _Start,
        rows: NDArray[np.int64],
        pairs: NDArray[np.int64],
        epochs: int,
        seed: int,
    ) -> None:
        self._torch, self._device = torch, device
        self._data, self._start = data, start
        self._rows, self._pairs = rows, pairs
        self._epochs, self._seed = epochs, seed
        self._loops = start.parameters["loops"]
        self.parameters, self.statistics = self._of(start.arrays)
        self.followers = {name: value.detach().clone() for name, value in self.parameters.items()}
        # Lengths are in parts of the mean one, so that the temperature does not depend on their unit.
        centered = data.documents - start.arrays["document_center"]
        lengths = np.linalg.norm(centered, axis=1)
        unit = lengths.mean()
        self._directions = self._tensor(_directions(centered))
        self._lengths = self._tensor(lengths / unit)
        self._old = None
        if start.old_values is not None:
            self._old = self._tensor(start.old_values / np.linalg.norm(start.old_values, axis=1).mean())
        self._query_center = self._tensor(start.arrays["query_center"])
        self._documents = self._tensor(centered / unit)
        self._sharpness = self._fitting_sharpness()
        self.parameters["log_scale"] = self._tensor(np.log([self._sharpness])).requires_grad_()
        slow = [name for name in self.parameters if name.endswith(".linear") or name in ("gains", "log_scale")]
        groups = [[name for name in self.parameters if name not in slow], slow]
        self._rates = (_LEARNING_RATE, _LEARNING_RATE * _LINEAR_SHARE)
        self.adam = torch.optim.Adam(
            [{"params": [self.parameters[name] for name in names]} for names in groups], betas=(0.9, 0.99)
        )

    # ── one epoch ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def train(self, epoch: int) -> float:
        """Take the steps of an epoch, which depend on its number and the state only; return the mean loss."""
        torch = self._torch
        random = np.random.default_rng([self._seed, epoch])
        rows = random.permutation(self._rows)[:_EPOCH_ROWS]
        batches = np.array_split(rows, max(1, round(len(rows) / _BATCH_ROWS)))
        queue = self._integers(random.permutation(self._rows)[:_QUEUE_ROWS])
        with torch.no_grad():
            queue_codes = torch.cat([self._follower_codes(part) for part in queue.split(_QUEUE_ROWS // 4)])
        losses = []
        for step, batch in enumerate(batches):
            done = (epoch + step / len(batches)) / self._epochs
            warmth = min(1.0, (epoch * len(batches) + step + 1) / _WARM_UP)
            for group, rate in zip(self.adam.param_groups, self._rates, strict=True):
                group["lr"] = rate * warmth * (0.5 + 0.5 * np.cos(np.pi * done))
            queries, keys, positives = self._draw(batch, random)
            codes = self._codes(torch.cat([self._query_directions(queries), self._directions[keys]]), training=True)
            query_codes, key_codes = codes[: len(queries)], codes[len(queries) :]
            shown = torch.cat([keys, queue])
            targets = self._targets(queries, shown, positives)
            shown_codes = torch.cat([key_codes, queue_codes]) * self._lengths[shown, None]
            loss = self._loss(query_codes @ shown_codes.T, *targets)
            if self._old is not None:
                old = shown < self._data.num_rows  # documents of pairs have no old codes
                loss = (loss + self._loss(query_codes @ self._old[shown[old]].T, *(t[:, old] for t in targets))) / 2
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()
            with torch.no_grad():
                for name, follower in self.followers.items():
                    follower.lerp_(self.parameters[name], 1 - _MOMENTUM)
                queue = torch.cat([queue[len(keys) :], keys])
                queue_codes = torch.cat([queue_codes[len(keys) :], self._follower_codes(keys)])
            losses.append(float(loss.detach()))
        return float(np.mean(losses))

    def _draw(self, batch: NDArray[np.int64], random: np.random.Generator) -> tuple[Any, Any, Any]:
        """Return queries, the documents that are in the batch with them, and of each query its pair's or -1."""
        documents, queries = self._data.documents, self._data.queries
        if len(self._pairs) == 0:
            mixed = _mixed(documents[batch], documents[random.choice(self._rows, len(batch))], random)
            return self._tensor(mixed), self._integers(batch), self._integers(np.full(len(batch), -1))
        some = batch[: len(batch) // 2]
        chosen, others = random.choice(self._pairs, (2, len(batch) - len(some)))
        of_pairs = _mixed(queries[chosen], queries[others], random)
        of_rows = _mixed(documents[some], documents[random.choice(self._rows, len(some))], random)
        positives = self._data.num_rows + chosen
        return (
            self._tensor(np.concatenate([of_pairs, of_rows])),
            self._integers(np.concatenate([batch, positives])),
            self._integers(np.concatenate([positives, np.full(len(some), -1)])),
        )

    def _targets(self, queries: Any, shown: Any, positives: Any) -> tuple[Any, Any]:
        """Return what similarities should be, times the sharpness, and which documents shown are the queries' pairs."""
        lengths = (queries - self._query_center).norm(dim=1, keepdim=True).clamp_min(float(TINY))
        products = (queries / lengths) @ self._documents[shown].T
        return self._sharpness * products, positives[:, None] == shown

    def _loss(self, similarities: Any, wanted: Any, is_pair: Any) -> Any:
        """Return the mean Kullback-Leibler divergence of what codes find from what is to be found.

        It looks at the documents that codes or floats hold for the nearest, so the hardest negatives.
        """
        torch = self._torch
        similarities = similarities * self.parameters["log_scale"].exp()
        nearness = torch.maximum(similarities.detach(), wanted).masked_fill(is_pair, np.inf)
        chosen = nearness.topk(min(_HARDEST, nearness.shape[1]), dim=1).indices
        found = similarities.gather(1, chosen).log_softmax(dim=1)
        target = wanted.gather(1, chosen).softmax(dim=1)
        if len(self._pairs):
            pair = is_pair.gather(1, chosen).float()
            share = _PAIR_SHARE * pair.amax(dim=1, keepdim=True)
            target = (1 - share) * target + share * pair / pair.sum(dim=1, keepdim=True).clamp_min(1)
        return torch.nn.functional.kl_div(found, target, reduction="batchmean")

    def _fitting_sharpness(self) -> float:
        """Return the factor of similarities at which a query's softmax over candidates is that of ten neighbours."""
        random = np.random.default_rng(self._seed)
        queries, _, positives = self._draw(random.choice(self._rows, _BATCH_ROWS), random)
        shown = self._integers(random.permutation(self._rows)[: _QUEUE_ROWS + _BATCH_ROWS])
        self._sharpness = 1.0
        products = self._targets(queries, shown, positives)[0]
        low, high = 1e-3, 1e6
        for _ in range(50):
            middle = float(np.sqrt(low * high))
            logs = (middle * products).log_softmax(dim=1)
            size = float((-(logs.exp() * logs).sum(dim=1)).mean().exp())
            low, high = (middle, high) if size > _NEIGHBOURS else (low, middle)
        return middle

    def state(self) -> tuple[dict[str, NDArray[np.float32]], int]:
        """Return what `restore` takes: arrays, and how many steps were taken."""
        tensors = {f"statistics/{name}": value for name, value in self.statistics.items()}
        tensors |= {f"followers/{name}": value for name, value in self.followers.items()}
        steps = 0
        for name, value in self.parameters.items():
            of_adam = self.adam.state[value]
            tensors |= {f"parameters/{name}": value.detach()}
            tensors |= {f"{kind}/{name}": of_adam[kind] for kind in _OF_ADAM}
            steps = int(of_adam["step"])
        return {name: value.cpu().numpy().copy() for name, value in tensors.items()}, steps

    def restore(self, arrays: dict[str, NDArray[np.float32]], steps: int) -> None:
        """Go back to a state."""
        torch = self._torch
        with torch.no_grad():
            for kind in ("statistics", "followers", "parameters"):
                for name, value in getattr(self, kind).items():
                    value.copy_(self._tensor(arrays[f"{kind}/{name}"]))
        for name, value in self.parameters.items():
            self.adam.state[value] = {kind: self._tensor(arrays[f"{kind}/{name}"]) for kind in _OF_ADAM}
            self.adam.state[value]["step"] = torch.tensor(float(steps))

    # ── the networks ──────────────────────────────────────────────────────────────────────────────────────────────────

    def binarizer(self) -> RecurrentBinarizer:
        """Return the networks as they are."""
        return RecurrentBinarizer._of(self._start.parameters, self.arrays())

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the arrays of the binarizer, the normalization of hidden units folded in."""
        arrays = {name: array for name, array in self._start.arrays.items() if name.endswith("_center")}
        found = {name: value.detach().cpu().numpy() for name, value in (self.parameters | self.statistics).items()}
        arrays["gains"] = found["gains"].copy()
        for block, _, _ in self._blocks():
            factor = found[f"{block}.factor"] / np.sqrt(found[f"{block}.variance"] + _VARIANCE_FLOOR)
            arrays |= {
                f"{block}.linear": found[f"{block}.linear"].copy(),
                f"{block}.hidden": found[f"{block}.hidden"] * factor[:, None],
                f"{block}.hidden_bias": found[f"{block}.shift"] - found[f"{block}.mean"] * factor,
                f"{block}.output": found[f"{block}.output"].copy(),
                f"{block}.bias": found[f"{block}.bias"].copy(),
            }
        return arrays

    def _of(self, arrays: dict[str, NDArray[np.float32]]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return parameters and statistics of a batch's normalization that start as these arrays."""
        parameters, statistics = {"gains": self._tensor(arrays["gains"]).requires_grad_()}, {}
        for block, _, _ in self._blocks():
            num_hidden = len(arrays[f"{block}.hidden"])
            start = {name: arrays[f"{block}.{name}"] for name in ("linear", "hidden", "output", "bias")}
            start |= {"factor": np.ones(num_hidden, np.float32), "shift": np.zeros(num_hidden, np.float32)}
            parameters |= {f"{block}.{name}": self._tensor(array).requires_grad_() for name, array in start.items()}
            statistics[f"{block}.mean"] = self._tensor(np.zeros(num_hidden))
            statistics[f"{block}.variance"] = self._tensor(np.ones(num_hidden))
        return parameters, statistics

    def _blocks(self) -> list[tuple[str, int, int]]:
        of = self._start.parameters
        return blocks(of["dim"], of["output_dimension"], of["loops"])

    def _query_directions(self, queries: Any) -> Any:
        return self._torch.nn.functional.normalize(queries - self._query_center)

    def _follower_codes(self, rows: Any) -> Any:
        return self._codes(self._directions[rows], training=False, weights=self.followers)

    def _codes(self, directions: Any, training: bool, weights: dict[str, Any] | None = None) -> Any:
        """Return the directions of what codes stand for, as RecurrentBinarizer._stages."""
        torch = self._torch
        weights = self.parameters if weights is None else weights
        values = _signs(torch, self._block("signs", directions, weights, training))
        for i in range(self._loops):
            told = torch.nn.functional.normalize(self._block(f"told{i}", values, weights, training))
            rest = directions - told * weights["gains"][i]
            values = values + 0.5 ** (i + 1) * _signs(torch, self._block(f"rest{i}", rest, weights, training))
        return torch.nn.functional.normalize(values)

    def _block(self, name: str, rows: Any, weights: dict[str, Any], training: bool) -> Any:
        hidden = self._torch.nn.functional.batch_norm(
            rows @ weights[f"{name}.hidden"].T,
            self.statistics[f"{name}.mean"],
            self.statistics[f"{name}.variance"],
            weights[f"{name}.factor"],
            weights[f"{name}.shift"],
            training=training,
            eps=_VARIANCE_FLOOR,
        )
        return (
            rows @ weights[f"{name}.linear"].T + hidden.relu() @ weights[f"{name}.output"].T + weights[f"{name}.bias"]
        )

    def _tensor(self, array: NDArray[Any]) -> Any:
        return self._torch.tensor(array, dtype=self._torch.float32, device=self._device)

    def _integers(self, array: NDArray[np.int64]) -> Any:
        return self._torch.from_numpy(np.asarray(array, np.int64)).to(self._device)


def _signs(torch: Any, numbers: Any) -> Any:
    """Return signs, -1 for 0; gradients pass where numbers are from -1 to 1 (straight-through)."""
    passing = numbers.clamp(-1, 1)
    return passing + (torch.where(numbers > 0, 1.0, -1.0) - passing).detach()


def _mixed(rows: NDArray[np.float32], others: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Return rows and parts of others, as means, so that queries differ from all that they are to find."""
    part = random.uniform(0, _MOST_MIXED, (len(rows), 1)).astype(np.float32)
    return np.asarray((rows + part * others) / (1 + part), np.float32)


# ── the state that a checkpoint holds ───────────────────────────────────────────────────────────────────────────────


class _State:
    """How far training is, and the best so far; kept in a file if one is given."""

    def __init__(self, path: Path | None, digest: str) -> None:
        self._path, self._digest = path, digest
        self.epoch = self.since = 0
        self.best_recall = -1.0
        self.best: dict[str, NDArray[np.float32]] | None = None

    def note(self, training: _Training, recall: float) -> None:
        """Take the networks for the best if they are."""
        self.since += 1
        if recall > self.best_recall:
            self.best, self.best_recall, self.since = training.arrays(), recall, 0

    def read(self, training: _Training) -> None:
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

    def write(self, training: _Training) -> None:
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
