"""The search as a user starts it: its record, all strategies, a kill at any moment, an ecosphere as a trial."""

import csv
import json
import re
import shlex

import numpy as np
import pytest
from launching import ROOT, kill_when, run

DHPO = "DHPO/DHPO.py"
TINY = ("--preset", "smoke", "--trials", 10, "--rounds", 2, "--round-steps", 3)
FILES = {"best.json", "config.json", "environment.json", "figures", "journal.jsonl", "summary.json", "trials.csv"}
FILES |= {"weights.safetensors"}


def read(out, name):
    return json.loads((out / name).read_text())


def rows(out):
    """(id, state, value, setting) of every trial, by id: what does not depend on time."""
    with open(out / "trials.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    timed = {"worker", "start", "end", "cost"}
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def check(out, trials=10):
    """A complete record: every trial ended once, and the value of the best one is reproduced."""
    assert {p.name for p in out.iterdir()} == FILES
    summary, lines = read(out, "summary.json"), rows(out)
    assert [int(line["id"]) for line in lines] == list(range(trials))
    assert summary["trials"]["complete"] == sum(line["state"] == "complete" for line in lines) > 0
    values = [float(line["value"]) for line in lines if line["state"] == "complete"]
    assert summary["best"]["value"] == max(values) == summary["validation_accuracy"]
    assert summary["reproduced"] is True
    assert 0 < summary["utilisation"] <= 1
    assert 0 <= summary["test_accuracy"] <= 1
    ended = [json.loads(line)["id"] for line in (out / "journal.jsonl").read_text().splitlines() if '"end"' in line]
    assert sorted(ended) == list(range(trials)), "nothing is evaluated twice, and nothing is lost"
    return summary


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted search on two ranks."""
    out = tmp_path_factory.mktemp("dhpo") / "whole"
    done = run(DHPO, *TINY, "--out", out, ranks=2)
    assert "to train it again: OMP_NUM_THREADS=1 python baselines/Baselines.py" in done.out
    return out


def train_again(command, out, ranks=1):
    """Run the command of a search's winner; returns the summary."""
    words = shlex.split(command)
    assert words[0] == "OMP_NUM_THREADS=1"
    run(*words[words.index("python") + 1 :], "--out", out, ranks=ranks, OMP_NUM_THREADS="1")
    return read(out, "summary.json")


def test_a_search_on_two_ranks_leaves_its_record(whole):
    summary = check(whole)
    assert (summary["method"], summary["ranks"], summary["workers"]) == ("async-evolution", 2, 2)
    assert {p.name for p in (whole / "figures").iterdir()} == {f"{n}.png" for n in ("curves", "history", "slices")}


def killed_and_resumed(out, whole, moments, ranks):
    """Repeatedly kill the job after a number of further journal lines, then let it finish."""
    journal = out / "journal.jsonl"

    def lines():
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    for more in moments:
        enough = lines() + more
        resume = ["--resume"] if out.exists() else []
        kill_when(DHPO, *TINY, "--out", out, *resume, ranks=ranks, until=lambda enough=enough: lines() >= enough)
    assert not (out / "summary.json").exists()
    done = run(DHPO, *TINY, "--out", out, "--resume", ranks=ranks)
    assert "resuming after" in done.out
    check(out)
    assert rows(out) == rows(whole)
    assert read(out, "best.json") == read(whole, "best.json")


def test_a_killed_search_goes_on_on_another_number_of_ranks(whole, tmp_path):
    killed_and_resumed(tmp_path / "broken", whole, [14], ranks=1)


@pytest.mark.slow
def test_ten_kills_at_random_moments(whole, tmp_path):
    moments = np.random.default_rng(11).integers(1, 6, size=10)
    killed_and_resumed(tmp_path / "broken", whole, [int(m) for m in moments], ranks=2)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["grid", "random", "evolution", "async-evolution", "tpe"])
def test_the_smoke_preset_of_every_strategy(strategy, tmp_path):
    run(DHPO, "--preset", "smoke", "--strategy", strategy, "--out", tmp_path / "run", ranks=2)
    assert check(tmp_path / "run", 12)["test_accuracy"] > 0.9


@pytest.mark.slow
def test_the_command_of_the_winner_gives_its_weights(whole, tmp_path):
    command, summary = read(whole, "best.json")["command"], read(whole, "summary.json")
    assert command.startswith("OMP_NUM_THREADS=1 python ")
    again = train_again(command, tmp_path / "again")
    assert all(again[key] == summary[key] for key in ("weights_sha256", "validation_accuracy", "test_accuracy"))


@pytest.mark.slow
def test_the_objective_of_ones_own_in_the_readme(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "DHPO/README.md").read_text(), re.DOTALL)
    (tmp_path / "own.py").write_text(block)
    done = run(tmp_path / "own.py", ranks=3, PYTHONPATH=str(ROOT))
    assert "'n': 4" in done.out


BROKEN = """
import sys
from pathlib import Path

from common.parallel import launch
from common.parallel.comm import Group, Traffic
from common.search import worker
from common.search.coordinator import Coordinator
from common.search.journal import Journal
from common.search.simulation import Queue
from common.search.search import Limits, Search
from common.parallel.topology import split_world

worker.PATIENCE = worker.FAREWELL = 0.5
group = Group(split_world(2), Traffic())


def objective(task, report):
    if task.id == 2 and group.rank == int(sys.argv[2]):
        raise MemoryError("this rank alone")
    group.comm.Barrier()
    return 1.0


def coordinator():
    journal = Journal(Path(sys.argv[1]))
    search = Search(Queue(), Limits(6), 1, log=journal.record)
    journal.recover(search)
    return Coordinator(search)


def main():
    search = worker.run(objective, coordinator, group=group)
    if search:
        print([str(t.state) for t in search.trials])


launch.run(main)
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_rank_of_a_trial_ends_the_job_but_not_the_search(tmp_path, rank):
    """The other ranks would hang; the error is journalled first, so the search passes that trial after --resume."""
    (tmp_path / "own.py").write_text(BROKEN)
    job = (tmp_path / "own.py", tmp_path / "journal", rank)
    for _ in range(2):  # the first attempt, and the further one
        ended = run(*job, ranks=2, PYTHONPATH=str(ROOT), code=1)
        assert "MemoryError: this rank alone" in ended.err
        assert "not all ranks of trial 2 made this error" in ended.err
    done = run(*job, ranks=2, PYTHONPATH=str(ROOT))
    assert done.out.strip() == str(["complete"] * 2 + ["failed"] + ["complete"] * 3)


@pytest.mark.slow
def test_an_ecosphere_of_two_ranks_is_a_trial(tmp_path):
    out = tmp_path / "run"
    options = ("--objective", "eoa", "--ranks-per-trial", 2, "--pruning", "median", "--order", "free")
    run(DHPO, *TINY, *options, "--out", out, ranks=4)
    summary = check(out)
    assert (summary["ranks"], summary["workers"], summary["ranks_per_trial"]) == (4, 2, 2)
    assert "mpirun --oversubscribe --bind-to none -np 2 python EOA-SAM/EOASAM.py" in summary["best"]["command"]
    assert train_again(summary["best"]["command"], tmp_path / "again", 2)["weights_sha256"] == summary["weights_sha256"]
