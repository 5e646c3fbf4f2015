"""A run that was killed goes on at its last complete round and ends as if nothing had happened."""

import shutil

import pytest
from launching import CIFAR10, TINY
from run_records import RunRecord, check_complete, kill_and_resume, run_to_end

CASES = {  # ranks, the one that is killed, in which round, options
    "average": (2, 1, 1, ""),
    "migrate": (3, 0, 2, "--exchange migrate --populations gwo:2,woa:1"),
    "world": (3, 2, 1, "--momentum reset --scope world"),
    "one rank": (1, 0, 2, ""),
    "memory": (3, 1, 2, "--populations pso:1:sgd,de:1:adamw,cmaes:1:sam+muon --lr-space log --damping none"),
}


@pytest.mark.parametrize("name", [n if n == "average" else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_a_killed_run_resumes_to_the_bits_of_an_uninterrupted_one(tmp_path, name):
    ranks, victim, t, options = CASES[name]
    words = (CIFAR10, *TINY, *options.split())
    _, there = run_to_end(tmp_path / "whole", 3, *words, ranks=ranks)
    kill_and_resume(tmp_path / "broken", f"kill:{victim}:train:{t}", *words, ranks=ranks)
    check_complete(tmp_path / "broken", 3, ranks).check_equals(there)


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(tmp_path):
    run_to_end(tmp_path / "run", 3, CIFAR10, *TINY)
    before = RunRecord(shutil.copytree(tmp_path / "run", tmp_path / "copy"))
    _, after = run_to_end(tmp_path / "run", 3, CIFAR10, *TINY, "--resume")
    after.check_equals(before)
    assert after.metrics == before.metrics
