"""The baselines as a user starts them: every method, lineage and replay, faults, resumption."""

import csv
import itertools

import pytest
from launching import run
from run_records import RunRecord, check_kept, kill_and_resume, run_to_end

BASELINES = "baselines/Baselines.py"
SHORT = ("--preset", "smoke", "--rounds", 2, "--round-steps", 4, "--worker-batch", 16)
STEPS = 2 * 4
# ranks and options of a short run of each method, and how often one of its workers hands over a buffer as long as the weights
METHODS = {
    "sync": (3, ("--period", 3), 3),
    "average": (2, ("--period", 3, "--schedule", "cosine"), 3),
    "post-local": (2, ("--period", 3, "--switch", 0.25), 2 + 2),
    "diloco": (3, ("--period", 3), 3),
    "independent": (2, (), 0),
    "pbt": (3, (), 0),
}
SLOW = {"sync", "average", "post-local"}  # tests/mpi has the same steps
each_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """`short_run(method)`: the record of a short run, made at the first call."""
    made = {}

    def record(method):
        if method not in made:
            (ranks, options, _), out = METHODS[method], tmp_path_factory.mktemp("short") / method
            _, made[method] = run_to_end(out, 2, BASELINES, "--method", method, *SHORT, *options, ranks=ranks)
        return made[method]

    return record


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.slow] * (m in SLOW)) for m in METHODS])
def test_a_short_run_leaves_a_whole_record_and_sends_what_its_equations_say(short_run, method):
    ranks, _, exchanges = METHODS[method]
    record = short_run(method)
    summary, parameters = record.summary, record.summary["parameters"]
    apart = method in ("independent", "pbt")
    assert (summary["method"], summary["train_images"]) == (method, STEPS * 16 * ranks)
    assert [p["workers"] for p in summary["populations"]] == ([1] * ranks if apart else [ranks])
    assert summary["populations"][0]["optimizer"] == ("adamw" if method == "diloco" else "sgd")
    state = parameters + summary["buffers"]
    # a merge; nothing; statistics and a flag
    every_round = {"sync": state + 1, "independent": 0, "pbt": 0}.get(method, summary["buffers"] + 1)
    sent = state + ranks * (2 * every_round + exchanges * (parameters + 1))  # the start's broadcast comes from one rank
    assert summary["bytes_sent"]["inside"] == 4 * sent
    rates = {"average": [0.1, 0.05]}.get(method, [0.001, 0.001] if method == "diloco" else [0.1, 0.1])
    if method != "pbt":
        assert record.column("lr", rank=0) == pytest.approx(rates)


def test_of_independent_workers_the_best_one_counts_and_their_mean_is_told(short_run):
    record = short_run("independent")
    assert record.column("fitness", round=1, rank=0) != record.column("fitness", round=1, rank=1)
    assert set(record.summary["averaged"]) == {"validation_accuracy", "validation_loss", "test_accuracy", "test_loss"}
    assert record.summary["averaged"]["test_loss"] != record.summary["test_loss"]
    assert record.summary["bytes_sent"]["across"] == 0


def test_pbt_copies_weights_and_rates_and_its_lineage_can_be_replayed(short_run, tmp_path):
    record = short_run("pbt")
    first, second = record.column("lr", round=0), record.column("lr", round=1)
    moved = [k for k in range(3) if first[k] != second[k]]
    assert len(moved) == 1
    assert min(abs(second[moved[0]] / (factor * rate) - 1) for factor in (0.8, 1.2) for rate in first) < 1e-6
    lineage = record.summary["lineage"]
    rates = [record.column("lr", round=t, population=p)[0] for t, p in enumerate(lineage)]
    words = (BASELINES, "--replay", record.directory, *SHORT[:-2], "--batch-size", 16)
    _, replayed = run_to_end(tmp_path / "run", 2, *words)
    assert replayed.column("lr") == rates
    assert replayed.config["replayed_rates"] == rates


@pytest.mark.slow
@pytest.mark.parametrize(("method", "ranks"), [*((m, 4) for m in METHODS), ("constant", 2), ("step", 2), ("onecycle", 2)])
def test_every_method_and_schedule_learns_the_digits(tmp_path, method, ranks):
    run(BASELINES, "--method", method, "--preset", "smoke", "--out", tmp_path / "run", ranks=ranks)
    assert RunRecord(tmp_path / "run").summary["test_accuracy"] >= 0.9


@pytest.mark.slow
@each_method
def test_one_rank_will_do(tmp_path, method):
    _, record = run_to_end(tmp_path / "run", 2, BASELINES, "--method", method, *SHORT)
    assert record.summary["bytes_sent"] == {"inside": 0, "across": 0}


@pytest.mark.parametrize("method", [m if m == "diloco" else pytest.param(m, marks=pytest.mark.slow) for m in METHODS])
def test_a_killed_run_resumes_to_the_bits_of_an_uninterrupted_one(short_run, tmp_path, method):
    """Round 1 begins after four steps: between two exchanges."""
    ranks, options, _ = METHODS[method]
    words = (BASELINES, "--method", method, *SHORT, *options)
    kill_and_resume(tmp_path / "broken", "kill:1:train:1", *words, ranks=ranks).check_equals(short_run(method))


@pytest.mark.slow
@each_method
def test_a_worker_that_is_lost_goes_on_with_the_others(tmp_path, method):
    ranks, options, _ = METHODS[method]
    out = tmp_path / "run"
    run(BASELINES, "--method", method, *SHORT, *options, "--out", out, ranks=ranks, ECOSPHERE_FAULT="nan:1:train:0")
    RunRecord(out).check_lost(rank=1, t=0, rounds=2)


@pytest.mark.slow
@each_method
def test_where_everybody_is_lost_the_last_finite_weights_are_kept(tmp_path, method):
    out = tmp_path / "run"
    check_kept(run(BASELINES, "--method", method, *SHORT, "--out", out, code=1, ECOSPHERE_FAULT="nan:0:train:1"), out)


def test_a_range_test_leaves_a_curve_and_a_picture_and_trains_nothing(tmp_path):
    out = tmp_path / "run"
    done = run(BASELINES, "--find-lr", "--preset", "smoke", "--max-steps", 60, "--out", out, ranks=2)
    with open(out / "find-lr.csv", encoding="utf-8", newline="") as file:
        rates = [float(line["rate"]) for line in csv.DictReader(file)]
    assert rates[0] == pytest.approx(1e-5)
    ratios = [b / a for a, b in itertools.pairwise(rates)]
    assert ratios == pytest.approx([1e6 ** (1 / 59)] * len(ratios))
    assert "try --learning-rate" in done.out
    assert (out / "find-lr.png").read_bytes().startswith(b"\x89PNG")
    assert not (out / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["schedulefree-sgd", "schedulefree-adamw", "prodigy"])
def test_optimizers_without_a_schedule_learn_the_digits_and_resume_to_the_bit(tmp_path, optimizer):
    words = (BASELINES, "--optimizer", optimizer, "--preset", "smoke")
    run(*words, "--out", tmp_path / "whole", ranks=2)
    whole = RunRecord(tmp_path / "whole")
    assert whole.summary["test_accuracy"] >= 0.9
    kill_and_resume(tmp_path / "broken", "kill:1:train:7", *words, ranks=2).check_equals(whole)
