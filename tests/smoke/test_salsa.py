"""The line search as a user starts it: records and counts, a population among others, text, resumption, what is refused."""

import pytest
from launching import CIFAR10, TINY
from run_records import check_complete, kill_and_resume, run_to_end

SALSA = "SaLSA/SaLSA.py"


def test_a_run_of_two_ranks_counts_its_trials_and_resumes_to_the_bits_of_an_uninterrupted_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _, there = run_to_end(whole, 3, SALSA, *TINY, "--direction", "sgd", ranks=2)
    kill_and_resume(broken, "kill:1:train:2", SALSA, *TINY, "--direction", "sgd", ranks=2).check_equals(there)
    check_complete(broken, 3, 2)
    assert (broken / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes(), "counters included"
    summary = there.summary
    assert (summary["experiment"], summary["method"]) == ("salsa", "salsa")
    steps, ranks = 3 * 4, 2
    assert summary["trials"] >= summary["searches"] == steps * ranks, "the early steps are all searched"
    assert summary["forward_evaluations"] == steps * 48 + summary["trials"] * 48 // ranks
    for t in range(3):
        first, second = there.column("lr", round=t)
        assert first == second, "all ranks take the same step"
    assert len(set(there.column("lr"))) == 3


def test_a_population_searches_among_wolves(tmp_path):
    _, record = run_to_end(tmp_path / "run", 3, CIFAR10, *TINY, "--populations", "gwo:2:sgd,hold:2:salsa", ranks=4)
    assert [p["optimizer"] for p in record.summary["populations"]] == ["sgd", "salsa"]
    for rank in range(4):
        assert all((trials > 0) == (rank >= 2) for trials in record.column("trials", rank=rank))
    assert record.column("lr", rank=2) == record.column("lr", rank=3)
    assert record.summary["gradient_evaluations"] == record.summary["train_images"]


def test_a_language_model_trains_on_text_without_a_download(tmp_path):
    options = ("--preset", "smoke", "--dataset", "topics", "--depth", 1, "--width", 1, "--fitness-images", 20)
    options += ("--batch-size", 12, "--rounds", 2, "--round-steps", 6, "--dropout", 0.1, "--plain")
    _, record = run_to_end(tmp_path / "run", 2, SALSA, *options)
    summary = record.summary
    assert (summary["method"], summary["model"], summary["classes"]) == ("sls", "Transformer-1-32", 97)
    assert summary["train_images"] == 2 * 6 * 12
    assert (record.config["c"], record.config["beta3"]) == (0.1, 0.0)
    assert len(record.config["data_sha256"]) == 64
    losses = record.column("train_loss")
    assert losses[1] < losses[0] < 4.7, "below ln 97, and falling"


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "--direction sgd", "--plain", "--interval 1", "--variant released"])
def test_the_smoke_preset_learns_the_digits(tmp_path, options):
    _, record = run_to_end(tmp_path / "run", 12, SALSA, "--preset", "smoke", *options.split(), ranks=2)
    assert record.summary["test_accuracy"] >= 0.93
