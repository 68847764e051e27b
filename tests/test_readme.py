"""What the README says to type works."""

import re

from conftest import REPOSITORY


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(examples) == 3
    names = {}
    for example in examples:
        assert len([line for line in example.splitlines() if line.strip()]) <= 15
        exec(compile(example, "README.md", "exec"), names)
    assert (names["rows"][0] == names["exact"].ids[0]).all()
    assert names["result"].ids[0, 0] == names["exact"].ids[0, 0] == 42
    assert (names["recent"].ids[0, :5] >= 1005).all()
    assert "42" in capsys.readouterr().out


def test_its_pictures_exist():
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (REPOSITORY / "README.md").read_text("utf-8")):
        assert (REPOSITORY / picture).is_file(), picture
