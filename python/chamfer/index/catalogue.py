"""The catalogue of an index: one SQLite file that says which segments there are, with ids, metadata and settings.

A change is one transaction: it is there or not, whatever happens. SQLite has no checksums of what it holds, so each
record has its own, and the manifest one over all: a changed bit raises, and never gives another answer. A write-ahead
log that is damaged or lost would bring an older state back without a word, so HEAD, a file replaced after each
transaction, tells which generation is the least that is to be found.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from chamfer._containers import file_checksum
from chamfer._files import replace_file, sync_folder
from chamfer.errors import CorruptIndexError, LockedIndexError

FORMAT_VERSION = 3
CATALOGUE = "catalogue.sqlite"
HEAD = "HEAD"

_APPLICATION = 0x63686D66  # "chmf": what `file` shows of an SQLite file, and what tells ours from another
_WAIT_SECONDS = 30.0

_SCHEMA = f"""
    PRAGMA application_id = {_APPLICATION};
    PRAGMA user_version = {FORMAT_VERSION};
    CREATE TABLE manifest (
        one INTEGER PRIMARY KEY CHECK (one = 1), generation INTEGER NOT NULL, body TEXT NOT NULL, checksum TEXT NOT NULL
    );
    CREATE TABLE segments (
        name TEXT PRIMARY KEY, ids BLOB NOT NULL, metadata BLOB NOT NULL
    );
    CREATE TABLE deleted (
        name TEXT PRIMARY KEY, rows BLOB NOT NULL
    );
"""


@dataclass(frozen=True)
class Record:
    """What the manifest says of a segment.

    Attributes:
        name: of its folder.
        num_documents: those deleted counted too.
        files: bytes and xxh3_64 of each file, by name.
        checksums: xxh3_64 of its ids, metadata and deleted documents in the catalogue.
    """

    name: str
    num_documents: int
    files: Mapping[str, tuple[int, str]]
    checksums: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """One state of an index.

    Attributes:
        generation: grows by one with each change.
        index_id: drawn when the folder was filled; another one is another index.
        settings: what JSON holds.
        model: name of the folder of what is fitted.
        model_files: bytes and xxh3_64 of each of its files, by name.
        segments: in the order of their documents.
    """

    generation: int
    index_id: str
    settings: Mapping[str, Any]
    model: str
    model_files: Mapping[str, tuple[int, str]]
    segments: tuple[Record, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of all files it names."""
        files = [self.model_files, *(record.files for record in self.segments)]
        return sum(size for some in files for size, _ in some.values())


@dataclass(frozen=True)
class Blobs:
    """What a segment has in the catalogue."""

    ids: bytes
    metadata: bytes
    deleted: bytes

    def checksums(self) -> dict[str, str]:
        """Return xxh3_64 of each."""
        return {name: checksum_of(getattr(self, name)) for name in ("ids", "metadata", "deleted")}


def checksum_of(value: bytes) -> str:
    """Return xxh3_64, 16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(value)


def create(path: Path) -> None:
    """Make an empty catalogue, whole or not at all."""
    temporary = path / f".{CATALOGUE}.new"
    temporary.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = OFF")  # what a crash leaves is never read
            connection.executescript(_SCHEMA)
            connection.execute("PRAGMA journal_mode = WAL")  # stays with the file, which then never has a journal
        with replace_file(path / CATALOGUE) as file:
            file.write(temporary.read_bytes())
    except sqlite3.Error as error:  # of a file that is new: the disk's
        raise OSError(f"{temporary}: {error}") from None
    finally:
        for entry in path.glob(f".{CATALOGUE}.new*"):
            with suppress(OSError):
                entry.unlink()


def generation(path: Path) -> tuple[str, int]:
    """Return the index and the least generation that this folder is to hold, from HEAD: what a reader asks often.

    Raises:
        FileNotFoundError: there is no index.
        CorruptIndexError: HEAD is damaged.
    """
    file = path / HEAD
    try:
        stored = file.read_bytes()
    except FileNotFoundError:
        if (path / CATALOGUE).exists() and not is_unfinished(path):
            raise CorruptIndexError(f"{file}: missing; `chamfer verify --repair` writes it anew") from None
        raise FileNotFoundError(f"{path}: no index here (no {HEAD})") from None
    try:
        text = stored.decode("ascii")
        index_id, number, _ = text.split(" ")
        if text != _head(index_id, int(number)):
            raise ValueError("its checksum differs")
    except ValueError as error:
        raise CorruptIndexError(f"{file}: damaged ({error}); `chamfer verify --repair` writes it anew") from None
    return index_id, int(number)


def read(path: Path, known: Collection[str] = (), least: int | None = None) -> tuple[Manifest, dict[str, Blobs]]:
    """Return the present state, and what each segment has in the catalogue, all checked.

    Args:
        path: the folder.
        known: names of segments of which only `deleted` is read; the rest never changes.
        least: generation to be found, or a later one; None means that which HEAD names.

    Raises:
        FileNotFoundError: there is no catalogue, or nothing in it yet.
        CorruptIndexError: the catalogue is damaged, or older than HEAD says.
        ValueError: a newer chamfer wrote it.
    """
    if least is None:
        _, least = generation(path)
    with _reading(path) as connection:
        manifest = _read_manifest(connection, path)
        names = [name for (name,) in connection.execute("SELECT name FROM segments")]
        expected = {record.name for record in manifest.segments}
        if len(names) != len(expected) or set(names) != expected:  # NULLs, which cannot be sorted, may be among them
            raise CorruptIndexError(f"{path / CATALOGUE}: expected the segments of its manifest, got {names}")
        blobs = {
            record.name: _read_blobs(connection, path, record, record.name in known) for record in manifest.segments
        }
    if manifest.generation < least:
        raise CorruptIndexError(
            f"{path / CATALOGUE}: generation {manifest.generation} is older than the {least} that {HEAD} names: "
            "its write-ahead log was damaged or not copied; restore the whole folder from a copy"
        )
    return manifest, blobs


def _read_blobs(connection: sqlite3.Connection, path: Path, record: Record, only_deleted: bool) -> Blobs:
    found: dict[str, Any] = {}
    if not only_deleted:
        query = "SELECT ids, metadata FROM segments WHERE name = ?"
        found |= zip(("ids", "metadata"), connection.execute(query, (record.name,)).fetchone() or (), strict=False)
    query = "SELECT rows FROM deleted WHERE name = ?"
    found |= zip(("deleted",), connection.execute(query, (record.name,)).fetchone() or (), strict=False)
    for part in ("deleted",) if only_deleted else ("ids", "metadata", "deleted"):
        value = found.get(part)
        if not isinstance(value, bytes) or checksum_of(value) != record.checksums[part]:
            raise CorruptIndexError(
                f"{path / CATALOGUE}: the {part} of segment {record.name} are damaged (checksum differs)"
            )
    return Blobs(found.get("ids", b""), found.get("metadata", b""), found["deleted"])


def is_unfinished(path: Path) -> bool:
    """Return whether a catalogue without a HEAD is of a first build that did not end: ours, and of no later state.

    Raises:
        CorruptIndexError: it is damaged, or another program's.
    """
    with _reading(path) as connection:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != _APPLICATION:
            raise CorruptIndexError(f"{path / CATALOGUE}: damaged, or not chamfer's")
        row = connection.execute("SELECT generation FROM manifest").fetchone()
    return row is None or (row[0] == 1 and (path / f".{HEAD}.new").exists())


def write(path: Path, manifest: Manifest, changed: Mapping[str, Blobs]) -> Manifest:
    """Make this the state, in one transaction, and return it with its generation.

    Args:
        path: the folder.
        manifest: the state; its generation is the one that is replaced.
        changed: of each segment that is new, all it has; of one that is not, what has `deleted` only is taken.

    Raises:
        FileExistsError: the folder has another state than the one that is replaced.
        LockedIndexError: SQLite waited in vain for a reader.
        OSError: the disk is full or not writable. As after any error, what lies there is the old state or the new one.
    """
    new = replace(manifest, generation=manifest.generation + 1)
    body = json.dumps(
        {
            "index_id": new.index_id,
            "settings": dict(new.settings),
            "model": new.model,
            "model_files": dict(new.model_files),
            "segments": [
                {"name": r.name, "num_documents": r.num_documents, "files": r.files, "checksums": r.checksums}
                for r in new.segments
            ],
        }
    )
    # HEAD is written before the transaction ends, and only renamed after: that takes no room on the disk.
    head = path / f".{HEAD}.new"
    with replace_file(head) as file:
        file.write(_head(new.index_id, new.generation).encode())
    try:
        with closing(_writing(path / CATALOGUE)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                _replace_state(connection, path, new, changed, body)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
    except sqlite3.Error as error:
        raise _translated(path, error) from None
    head.replace(path / HEAD)
    sync_folder(path)
    return new


def _replace_state(
    connection: sqlite3.Connection, path: Path, new: Manifest, changed: Mapping[str, Blobs], body: str
) -> None:
    row = connection.execute("SELECT generation FROM manifest").fetchone()
    if (0 if row is None else row[0]) != new.generation - 1:
        raise FileExistsError(f"{path}: was changed by somebody else; open it again")
    known = {name for (name,) in connection.execute("SELECT name FROM segments")}
    kept = {record.name for record in new.segments}
    for table in ("segments", "deleted"):
        connection.executemany(f"DELETE FROM {table} WHERE name = ?", [(name,) for name in known - kept])
    for name, blobs in changed.items():
        if name not in known:
            connection.execute("INSERT INTO segments VALUES (?, ?, ?)", (name, blobs.ids, blobs.metadata))
        connection.execute("INSERT OR REPLACE INTO deleted VALUES (?, ?)", (name, blobs.deleted))
    checksum = _manifest_checksum(new.generation, body)
    connection.execute("INSERT OR REPLACE INTO manifest VALUES (1, ?, ?, ?)", (new.generation, body, checksum))


def write_head(path: Path, manifest: Manifest) -> None:
    """Let HEAD name this state."""
    with replace_file(path / HEAD) as file:
        file.write(_head(manifest.index_id, manifest.generation).encode())


def check_structure(path: Path) -> list[str]:
    """Return what SQLite's own check of its pages finds wrong, nothing if all is well."""
    try:
        with _reading(path) as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
    except CorruptIndexError as error:
        return [str(error)]
    return [] if found == ["ok"] else found


def _head(index_id: str, number: int) -> str:
    text = f"{index_id} {number}"
    return f"{text} {xxhash.xxh3_64_hexdigest(text.encode())}\n"


def _manifest_checksum(number: int, body: str) -> str:
    return checksum_of(f"{FORMAT_VERSION} {number} {body}".encode())


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection inside one read transaction."""
    file = path / CATALOGUE
    if not file.exists():
        raise CorruptIndexError(f"{file}: missing; restore the folder from a copy or build the index again")
    try:
        with closing(_connect(file)) as connection:
            connection.execute("BEGIN")
            yield connection
    except sqlite3.Error as error:
        raise _translated(path, error) from None
    except (UnicodeDecodeError, OverflowError) as error:  # a text that is none any more
        raise CorruptIndexError(f"{file}: damaged ({error})") from None


def _writing(file: Path) -> sqlite3.Connection:
    """Return a connection that writes, and never makes a file: what is missing is not made again, empty."""
    address = f"{file.resolve().as_uri()}?mode=rw"
    return sqlite3.connect(address, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)


def _connect(file: Path) -> sqlite3.Connection:
    address = f"{file.resolve().as_uri()}?mode=ro"
    connection = sqlite3.connect(address, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        # A reader of a write-ahead log wants to write beside it; in a folder where nobody can, nothing changes either.
        connection.close()
        log = file.with_name(file.name + "-wal")
        is_closed = any(word in str(error) for word in ("unable to open", "readonly"))
        if not is_closed or (log.exists() and log.stat().st_size):
            raise
        connection = sqlite3.connect(f"{address}&immutable=1", uri=True, isolation_level=None)
    except BaseException:
        connection.close()
        raise
    return connection


def _read_manifest(connection: sqlite3.Connection, path: Path) -> Manifest:
    file = path / CATALOGUE
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise CorruptIndexError(f"{file}: damaged, or not chamfer's")
    try:
        row = connection.execute("SELECT generation, body, checksum FROM manifest").fetchone()
    except sqlite3.DatabaseError:
        if version <= FORMAT_VERSION:
            raise
        row = ("of another format", "", "")
    if row is None:
        raise FileNotFoundError(f"{path}: no index here (its first build did not end)")
    number, body, checksum = row
    is_this_version = isinstance(body, str) and _manifest_checksum(number, body) == checksum
    if version > FORMAT_VERSION and not is_this_version:
        raise ValueError(
            f"{path}: format version {version}, this chamfer reads up to {FORMAT_VERSION}; upgrade chamfer"
        )
    if version != FORMAT_VERSION or not is_this_version:  # the version lies in SQLite's header, where a bit may flip
        raise CorruptIndexError(f"{file}: its manifest is damaged (checksum differs)")
    parts = json.loads(body)
    segments = tuple(
        Record(
            one["name"],
            one["num_documents"],
            {name: (size, digest) for name, (size, digest) in one["files"].items()},
            one["checksums"],
        )
        for one in parts["segments"]
    )
    files = {name: (size, digest) for name, (size, digest) in parts["model_files"].items()}
    return Manifest(number, parts["index_id"], parts["settings"], parts["model"], files, segments)


def _translated(path: Path, error: sqlite3.Error) -> Exception:
    """Return what SQLite's error is to a user."""
    text = str(error)
    if isinstance(error, sqlite3.OperationalError):
        if "locked" in text or "busy" in text:
            return LockedIndexError(f"{path}: somebody kept the catalogue for {_WAIT_SECONDS:.0f} s; try again")
        if any(word in text for word in ("full", "I/O", "i/o", "open", "readonly", "permission")):
            return OSError(f"{path / CATALOGUE}: {text}")
    try:
        for file in path.glob(f"{CATALOGUE}*"):  # SQLite calls some reads that fail damage
            file_checksum(file)
    except FileNotFoundError:
        pass
    except OSError as failure:
        return failure
    return CorruptIndexError(f"{path / CATALOGUE}: damaged ({text})")
