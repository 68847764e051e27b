"""chamfer.index.verify: it finds what is wrong, and puts right what follows from what is whole."""

from __future__ import annotations

import shutil

import faiss
import numpy as np
import pytest

import chamfer as ch
from chamfer.index import verify
from samples import off_centre_collection

REDUCER = {"num_repetitions": 2, "num_simhash_projections": 2, "projection_dimension": 8}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An index of two segments and some deleted documents."""
    path = tmp_path_factory.mktemp("built") / "index"
    documents = off_centre_collection(np.random.default_rng(1), [4, 0, 7, 2] * 30)
    reducer = ch.FixedDimensionalEncoder(documents.dim, **REDUCER)
    index = ch.Index.build(
        documents,
        reducer=reducer,
        rerank=["binary", "int8", "exact"],
        path=path,
        metadata=[{"n": i} for i in range(120)],
    )
    index.add(documents._run(0, 30), range(1000, 1030))
    index.delete([3, 5, 1007])
    index.close()
    return path


@pytest.fixture
def folder(built, tmp_path):
    shutil.copytree(built, tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def queries():
    return off_centre_collection(np.random.default_rng(2), [4, 6])


def answers(folder, queries):
    with ch.Index.open(folder, verify=True) as index:
        found = [index.search(queries, 20, num_candidates=60), index.search(queries, 20, exact=True, filter="n > 50")]
        return [part for one in found for part in (one.ids.tolist(), one.scores.tolist())]


def segment_file(folder, name, which=0):
    return sorted(folder.glob(f"s-*/{name}"), key=lambda file: file.stat().st_size)[which]


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(content)


def test_a_whole_index_has_nothing_to_find(folder):
    assert verify(folder) == []
    assert verify(folder, repair=True) == []


def damages():
    """Where, and how: all that follows from token vectors, or from the catalogue."""
    for which in (0, -1):
        yield (
            f"codes of segment {which}",
            lambda folder, which=which: flip(segment_file(folder, "documents.chamfer", which), -1),
        )
        yield (
            f"candidates {which}",
            lambda folder, which=which: flip(segment_file(folder, "candidates.faiss", which), 200),
        )
        yield (
            f"no candidates {which}",
            lambda folder, which=which: segment_file(folder, "candidates.faiss", which).unlink(),
        )
    yield "all candidates", lambda folder: [file.unlink() for file in folder.glob("s-*/candidates.faiss")]
    yield "HEAD", lambda folder: flip(folder / "HEAD", 3)
    yield "no HEAD", lambda folder: (folder / "HEAD").unlink()


@pytest.mark.parametrize(("name", "damage"), list(damages()), ids=lambda value: value if isinstance(value, str) else "")
def test_what_follows_from_the_rest_is_repaired(folder, queries, name, damage):
    expected = answers(folder, queries)
    damage(folder)
    findings = verify(folder)
    assert findings
    assert all(finding.repair for finding in findings), findings
    with pytest.raises((ch.CorruptIndexError, FileNotFoundError)):
        ch.Index.open(folder)
    assert verify(folder) == findings  # looking changes nothing
    assert verify(folder, repair=True) == findings
    assert verify(folder) == []
    found = answers(folder, queries)
    assert found[2:] == expected[2:]  # exact search
    if "candidates" not in name:
        assert found == expected


def test_candidates_that_were_an_object_and_are_gone_cannot_be_made_anew(tmp_path):
    documents = off_centre_collection(np.random.default_rng(1), [4, 7, 2] * 10)
    reducer = ch.FixedDimensionalEncoder(documents.dim, **REDUCER).fit(documents)
    flat = faiss.IndexFlatIP(reducer.output_dimension)
    ch.Index.build(documents, reducer=reducer, candidates=flat, path=tmp_path / "index")
    segment_file(tmp_path / "index", "candidates.faiss").unlink()
    assert [finding.repair for finding in verify(tmp_path / "index", repair=True)] == [None]


def test_token_vectors_exist_once(folder):
    file = segment_file(folder, "documents.chamfer")
    flip(file, 4096 + 9)
    findings = verify(folder, repair=True)
    assert [finding.repair for finding in findings] == [None]
    assert str(file) in findings[0].problem
    ch.Index.open(folder)
    with pytest.raises(ch.CorruptIndexError, match="vectors changed since they were written"):
        ch.Index.open(folder, verify=True)


def test_nothing_is_repaired_where_something_is_lost(folder):
    flip(segment_file(folder, "documents.chamfer"), 4096 + 9)
    (folder / "HEAD").unlink()
    assert sorted(finding.repair is None for finding in verify(folder, repair=True)) == [False, True]
    assert not (folder / "HEAD").exists()


@pytest.mark.parametrize("name", ["reducer.npz", "codec-int8.npz"])
def test_a_damaged_model_is_named(folder, name):
    (file,) = folder.glob(f"m-*/{name}")
    flip(file, file.stat().st_size // 2)
    assert any(str(file) in finding.problem for finding in verify(folder))


def test_a_damaged_catalogue_is_found(folder):
    file = folder / "catalogue.sqlite"
    content = file.read_bytes()
    flip(file, content.index(b"index_id"))
    assert any("catalogue.sqlite" in finding.problem for finding in verify(folder))


def test_a_writer_keeps_others_from_repairing(folder):
    with ch.Index.open(folder, "a"), pytest.raises(ch.LockedIndexError):
        verify(folder, repair=True)


def test_no_index_is_no_finding(tmp_path):
    with pytest.raises(FileNotFoundError, match="no index here"):
        verify(tmp_path)
