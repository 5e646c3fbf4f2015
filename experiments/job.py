"""Run one job of a profile and pack its record; what the rules of the Snakefile call.

    python -m experiments.job PROFILE EXPERIMENT SEED [--value V] --done FILE

The run's own folder is results/PROFILE/TABLE/runs/ID; an interrupted run there is resumed if its options are the same. Exit
code 0 once the run has a packed record (a run that diverged has one); else 1, with the end of its log.
"""

import argparse
import csv
import ctypes
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from common.commit import commit
from experiments.jobs import Job, Records, job_of, replayed_job, row_options
from experiments.packed import PATHS, PackedRun, options_of, pack, restore
from experiments.registry import RESULTS, ROOT, load_profile

FILES = ("config", "environment", "summary")
LOG_LINES = 15  # of a failed run, shown
PR_SET_PDEATHSIG = 1
# Snakemake sets them to the cores of the whole job; the scripts divide cores among ranks themselves.
THREAD_VARIABLES = (
    *(f"{name}_NUM_THREADS" for name in ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")),
    "VECLIB_MAXIMUM_THREADS",
)


def main() -> int:
    """Parse, run, pack."""
    parser = argparse.ArgumentParser(prog="python -m experiments.job", description=__doc__)
    parser.add_argument("profile")
    parser.add_argument("experiment")
    parser.add_argument("seed", type=int)
    parser.add_argument("--value", help="of the tuned option, or best")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--workers", type=int, default=8, help="ranks of an ecosphere")
    parser.add_argument("--launcher", default="mpirun", help="mpirun, or srun where MPI and Slurm share one PMI")
    parser.add_argument("--threads", type=int, help="threads per rank (default: the script decides)")
    parser.add_argument("--side-by-side", action="store_true", help="other runs share the machine")
    parser.add_argument("--fresh", action="store_true", help="begin again, whatever an earlier job left")
    parser.add_argument("--done", type=Path, required=True, help="file to make at the end")
    args = parser.parse_args()
    end_with_parent()
    for number in (signal.SIGTERM, signal.SIGINT):  # so that the run is ended as well (see start)
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    profile = load_profile(args.profile, args.workers)
    records = Records(profile, args.results)
    job = records.resolve(job_of(profile, args.experiment, args.seed, args.value))
    if job is None:
        print(f"error: {args.experiment}: not every value has a record on seed 0", file=sys.stderr)
        return 1
    folder = records.folder_of(job)
    mark(args.done, "started")
    code = run(job, folder, profile.preset, records, args)
    if not (folder / "summary.json").exists():  # a run that diverged has one
        mark(args.done, "failed")
        log = beside(folder, ".log")
        end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        print("\n".join([f"error: {folder.name} ended with exit code {code}; the end of {log}:", *end]), file=sys.stderr)
        return 1
    pack(packed(job, folder, args.side_by_side, records.replayed(job)), folder, folder.parents[1])
    (folder / "packed").touch()
    mark(args.done, "done")
    return 0


def mark(done: Path, state: str) -> None:
    """Tell the workflow's progress line what became of a job."""
    done.parent.mkdir(parents=True, exist_ok=True)
    done.with_suffix(f".{state}").touch()


def run(job: Job, folder: Path, preset: str, records: Records, args: argparse.Namespace) -> int:
    """Run the script, unless a finished run waits to be packed; returns its exit code."""
    if args.fresh or not can_go_on(job, folder):
        shutil.rmtree(folder, ignore_errors=True)
    if (folder / "summary.json").exists():
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    if job.experiment.replays:
        restore_replayed(job, folder, records)
    words = command(job, folder, preset, args.launcher)
    environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
    environment |= {"OMP_NUM_THREADS": str(args.threads)} if args.threads else {}
    with open(beside(folder, ".log"), "w", encoding="utf-8") as log:
        print(shlex.join(words), file=log, flush=True)
        return start(words, environment, log)


def start(words: list[str], environment: dict[str, str], log: Any) -> int:
    """Start the run and wait for it; it ends with this process, whatever ends that one."""
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=log, stderr=log, preexec_fn=end_with_parent)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Let the kernel send this process a signal when its parent dies (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def can_go_on(job: Job, folder: Path) -> bool:
    """Whether the folder holds an interrupted or unpacked run of this job, by this commit."""
    try:
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    script, words = script_and_words(environment["command"])
    given, options = options_of(words), row_options(job)
    made = (script, environment.get("ranks"), environment.get("commit"))
    if made != (job.experiment.script, job.experiment.ranks, commit()):
        return False
    if "--replay" in options:
        given["--replay"] = options["--replay"]
    return given == options and not (folder / "packed").exists()


def command(job: Job, folder: Path, preset: str, launcher: str) -> list[str]:
    """The command line of a job. Paths are relative to the project's folder, where they lie in it."""
    experiment, options = job.experiment, row_options(job)
    if experiment.replays:
        options["--replay"] = str(shown(beside(folder, ".replayed")))
    launch = {
        "mpirun": ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(experiment.ranks)],
        "srun": ["srun", "-n", str(experiment.ranks)],
    }
    return [
        *(launch[launcher] if experiment.ranks > 1 else []),
        *("python", experiment.script, "--preset", preset, "--seed", str(job.seed), "--out", str(shown(folder))),
        *(word for name, value in options.items() for word in (name, value) if word),
        *(["--resume"] if (folder / "config.json").exists() and not (folder / "summary.json").exists() else []),
    ]


def restore_replayed(job: Job, folder: Path, records: Records) -> None:
    """Write the rates that a job replays beside its folder, from the packed record of the same seed."""
    source = replayed_job(records.profile, job)
    restore(records.replayed(job), records.folder / source.table, beside(folder, ".replayed"))


def beside(folder: Path, ending: str) -> Path:
    """A path beside a run's folder; the folder's name may have dots in it."""
    return folder.with_name(folder.name + ending)


def shown(path: Path) -> Path:
    """A path relative to the project's folder, where it lies in it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def script_and_words(line: str) -> tuple[str, list[str]]:
    """Script and options of a recorded command line."""
    words = shlex.split(line)
    at = next(i for i, word in enumerate(words) if word.endswith(".py"))
    return words[at], words[at + 1 :]


def packed(job: Job, folder: Path, side_by_side: bool, replayed: PackedRun | None = None) -> PackedRun:
    """The record of a finished run. replayed: the record whose rates it replayed."""
    config, environment, summary = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in FILES)
    config = {key: value for key, value in config.items() if key not in PATHS}
    summary |= last_loss(folder / "metrics.csv")
    summary |= {"replayed_weights": replayed.summary["weights_sha256"]} if replayed else {}
    experiment = job.experiment
    return PackedRun(
        job.name, job.seed, experiment.script, experiment.ranks, row_options(job), side_by_side, config, environment, summary
    )


def last_loss(metrics: Path) -> dict[str, float]:
    """`train_loss`: mean of the last round over the workers; nothing where none is recorded."""
    if not metrics.exists():
        return {}
    with open(metrics, newline="", encoding="utf-8") as file:
        rounds = list(csv.DictReader(file))
    losses = [float(line["train_loss"]) for line in rounds if line["round"] == rounds[-1]["round"]]
    known = [loss for loss in losses if math.isfinite(loss)]
    return {"train_loss": sum(known) / len(known)} if known else {}


if __name__ == "__main__":
    sys.exit(main())
