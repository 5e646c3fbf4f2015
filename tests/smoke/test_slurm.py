"""The Slurm job, with `srun` played by mpirun: submitted again after a kill, the same line goes on with the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launching import CIFAR10, FOREIGN, ROOT, TINY
from run_records import RunRecord, check_complete

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
        environment = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        environment |= {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_NTASKS": "2", **variables}
        if os.geteuid() == 0:
            environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
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
