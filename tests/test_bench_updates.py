"""bench updates: each step gives its figures, and the tables show them."""

import json

import pytest
from bench import updates


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = tmp_path_factory.mktemp("updates") / "updates.json"
    updates.run(data=updates.Path("demo"), file_bytes=4_000_000, budget="256MiB", quick=True, output=path)
    return json.loads(path.read_text())


def test_all_figures_are_there(result):
    for reducer in ("fde", "learned"):
        assert result[f"add_{reducer}"]["documents"] == 360
        assert result[f"add_{reducer}"]["tokens_per_second"] > 0
        assert result[f"add_{reducer}"]["segments"] <= 4
    assert result["delete"]["documents"] == 200
    assert result["open"]["tokens"] > 10_000
    assert result["meanwhile"]["changes"] > 0
    assert result["meanwhile"]["generations_seen"] > 1
    assert all(0.9 < result["growth"][name] <= 1 for name in ("grown", "compacted", "anew"))
    assert len(result["filters"]) == 2 * len(updates.SELECTIVITIES)
    assert all(0.9 < row["recall"] <= 1 for row in result["filters"])
    assert result["bounded"]["segments"] >= 1
    assert 3e6 < result["bounded"]["bytes"] < 6e6


def test_the_tables_show_them(result, capsys):
    updates.print_updates(result)
    shown = capsys.readouterr().out
    for words in ("tokens/s", "delete 200 ids", "open ", "built anew", "within 256MiB", "50.00%"):
        assert words in shown
