"""Every text file is UTF-8, whatever the locale, and no character that a terminal cannot show ends a program."""

import ast
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import add_run

from common.parallel import launch

ROOT = Path(__file__).parents[2]
FOLDERS = sorted({path.parent for path in ROOT.glob("*/*.py")})
NAME = "WRN-16-1 \u00b1 \u03bb \u2014 \u00e9"  # plus-minus and e acute are in Latin-1, lambda and the dash are not


def lacks_encoding(call: ast.Call) -> bool:
    """Whether a call opens text, or reads a program's output as text, in an encoding that the locale chooses."""
    given, name = {word.arg for word in call.keywords}, call.func
    called = name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "")
    modes = [a.value for a in call.args[1:2] if isinstance(a, ast.Constant)]
    if called in ("read_text", "write_text"):
        text = isinstance(name, ast.Attribute)
    elif called == "open":
        text = isinstance(name, ast.Name) and not any("b" in str(mode) for mode in modes)
    elif called in ("NamedTemporaryFile", "TemporaryFile"):
        text = any("b" not in str(a.value) for a in call.args[:1] if isinstance(a, ast.Constant))
    else:
        text = bool({"text", "universal_newlines"} & given)
    return text and "encoding" not in given


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_no_program_leaves_an_encoding_to_the_locale(folder):
    """Ruff's PLW1514 knows only those paths whose type it can tell; this knows the rest."""
    for path in sorted(folder.rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)]
        assert not [f"{path}:{call.lineno}" for call in calls if lacks_encoding(call)]


def test_the_check_itself():
    def found(code):
        return lacks_encoding(ast.parse(code, mode="eval").body)

    for code in ("open(p)", "open(p, 'w')", "p.read_text()", "p.write_text(t)", "run(c, text=True)", "TemporaryFile('w+')"):
        assert found(code), code
    for code in ("open(p, 'rb')", "open(p, encoding='utf-8')", "p.read_text(encoding='utf-8')", "run(c)", "Image.open(p)"):
        assert not found(code), code


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Variables of an environment whose text is Latin-1, or plain ASCII where no such locale can be made."""
    folder = tmp_path_factory.mktemp("locales")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    variables = {**inherited, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT), "LC_ALL": "C"}
    if shutil.which("localedef"):
        made = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "latin")]
        if subprocess.run(made, capture_output=True, timeout=60, check=False).returncode == 0:
            variables |= {"LOCPATH": str(folder), "LC_ALL": "latin"}
    code = "import locale, sys; print(locale.getpreferredencoding(False), sys.stdout.encoding)"
    assert b"utf" not in python(variables, "-c", code).lower()
    return variables


def python(foreign, *words):
    """A program in that environment; returns what it printed."""
    done = subprocess.run([sys.executable, *map(str, words)], env=foreign, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout


def test_tables_figures_and_report_are_utf_8_in_another_locale(foreign, tmp_path):
    command = "python \udcff"  # a path that is not UTF-8 itself
    for seed in (0, 1):
        add_run(tmp_path / "smoke/ecosphere", "cosine", seed, 0.9, environment={"processor": NAME, "command": command})
    python(foreign, "-m", "report", "smoke", "--results", tmp_path)
    page = (tmp_path / "smoke/report.html").read_bytes().decode("utf-8")  # raises where it is not
    assert NAME in page
    assert '<meta charset="utf-8">' in page
    assert "python \\udcff" in page
    written = {p.name: p.read_bytes().decode("utf-8") for p in (tmp_path / "smoke/tables").iterdir()}
    assert NAME in written["cost.md"]
    assert "\u00b1" in written["accuracy.md"]


def test_records_and_spaces_are_utf_8_in_another_locale(foreign, tmp_path):
    code = f"""
import json, sys
from pathlib import Path
from common.training.provenance import _processor
from common.training.record import write_json
from common.search.space import read_space
folder = Path({str(tmp_path)!r})
write_json(folder / "a.json", {{"processor": json.loads({json.dumps(json.dumps(NAME))})}})
print(len(read_space(folder / "space.toml").names))
"""
    comment = f"# {NAME}\n[learning_rate]\nkind = 'float'\nlow = 0.1\nhigh = 1.0\n"
    (tmp_path / "space.toml").write_text(comment, encoding="utf-8")
    assert python(foreign, "-c", code).split()[-1:] == [b"1"]
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"processor": NAME}


def test_help_is_printed_in_another_locale(foreign):
    assert b"--data-dir" in python(foreign, ROOT / "EOA-SAM/EOASAM.py", "--help")


def test_what_a_terminal_cannot_show_is_a_question_mark(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    launch.tolerate_terminal()
    print(NAME, "\udce9")
    stream.flush()
    assert stream.buffer.getvalue() == b"WRN-16-1 ? ? ? ? ?\n"
