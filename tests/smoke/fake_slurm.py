#!/usr/bin/env python
"""sbatch, srun, squeue, sacct, scancel and sinfo of a Slurm with one node, played by files and background processes.

Called by the names of its links. Keeps jobs in $FAKE_SLURM: ID.call (the options of sbatch), ID.pid, ID.code (at its end).
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ.get("FAKE_SLURM", "."))


def value_of(words, option):
    """The value of `--option VALUE` or `--option=VALUE`."""
    for i, word in enumerate(words):
        if word == option:
            return words[i + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


def sbatch(words):
    """Start the wrapped command in the background; print the job's id."""
    job = str(1 + len(list(STATE.glob("*.call"))))
    (STATE / f"{job}.call").write_text("\n".join(words), encoding="utf-8")
    log = value_of(words, "--output").replace("%j", job)
    tasks = value_of(words, "--ntasks") or "1"
    inner = f'({value_of(words, "--wrap")}) > "{log}" 2>&1; echo $? > {STATE / job}.code'
    environment = {**os.environ, "SLURM_JOB_ID": job, "SLURM_NTASKS": tasks}
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
