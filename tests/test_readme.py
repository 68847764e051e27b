"""What the README says to type works."""

import re

from conftest import REPOSITORY


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text("utf-8"), re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["result"].ids[0, 0] == names["exact"].ids[0, 0] == 42
    assert "42" in capsys.readouterr().out


def test_its_pictures_exist():
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (REPOSITORY / "README.md").read_text("utf-8")):
        assert (REPOSITORY / picture).is_file(), picture
