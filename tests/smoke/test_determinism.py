"""The same seed on the same number of ranks gives the same bits with every launcher; another seed gives others."""

import pytest

LAUNCHES = [("mpirun", 1), ("horovodrun", 1), pytest.param("horovodrun", 3, marks=pytest.mark.slow), ("horovodrun", 8)]


@pytest.mark.parametrize(("launcher", "ranks"), LAUNCHES)
def test_the_same_seed_gives_the_same_weights_and_metrics_under_another_launcher(tiny_runs, launcher, ranks):
    first, second = tiny_runs("python" if ranks == 1 else "mpirun", ranks), tiny_runs(launcher, ranks)
    assert first.hash == second.hash
    assert first.untimed_metrics == second.untimed_metrics


@pytest.mark.parametrize(("launcher", "ranks"), [("python", 1), ("mpirun", 3)])
def test_another_seed_gives_other_weights(tiny_runs, launcher, ranks):
    assert tiny_runs(launcher, ranks).hash != tiny_runs(launcher, ranks, seed=1).hash
