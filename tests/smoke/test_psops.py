"""PSO-PS (our reconstruction) as a user starts it: its record, its label, faults, resumption, and what is refused."""

import math

import pytest
from launching import run
from run_records import COLUMNS, RunRecord, check_complete, check_kept, kill_and_resume

from common.training.swarm_end import COLUMNS as SWARM_COLUMNS

PSOPS, METHOD = "PSO-PS/PSOPS.py", "PSO-PS (our reconstruction)"
SHORT = ("--preset", "smoke", "--rounds", 3, "--round-steps", 4, "--worker-batch", 16, "--probe-images", 40)


def check(out, ranks, rounds=3):
    """A complete and labelled record, with the bytes that its meetings have sent."""
    record = check_complete(out, rounds, ranks, (*COLUMNS, *SWARM_COLUMNS))
    summary, metrics, swarm = record.summary, record.metrics, record.summary["swarm"]
    assert (summary["experiment"], summary["method"]) == ("pso-ps", METHOD)
    assert [p["species"] for p in summary["populations"]] == [record.config["method"]] == [METHOD]
    assert record.environment["all_reduce"] == ("mpi" if ranks > 1 else "none")
    last = [m for m in metrics if int(m["round"]) == rounds - 1]
    new, meetings = int(last[0]["new_bests"]), int(last[0]["swarm_rounds"])
    assert len({(m["new_bests"], m["global_best_worker"], m["global_best"], m["global_val_accuracy"]) for m in last}) == 1
    assert float(last[0]["global_best"]) <= min(float(m["personal_best"]) for m in last) + 1e-9
    assert all(math.isfinite(float(m["distance"])) for m in metrics)
    assert 0 <= swarm["new_best_share"] <= 1
    assert len(swarm["worker_val_accuracies"]) == ranks
    assert 0 <= swarm["average_test_accuracy"] <= 1
    assert max(swarm["worker_val_accuracies"]) == swarm["worker_val_accuracies"][swarm["best_worker"]]
    if ranks > 1 and summary["exchange"] == "broadcast":
        n, b = summary["parameters"], summary["buffers"]
        assert summary["bytes_sent"]["inside"] == 4 * ((n + b) * (1 + new) + ranks * (b * meetings + (b + 1) * rounds))
    return record


@pytest.mark.slow
def test_the_smoke_preset_learns_the_digits(tmp_path):
    done = run(PSOPS, "--preset", "smoke", "--out", tmp_path / "run", ranks=4, limit=120)
    assert done.out.startswith(f"{METHOD}, preset smoke")
    assert check(tmp_path / "run", 4, rounds=15).summary["test_accuracy"] >= 0.90


def test_a_killed_run_resumes_to_the_bits_of_an_uninterrupted_one_however_g_travels(tmp_path):
    """Moves every 3 steps and rounds of 4: a phase goes on after the checkpoint."""
    whole, broken, gathered = (tmp_path / name for name in ("whole", "broken", "gathered"))
    words = (PSOPS, *SHORT[:-2], "--period", 3, "--swarm", "oz", "--fitness", "phase-mean")
    words += ("--momentum-factor", 0.9, "--seed", 5)
    run(*words, "--out", whole, ranks=3)
    there = check(whole, 3)
    kill_and_resume(broken, "kill:1:train:2", *words, ranks=3)
    check(broken, 3).check_equals(there)
    assert there.summary["swarm"]["rounds"] == 4
    run(*words, "--exchange", "allgather", "--out", gathered, ranks=3)
    assert check(gathered, 3).hash == there.hash
    n, b = there.summary["parameters"], there.summary["buffers"]
    sent = (n + b) * (1 + 3 * 4) + b * 3 * (4 + 3) + 3 * 3  # the last: flags
    assert RunRecord(gathered).summary["bytes_sent"]["inside"] == 4 * sent


def test_one_rank_is_enough_and_the_steps_that_are_left_over_count(tmp_path):
    more = ("--swarm", "shi", "--memory", "reeval", "--consensus", "--max-steps", 7, "--v-max", 0.5, "--v-max-unit", "rms")
    run(PSOPS, *SHORT, *more, "--period", 5, "--opt-state", "reset", "--momentum-factor", 0.5, "--out", tmp_path / "run")
    record = check(tmp_path / "run", 1, rounds=2)
    assert record.summary["train_images"] == 7 * 16
    assert record.column("swarm_rounds") == [0, 1]
    assert record.summary["swarm"]["rounds"] == 2, "the last two steps are judged as well"
    assert [math.isnan(f) for f in record.column("fitness")] == [True, False], "before the first meeting nothing is known"
    asked = {k: record.config[k] for k in ("inertia", "inertia_end", "cognitive", "social", "decay", "rand", "v_max")}
    assert list(asked.values()) == [0.9, 0.4, 2.0, 2.0, False, "element", 0.5]


def test_a_worker_that_is_lost_goes_on_from_g(tmp_path):
    out = tmp_path / "run"
    run(PSOPS, *SHORT, "--period", 2, "--momentum-factor", 0.9, "--out", out, ranks=3, ECOSPHERE_FAULT="nan:2:train:1")
    record = RunRecord(out)
    record.check_lost(rank=2, t=1, rounds=3)
    assert math.isfinite(record.column("average_val_accuracy", round=1)[0])


def test_where_every_worker_is_lost_the_last_g_is_kept(tmp_path):
    out = tmp_path / "run"
    record = check_kept(run(PSOPS, *SHORT, "--period", 2, "--out", out, code=1, ECOSPHERE_FAULT="nan:0:train:1"), out)
    assert record.summary["swarm"]["worker_val_accuracies"] == [None]
