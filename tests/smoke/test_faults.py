"""No hangs: a rank that fails or dies in any phase aborts the whole job at once, with its rank and phase.

The default run has a few of the sixteen combinations, each phase in one of them; `--slow` all of them.
"""

import math

import pytest
from launching import CIFAR10, TINY, run
from run_records import check_kept, run_to_end
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.parallel.faults import PHASES

PATIENCE = 10.0  # seconds from the fault to the end of the whole job
POPULATIONS = "gwo:2,woa:1"  # the first uses Horovod, the second has a single worker
DEFAULT = {("raise", "setup"), ("kill", "data"), ("raise", "train"), ("kill", "evaluate")}
DEFAULT |= {("raise", "elect"), ("kill", "exchange"), ("raise", "move"), ("kill", "record")}


def matrix():
    """Both kinds in all phases; the rank changes, so that each is the victim of both kinds."""
    for i, phase in enumerate(PHASES):
        for kind in ("raise", "kill"):
            marks = [] if (kind, phase) in DEFAULT else [pytest.mark.slow]
            yield pytest.param(kind, phase, i % 3, id=f"{kind}-{phase}", marks=marks)


def break_down(out, fault, **options):
    """A job with a fault in it ends soon, with an error, and without a summary of a run that never finished."""
    tiny = (*TINY, "--populations", POPULATIONS)
    done = run(CIFAR10, *tiny, "--out", out, code=None, watch=True, ECOSPHERE_FAULT=fault, **{"ranks": 3, **options})
    assert done.code != 0, done
    assert done.after_trouble < PATIENCE, done
    assert not (out / "summary.json").exists()
    return done


@pytest.mark.parametrize(("kind", "phase", "victim"), list(matrix()))
def test_a_fault_on_one_rank_in_any_phase_ends_the_whole_job(tmp_path, kind, phase, victim):
    t = 0 if phase in ("setup", "data") else 1
    done = break_down(tmp_path / "run", f"{kind}:{victim}:{phase}:{t}")
    if kind == "raise":
        population = "0 (gwo)" if victim < 2 else "1 (woa)"
        assert f"RuntimeError: fault injected on rank {victim} in phase {phase} of round {t}" in done.err
        assert f"error: failed on rank {victim}, population {population}; ending the whole job" in done.err
        assert done.err.count("Traceback") == 1, done
    if phase in ("setup", "data"):
        assert not (tmp_path / "run").exists()  # nothing is written before everything is known to be in order


@pytest.mark.parametrize("kind", ["kill", pytest.param("raise", marks=pytest.mark.slow)])
def test_horovodrun_ends_a_job_with_a_fault_as_well(tmp_path, kind):
    break_down(tmp_path / "run", f"{kind}:1:train:0", launcher="horovodrun")


@pytest.mark.parametrize(
    "optimizer", ["asam", "schedulefree-sgd", pytest.param("schedulefree-adamw", marks=[pytest.mark.slow])]
)
def test_a_worker_whose_weights_are_not_finite_is_left_out_and_the_run_goes_on(tmp_path, optimizer):
    words = (CIFAR10, *TINY, "--populations", POPULATIONS, "--optimizer", optimizer)
    _, record = run_to_end(tmp_path / "run", 3, *words, ranks=3, ECOSPHERE_FAULT="nan:1:train:1")
    record.check_lost(rank=1, t=1, rounds=3)
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [e.value for e in events.Scalars("workers that diverged")] == [0, 1, 0]
    assert [e.value for e in events.Scalars("fitness/rank01-gwo")][1] == -math.inf
    assert len(events.Scalars("lr/rank02-woa")) == 3
    assert record.summary["validation_accuracy"] > 0


def test_a_run_without_any_finite_worker_stops_with_its_last_finite_weights(tmp_path):
    done = run(CIFAR10, *TINY, "--out", tmp_path / "run", code=1, ECOSPHERE_FAULT="nan:0:train:1")
    record = check_kept(done, tmp_path / "run")
    assert "no worker has finite weights after round 2" in done.ours[0]
    assert "Traceback" not in done.err
    assert record.summary["rounds"] == 1
    assert [(m["round"], m["fitness"] == "-inf") for m in record.metrics] == [("0", False), ("1", True)]
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [e.value for e in events.Scalars("workers that diverged")] == [0, 1]
    assert record.summary["validation_accuracy"] > 0
