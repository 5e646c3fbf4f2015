"""Elastic averaging as a user starts it: every method, servers and windows, faults, resumption, and what is refused."""

import math

import pytest
from launching import TINY, run
from run_records import RunRecord, check_kept

EASGD = "EASGD/EASGD.py"
TOGETHER, ALONE = ("easgd", "easgd-gs"), ("sgd", "msgd", "asgd", "mvasgd")
SERVED = ("aeasgd", "eamsgd", "downpour", "mdownpour", "adownpour", "mvadownpour", "admm")
SHORT = ("--preset", "smoke", "--rounds", 3, "--round-steps", 4, "--worker-batch", 16)


def check(out, ranks, workers, rounds=3):
    """A complete record: a line for every worker and round, one evaluation of the centre per round."""
    record = RunRecord(out)
    summary, metrics = record.summary, record.metrics
    assert (summary["experiment"], summary["ranks"], summary["rounds"], summary["diverged"]) == ("easgd", ranks, rounds, False)
    first = ranks - workers
    assert [(int(m["round"]), int(m["rank"])) for m in metrics] == [(t, r) for t in range(rounds) for r in range(first, ranks)]
    for t in range(rounds):
        assert any(not math.isnan(f) for f in record.column("fitness", round=t))
    return record


@pytest.mark.slow
@pytest.mark.parametrize("method", [*TOGETHER, *SERVED, *ALONE])
def test_every_method_learns_the_digits(tmp_path, method):
    run(EASGD, "--method", method, "--preset", "smoke", "--out", tmp_path / "run", ranks=5, limit=120)
    summary = RunRecord(tmp_path / "run").summary
    assert summary["test_accuracy"] >= 0.85


@pytest.mark.parametrize(
    ("method", "ranks", "workers", "options"),
    [
        ("aeasgd", 3, 2, TINY),  # the options of the other scripts
        ("easgd", 3, 3, ("--period", 2)),
        ("aeasgd", 4, 2, ("--servers", 2, "--period", 3)),
        ("aeasgd", 3, 2, ("--server", "rma", "--period", 1, "--shards", "own")),
        pytest.param("mdownpour", 3, 2, ("--variant", "nesterov"), marks=pytest.mark.slow),
        pytest.param("mvadownpour", 3, 2, ("--average-rate", 0.1), marks=pytest.mark.slow),
        pytest.param("admm", 1, 1, (), marks=pytest.mark.slow),
        ("easgd-gs", 1, 1, ("--decay", 0.01)),
    ],
)
def test_short_runs_leave_a_whole_record(tmp_path, method, ranks, workers, options):
    words = options if options is TINY else ("--method", method, *SHORT, *options)
    run(EASGD, *words, "--out", tmp_path / "run", ranks=ranks)
    record = check(tmp_path / "run", ranks, workers)
    assert record.summary["train_images"] == 3 * 4 * (48 if options is TINY else 16 * workers)
    steps, n = 3 * 4, record.summary["parameters"]
    gamma = 0.01 if "--decay" in options else 0.0
    rates = [record.config["learning_rate"] / math.sqrt(1 + gamma * 4 * t) for t in range(3)]
    assert record.column("lr", rank=ranks - 1) == pytest.approx(rates)
    if method == "aeasgd":
        period = record.config["period"]
        exchanges = workers * math.ceil(steps / period)
        sent = record.summary["bytes_sent"]["inside"] / 4 / n
        assert 2 * exchanges + 3 <= sent + 1e-9 <= 2 * exchanges + 3 + 8, "2 N an exchange; a pull a round to judge; the start"


def test_a_sequential_method_leaves_the_other_ranks_waiting(tmp_path):
    done = run(EASGD, "--method", "asgd", *SHORT, "--out", tmp_path / "run", ranks=2)
    assert "rank 0 trains, 1 other rank(s) wait" in done.out
    check(tmp_path / "run", 1, 1)


@pytest.mark.parametrize(
    ("method", "ranks", "victim", "more"),
    [
        ("downpour", 3, 0, ()),
        ("aeasgd", 3, 2, ("--server", "rma")),
        pytest.param("aeasgd", 4, 1, ("--servers", 2), marks=pytest.mark.slow),
        pytest.param("admm", 3, 2, (), marks=pytest.mark.slow),
        pytest.param("easgd", 3, 1, (), marks=pytest.mark.slow),
        pytest.param("mdownpour", 3, 1, (), marks=pytest.mark.slow),
    ],
)
def test_a_killed_server_or_worker_ends_the_job_and_the_run_can_be_resumed(tmp_path, method, ranks, victim, more):
    out = tmp_path / "run"
    options = ("--method", method, *SHORT, *more, "--out", out)
    done = run(EASGD, *options, ranks=ranks, code=None, watch=True, ECOSPHERE_FAULT=f"kill:{victim}:record:2")
    assert done.code != 0
    assert done.after_trouble < 10
    assert not (out / "summary.json").exists()
    resumed = run(EASGD, *options, "--resume", ranks=ranks)
    assert "resuming after round" in resumed.out
    record = RunRecord(out)
    not_training = 0 if method == "easgd" else 2 if "--servers" in more else 1
    lines = ranks - not_training
    assert (record.summary["rounds"], record.summary["diverged"], len(record.metrics)) == (3, False, 3 * lines)


@pytest.mark.parametrize("method", ["aeasgd", "easgd"])
def test_a_worker_that_is_lost_goes_on_from_the_centre(tmp_path, method):
    out = tmp_path / "run"
    run(EASGD, "--method", method, "--period", 1, *SHORT, "--out", out, ranks=3, ECOSPHERE_FAULT="nan:2:train:1")
    RunRecord(out).check_lost(rank=2, t=1, rounds=3)


@pytest.mark.parametrize(("method", "ranks", "when"), [("aeasgd", 2, 2), ("easgd", 1, 1), ("asgd", 1, 1)])
def test_where_every_worker_is_lost_the_last_finite_centre_is_kept(tmp_path, method, ranks, when):
    """A served worker continues while there are rounds left; synchronous workers stop at once."""
    out, fault = tmp_path / "run", f"nan:{ranks - 1}:train:{when}"
    record = check_kept(run(EASGD, "--method", method, *SHORT, "--out", out, ranks=ranks, code=1, ECOSPHERE_FAULT=fault), out)
    assert [m["round"] for m in record.metrics if m["fitness"] == "-inf"] == [str(when)]
