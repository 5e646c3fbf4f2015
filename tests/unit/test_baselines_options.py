"""The options of the baselines: what each method takes by itself, what it refuses, and whose rates are replayed."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_cli import load_script, undocumented

from common.errors import UsageError
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--method cosine --period 4", "--period is for --method sync"),
        ("--method independent --period 4", "--period is for --method sync"),
        ("--method average --switch 0.5", "--switch is for --method post-local, not average"),
        ("--method sync --outer-rate 1", "--outer-rate is for --method diloco"),
        ("--method pbt --schedule cosine", "--schedule is for"),
        ("--method linear --worker-batch 16", "--worker-batch is for"),
        ("--method sqrt --shards own", "--shards is for"),
        ("--method average --period 0", "--period 0 has to be at least 1"),
        ("--method average --worker-batch 0", "--worker-batch 0 has to be at least 1"),
        ("--method average --worker-batch 16 --batch-size 64", "--batch-size is of all workers"),
        ("--method post-local --switch 1.5", "--switch 1.5"),
        ("--method diloco --outer-rate 0", "--outer-rate 0.0"),
        ("--method diloco --outer-momentum 1", "--outer-momentum 1.0"),
        ("--method diloco --learning-rate 0.1", "--learning-rate is not an option of adamw"),
        ("--method average --adam-rate 0.1", "--adam-rate is not an option of sgd"),
        ("--method pbt --optimizer adamw", "--method pbt copies"),
        ("--method sync --period 2 --optimizer nesterov", "--optimizer nesterov looks ahead"),
        ("--optimizer salsa", "--method cosine is for optimizers with a rate, and salsa finds its steps by itself"),
        ("--method sync --optimizer salsa-sgd", "use SaLSA/SaLSA.py, or --method average"),
        ("--method pbt --optimizer salsa-sgd", "--method pbt is for optimizers with a rate"),
        ("--method average --optimizer salsa --schedule cosine", "--schedule is for optimizers with a rate"),
        ("--method average --optimizer salsa-sgd --learning-rate 1", "--learning-rate is for optimizers with a rate"),
        ("--method replay", "--method replay needs --replay"),
        ("--method cosine --optimizer schedulefree-sgd", "--method cosine: schedulefree-sgd is for a constant rate"),
        ("--method average --optimizer schedulefree-adamw", "--method average: schedulefree-adamw is for a constant rate"),
        ("--method sync --schedule step --optimizer schedulefree-sgd", "--schedule step: schedulefree-sgd is for a constant"),
        ("--method pbt --optimizer schedulefree-sgd", "--method pbt: schedulefree-sgd"),
        ("--method sync --optimizer prodigy --learning-rate 1", "--learning-rate is not an option of prodigy"),
        ("--optimizer prodigy --adam-rate 1", "--adam-rate is not an option of prodigy"),
        ("--find-lr --method step", "--find-lr tries rates, --method step moves them"),
        ("--find-lr --optimizer prodigy", "prodigy estimates its rate by itself"),
        ("--find-lr --optimizer salsa", "salsa finds its steps by itself"),
        ("--find-lr --rounds 3", "--rounds is for training"),
        ("--method average --warmup 1", "--warmup is for --method constant, cosine, step, onecycle, linear, sqrt"),
        ("--warmup -1", "--warmup -1.0 has to be 0 or more, and finite"),
        ("--method linear --replay somewhere", "--replay and --method linear exclude each other"),
    ],
)
def test_what_cannot_work_is_refused_by_name(script, options, said):
    with pytest.raises(UsageError) as refusal:
        settled(script, options)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


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
