"""The names of all options, as option_names.txt has them: a name that goes or changes breaks scripts that use it."""

from dataclasses import fields
from pathlib import Path

import pytest
from test_cli import load_script

ROOT = Path(__file__).parents[2]
SCRIPTS = ("EOA-SAM/EOASAM", "EOA-ViT/EOAViT", "EASGD/EASGD", "PSO-PS/PSOPS", "SaLSA/SaLSA")
SCRIPTS += ("DHPO/DHPO", "baselines/Baselines")


def names_of(script, monkeypatch):
    """The options of one script, sorted."""
    folder, name = script.split("/")
    args = next(iter(load_script(name, monkeypatch, ROOT / folder).PRESETS.values()))
    return " ".join(sorted(f"--{field.name.replace('_', '-')}" for field in fields(args)))


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_options_of_a_script_are_those_that_are_written_down(script, monkeypatch):
    lines = (ROOT / "tests/unit/option_names.txt").read_text(encoding="utf-8").splitlines()
    frozen = dict(line.split(": ", 1) for line in lines)
    assert names_of(script, monkeypatch) == frozen[script], "if this is meant, write it down there and in CHANGELOG.md"
    assert list(frozen) == list(SCRIPTS)
