"""Run the experiments of a profile that have no record yet, then make its tables, figures and report page.

A run is there if results/PROFILE/TABLE/runs.jsonl holds one with the script, ranks and options of the registry's row (in
profile smoke also of this commit). Runs of one rank go side by side on the cores there are; their seconds are marked as no
measurement. A failed run is reported and the others go on. An interrupted workflow goes on when the same command is given
again.
"""

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
from common.paths import expand
from experiments.job import command, end_with_parent
from experiments.jobs import RESULTS, ROOT, Job, Records, make_jobs, unmatched
from experiments.progress import follow
from experiments.registry import PROFILES, Profile, load_profile

SLURM_JOBS = 100  # in its queue at once


def main() -> int:
    """Parse, list or run; the exit code is 0, 1 where a run failed, 2 for wrong usage, 130 if interrupted."""
    tolerate_terminal()
    parser = make_parser()
    args = parser.parse_args()
    try:
        args.results = Path(expand(args.results, "--results"))
    except UsageError as error:
        parser.error(str(error))
    profile = load_profile(args.profile, args.workers)
    # Of profiles for GPUs runs would share these; Slurm queues what it is given.
    args.jobs = args.jobs or (SLURM_JOBS if args.slurm else 1 if profile.preset == "paper" else available_cores())
    if wrong := unmatched(profile, args.only):
        names = sorted({n for table, experiment in profile.experiments() for n in (table.name, experiment.name)})
        parser.error(f"profile {profile.name} has no experiment or table '{wrong[0]}'; it has: {', '.join(names)}")
    jobs = make_jobs(profile, args.seeds or profile.seeds, args.only)
    try:
        records = Records(profile, args.results)
    except UsageError as error:
        parser.error(str(error))
    if args.list:
        print("\n".join(listing(profile, jobs, records)))
        return 0
    todo = [job for job in jobs if args.fresh or not is_there(records, job)]
    todo = with_needs(with_replays(todo, jobs, profile), records)
    print(f"== profile {profile.name}: {len(jobs)} runs, {len(jobs) - len(set(todo) & set(jobs))} of them are there")
    if args.dry_run:
        print("\n".join(commands(profile, todo, records)))
        return 0
    failed = run_workflow(profile, todo, records, args) if todo else []
    print("== tables, figures, report", flush=True)
    report = [sys.executable, "-m", "report", profile.name, "--results", str(args.results)]
    code = subprocess.run(report, cwd=ROOT, check=False).returncode
    if failed:
        logs = "\n".join(f"  {job.id}: {records.folder / job.table / 'runs'}" for job in failed)
        print(f"error: {len(failed)} of {len(todo)} runs failed; their logs:\n{logs}", file=sys.stderr)
    return 1 if failed or code else 0


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="./run_all.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def positive(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"has to be a whole number of at least 1, not '{text}'")
        return int(text)

    about = " ".join(f"{name}: {words}" for name, (_, words) in PROFILES.items())
    parser.add_argument("--profile", choices=PROFILES, default="smoke", help=f"default smoke. {about}")
    parser.add_argument("--only", nargs="+", action="extend", default=[], metavar="NAME", help="experiments, tables, or globs")
    parser.add_argument("--seeds", type=positive, metavar="K", help="seeds 0 .. K-1 of every experiment (default 1; paper 5)")
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="runs side by side (default: as cores; gpu, paper: 1; --slurm: 100)"
    )
    parser.add_argument("--fresh", action="store_true", help="run again what has a record")
    parser.add_argument("--list", action="store_true", help="say which experiments there are, and which have records")
    parser.add_argument("--dry-run", action="store_true", help="print the commands of the runs that have no record")
    parser.add_argument("--slurm", action="store_true", help="hand the runs to Slurm (docs/launching.md)")
    parser.add_argument("--workers", type=positive, default=8, metavar="N", help="ranks of an ecosphere (default 8)")
    parser.add_argument("--results", default=RESULTS, help="folder of the profiles (default: results/)")
    parser.add_argument("more", nargs="*", metavar="-- OPTION", help="after `--`: options for Snakemake")
    return parser


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
    replays = job.experiment.replays
    source = [j for j in make_jobs(profile, job.seed + 1, [replays]) if j.seed == job.seed] if replays else []
    return [*job.candidates(), *source]


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
    with alone(work.with_name(".workflow.lock")):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        (work / "plan.json").write_text(json.dumps(make_plan(profile, todo, args, cores)), encoding="utf-8")
        snakefile = str(ROOT / "experiments/Snakefile")
        words = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, "--directory", str(work)]
        words += ["--keep-going", "--scheduler", "greedy", "--quiet", "rules", "progress", "host", "--nocolor"]
        words += ["--executor", "slurm", "--jobs", str(args.jobs)] if args.slurm else ["--cores", str(cores)]
        words += [] if args.slurm else ["--resources", f"slots={args.jobs}"]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path}
        with open(work / "snakemake.log", "w", encoding="utf-8") as log:
            process = subprocess.Popen(
                [*words, *args.more],
                cwd=ROOT,
                env=environment,
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


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One workflow of a profile at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"error: another workflow of {path.parent} is at work: wait for it, or end it", file=sys.stderr)
            sys.exit(2)
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
