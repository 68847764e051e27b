"""Verification: every file and record of an index against its checksums and the others, and repair of what can be.

Token vectors, ids and metadata exist once: where they are damaged, a copy of the folder has to be restored. Codes and
candidates follow from token vectors, and HEAD from the catalogue: they are made anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chamfer._files import locked_file
from chamfer._progress import progress_bar
from chamfer._runtime import resolve_num_threads
from chamfer.candidates import Candidates
from chamfer.errors import CorruptIndexError
from chamfer.index import catalogue, legacy, storage
from chamfer.index.catalogue import Blobs, Manifest, Record
from chamfer.index.filling import more_candidates, trained_candidates
from chamfer.index.model import Model
from chamfer.index.segments import (
    Segment,
    SegmentMetadata,
    arrays_of,
    check_files,
    decode_deleted,
    decode_ids,
    make_segment,
    open_segment,
    read_documents,
    with_deleted,
)
from chamfer.index.settings import SearchSettings
from chamfer.index.snapshot import Snapshot
from chamfer.token_vectors import TokenVectors

# Of an index that changes all the time so many are tried.
_MOST_STATES = 5


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with an index.

    Attributes:
        problem: what, and in which file.
        repair: how it can be put right without loss, None if it cannot.
    """

    problem: str
    repair: str | None


def verify(
    path: str | os.PathLike[str], *, repair: bool = False, num_threads: int | None = None, progress: bool = False
) -> list[Finding]:
    """Check all of an index: the catalogue's pages and records, every file's checksum, and that all fit together.

    Args:
        path: the folder.
        repair: put right what can be, as each finding says; takes the writer's lock. Nothing is repaired if something
            cannot be.
        num_threads: threads to encode with, if something is repaired; None means the CPUs of this process.
        progress: show a progress bar (needs tqdm: pip install "chamfer[cli]").

    Returns:
        What was found wrong, nothing if all is well.

    Raises:
        FileNotFoundError: there is no index at this path.
        LockedIndexError: `repair`, and somebody else writes to the index.
        ValueError: a newer chamfer wrote it.
    """
    folder = Path(path)
    if not (folder / catalogue.CATALOGUE).exists() and not storage.is_present(folder):
        return _verify_legacy(folder)
    if not repair:
        return _verify_a_state(folder, progress)
    with locked_file(folder / storage.LOCK):
        done = _Verification(folder, progress)
        if done.findings and all(finding.repair for finding in done.findings):
            done.repair(resolve_num_threads(num_threads))
        return done.findings


def _verify_a_state(folder: Path, progress: bool) -> list[Finding]:
    """Return what is wrong with one state: a writer may have removed files of the last one while they were read."""
    for _ in range(_MOST_STATES):
        before = _head(folder)
        found = _Verification(folder, progress).findings
        if not found or _head(folder) == before:
            break
    return found


def _head(folder: Path) -> bytes | None:
    try:
        return (folder / catalogue.HEAD).read_bytes()
    except OSError:
        return None


def _verify_legacy(folder: Path) -> list[Finding]:
    try:
        legacy.read(folder, verify=True)
    except CorruptIndexError as error:
        return [Finding(str(error), None)]
    return []


def _problem(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"{error.filename}: missing"
    return str(error)


class _Verification:
    """One pass over a folder, and what it found."""

    _manifest: Manifest | None = None
    _model: Model | None = None

    def __init__(self, folder: Path, progress: bool) -> None:
        self._folder = folder
        self.findings: list[Finding] = []
        self._damaged: dict[str, TokenVectors] = {}  # segments to be made anew, by name
        self._whole: dict[str, Segment] = {}
        self._blobs: dict[str, Blobs] = {}
        self._check_head()
        self.findings += [
            Finding(f"{folder / catalogue.CATALOGUE}: {problem}", None) for problem in catalogue.check_structure(folder)
        ]
        self._noting(None, self._check_catalogue)
        if self._manifest is None:
            return
        self._noting(None, self._check_model)
        with progress_bar(len(self._manifest.segments), "verify segments", progress, unit="segment") as advance:
            for record in self._manifest.segments:
                self._check_segment(record)
                advance(1)
        if len(self._whole) == len(self._manifest.segments):
            self._check_ids()
        if self._model is not None and self._model.asked.get("candidates") is None and not self._whole:
            # They were an object of the caller's, and no trained one is left.
            self.findings = [Finding(finding.problem, None) for finding in self.findings]

    def _noting(self, repair: str | None, check: Callable[[], object]) -> None:
        """Run a check, and note what it raises."""
        try:
            check()
        except (CorruptIndexError, FileNotFoundError) as error:
            self.findings.append(Finding(_problem(error), repair))

    def _check_head(self) -> None:
        how = f"{catalogue.HEAD} is written anew from the catalogue"
        if not storage.is_present(self._folder):
            self.findings.append(Finding(f"{self._folder / catalogue.HEAD}: missing", how))
            return
        self._noting(how, lambda: catalogue.generation(self._folder))

    def _check_catalogue(self) -> None:
        self._manifest, self._blobs = catalogue.read(self._folder, least=0 if self.findings else None)

    def _check_model(self) -> None:
        assert self._manifest is not None
        folder = self._folder / self._manifest.model
        check_files(folder, self._manifest.model_files)
        self._model = Model.load(folder, self._manifest.settings)

    def _check_segment(self, record: Record) -> None:
        if self._model is None or self._manifest is None:
            return
        settings = self._manifest.settings
        try:
            self._whole[record.name] = open_segment(
                self._folder,
                record,
                self._blobs[record.name],
                self._model.codecs,
                settings["dim"],
                (settings["candidates"], self._model.reducer.output_dimension),
                are_strings=settings["strings"],
                verify=True,
            )
        except (CorruptIndexError, FileNotFoundError) as error:
            self.findings.append(self._finding_of(record, error))

    def _finding_of(self, record: Record, error: Exception) -> Finding:
        """Return what is wrong with a segment that cannot be opened, by what is left of its token vectors."""
        assert self._manifest is not None
        place = self._folder / record.name
        try:
            documents = read_documents(place, self._manifest.settings["dim"])
            if len(documents) != record.num_documents:
                raise CorruptIndexError(f"{place}: holds {len(documents)} documents")
        except (CorruptIndexError, FileNotFoundError) as of_documents:
            return Finding(_problem(of_documents), None)
        self._damaged[record.name] = documents
        return Finding(_problem(error), "its codes and candidates are made anew from its token vectors")

    def _check_ids(self) -> None:
        assert self._manifest is not None
        segments = [self._whole[record.name] for record in self._manifest.segments]
        ids = [one for segment in segments for one in segment.ids[segment.live_rows()].tolist()]
        if len(set(ids)) < len(ids):
            self.findings.append(
                Finding(f"{self._folder}: {len(ids) - len(set(ids))} ids belong to two documents", None)
            )

    # ── repair ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def repair(self, num_threads: int) -> None:
        """Put right what was found."""
        assert self._manifest is not None
        assert self._model is not None
        catalogue.write_head(self._folder, self._manifest)
        if not self._damaged:
            return
        template = self._template(num_threads)
        segments = []
        for record in self._manifest.segments:
            segment = self._whole.get(record.name)
            segments.append(segment or self._made_anew(record, template, num_threads))
        after = Snapshot(self._model, segments, self._manifest)
        search = SearchSettings.from_json(self._manifest.settings["search"])
        committed = storage.commit(self._folder, self._manifest, self._model, after, search)
        assert committed.manifest is not None
        storage.remove_unused(self._folder, committed.manifest)

    def _made_anew(self, record: Record, template: Candidates, num_threads: int) -> Segment:
        model, documents = self._model, self._damaged[record.name]
        assert model is not None
        assert self._manifest is not None
        blobs = self._blobs[record.name]
        made = make_segment(
            self._folder,
            arrays_of(documents, model.encode(documents, num_threads)),
            model.codecs,
            decode_ids(blobs.ids, are_strings=self._manifest.settings["strings"]),
            SegmentMetadata(blobs.metadata),
            lambda some: more_candidates(template, model.reducer, some, num_threads),
        )
        deleted = decode_deleted(blobs.deleted, len(documents))
        return with_deleted(made, deleted)

    def _template(self, num_threads: int) -> Candidates:
        """Return candidates that are trained as those of the index: of a whole segment, or trained anew."""
        if self._whole:
            return next(iter(self._whole.values())).candidates
        assert self._model is not None
        documents = next(iter(self._damaged.values()))
        return trained_candidates(self._model.asked["candidates"], self._model.reducer, documents, num_threads)
