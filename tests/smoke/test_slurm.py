"""The Slurm job, with `srun` played by mpirun: submitted again after a kill, the same line goes on with the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launching import CIFAR10, ROOT, TINY, clean_environment, run
from run_records import RunRecord, check_complete

from experiments.packed import read_runs

SRUN = """#!/bin/sh
while [ "$1" != python ]; do shift; done
exec mpirun --oversubscribe --bind-to none -np "$SLURM_NTASKS" "$@"
"""


@pytest.fixture
def submitted(tmp_path):
    """A project folder with the scripts, an environment to activate and a stand-in for srun; returns `submit`."""
    beside = Path(sys.executable).parent
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text(f'PATH="{tmp_path}:{beside}:$PATH"\n')
    (tmp_path / "EOA-SAM").symlink_to(ROOT / "EOA-SAM")
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)

    def submit(*words: object, **variables: str) -> subprocess.CompletedProcess:
        environment = clean_environment(SLURM_SUBMIT_DIR=str(tmp_path), SLURM_NTASKS="2", **variables)
        command = ["bash", str(ROOT / "scripts/slurm/train.sbatch"), *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    return submit


def test_a_job_that_was_killed_goes_on_when_it_is_submitted_again(submitted, tmp_path):
    line = (CIFAR10, *TINY, "--out", tmp_path / "run")
    assert submitted(*line, ECOSPHERE_FAULT="kill:1:train:1").returncode != 0
    assert len(RunRecord(tmp_path / "run").metrics) == 2
    again = submitted(*line)
    assert again.returncode == 0, again.stderr
    assert "resuming after round 1 of 3" in again.stdout
    check_complete(tmp_path / "run", 3, 2)


def test_a_job_without_a_directory_of_its_own_is_refused(submitted):
    refused = submitted(CIFAR10, *TINY)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--out" in refused.stderr


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """A Slurm of one node; returns the folder of its jobs."""
    program = tmp_path / "bin/fake"
    program.parent.mkdir()
    source = (ROOT / "tests/smoke/fake_slurm.py").read_text(encoding="utf-8")
    program.write_text(source.replace("#!/usr/bin/env python", f"#!{sys.executable}"), encoding="utf-8")
    program.chmod(0o755)
    for name in ("sbatch", "srun", "squeue", "sacct", "scancel", "sinfo"):
        (program.parent / name).symlink_to("fake")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (tmp_path / "jobs").mkdir()
    return tmp_path / "jobs"


def test_the_workflow_hands_every_run_to_slurm(fake_slurm, tmp_path):
    """One run of one rank, one of two: the number of ranks is the number of tasks, and both come back packed."""
    soon = ("--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1")
    words = ("--slurm", "--only", "constant-sgd", "salsa", "--results", tmp_path / "results")
    resources = ("--default-resources", "slurm_partition=low", "runtime=9")
    real = {"OMPI_MCA_ras": "^slurm", "OMPI_MCA_plm": "rsh"}  # mpirun itself would ask a real Slurm
    run("-m", "experiments", *words, "--", *soon, *resources, limit=240, FAKE_SLURM=str(fake_slurm), **real)
    packed = read_runs(tmp_path / "results/smoke/step-sizes")
    assert [run.id for run in packed] == ["constant-sgd-seed0", "salsa-seed0"]
    calls = [path.read_text(encoding="utf-8") for path in sorted(fake_slurm.glob("*.call"))]
    assert len(calls) == 2
    (on_two_ranks,) = [call for call in calls if "mpi/salsa" in call]
    assert {"--ntasks=2", "--cpus-per-task=1"} <= set(on_two_ranks.splitlines())
    assert all("low" in call for call in calls)
