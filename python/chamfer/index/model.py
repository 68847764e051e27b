"""The model of an index: all that is fitted to a collection, and then encodes every document that comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chamfer._containers import Container, write_container
from chamfer.cascade import FittedStage, check_stage_names, encode_stages
from chamfer.codecs import Codec
from chamfer.errors import CorruptIndexError
from chamfer.index.reducing import Reducer, load_reducer, reducer_name
from chamfer.parts import Collection
from chamfer.token_vectors import TokenVectors

_QUERIES_FORMAT = "chamfer.Queries"
_REDUCER, _QUERIES = "reducer.npz", "queries.chamfer"


@dataclass(frozen=True, eq=False)
class Model:
    """What encodes documents and queries.

    Attributes:
        reducer: fitted.
        stages: of reranking, fitted; None if nothing is reranked.
        queries: those it was fitted to, for the day it is fitted anew; None if there were none.
        asked: what `Index.build` was asked for, by argument, in words; None where it was an object, which nobody but
            the caller can make again.
        num_documents: that it was fitted to.
    """

    reducer: Reducer
    stages: tuple[FittedStage, ...] | None
    queries: TokenVectors | None
    asked: Mapping[str, Any]
    num_documents: int

    @property
    def codecs(self) -> dict[str, Codec]:
        """The codecs of the coded stages, by name."""
        return {stage.name: stage.codec for stage in self.stages or () if stage.codec is not None}

    def encode(self, documents: TokenVectors, num_threads: int) -> dict[str, Collection]:
        """Return the codes of documents, by stage."""
        return dict(encode_stages(self.stages or (), documents, num_threads))

    def save(self, folder: Path) -> None:
        """Write all but `settings` into a folder."""
        self.reducer.save(folder / _REDUCER)
        for name, codec in self.codecs.items():
            codec.save(folder / _codec_file(name))
        if self.queries is not None:
            arrays: dict[str, Any] = {"vectors": [self.queries.vectors], "offsets": [self.queries.offsets]}
            write_container(folder / _QUERIES, _QUERIES_FORMAT, 1, {}, arrays)

    def settings(self) -> dict[str, Any]:
        """Return what `load` needs besides the files."""
        stages = None
        if self.stages is not None:
            stages = [{"name": stage.name, "error": stage.error} for stage in self.stages]
        return {
            "reducer": reducer_name(self.reducer),
            "rerank": stages,
            "asked": dict(self.asked),
            "num_fitted": self.num_documents,
        }

    @property
    def files(self) -> list[str]:
        """Names of what `save` writes."""
        queries = [] if self.queries is None else [_QUERIES]
        return [_REDUCER, *map(_codec_file, self.codecs), *queries]

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Model:
        """Read what `save` wrote, whose `settings` are these.

        Raises:
            FileNotFoundError: a file is missing.
            CorruptIndexError: a file is damaged, or not of this model.
            ValueError: a newer chamfer wrote one.
        """
        reducer = load_reducer(folder / _REDUCER, settings["reducer"])
        stages = None
        if settings["rerank"] is not None:
            try:
                check_stage_names([stage["name"] for stage in settings["rerank"]], "rerank")
            except ValueError as error:
                raise CorruptIndexError(f"{folder}: its stages do not fit together ({error})") from None
            stages = tuple(_load_stage(folder, stage, reducer.dim) for stage in settings["rerank"])
        queries = None
        if (folder / _QUERIES).exists():
            container = Container(folder / _QUERIES, _QUERIES_FORMAT, 1)
            container.verify(list(container.arrays))
            queries = TokenVectors(np.array(container.arrays["vectors"]), np.array(container.arrays["offsets"]))
        return cls(reducer, stages, queries, settings["asked"], settings["num_fitted"])


def _load_stage(folder: Path, stage: Mapping[str, Any], dim: int) -> FittedStage:
    name, error = str(stage["name"]), float(stage["error"])
    if name == "exact":
        return FittedStage(name, None, error)
    file = folder / _codec_file(name)
    codec = Codec.load(file)
    if codec.name != name or codec.dim != dim or not 0 <= error < np.inf:
        raise CorruptIndexError(f"{file}: expected codec {name!r} of dim {dim}, got {codec!r} with error {error}")
    return FittedStage(name, codec, error)


def _codec_file(name: str) -> str:
    return f"codec-{name.replace(':', '-')}.npz"  # no system forbids that


def words(value: Any) -> Any:
    """Return what was asked for, if it is words; None for an object."""
    if value is None or isinstance(value, str):
        return value
    is_words = isinstance(value, Sequence) and all(isinstance(one, str) for one in value)
    return list(value) if is_words else None
