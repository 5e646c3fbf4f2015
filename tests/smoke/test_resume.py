"""A run that was killed goes on at its last complete round and ends as if nothing had happened."""

import pytest
from launching import CIFAR10, TINY, run
from run_records import RunRecord, check_complete

CASES = [
    pytest.param(2, 1, 1, (), id="average"),
    pytest.param(3, 0, 2, ("--exchange", "migrate", "--populations", "gwo:2,woa:1"), id="migrate", marks=pytest.mark.slow),
    pytest.param(3, 2, 1, ("--momentum", "reset", "--scope", "world"), id="world", marks=pytest.mark.slow),
    pytest.param(1, 0, 2, (), id="one rank", marks=pytest.mark.slow),
    pytest.param(
        3,
        1,
        2,
        ("--populations", "pso:1:sgd,de:1:adamw,cmaes:1:sam+muon", "--lr-space", "log", "--damping", "none"),
        id="species that remember",
        marks=pytest.mark.slow,
    ),
]
TOTALS = ("train_images", "gradient_evaluations", "bytes_sent", "rounds", "validation_accuracy", "test_accuracy", "test_loss")


@pytest.mark.parametrize(("ranks", "victim", "t", "options"), CASES)
def test_a_killed_run_resumes_to_the_bits_of_an_uninterrupted_one(tmp_path, ranks, victim, t, options):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(CIFAR10, *TINY, *options, "--out", whole, ranks=ranks)
    killed = run(CIFAR10, *TINY, *options, "--out", broken, ranks=ranks, code=None, ECOSPHERE_FAULT=f"kill:{victim}:train:{t}")
    assert killed.code != 0
    assert not (broken / "summary.json").exists()
    assert len(RunRecord(broken).metrics) == t * ranks
    resumed = run(CIFAR10, *TINY, *options, "--out", broken, "--resume", ranks=ranks)
    assert f"resuming after round {t} of 3" in resumed.out
    there, here = check_complete(whole, 3, ranks), check_complete(broken, 3, ranks)
    assert here.hash == there.hash
    assert here.untimed_metrics == there.untimed_metrics
    assert {k: here.summary[k] for k in TOTALS} == {k: there.summary[k] for k in TOTALS}


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(tmp_path):
    run(CIFAR10, *TINY, "--out", tmp_path / "run")
    before = check_complete(tmp_path / "run", 3, 1)
    summary, metrics = before.summary, before.metrics
    run(CIFAR10, *TINY, "--out", tmp_path / "run", "--resume")
    after = check_complete(tmp_path / "run", 3, 1)
    assert after.hash == summary["weights_sha256"]
    assert after.metrics == metrics
    assert {k: after.summary[k] for k in TOTALS} == {k: summary[k] for k in TOTALS}
