"""Options of the baselines: defaults by method, refusals, and replayed rates."""

import math
from types import SimpleNamespace

import pytest
from experiment_scripts import command_line, script, values

BASELINES = "baselines/Baselines"


def settled(options, ranks=4):
    return script(BASELINES).resolve(*command_line(BASELINES, options), ranks)


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
def test_what_a_method_takes_where_nothing_else_is_asked_for(options, expected):
    assert values(settled(options), expected) == expected


@pytest.mark.parametrize(("method", "power"), [("linear", 1.0), ("sqrt", 0.5)])
@pytest.mark.parametrize("batch", [32, 128, 512])
def test_scaled_rates_rise_from_eta0_to_a_power_of_the_batch_and_fall_by_a_cosine(method, power, batch):
    """k = batch / 128; an epoch of warm-up, which is two rounds here, from eta0 where that is lower."""
    args = settled(f"--method {method} --batch-size {batch} --learning-rate 0.3 --rounds 10", ranks=1)
    topology, plan = SimpleNamespace(world=SimpleNamespace(size=1)), SimpleNamespace(steps=20, batch_size=batch)
    rule = script(BASELINES).rate_rule(args, SimpleNamespace(topology=topology, epoch_steps=40, plan=plan))
    peak = 0.3 * (batch / 128) ** power

    def annealed(rounds):
        return peak * (1 + math.cos(math.pi * rounds / 10)) / 2

    for rounds in (0.0, 0.5, 1.5):
        start = min(0.3, annealed(rounds))
        assert rule.at(0.0, rounds) == pytest.approx(start + (annealed(rounds) - start) * rounds / 2)
    for rounds in (2.0, 5.0, 7.5):
        assert rule.at(0.0, rounds) == pytest.approx(annealed(rounds))
