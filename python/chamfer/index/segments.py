"""Segments: documents that were added together, with all that a search needs of them. They never change.

A segment on disk is a folder with two files: documents.chamfer, a container of token vectors, offsets and the codes of
each stage, and candidates.faiss or candidates.npz. Its ids, metadata and deleted documents lie in the catalogue.
"""

from __future__ import annotations

import json
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chamfer._containers import Container, advise, file_checksum, header_checksum, write_container
from chamfer._files import sync_file, sync_folder
from chamfer.candidates import Candidates
from chamfer.codecs import Codec
from chamfer.errors import CorruptIndexError
from chamfer.index.catalogue import Blobs, Record, checksum_of
from chamfer.index.filling import candidates_file, load_candidates
from chamfer.parts import Collection
from chamfer.token_vectors import TokenVectors, offsets_of

_FORMAT = "chamfer.Segment"
_FORMAT_VERSION = 1
_DOCUMENTS = "documents.chamfer"

Metadata = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Segment:
    """Documents with codes, candidates and ids.

    Attributes:
        documents: token vectors, deleted documents too.
        codes: of each coded stage, by its name.
        candidates: their encodings; rows are those of `documents`.
        ids: int64, or object of str, one per document.
        deleted: bool, one per document; None if none is.
        record: what the manifest says of it, if it lies on disk.
    """

    documents: TokenVectors
    codes: Mapping[str, Collection]
    candidates: Candidates
    ids: NDArray[Any]
    metadata: SegmentMetadata
    deleted: NDArray[np.bool_] | None = None
    record: Record | None = None
    _rows: list[dict[int | str, int]] = field(default_factory=list)  # by id, once they are asked for

    def row_of(self, id: int | str) -> int | None:  # noqa: A002  # the word of the interface
        """Return the row of a document, None if it is not here or deleted."""
        if not self._rows:  # what `replace` makes of a segment shares it
            self._rows.append(dict(zip(self.ids.tolist(), range(len(self)), strict=True)))
        row = self._rows[0].get(id)
        return None if row is None or (self.deleted is not None and self.deleted[row]) else row

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def num_deleted(self) -> int:
        """Documents that are deleted."""
        return 0 if self.deleted is None else int(self.deleted.sum())

    def live_rows(self) -> NDArray[np.int64]:
        """Rows of the documents that are not deleted."""
        return np.arange(len(self)) if self.deleted is None else np.flatnonzero(~self.deleted)


class SegmentMetadata:
    """The metadata of a segment's documents: stored, and decoded when they are first asked for.

    Args:
        stored: what `encode_metadata` returned.
    """

    def __init__(self, stored: bytes) -> None:
        self.stored = stored
        self.columns: dict[str, Any] = {}  # what filters make of it
        self.lock = threading.RLock()

    @cached_property
    def rows(self) -> list[Metadata | None]:
        """One per document; empty if none has any."""
        rows: list[Metadata | None] = json.loads(self.stored) if self.stored else []
        return rows

    @cached_property
    def keys(self) -> frozenset[str]:
        """Keys that some document has."""
        return frozenset(key for row in self.rows if row for key in row)

    def of(self, row: int) -> dict[str, Any]:
        """Return those of a document."""
        return dict((self.rows[row] if self.rows else None) or {})


def encode_metadata(rows: Sequence[Metadata | None]) -> bytes:
    """Return metadata as the catalogue keeps it: nothing where no document has any."""
    return json.dumps(list(rows)).encode() if any(rows) else b""


def encode_ids(ids: NDArray[Any]) -> bytes:
    """Return ids as the catalogue keeps them."""
    return json.dumps(ids.tolist()).encode() if ids.dtype == object else ids.astype("<i8").tobytes()


def decode_ids(stored: bytes, *, are_strings: bool) -> NDArray[Any]:
    """Return what `encode_ids` was given."""
    if not are_strings:
        return np.frombuffer(stored, "<i8").astype(np.int64)
    return ids_array(json.loads(stored), are_strings=True)


def ids_array(ids: Sequence[int] | Sequence[str], *, are_strings: bool) -> NDArray[Any]:
    """Return ids as a segment has them."""
    array: NDArray[Any] = np.empty(len(ids), object if are_strings else np.int64)
    array[:] = ids
    return array


def encode_deleted(deleted: NDArray[np.bool_] | None) -> bytes:
    """Return a mask as the catalogue keeps it."""
    return b"" if deleted is None or not deleted.any() else np.packbits(deleted).tobytes()


def decode_deleted(stored: bytes, size: int) -> NDArray[np.bool_] | None:
    """Return what `encode_deleted` was given."""
    if not stored:
        return None
    return np.unpackbits(np.frombuffer(stored, np.uint8), count=size).astype(bool)


def segment_blobs(segment: Segment) -> Blobs:
    """Return what a segment has in the catalogue."""
    return Blobs(encode_ids(segment.ids), segment.metadata.stored, encode_deleted(segment.deleted))


def with_deleted(segment: Segment, deleted: NDArray[np.bool_] | None) -> Segment:
    """Return a segment of which these documents are deleted, a bool per document."""
    made = replace(segment, deleted=deleted)
    if segment.record is None:
        return made
    checksums = {**segment.record.checksums, "deleted": checksum_of(encode_deleted(deleted))}
    return replace(made, record=replace(segment.record, checksums=checksums))


# ── what a segment is made of ─────────────────────────────────────────────────────────────────────────────────────────

# Arrays by name, each in parts that come one after the other: "vectors", "offsets", and of each coded stage its codes
# and their terms, named "int8 codes", "int8 scales" and so on.
Arrays = dict[str, list[NDArray[Any]]]


def arrays_of(documents: TokenVectors, codes: Mapping[str, Collection]) -> Arrays:
    """Return the arrays of documents and of their codes."""
    arrays: Arrays = {"vectors": [documents.vectors], "offsets": [documents.offsets]}
    for stage, coded in codes.items():
        for name, array in _code_arrays(coded).items():
            arrays[f"{stage} {name}"] = [array]
    return arrays


def live_arrays(segments: Sequence[Segment]) -> Arrays:
    """Return the arrays of the documents that are not deleted, of several segments: views, however many there are."""
    arrays: Arrays = {"vectors": [], "offsets": []}
    lengths = []
    for segment in segments:
        offsets = segment.documents.offsets
        for begin, end in _runs(segment.live_rows()):
            first, last = int(offsets[begin]), int(offsets[end])
            arrays["vectors"].append(segment.documents.vectors[first:last])
            lengths.append(np.diff(offsets[begin : end + 1]))
            for stage, coded in segment.codes.items():
                for name, array in _code_arrays(coded).items():
                    is_per_token = name in _PER_TOKEN
                    run = array[first:last] if is_per_token else array[begin:end]
                    arrays.setdefault(f"{stage} {name}", []).append(run)
    if not lengths:
        no_codes = {stage: coded.select([]) for stage, coded in segments[0].codes.items()}
        return arrays_of(segments[0].documents._run(0, 0), no_codes)
    arrays["offsets"] = [offsets_of(np.concatenate(lengths))]
    return arrays


_PER_TOKEN = frozenset({"codes", "vectors", "token_terms"})


def _code_arrays(coded: Collection) -> dict[str, NDArray[Any]]:
    if isinstance(coded, TokenVectors):
        return {"vectors": coded.vectors}
    return {"codes": coded.codes, **coded.terms}


def _runs(rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return where stretches of rows, ascending, begin and end."""
    if not len(rows):
        return []
    gaps = np.flatnonzero(np.diff(rows) > 1)
    begins, ends = rows[np.concatenate([[0], gaps + 1])], rows[np.concatenate([gaps, [len(rows) - 1]])] + 1
    return list(zip(begins.tolist(), ends.tolist(), strict=True))


def _contents(
    arrays: Mapping[str, NDArray[Any]], codecs: Mapping[str, Codec], dim: int
) -> tuple[TokenVectors, dict[str, Collection]]:
    """Return documents and codes, checked.

    Raises:
        ValueError, KeyError, TypeError: the arrays do not fit.
    """
    documents = _documents(arrays["vectors"], arrays["offsets"], dim)
    codes = {}
    for stage, made in codecs.items():
        prefix = f"{stage} "
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        codes[stage] = made._codes_of(own, documents.offsets)
    return documents, codes


def make_segment(
    folder: Path | None,
    arrays: Arrays,
    codecs: Mapping[str, Codec],
    ids: NDArray[Any],
    metadata: SegmentMetadata,
    fill: Callable[[TokenVectors], Candidates],
    advance: Callable[[int], object] = lambda _: None,
) -> Segment:
    """Make a segment, in memory or, if there is a folder, on disk, where it stays and is mapped.

    Args:
        folder: of the index.
        arrays: of documents and codes.
        codecs: of the coded stages.
        ids: one per document.
        metadata: one per document.
        fill: returns the candidates of the documents.
        advance: called with the bytes of what has been written.
    """
    dim = arrays["vectors"][0].shape[1]
    if folder is None:
        whole = {name: parts[0] if len(parts) == 1 else np.concatenate(parts) for name, parts in arrays.items()}
        documents, codes = _contents(whole, codecs, dim)
        return Segment(documents, codes, fill(documents), ids, metadata)
    name = f"s-{secrets.token_hex(6)}"
    place = folder / name
    place.mkdir()
    try:
        write_container(place / _DOCUMENTS, _FORMAT, _FORMAT_VERSION, {}, arrays, advance)
        mapped = Container(place / _DOCUMENTS, _FORMAT, _FORMAT_VERSION).arrays
        documents, codes = _contents(mapped, codecs, dim)
        candidates = fill(documents)
        encodings = candidates_file(candidates)
        candidates.save(place / encodings)
        sync_file(place / encodings)
        sync_folder(place)
        sync_folder(folder)
        _advise(mapped)
        segment = Segment(documents, codes, candidates, ids, metadata)
        checksums = segment_blobs(segment).checksums()
        files = files_of(place, (_DOCUMENTS, encodings))
        return replace(segment, record=Record(name, len(segment), files, checksums))
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def remove_segments(folder: Path, segments: Sequence[Segment]) -> None:
    """Remove the files of segments that are not in use; what cannot be removed now the next writer does."""
    for segment in segments:
        if segment.record is not None:
            shutil.rmtree(folder / segment.record.name, ignore_errors=True)


@contextmanager
def temporary_documents(folder: Path | None, arrays: Arrays) -> Iterator[TokenVectors]:
    """Give the documents of these arrays as one collection: in a file that goes after the block, or in memory."""
    if folder is None:
        whole = {name: np.concatenate(arrays[name]) for name in ("vectors", "offsets")}
        yield TokenVectors._trusted(whole["vectors"], whole["offsets"])
        return
    place = folder / f"s-{secrets.token_hex(6)}"
    place.mkdir()
    try:
        own = {name: arrays[name] for name in ("vectors", "offsets")}
        write_container(place / _DOCUMENTS, _FORMAT, _FORMAT_VERSION, {}, own)
        mapped = Container(place / _DOCUMENTS, _FORMAT, _FORMAT_VERSION).arrays
        yield TokenVectors._trusted(mapped["vectors"], np.array(mapped["offsets"]))
    finally:
        shutil.rmtree(place, ignore_errors=True)


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def files_of(folder: Path, names: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Return bytes and checksum of files; of a container, whose header has those of the rest, that of its header."""
    return {name: ((folder / name).stat().st_size, _checksum(folder / name)) for name in names}


def _checksum(file: Path) -> str:
    return header_checksum(file) if file.suffix == ".chamfer" else file_checksum(file)


def check_files(folder: Path, files: Mapping[str, tuple[int, str]]) -> None:
    """Compare sizes and checksums of files.

    Raises:
        FileNotFoundError: one is missing.
        CorruptIndexError: one differs.
    """
    for name, (size, checksum) in files.items():
        file = folder / name
        if (found := file.stat().st_size) != size:
            raise CorruptIndexError(f"{file}: expected {size} bytes, got {found}")
        if _checksum(file) != checksum:
            raise CorruptIndexError(f"{file}: its contents changed since it was written (checksum differs)")


def check_documents(place: Path) -> Container:
    """Return the documents of a segment, all but the token vectors compared with their checksums.

    Raises:
        FileNotFoundError: they are missing.
        CorruptIndexError: they are damaged.
    """
    container = Container(place / _DOCUMENTS, _FORMAT, _FORMAT_VERSION)
    container.verify([name for name in container.arrays if name != "vectors"])
    return container


def open_segment(
    folder: Path,
    record: Record,
    blobs: Blobs,
    codecs: Mapping[str, Codec],
    dim: int,
    candidates: tuple[str, int],
    *,
    are_strings: bool,
    verify: bool,
) -> Segment:
    """Open a segment of an index; token vectors are mapped, and checked if `verify`; see `Index.open`.

    Args:
        folder: of the index.
        record: what the manifest says of it.
        blobs: what the catalogue has of it.
        codecs: of the coded stages.
        dim: of the token vectors.
        candidates: their description, and dims of an encoding.
        are_strings: whether ids are.
        verify: compare token vectors with their checksum too.

    Raises:
        FileNotFoundError: a file is missing.
        CorruptIndexError: a file is damaged, or not of this index.
    """
    place = folder / record.name
    check_files(place, record.files)
    container = check_documents(place)
    if verify:
        container.verify(["vectors"])
    try:
        documents, codes = _contents(container.arrays, codecs, dim)
        ids = decode_ids(blobs.ids, are_strings=are_strings)
        found = load_candidates(place, candidates[1], candidates[0])
        if not len(documents) == len(ids) == found.num_documents == record.num_documents:
            raise ValueError(f"{len(documents)} documents, {len(ids)} ids, {found.num_documents} encodings")
        deleted = decode_deleted(blobs.deleted, len(documents))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, CorruptIndexError):
            raise
        raise CorruptIndexError(f"{place}: its files do not fit together ({error})") from None
    _advise(container.arrays)
    return Segment(documents, codes, found, ids, SegmentMetadata(blobs.metadata), deleted, record)


def read_documents(place: Path, dim: int) -> TokenVectors:
    """Return the documents of a segment's folder, checked, whatever the state of its codes.

    Raises:
        FileNotFoundError: there is no such segment.
        CorruptIndexError: they are damaged.
    """
    container = Container(place / _DOCUMENTS, _FORMAT, _FORMAT_VERSION)
    try:
        container.verify(["vectors", "offsets"])
        return _documents(container.arrays["vectors"], container.arrays["offsets"], dim)
    except (ValueError, KeyError) as error:
        if isinstance(error, CorruptIndexError):
            raise
        raise CorruptIndexError(f"{place / _DOCUMENTS}: its contents do not fit together ({error})") from None


def _documents(vectors: NDArray[Any], offsets: NDArray[Any], dim: int) -> TokenVectors:
    if vectors.ndim != 2 or vectors.shape[1] != dim or vectors.dtype not in (np.float32, np.float16):
        raise ValueError(f"vectors {vectors.dtype} of shape {vectors.shape}, dim {dim}")
    offsets = np.array(offsets)
    if (
        offsets.dtype != np.int64
        or offsets.ndim != 1
        or len(offsets) == 0
        or offsets[0] != 0
        or offsets[-1] != len(vectors)
        or (np.diff(offsets) < 0).any()
    ):
        raise ValueError(f"offsets of {len(vectors)} vectors that are none")
    return TokenVectors._trusted(vectors, offsets)


def _advise(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Tell the system how arrays are read: token vectors of survivors here and there, codes all the time."""
    for name, array in arrays.items():
        advise(array, "MADV_RANDOM" if name == "vectors" else "MADV_WILLNEED")
