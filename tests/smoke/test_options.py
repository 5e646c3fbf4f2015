"""Every exchange policy, damping, base rate, scope and optimizer in a few combined runs, and the reference behaviour."""

import math

import pytest
from launching import CIFAR10, CIFAR100, TINY, check_refused, run
from run_records import run_to_end

COMBINATIONS = {  # ranks, options
    "best, mixed optimizers, no damping": (
        4,
        "--populations gwo:2:sam,woa:2:sgd --exchange best --damping none --base-rate best --sam-scope population "
        "--momentum reset",
    ),
    "migrate, three populations": (
        3,
        "--populations gwo,woa,gwo --exchange migrate --damping relative --base-rate anneal --optimizer sam --sam-scope world",
    ),
    "ring, scope world, plain SGD": (
        3,
        "--populations gwo:60%,woa:40% --exchange ring --ring-weight 0.3 --damping annealed --optimizer sgd --scope world",
    ),
    "fixed damping, float32, few judges": (
        2,
        "--damping fixed --base-rate best --fitness-images 30 --val-fraction 0.2 --precision float32 --populations woa,gwo",
    ),
    "evolution strategy, controls, Muon": (
        4,
        "--populations cmaes:2:muon,hold:1:sgd,random:1:asam+adamw --clip-norm 1.0 --train-images 600 --accumulate 3",
    ),
    "elastic averaging inside populations": (
        4,
        "--populations gwo:3,woa:1 --intra-coupling easgd --period 2 --optimizer nesterov",
    ),
    "foraging": (4, "--base-rate forage --optimizer sgd"),
    "foraging, mixed optimizers": (2, "--populations gwo:1:sgd,woa:1:adamw --base-rate forage"),
}
SLOW = {
    "four species, three optimizers, log rates": (
        8,
        "--populations gwo:2:sam,woa:2:adamw,pso:2:sgd,de:2:sam --lr-space log --damping none --base-rate best --exchange kin",
    ),
    "weights averaged inside populations": (4, "--intra-coupling average --period 3 --exchange migrate"),
    "the worst copy the best": (4, "--populations gwo,woa,hold,random --exchange exploit"),
    "nothing crosses": (2, "--populations gwo,woa --exchange none --optimizer sgd"),
    "foraging, four populations, chance": (
        4,
        "--populations gwo,woa,pso,de --base-rate forage --forage-proposals spread --model wrn --depth 10 --width 1",
    ),
    "scaled damping, Wide ResNet": (2, "--damping scaled --model wrn --depth 10 --width 1 --precision bfloat16 --dropout 0.1"),
}


@pytest.mark.parametrize("name", [*COMBINATIONS, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_every_option_does_its_work_in_some_combination(tmp_path, name):
    ranks, options = (COMBINATIONS | SLOW)[name]
    rounds = 2 if "forage" in options else 3  # foraging: 12 steps, in rounds of at least 6
    _, record = run_to_end(tmp_path / "run", rounds, CIFAR10, *TINY, *options.split(), ranks=ranks)
    summary, config = record.summary, record.config
    wanted = dict(zip(options.split()[::2], options.split()[1::2], strict=True))
    assert all(str(config[option[2:].replace("-", "_")]) == value for option, value in wanted.items())
    assert all(lr >= 0 for lr in record.column("lr"))
    passes = [(2 if "sam" in p["optimizer"] else 1) * p["workers"] for p in summary["populations"]]
    assert summary["gradient_evaluations"] == summary["train_images"] * sum(passes) / ranks


@pytest.mark.parametrize(("script", "column", "rule"), [(CIFAR10, "cifar10", "best"), (CIFAR100, "cifar100", "blend")])
def test_the_reference_behaviour_is_announced_and_recorded(tmp_path, script, column, rule):
    done, record = run_to_end(tmp_path / "run", 3, script, *TINY, "--reference", ranks=2)
    assert record.summary["method"] == "eoa-reference"
    assert f"reference behaviour of the {column} script" in done.out
    config = record.config
    assert (config["scope"], config["sam_scope"], config["momentum"], config["base_rate"]) == ("world", "world", "reset", rule)
    assert config["label_smoothing"] == pytest.approx(1 / 9)  # 0.1 to the wrong ones
    assert config["precision"] == record.summary["precision"] == "float32"
    assert "not reproduced:" in done.out
    assert "theirs are four" in done.out
    # k = N = 2 and no warm-up: wolves start a little above 2 eta0, whales above its square root.
    wolf, whale = record.column("lr", round=0)
    assert 0.2 <= wolf <= 0.22
    assert 0.1 * 2**0.5 <= whale <= 0.11 * 2**0.5


def test_the_reference_network_begins_with_a_head_of_zeros(tmp_path):
    options = ("--reference", "--model", "wrn", "--depth", 10, "--rounds", 1, "--label-smoothing", 0.05, "--max-steps", 1)
    done, record = run_to_end(tmp_path / "run", 1, CIFAR10, *TINY, *options)
    assert (record.config["initialisation"], record.config["label_smoothing"]) == ("fan-in", 0.05)  # given: as it is
    assert "--initialisation fan-in (instead of fan-out)" in done.out
    assert record.column("train_loss") == [pytest.approx(math.log(10), rel=1e-5)]  # all logits of the first step are 0


def test_max_steps_ends_a_run_inside_a_round_and_a_presets_batch_is_rounded_to_the_ranks(tmp_path):
    options = ("--preset", "smoke", "--rounds", 3, "--round-steps", 4, "--max-steps", 5)
    done, record = run_to_end(tmp_path / "run", 2, CIFAR100, *options, ranks=3)
    assert "batch size 64 of preset smoke rounded to 63" in done.out
    assert record.summary["batch_size"] == 63
    assert record.summary["train_images"] == 5 * 63


def test_help_is_printed_once_however_many_ranks_there_are():
    one, two = run(CIFAR10, "--help"), run(CIFAR10, "--help", ranks=2)
    assert "--populations" in one.out
    assert two.out.count("--populations ") == one.out.count("--populations ")
    assert "paper" in one.out
    assert one.ours == two.ours == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "launcher", "ranks"), [(CIFAR100, "horovodrun", 16), (CIFAR10, "mpirun", 8), (CIFAR10, "python", 1)]
)
def test_the_smoke_preset_learns_the_digits(tmp_path, script, launcher, ranks):
    done, record = run_to_end(tmp_path / "run", 12, script, "--preset", "smoke", ranks=ranks, launcher=launcher, limit=300)
    assert record.summary["test_accuracy"] >= 0.9
    assert "error" not in done.err


def test_the_rates_of_a_run_are_replayed_but_not_those_of_foraging(tmp_path):
    rates, table = (0.03, 0.2, 0.01), tmp_path / "metrics.csv"
    table.write_text("round,rank,optimizer,lr\n" + "".join(f"{t},0,sgd,{rate}\n" for t, rate in enumerate(rates)))
    words = ("baselines/Baselines.py", *TINY, "--replay", tmp_path)
    _, record = run_to_end(tmp_path / "run", 3, *words)
    assert record.column("lr") == list(rates)
    (tmp_path / "config.json").write_text('{"base_rate": "forage", "learning_rate": 1, "adam_rate": 1, "momentum_factor": 0}')
    check_refused(run(*words, "--out", tmp_path / "other", code=2), "takes rounds back", tmp_path / "other")
