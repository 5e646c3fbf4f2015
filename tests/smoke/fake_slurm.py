#!/usr/bin/env python
"""sbatch, srun, squeue, sacct, scancel and sinfo of a Slurm with one node, played by files and background processes.

Called by the names of its links. Keeps jobs in $FAKE_SLURM: ID.call (the options of sbatch), ID.pid, ID.code (at its end).
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ.get("FAKE_SLURM", "."))


def sbatch(words):
    """Start the wrapped command in the background; print the job's id."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--output")
    parser.add_argument("--wrap")
    parser.add_argument("--ntasks", default="1")
    asked, _ = parser.parse_known_args(words)
    job = str(os.getpid())  # jobs may be submitted at the same moment
    (STATE / f"{job}.call").write_text("\n".join(words), encoding="utf-8")
    inner = f'({asked.wrap}) > "{asked.output.replace("%j", job)}" 2>&1; echo $? > {STATE / job}.code'
    environment = {**os.environ, "SLURM_JOB_ID": job, "SLURM_NTASKS": asked.ntasks}
    process = subprocess.Popen(["sh", "-c", inner], env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    (STATE / f"{job}.pid").write_text(str(process.pid), encoding="utf-8")
    print(job)


def srun(words):
    """Run the command once."""
    while words[0].startswith("-"):
        words = words[1:]
    os.execvp(words[0], words)


def squeue(words):
    """`ID|STATE` of every job."""
    for call in sorted(STATE.glob("*.call")):
        code = call.with_suffix(".code")
        state = "RUNNING" if not code.exists() else "COMPLETED" if code.read_text(encoding="utf-8").strip() == "0" else "FAILED"
        print(f"{call.stem}|{state}")


def sacct(words):
    """Accounting: the same of every job; no accounts."""
    if any(word.startswith("--format=JobIdRaw") for word in words):
        squeue(words)


def scancel(words):
    """End the jobs that are named."""
    for job in (word for word in words if word.isdigit()):
        os.killpg(int((STATE / f"{job}.pid").read_text(encoding="utf-8")), signal.SIGTERM)


def sinfo(words):
    """There is a node."""
    print("node")


if __name__ == "__main__":
    globals()[Path(sys.argv[0]).name](sys.argv[1:])
