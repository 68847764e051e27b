"""The command line: what a shell user and a script see."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("ir_measures")

from typer.testing import CliRunner

import chamfer
from chamfer.cli import app
from samples import read_npz

DIM = 8
IDS = ["a", "b", "c", "d"]


def chamfer_command(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def files(tmp_path):
    """A corpus and its queries: query i is document i's first two vectors."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((12, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    offsets = np.arange(5) * 3
    np.savez(tmp_path / "corpus.npz", vectors=vectors, offsets=offsets, ids=np.array(IDS))
    queries = vectors.reshape(4, 3, DIM)[:, :2].reshape(8, DIM)
    np.savez(
        tmp_path / "queries.npz", vectors=queries, offsets=np.arange(5) * 2, ids=np.array(["q0", "q1", "q2", "q3"])
    )
    return tmp_path


@pytest.fixture
def indexed(files):
    chamfer_command("index", files / "corpus.npz", "--out", files / "index", "--queries", files / "queries.npz")
    return files


def test_search_finds_the_document_that_a_query_is_part_of(indexed):
    answers = json.loads(
        chamfer_command("search", indexed / "index", indexed / "queries.npz", "-k", 2, "--json").stdout
    )
    assert [answer["query"] for answer in answers["answers"]] == ["q0", "q1", "q2", "q3"]
    assert [answer["ids"][0] for answer in answers["answers"]] == IDS
    assert answers["answers"][0]["scores"][0] == pytest.approx(2.0, abs=1e-5)  # two unit vectors meet themselves
    assert {"encode", "candidates", "rerank exact", "total"} == set(answers["seconds"])


def test_search_prints_a_table_and_timings(indexed):
    result = chamfer_command("search", indexed / "index", indexed / "queries.npz", "-k", 1, "--exact")
    assert [line.split()[:3] for line in result.stdout.splitlines()[1:]] == [[f"q{i}", "1", IDS[i]] for i in range(4)]
    assert "4 queries, milliseconds in all: exact" in result.stderr


def test_missing_results_are_null_in_json(indexed):
    found = chamfer_command("search", indexed / "index", indexed / "queries.npz", "-k", 6, "--json").stdout
    assert json.loads(found)["answers"][0]["ids"][4:] == [None, None]
    assert json.loads(found)["answers"][0]["scores"][4:] == [None, None]


def test_run_is_written_as_trec_has_it(indexed):
    run = indexed / "run.trec"
    assert chamfer_command("search", indexed / "index", indexed / "queries.npz", "--run", run).stdout == ""
    first = run.read_text().splitlines()[0].split()
    assert [*first[:4], first[5]] == ["q0", "Q0", "a", "1", "chamfer"]


def test_eval_compares_with_exact_and_with_judgements(indexed):
    (indexed / "qrels.tsv").write_text("".join(f"q{i}\t{IDS[i]}\t1\n" for i in range(4)))
    command = ("eval", indexed / "index", indexed / "queries.npz", "--qrels", indexed / "qrels.tsv", "-k", 2, "--json")
    rows = json.loads(chamfer_command(*command, "--num-candidates", 2, "--num-candidates", 4).stdout)
    assert [row["candidates"] for row in rows] == ["exact", "2", "4"]
    assert rows[0]["recall@2"] == rows[2]["recall@2"] == 1.0
    assert 0 <= rows[1]["recall@2"] <= 1
    assert rows[0]["nDCG@10"] == 1.0
    assert all(row["total ms"] > 0 for row in rows)
    assert "recall@2" in chamfer_command(*command[:-1]).stdout


def test_output_for_a_pipe_is_tab_separated_and_never_cut(files):
    name = "a-name-longer-than-any-terminal-is-wide-" * 10
    data = read_npz(files / "corpus.npz")
    np.savez(files / "bare.npz", vectors=data["vectors"], offsets=data["offsets"])
    np.save(files / "ids.npy", np.array([name, "[b]", "c", "d"]))
    chamfer_command("index", files / "bare.npz", "--out", files / "index", "--ids", files / "ids.npy")
    lines = chamfer_command("search", files / "index", files / "queries.npz", "-k", 1).stdout.splitlines()
    assert lines[0] == "query\trank\tid\tscore"
    assert [line.split("\t")[2] for line in lines[1:]] == [name, "[b]", "c", "d"]


def test_eval_chooses_numbers_of_candidates_that_fit_the_index(indexed):
    rows = json.loads(chamfer_command("eval", indexed / "index", indexed / "queries.npz", "-k", 2, "--json").stdout)
    assert [row["candidates"] for row in rows] == ["exact", "2", "4"]  # of 2, 10, 20 and 100 in an index of 4
    command = ("eval", indexed / "index", indexed / "queries.npz", "-k", 2, "--num-candidates", 1)
    assert "num_candidates: expected at least k = 2, got 1" in chamfer_command(*command, code=1).stderr


def test_many_queries_are_searched_in_parts_with_the_same_answers(indexed, monkeypatch):
    command = ("search", indexed / "index", indexed / "queries.npz", "-k", 2, "--json")
    at_once = json.loads(chamfer_command(*command).stdout)["answers"]
    monkeypatch.setattr("chamfer.cli._QUERIES_AT_A_TIME", 3)
    assert json.loads(chamfer_command(*command).stdout)["answers"] == at_once


def test_interrupted_command_exits_with_130(indexed, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(chamfer.Index, "open", interrupt)
    assert chamfer_command("info", indexed / "index", code=130).output == ""


def test_demo_prints_json_and_draws_only_if_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("chamfer.demo._ROUNDS", 1)
    report = json.loads(chamfer_command("demo", "--json", "--questions", 1).stdout)
    assert (len(report["examples"]), report["rows"][0]["recall"]) == (1, 1.0)
    assert list(tmp_path.iterdir()) == []


def test_demo_prints_a_table_and_draws_a_picture(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("chamfer.demo._ROUNDS", 1)
    shown = chamfer_command("demo", "--picture", tmp_path / "x.png").stdout
    assert "learned + rerank 100" in shown
    assert f"Recall against latency: {tmp_path / 'x.png'}" in shown
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_info_tells_of_the_installation_and_of_an_index(indexed):
    about = json.loads(chamfer_command("info", "--json").stdout)
    assert about["chamfer"] == chamfer.__version__
    assert about["instruction_sets"] == list(chamfer.available_isas())
    stats = json.loads(chamfer_command("info", indexed / "index", "--verify", "--json").stdout)
    assert (stats["num_documents"], stats["num_tokens"], stats["dim"]) == (4, 12, DIM)
    assert stats["verified"] is True
    assert "num documents    4" in chamfer_command("info", indexed / "index").stdout


def test_info_shows_the_stages_and_what_each_takes(files):
    command = ("index", files / "corpus.npz", "--out", files / "index")
    chamfer_command(*command, "--rerank", "scalar:2,exact")
    shown = chamfer_command("info", files / "index").stdout
    assert "rerank           scalar:2, exact" in shown
    assert "codes scalar:2 11.3" in shown  # 2 bytes padded to 4, two halves, and 5 offsets for 12 vectors
    assert "on disk          token_vectors" in shown
    answers = json.loads(chamfer_command("search", files / "index", files / "queries.npz", "-k", 2, "--json").stdout)
    assert {"encode", "candidates", "rerank scalar:2", "rerank exact", "total"} == set(answers["seconds"])
    chamfer_command(*command, "--rerank", "none")
    assert "rerank           None" in chamfer_command("info", files / "index").stdout
    assert "rerank: expected stages" in chamfer_command(*command, "--rerank", "int9", code=1).stderr


def test_info_verify_finds_a_flipped_bit(indexed):
    flip_a_bit_of_token_vectors(indexed / "index")
    chamfer_command("info", indexed / "index")
    assert "checksum differs" in chamfer_command("info", indexed / "index", "--verify", code=1).stderr


def flip_a_bit_of_token_vectors(folder):
    (documents,) = folder.glob("*/documents.chamfer")
    content = bytearray(documents.read_bytes())
    content[4096 + 100] ^= 1  # arrays begin at the second page, and token vectors come first
    documents.write_bytes(content)


def test_verify_tells_and_repairs_what_can_be(indexed):
    folder = indexed / "index"
    assert "all is well" in chamfer_command("verify", folder).stdout
    (folder / "HEAD").unlink()
    result = chamfer_command("verify", folder, code=1)
    assert "HEAD: missing" in result.stdout
    assert "not repaired" in result.stdout
    assert "repaired" in chamfer_command("verify", folder, "--repair").stdout
    assert json.loads(chamfer_command("verify", folder, "--json").stdout) == {"findings": [], "repaired": False}
    flip_a_bit_of_token_vectors(folder)
    result = chamfer_command("verify", folder, "--repair", code=1)
    assert "cannot be repaired: restore a copy" in result.stdout
    found = json.loads(chamfer_command("verify", folder, "--json", code=1).stdout)["findings"]
    assert [finding["repair"] for finding in found] == [None]


def test_documents_are_added_deleted_filtered_and_compacted(files, tmp_path):
    data = read_npz(files / "corpus.npz")
    num_documents = len(data["offsets"]) - 1
    lines = [json.dumps({"year": 2000 + i % 20}) for i in range(num_documents)]
    (tmp_path / "years.jsonl").write_text("\n".join(lines))
    folder = tmp_path / "index"
    ids = [f"d{i}" for i in range(num_documents)]
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    given = ("--ids", tmp_path / "ids.json", "--metadata", tmp_path / "years.jsonl")
    chamfer_command("index", files / "corpus.npz", "--out", folder, *given)
    assert f"0 added, {num_documents} replaced" in chamfer_command("add", folder, files / "corpus.npz", *given).stderr
    (tmp_path / "ids.json").write_text(json.dumps([f"n{i}" for i in range(num_documents)]))
    chamfer_command("add", folder, files / "corpus.npz", *given)
    assert f"2 deleted: {2 * num_documents - 2} documents" in chamfer_command("delete", folder, "d0", "n1", "x").stderr
    facts = json.loads(chamfer_command("compact", folder, "--json").stdout)
    assert facts["num_documents"] == 2 * num_documents - 2
    assert facts["num_segments"] == 1
    answers = chamfer_command("search", folder, files / "queries.npz", "--filter", "year == 2003", "--json").stdout
    found = {one for answer in json.loads(answers)["answers"] for one in answer["ids"] if one is not None}
    assert found
    assert all(int(one[1:]) % 20 == 3 for one in found)
    (tmp_path / "years.jsonl").write_text("{year")
    assert "one JSON object per line" in chamfer_command("add", folder, files / "corpus.npz", *given, code=1).stderr
    np.savez(tmp_path / "nameless.npz", vectors=data["vectors"], offsets=data["offsets"])
    assert "expected ids in it, or --ids" in chamfer_command("add", folder, tmp_path / "nameless.npz", code=1).stderr


@pytest.mark.parametrize("form", ["npz", "pair", "folder", "tokens folder"])
def test_all_forms_of_token_vectors_are_read(files, form):
    data = read_npz(files / "corpus.npz")
    if form == "pair":
        path = files / "x.npy"
        np.save(path, data["vectors"])
        np.save(files / "x.offsets.npy", data["offsets"])
        (files / "x.ids.json").write_text(json.dumps(IDS))
    elif form != "npz":
        path = files / "folder"
        path.mkdir()
        np.save(path / ("tokens.npy" if "tokens" in form else "vectors.npy"), data["vectors"])
        np.save(path / "offsets.npy", data["offsets"])
        (path / "ids.json").write_text(json.dumps(IDS))
    else:
        path = files / "corpus.npz"
    chamfer_command("index", path, "--out", files / "index", "--candidates", "Flat", "--json")
    index = chamfer.Index.open(files / "index")
    assert index.get("c").tolist() == data["vectors"][6:9].tolist()


def test_ids_come_from_a_file_where_vectors_bring_none(files):
    data = read_npz(files / "corpus.npz")
    np.savez(files / "bare.npz", vectors=data["vectors"], offsets=data["offsets"])
    (files / "ids.json").write_text("[10, 11, 12, 13]")
    chamfer_command("index", files / "bare.npz", "--out", files / "index", "--ids", files / "ids.json")
    assert chamfer.Index.open(files / "index").get(12).tolist() == data["vectors"][6:9].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "missing", "queries.npz"), "missing: no index here"),
        (("index", "missing.npz", "--out", "x"), "missing.npz: no such file"),
        (("index", "missing.npy", "--out", "x"), "missing.npy: no such file; expected an .npz"),
        (("index", "text.npz", "--out", "x"), "text.npz"),
        (("index", "other.npz", "--out", "x"), "other.npz: expected an .npz of vectors, offsets"),
        (("index", "nan.npz", "--out", "x"), "nan.npz: vectors: expected finite numbers, got nan in row 0"),
        (("index", "corpus.npz", "--out", "x", "--candidates", "Nonsense"), "FAISS cannot make an index"),
        (
            ("index", "corpus.npz", "--out", "x", "--reducer", "other"),
            "reducer: expected 'auto', 'fde', 'learned', or a FixedDimensionalEncoder or LearnedReducer, got 'other'",
        ),
        (("index", "corpus.npz", "--out", "."), "holds files that are not an index"),
        (("index", "corpus.npz", "--out", "x", "--ids", "no.json"), "no.json: No such file or directory"),
        (
            ("index", "corpus.npz", "--out", "x", "--ids", "object.json"),
            "expected a list of ids, got dict",
        ),
        (("index", "empty.npz", "--out", "x"), "No data left in file"),
        (("info", "--verify"), "--verify: expected the FOLDER of an index"),
    ],
)
def test_errors_are_one_line_and_status_1(files, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    (files / "text.npz").write_text("no archive")
    (files / "empty.npz").touch()
    (files / "object.json").write_text("{}")
    np.savez(files / "other.npz", x=np.zeros(3))
    np.savez(files / "nan.npz", vectors=np.full((1, 4), np.nan, np.float32), offsets=[0, 1])
    result = chamfer_command(*arguments, code=1)
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (files / "x").exists()


@pytest.mark.parametrize("command", ["demo", "index", "search", "eval", "info"])
def test_every_command_has_help_with_an_example(command):
    text = chamfer_command(command, "--help").output
    assert f"Example: chamfer {command}" in text
    assert "--json" in text


def test_the_installed_module_runs_and_returns_its_status(tmp_path):
    command = [sys.executable, "-m", "chamfer"]
    good = subprocess.run([*command, "info", "--json"], check=True, capture_output=True, text=True)
    assert json.loads(good.stdout)["uses"] == chamfer.best_isa()
    bad = subprocess.run([*command, "info", tmp_path], check=False, capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr == f"chamfer: {tmp_path}: no index here\n"


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_extra_the_command_line_says_how_to_get_it(missing):
    script = f"import sys; sys.modules[{missing!r}] = None; from chamfer.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == 'chamfer\'s command line needs: pip install "chamfer[cli]"\n'
