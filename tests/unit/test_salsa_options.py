"""The options of SaLSA: its rules for each variant, and what has no effect beside them and is refused."""

from pathlib import Path

import pytest
from test_cli import load_script, undocumented

from common.optim.armijo import PAPER, PLAIN, RELEASED
from common.training.options import parse_args


@pytest.fixture
def script(monkeypatch):
    return load_script("SaLSA", monkeypatch, Path(__file__).parents[2] / "SaLSA")


def test_every_option_has_a_help_text(script):
    assert undocumented(script.Args) == []


@pytest.mark.parametrize(
    ("options", "rules", "optimizer"),
    [
        ("", PAPER, "salsa"),
        ("--plain --direction sgd", PLAIN, "salsa-sgd"),
        ("--variant released", RELEASED, "salsa"),
        ("--direction sgd --momentum-factor 0.5 --weight-decay 0.1", PAPER, "salsa-sgd"),
        ("--adam-decay 0.1", PAPER, "salsa"),
    ],
)
def test_each_variant_has_rules_of_its_own_and_the_record_tells_them(script, options, rules, optimizer):
    args, found = script.resolve(*parse_args(script.PRESETS, "a test", ["--preset", "smoke", *options.split()]))
    assert found == rules
    assert args.optimizer == optimizer
    assert (args.eta0, args.c, args.beta3) == (rules.eta0, rules.c, rules.beta3)
