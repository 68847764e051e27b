"""What fit_binarizer trains: the networks of a RecurrentBinarizer in torch, and the steps that train them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chamfer.recurrent import TINY, RecurrentBinarizer, blocks

EPOCH_ROWS = 16_384
"""Of an epoch at most, so that an epoch of a large collection takes a minute too."""

_BATCH_ROWS = 256
_FEWEST_BATCHES = 16  # in an epoch: of few rows, smaller ones
_QUEUE_ROWS = 4096
_HARDEST = 128  # documents that a query's loss looks at: those that codes or floats hold for the nearest
_MIXED_ROWS = 8  # in a query: what it finds then is about as near to it as documents are to real queries

# Of Adam. Six times as much undoes what the start, which is fitted to these rows, has over other rotations.
_LINEAR_RATE = 5e-4
_HIDDEN_RATE = 2e-5
_BETAS = (0.9, 0.99)
_WARM_UP = 20  # batches

_MOMENTUM = 0.9  # of the copy that codes the queue, per batch
_NEIGHBOURS = 20  # that a query is to find, as the exponential of the entropy of its softmax
_PAIR_SHARE = 0.1  # of a query's pair in what it is to find; the rest are its neighbours
_VARIANCE_FLOOR = 1e-5

_OF_ADAM = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Data:
    """What is learned from.

    Attributes:
        documents: rows of x, then the documents of pairs.
        num_rows: of x.
        queries: of pairs, shape (0, dim) without.
    """

    documents: NDArray[np.float32]
    num_rows: int
    queries: NDArray[np.float32]


@dataclass(frozen=True)
class Start:
    """What training begins with.

    Attributes:
        parameters: of a RecurrentBinarizer.
        arrays: its arrays; hidden units count for nothing yet.
        old_values: what old codes of the rows of x stand for, if they are to be searched.
    """

    parameters: dict[str, Any]
    arrays: dict[str, NDArray[np.float32]]
    old_values: NDArray[np.float32] | None


class Training:
    """The networks, their slowly following copy, and Adam.

    Hidden units are normalized over a batch while training, which `binarizer` folds into their weights.
    """

    def __init__(
        self,
        torch: Any,
        device: Any,
        data: Data,
        start: Start,
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
        self._directions = self._tensor(directions_of(centered))
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
        self._rates = (_HIDDEN_RATE, _LINEAR_RATE)
        self._adam = torch.optim.Adam(
            [{"params": [self.parameters[name] for name in names]} for names in groups], betas=_BETAS
        )

    # ── one epoch ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def train(self, epoch: int) -> float:
        """Take the steps of an epoch, which depend on its number and the state only; return the mean loss."""
        torch = self._torch
        random = np.random.default_rng([self._seed, epoch])
        rows = random.permutation(self._rows)[:EPOCH_ROWS]
        batches = np.array_split(rows, max(_FEWEST_BATCHES, round(len(rows) / _BATCH_ROWS)))
        queue = self._integers(random.permutation(self._rows)[:_QUEUE_ROWS])
        with torch.no_grad():
            queue_codes = torch.cat([self._follower_codes(part) for part in queue.split(_QUEUE_ROWS // 4)])
        losses = []
        for step, batch in enumerate(batches):
            done = (epoch + step / len(batches)) / self._epochs
            warmth = min(1.0, (epoch * len(batches) + step + 1) / _WARM_UP)
            for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
                group["lr"] = rate * warmth * (0.5 + 0.5 * np.cos(np.pi * done))
            queries, keys, positives, mixed_of = self._draw(batch, random)
            directions = torch.cat([self._query_directions(queries), self._directions[keys]])
            codes = self._codes(directions, training=True, num_queries=len(queries))
            query_codes, key_codes = codes[: len(queries)], codes[len(queries) :]
            shown = torch.cat([keys, queue])
            is_pair = positives[:, None] == shown
            is_own = (mixed_of[:, :, None] == shown).any(dim=1)
            wanted = self._wanted(queries, shown).masked_fill(is_own, -np.inf)
            shown_codes = torch.cat([key_codes, queue_codes]) * self._lengths[shown, None]
            loss = self._loss(query_codes @ shown_codes.T, wanted, is_pair)
            if self._old is not None:
                old = shown < self._data.num_rows  # documents of pairs have no old codes
                first = torch.nn.functional.normalize(query_codes[:, : self._old.shape[1]])  # all but of more bits
                loss_of_old = self._loss(first @ self._old[shown[old]].T, wanted[:, old], is_pair[:, old])
                loss = (loss + loss_of_old) / 2
            self._adam.zero_grad()
            loss.backward()
            self._adam.step()
            with torch.no_grad():
                for name, follower in self.followers.items():
                    follower.lerp_(self.parameters[name], 1 - _MOMENTUM)
                queue = torch.cat([queue[len(keys) :], keys])
                queue_codes = torch.cat([queue_codes[len(keys) :], self._follower_codes(keys)])
            losses.append(float(loss.detach()))
        return float(np.mean(losses))

    def _draw(self, batch: NDArray[np.int64], random: np.random.Generator) -> tuple[Any, Any, Any, Any]:
        """Return queries, documents that are in the batch with them, and of each query its pair and rows mixed in it.

        What a query has not is -1.
        """
        data = self._data
        mixed, mixed_of = mixed_rows(data.documents, self._rows, len(batch), random)
        if len(self._pairs) == 0:
            return self._tensor(mixed), *map(self._integers, (batch, np.full(len(batch), -1), mixed_of))
        some = len(batch) // 2
        chosen, others = random.choice(self._pairs, (2, some))
        part = random.uniform(0, 1, (some, 1)).astype(np.float32)
        mixed[:some] = (data.queries[chosen] + part * data.queries[others]) / (1 + part)
        mixed_of[:some] = -1
        positives = np.full(len(batch), -1)
        positives[:some] = data.num_rows + chosen
        keys = np.concatenate([batch, positives[:some]])
        return self._tensor(mixed), *map(self._integers, (keys, positives, mixed_of))

    def _wanted(self, queries: Any, shown: Any) -> Any:
        """Return what similarities should be, times the sharpness."""
        lengths = (queries - self._query_center).norm(dim=1, keepdim=True).clamp_min(float(TINY))
        return self._sharpness * (queries / lengths) @ self._documents[shown].T

    def _loss(self, similarities: Any, wanted: Any, is_pair: Any) -> Any:
        """Return the mean Kullback-Leibler divergence of what codes find from what is to be found.

        It looks at the documents that codes or floats hold for the nearest, so the hardest negatives, but for those
        that are wanted at minus infinity: rows mixed in a query are nearer to it than documents are to real queries.
        """
        torch = self._torch
        similarities = similarities * self.parameters["log_scale"].exp()
        nearness = torch.maximum(similarities.detach(), wanted).masked_fill(is_pair, np.inf)
        nearness = nearness.masked_fill(wanted == -np.inf, -np.inf)
        chosen = nearness.topk(min(_HARDEST, nearness.shape[1] - _MIXED_ROWS), dim=1).indices
        found = similarities.gather(1, chosen).log_softmax(dim=1)
        target = wanted.gather(1, chosen).softmax(dim=1)
        if len(self._pairs):
            pair = is_pair.gather(1, chosen).float()
            share = _PAIR_SHARE * pair.amax(dim=1, keepdim=True)
            target = (1 - share) * target + share * pair / pair.sum(dim=1, keepdim=True).clamp_min(1)
        return torch.nn.functional.kl_div(found, target, reduction="batchmean")

    def _fitting_sharpness(self) -> float:
        """Return the factor of similarities at which a query's softmax over candidates is that of _NEIGHBOURS."""
        random = np.random.default_rng(self._seed)
        queries, _, _, mixed_of = self._draw(self._rows[:_BATCH_ROWS], random)
        shown = self._integers(random.permutation(self._rows)[: _QUEUE_ROWS + _BATCH_ROWS])
        self._sharpness = 1.0
        is_own = (mixed_of[:, :, None] == shown).any(dim=1)
        products = self._wanted(queries, shown).masked_fill(is_own, -1e6)  # finite, so that 0 times it is 0
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
            of_adam = self._adam.state[value]
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
            self._adam.state[value] = {kind: self._tensor(arrays[f"{kind}/{name}"]) for kind in _OF_ADAM}
            self._adam.state[value]["step"] = torch.tensor(float(steps))

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

    def _codes(
        self, directions: Any, training: bool, weights: dict[str, Any] | None = None, num_queries: int = 0
    ) -> Any:
        """Return the directions of what codes stand for, as RecurrentBinarizer._stages; so many rows are queries.

        Fine codes of queries stand for their numbers themselves, but for steps that are too small to count.
        """
        torch = self._torch
        weights = self.parameters if weights is None else weights
        numbers = self._block("signs", directions, weights, training)
        values = _signs(torch, numbers)
        for i in range(self._loops):
            told = torch.nn.functional.normalize(self._block(f"told{i}", values, weights, training))
            rest = directions - told * weights["gains"][i]
            values = values + 0.5 ** (i + 1) * _signs(torch, self._block(f"rest{i}", rest, weights, training))
        if self._start.parameters.get("has_fine_queries", False):
            values = torch.cat([numbers[:num_queries], values[num_queries:]])
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


def mixed_rows(
    documents: NDArray[np.float32], rows: NDArray[np.int64], size: int, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return means of some of the rows, weighted at random, which stand for queries, and which rows these are."""
    weights = random.uniform(0, 1, (size, _MIXED_ROWS)).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    mixed_of = random.choice(rows, weights.shape)
    return np.asarray(np.einsum("qr,qrd->qd", weights, documents[mixed_of])), mixed_of


def directions_of(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows over their lengths; a row of zeros stays."""
    lengths = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), TINY)
    return np.asarray(x / lengths, np.float32)
