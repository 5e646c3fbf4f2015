"""The names of all options, as option_names.txt has them: a name that goes or changes breaks scripts that use it."""

from dataclasses import fields, is_dataclass
from inspect import get_annotations

import pytest
from experiment_scripts import ROOT, presets

from common.options import check, help_of

SCRIPTS = ("EOA-SAM/EOASAM", "EOA-ViT/EOAViT", "EASGD/EASGD", "PSO-PS/PSOPS", "SaLSA/SaLSA")
SCRIPTS += ("DHPO/DHPO", "baselines/Baselines")


@pytest.mark.parametrize("path", SCRIPTS)
def test_the_options_of_a_script_are_those_that_are_written_down_and_each_has_a_help_text(path):
    kind = type(presets(path)["smoke"])
    names = sorted(field.name for field in fields(kind))
    lines = (ROOT / "tests/unit/option_names.txt").read_text(encoding="utf-8").splitlines()
    frozen = dict(line.split(": ", 1) for line in lines)
    told = " ".join(f"--{name.replace('_', '-')}" for name in names)
    assert told == frozen[path], "if this is meant, write it down there and in CHANGELOG.md"
    assert list(frozen) == list(SCRIPTS)
    declared = [(owner, name) for owner in kind.__mro__ if is_dataclass(owner) for name in get_annotations(owner)]
    assert [name for owner, name in declared if name in names and not help_of(owner).get(name)] == []


@pytest.mark.parametrize("path", [*SCRIPTS, "EOA-SAM/EOASAM-cifar100"])
def test_presets_pass_their_own_checks(path):
    for name, args in presets(path).items():
        check(args)
        assert args.preset == name
        assert (args.dataset == "digits") == (name == "smoke")
