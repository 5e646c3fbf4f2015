"""Run the experiments of a profile; see `experiments.options` for the command line."""

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common.commit import commit
from common.errors import UsageError
from common.parallel.launch import tolerate_terminal
from common.parallel.machine import available_cores, threads_wanted
from experiments.job import command, end_with_parent
from experiments.jobs import Job, Records, make_jobs, replayed_job
from experiments.options import parse
from experiments.progress import follow
from experiments.registry import ROOT, Profile

SLURM_JOBS = 100  # in its queue at once


def main() -> int:
    """Parse, list or run; the exit code is 0, 1 where a run failed, 2 for wrong usage, 130 if interrupted."""
    tolerate_terminal()
    args, profile = parse()
    # Of profiles for GPUs runs would share these; Slurm queues what it is given.
    args.jobs = args.jobs or (SLURM_JOBS if args.slurm else 1 if profile.preset == "paper" else available_cores())
    jobs = make_jobs(profile, args.seeds or profile.seeds, args.only)
    try:
        if args.list:
            print("\n".join(listing(profile, jobs, Records(profile, args.results))))
            return 0
        if args.dry_run:
            records = Records(profile, args.results)
            print("\n".join(commands(profile, what_to_do(profile, jobs, records, args.fresh), records)))
            return 0
        with alone(args.results / profile.name):
            return run_and_report(profile, jobs, Records(profile, args.results), args)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def what_to_do(profile: Profile, jobs: list[Job], records: Records, fresh: bool) -> list[Job]:
    """The jobs without a record (all of them if fresh), and what these need; says how many there are."""
    todo = [job for job in jobs if fresh or not is_there(records, job)]
    todo = with_needs(with_replays(todo, jobs, profile), records)
    print(f"== profile {profile.name}: {len(jobs)} runs, {len(jobs) - len(set(todo) & set(jobs))} of them are there")
    return todo


def run_and_report(profile: Profile, jobs: list[Job], records: Records, args: argparse.Namespace) -> int:
    """Run what has no record, make tables, figures and page; returns the exit code."""
    todo = what_to_do(profile, jobs, records, args.fresh)
    failed = run_workflow(profile, todo, records, args) if todo else []
    print("== tables, figures, report", flush=True)
    report = [sys.executable, "-m", "report", profile.name, "--results", str(args.results)]
    code = subprocess.run(report, cwd=ROOT, check=False).returncode
    if failed:
        logs = "\n".join(f"  {job.id}: {records.folder / job.table / 'runs'}" for job in failed)
        print(f"error: {len(failed)} of {len(todo)} runs failed; their logs:\n{logs}", file=sys.stderr)
    return 1 if failed or code else 0


def is_there(records: Records, job: Job) -> bool:
    """Whether a job has a record; of profile smoke, which shows that this code works, one of this commit."""
    run = records.find(job)
    return run is not None and (records.profile.name != "smoke" or run.summary["commit"] == commit())


def with_replays(todo: list[Job], jobs: list[Job], profile: Profile) -> list[Job]:
    """The jobs to do, and those that replay one of them: its rates will be others."""
    again = [job for job in jobs if job.experiment.replays and set(needs(profile, job)) & set(todo)]
    return list(dict.fromkeys([*todo, *again]))


def with_needs(todo: list[Job], records: Records) -> list[Job]:
    """The jobs, and what they need and has no record: runs on seed 0 of tuned options, runs that are replayed."""
    missing = (need for job in todo for need in needs(records.profile, job) if not is_there(records, need))
    return list(dict.fromkeys([*todo, *missing]))


def needs(profile: Profile, job: Job) -> list[Job]:
    """The jobs whose records a job reads."""
    source = replayed_job(profile, job)
    return [*job.candidates(), *([source] if source else [])]


@dataclass(frozen=True)
class Share:
    """What one job takes of a machine: cores, threads of a rank (None: the script decides), whether others run beside it."""

    cores: int
    threads: int | None
    side_by_side: bool


def share_of(job: Job, jobs: int, cores: int) -> Share:
    """Cores of a job where `jobs` runs may go side by side on a machine of so many cores."""
    mine = min(cores, max(job.experiment.ranks, cores // jobs))
    wanted = threads_wanted(os.environ.get("OMP_NUM_THREADS"))
    return Share(mine, wanted or (mine // job.experiment.ranks if mine < cores else None), mine < cores)


def make_plan(profile: Profile, todo: list[Job], args: argparse.Namespace, cores: int) -> dict[str, Any]:
    """What the Snakefile reads."""
    inside = {job.id for job in todo}
    entries = []
    for job in todo:
        share = Share(1, None, False) if args.slurm else share_of(job, args.jobs, cores)  # there: cores of one task
        words = [profile.name, job.experiment.name, str(job.seed), "--results", str(args.results.resolve())]
        words += ["--workers", str(args.workers)] + (["--value", job.value] if job.value else [])
        words += ["--threads", str(share.threads)] if share.threads else []
        words += ["--side-by-side"] * share.side_by_side + ["--fresh"] * args.fresh
        entries.append(
            {
                "id": job.id,
                "ranks": job.experiment.ranks,
                "cores": share.cores,
                "needs": [need.id for need in needs(profile, job) if need.id in inside],
                "words": words,
            }
        )
    return {"python": sys.executable, "jobs": entries}


def run_workflow(profile: Profile, todo: list[Job], records: Records, args: argparse.Namespace) -> list[Job]:
    """Run the jobs by Snakemake, with a progress line; returns those that failed or could not be run."""
    work = (args.results / profile.name / ".workflow").resolve()
    cores = available_cores()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "plan.json").write_text(json.dumps(make_plan(profile, todo, args, cores)), encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with open(work / "snakemake.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            snakemake(work, cores, args),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdout=log,
            stderr=log,
            preexec_fn=partial(end_with_parent, signal.SIGKILL),  # at SIGTERM it would wait for its jobs
        )
        try:
            done = follow(process, work, todo, records, parallel=args.jobs)
        except KeyboardInterrupt:  # Snakemake and its jobs end with this process
            print("\ninterrupted: the same command goes on", file=sys.stderr)
            sys.exit(130)
    failed = [job for job in todo if job.id not in done]
    if failed:
        print((work / "snakemake.log").read_text(encoding="utf-8", errors="replace"), file=sys.stderr)
    return failed


def snakemake(work: Path, cores: int, args: argparse.Namespace) -> list[str]:
    """The command line of Snakemake in the working folder of a profile."""
    snakefile = str(ROOT / "experiments/Snakefile")
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", snakefile, "--directory", str(work)),
        *("--keep-going", "--scheduler", "greedy", "--quiet", "rules", "progress", "host", "--nocolor"),
        *(("--executor", "slurm", "--jobs", str(args.jobs)) if args.slurm else ("--cores", str(cores))),
        *(() if args.slurm else ("--resources", f"slots={args.jobs}")),
        *args.more,
    ]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One workflow of a profile at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".workflow.lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another workflow of {folder} is at work: wait for it, or end it") from None
        yield


def listing(profile: Profile, jobs: list[Job], records: Records) -> Iterator[str]:
    """A line per table and experiment: ranks, and how many of its runs are there."""
    for table in profile.tables:
        mine = [job for job in jobs if job.table == table.name]
        if mine:
            yield f"{table.name}: {table.title}"
        for name in dict.fromkeys(job.experiment.name for job in mine):
            runs = [job for job in mine if job.experiment.name == name]
            there = sum(is_there(records, job) for job in runs)
            yield f"  {name:32} ranks {runs[0].experiment.ranks:2}   {there} of {len(runs)} runs are there"


def commands(profile: Profile, todo: list[Job], records: Records) -> Iterator[str]:
    """The command of every job, as far as it is known before the runs that it needs."""
    for job in todo:
        resolved = records.resolve(job)
        if resolved is None or job.experiment.replays:
            yield f"# {job.id}: after {', '.join(need.id for need in needs(profile, job))}"
            continue
        yield " ".join(command(resolved, records.folder_of(resolved), profile.preset, "mpirun"))


if __name__ == "__main__":
    sys.exit(main())
