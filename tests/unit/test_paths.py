"""Paths as a user writes them: `~` is expanded everywhere, and an empty path is never the current folder."""

import importlib
import os
import subprocess
import sys
from dataclasses import make_dataclass
from pathlib import Path

import pytest
from test_cli import load_script

from common.errors import UsageError
from common.models.vit import load_published
from common.options import PathText, read_options
from common.paths import data_directory, expand
from common.training.options import parse_args
from common.training.record import choose_directory

ROOT = Path(__file__).parents[2]
SCRIPTS = ("EOA-SAM/EOASAM", "EOA-ViT/EOAViT", "EASGD/EASGD", "PSO-PS/PSOPS", "SaLSA/SaLSA", "baselines/Baselines", "DHPO/DHPO")


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A home of its own, in which the tests stand."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("EOA_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_tilde_is_the_home_and_nothing_else_changes(home):
    assert expand("~/x", "--out") == f"{home}/x"
    assert expand("~", "--out") == str(home)
    assert expand("~root/x", "--out") == os.path.expanduser("~root/x") != "~root/x"
    for path in ("a/~/b", "./~x", "runs//x/", "$HOME/x", "-", " a"):
        assert expand(path, "--out") == path


@pytest.mark.parametrize(
    ("path", "said"),
    [
        *((empty, r"^--out is empty") for empty in ("", " ", "\t\n")),
        (os.fsdecode(b"caf\xe9"), r"^--out caf\ufffd is not UTF-8"),
        ("~no-such-user-here/x", r"~no-such-user-here is not known.*'\./~no-such-user-here/x'"),
    ],
)
def test_what_is_no_path_is_refused_by_the_name_of_its_option(path, said):
    with pytest.raises(UsageError, match=said):
        expand(path, "--out")


def test_the_data_folder_is_that_of_the_option_then_of_the_variable_then_data(home, monkeypatch):
    assert data_directory("auto") == Path("data")
    monkeypatch.setenv("EOA_DATA", "~/sets")
    assert data_directory("auto") == home / "sets"
    assert data_directory("~/other") == home / "other"
    for given, variable, named in (("auto", "", "EOA_DATA"), ("", "x", "--data-dir"), (" ", "x", "--data-dir")):
        monkeypatch.setenv("EOA_DATA", variable)
        with pytest.raises(UsageError, match=f"^{named} is empty"):
            data_directory(given)


@pytest.mark.parametrize("path", SCRIPTS)
def test_every_script_expands_every_option_that_holds_a_path(path, home, monkeypatch):
    folder, name = path.split("/")
    presets = load_script(name, monkeypatch, ROOT / folder).PRESETS
    own = {"Baselines": {"replay"}, "DHPO": {"space"}}.get(name, set())
    for option in {"out", "data-dir", "pretrained"} | own:
        args, _ = parse_args(presets, "", ["--preset", "smoke", f"--{option}=~/x"])
        assert getattr(args, option.replace("-", "_")) == f"{home}/x"
        for words in ([f"--{option}="], [f"--{option}", ""]):
            with pytest.raises(UsageError, match=f"^--{option} is empty"):
                parse_args(presets, "", ["--preset", "smoke", *words])
    args, _ = parse_args(presets, "", ["--preset", "smoke"])
    assert (args.out, args.data_dir, args.pretrained) == ("auto", "auto", "")


def test_benchmarks_read_their_folder_alike(home, monkeypatch):
    kind = make_dataclass("Args", [("out", PathText, "results/benchmarks")], frozen=True)
    for words, expected in (([], "results/benchmarks"), (["--out=~/b"], f"{home}/b")):
        monkeypatch.setattr(sys, "argv", ["benchmark", *words])
        assert read_options(kind, "").out == expected
    monkeypatch.setattr(sys, "argv", ["benchmark", "--out="])
    with pytest.raises(UsageError, match=r"^--out is empty"):
        read_options(kind, "")
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert "tyro.cli" not in path.read_text(encoding="utf-8"), f"{path.name} reads its options by itself"


def test_paths_that_did_not_come_from_a_command_line_are_expanded_too(home, alone):
    assert choose_directory("~/run", "x", "digits", 0, False, alone) == home / "run"
    with pytest.raises(UsageError, match=r"^--out is empty"):
        choose_directory("", "x", "digits", 0, False, alone)
    with pytest.raises(UsageError, match=f"no checkpoint {home}/w.npz"):
        load_published(None, "vit-b16", "~/w.npz")
    with pytest.raises(UsageError, match=r"^--pretrained is empty"):
        load_published(None, "vit-b16", "")


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["scripts/setup.sh", "--torch="], "--torch is empty"),
        (["scripts/setup.sh", "--torch", ""], "--torch is empty"),
        (["scripts/setup.sh", "--torch=~/w.whl"], "there is no file {home}/w.whl"),
        (["scripts/setup.sh", "--torch", "~/w.whl"], "there is no file {home}/w.whl"),
        (["run_all.sh"], "EOA_DATA is empty"),
    ],
)
def test_shell_scripts_expand_and_refuse_alike(command, named, home):
    done = subprocess.run(
        ["bash", ROOT / command[0], *command[1:]],
        env={**os.environ, "HOME": str(home), "EOA_DATA": ""},
        capture_output=True,
        encoding="utf-8",
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    assert named.format(home=home) in done.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        *((f"{package} --results=", "--results is empty") for package in ("report", "experiments")),
        *((f"{package} --results=~nobody-of-this-name", "is not known") for package in ("report", "experiments")),
        ("report gpu --results=~/r", "no records in {home}/r/gpu"),
    ],
)
def test_the_folder_of_results_is_expanded_or_refused(command, said, home, monkeypatch, capsys):
    package, *_ = words = command.split()
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"{package}.__main__").main()
    assert end.value.code == 2
    assert said.format(home=home) in capsys.readouterr().err
