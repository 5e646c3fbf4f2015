"""Options of the baselines: defaults by method, refusals, and replayed rates."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_cli import load_script, undocumented

from common.training.options import parse_args

FOLDER = Path(__file__).parents[2] / "baselines"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        yield load_script("Baselines", patch, FOLDER)


def settled(script, options, ranks=4):
    args, given = parse_args(script.PRESETS, "a test", ["--preset", "smoke", *options.split()])
    return script.resolve(args, given, ranks)


def test_every_option_has_a_help_text(script):
    assert undocumented(script.Args) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"method": "cosine", "batch_size": 64, "optimizer": "asam", "period": 0}),
        ("--method constant", {"warmup": 0.0}),
        ("--method linear", {"warmup": 1.0}),
        ("--method sqrt --warmup 0.5", {"warmup": 0.5}),
        ("--optimizer schedulefree-adamw", {"method": "constant"}),
        ("--optimizer prodigy", {"method": "cosine"}),
        ("--find-lr", {"method": "constant", "optimizer": "asam"}),
        ("--method sync --optimizer schedulefree-sgd --schedule constant", {"method": "sync"}),
        ("--method linear --batch-size 96", {"batch_size": 96, "optimizer": "asam"}),
        ("--method sync", {"batch_size": 64, "optimizer": "sgd", "period": 1, "shards": "own"}),
        ("--method sync --period 5", {"period": 5}),
        ("--method average --worker-batch 8", {"batch_size": 32, "optimizer": "sgd", "period": 10}),
        ("--method average --batch-size 40 --optimizer asam", {"batch_size": 40, "optimizer": "asam"}),
        ("--method diloco", {"optimizer": "adamw", "outer_rate": 0.7, "outer_momentum": 0.9}),
        ("--method diloco --optimizer sgd --learning-rate 0.2", {"optimizer": "sgd", "learning_rate": 0.2}),
        ("--method post-local --optimizer salsa", {"optimizer": "salsa", "shards": "own"}),
        ("--method independent", {"period": 0, "shards": "own", "schedule": "constant"}),
        ("--method pbt", {"period": 0, "shards": "all"}),
        ("--method pbt --shards own", {"shards": "own"}),
        ("--replay somewhere", {"method": "replay", "batch_size": 64}),
    ],
)
def test_what_a_method_takes_where_nothing_else_is_asked_for(script, options, expected):
    args = settled(script, options)
    assert {name: getattr(args, name) for name in expected} == expected


@pytest.mark.parametrize(("method", "power"), [("linear", 1.0), ("sqrt", 0.5)])
@pytest.mark.parametrize("batch", [32, 128, 512])
def test_scaled_rates_rise_from_eta0_to_a_power_of_the_batch_and_fall_by_a_cosine(script, method, power, batch):
    """k = batch / 128; an epoch of warm-up, which is two rounds here, from eta0 where that is lower."""
    args = settled(script, f"--method {method} --batch-size {batch} --learning-rate 0.3 --rounds 10", ranks=1)
    world = SimpleNamespace(size=1)
    run = SimpleNamespace(
        topology=SimpleNamespace(world=world), epoch_steps=40, plan=SimpleNamespace(steps=20, batch_size=batch)
    )
    rule = script.rate_rule(args, run)
    peak = 0.3 * (batch / 128) ** power

    def annealed(rounds):
        return peak * (1 + math.cos(math.pi * rounds / 10)) / 2

    for rounds in (0.0, 0.5, 1.5):
        start = min(0.3, annealed(rounds))
        assert rule.at(0.0, rounds) == pytest.approx(start + (annealed(rounds) - start) * rounds / 2)
    for rounds in (2.0, 5.0, 7.5):
        assert rule.at(0.0, rounds) == pytest.approx(annealed(rounds))
