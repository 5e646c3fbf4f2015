"""The workflow of experiments as a user starts it: killed and started again, a record deleted, a run that fails."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from launching import ROOT, clean_environment, run

from experiments.packed import read_rounds, read_runs

QUICK = ("constant-sgd", "step-sgd", "onecycle-sgd")
LIMIT = 240  # seconds


def words_of(results, *only):
    return ["-m", "experiments", "--results", str(results), "--only", *only]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A workflow that was killed between two runs, and the one that went on."""
    folder = tmp_path_factory.mktemp("results")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command, began = [sys.executable, *words_of(folder, *QUICK)], time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), **quiet)
    while not read_runs(folder / "smoke/step-sizes"):
        assert time.monotonic() - began < LIMIT
        time.sleep(0.05)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(below, timeout=30)
    assert not alive, "jobs end with their workflow"
    return folder


def test_a_killed_workflow_goes_on_and_a_deleted_record_is_made_again(results):
    table = results / "smoke/step-sizes"
    first = {run.id: run for run in read_runs(table)}
    assert 0 < len(first) < len(QUICK)
    done = run(*words_of(results, *QUICK), limit=LIMIT)
    assert f"3 runs, {len(first)} of them are there" in done.out
    assert f"[{3 - len(first)}/{3 - len(first)}]" in done.out
    runs = {run.id: run for run in read_runs(table)}
    assert len(runs) == 3
    assert all(runs[name] == before for name, before in first.items()), "what was there is not made again"
    assert (results / "smoke/report.html").exists()
    assert {run.side_by_side for run in runs.values()} == {os.cpu_count() > 1}

    path = table / "runs.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[1:]), encoding="utf-8")
    assert "3 runs, 2 of them are there" in run(*words_of(results, *QUICK), limit=LIMIT).out
    again = read_runs(table)
    assert [r.id for r in again] == sorted(runs)
    assert again[0].summary["weights_sha256"] == runs[again[0].id].summary["weights_sha256"]
    assert again[1:] == [runs[r.id] for r in again[1:]]
    assert read_rounds(table).run.nunique() == 3
    assert "3 runs, 3 of them are there" in run(*words_of(results, *QUICK), limit=LIMIT).out


def test_a_run_that_fails_is_reported_and_the_others_go_on(tmp_path):
    words = words_of(tmp_path, "salsa", "msgd")
    done = run(*words, limit=LIMIT, code=1, ECOSPHERE_FAULT="raise:1:train:0")  # only salsa has a rank 1
    assert [r.id for r in read_runs(tmp_path / "smoke/coupled")] == ["msgd-seed0"]
    assert not read_runs(tmp_path / "smoke/step-sizes")
    assert "error: 1 of 2 runs failed" in done.err
    assert "salsa-seed0 ended with exit code" in done.err
    log = tmp_path / "smoke/step-sizes/runs/salsa-seed0.log"
    assert "SaLSA/SaLSA.py" in log.read_text(encoding="utf-8").splitlines()[0]
    assert (tmp_path / "smoke/tables/accuracy.md").exists()
