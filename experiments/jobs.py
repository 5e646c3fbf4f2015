"""From a profile to jobs: one job is one run of one experiment with one seed; and which of them have a record already."""

import fnmatch
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.packed import PackedRun, options_of, read_runs
from experiments.registry import RESULTS, Experiment, Profile, Table


@dataclass(frozen=True)
class Job:
    """One run. value: of the tuned option; "best" where it is chosen from the runs on seed 0, None where nothing is tuned."""

    table: str
    experiment: Experiment
    seed: int
    value: str | None = None

    @property
    def name(self) -> str:
        """Of the run's record; a tuned value is part of it."""
        return self.experiment.run_name(self.value)

    @property
    def id(self) -> str:
        """Unique in a profile; of a resolved job also the name of the run's folder."""
        return f"{self.name}-seed{self.seed}"

    def candidates(self) -> list["Job"]:
        """The runs on seed 0 that its value is chosen from."""
        return [replace(self, seed=0, value=v) for v in self.experiment.values] if self.value == "best" else []


def make_jobs(profile: Profile, seeds: int, only: Iterable[str] = ()) -> list[Job]:
    """All runs of a profile, or of the experiments and tables that `only` names (names or globs), each once, in order."""
    patterns = list(only)
    jobs: dict[str, Job] = {}
    for table, experiment in profile.experiments():
        names = (table.name, experiment.name)
        if patterns and not any(fnmatch.fnmatchcase(name, p) for name in names for p in patterns):
            continue
        for job in _jobs(table, experiment, max(seeds, experiment.seeds)):
            jobs.setdefault(job.id, job)
    return list(jobs.values())


def _jobs(table: Table, experiment: Experiment, seeds: int) -> Iterator[Job]:
    if experiment.tune:
        yield from (Job(table.name, experiment, 0, value) for value in experiment.tune.values)
    yield from (
        Job(table.name, experiment, seed, "best" if experiment.tune else None)
        for seed in range(1 if experiment.tune else 0, seeds)
    )


def job_of(profile: Profile, name: str, seed: int, value: str | None) -> Job:
    """The job of an experiment. Raises KeyError for a name that the profile does not have."""
    found = {experiment.name: (table, experiment) for table, experiment in reversed(list(profile.experiments()))}
    table, experiment = found[name]
    return Job(table.name, experiment, seed, value)


def replayed_job(profile: Profile, job: Job) -> Job | None:
    """The job of the same seed whose rates a job replays; None where it replays nothing."""
    name = job.experiment.replays
    return job_of(profile, name, job.seed, None) if name else None


class Records:
    """The packed runs of a profile, looked up by job."""

    def __init__(self, profile: Profile, results: Path = RESULTS) -> None:
        self.profile, self.folder = profile, results / profile.name
        self.runs = {(t.name, r.name, r.seed): r for t in profile.tables for r in read_runs(self.folder / t.name)}

    def find(self, job: Job) -> PackedRun | None:
        """The record of a job, if its script, ranks and options are those of the registry's row; else None."""
        resolved = self.resolve(job)
        if resolved is None:
            return None
        run = self.runs.get((job.table, resolved.name, resolved.seed))
        return run if run and is_record_of(run, resolved) and self._has_replayed(run, resolved) else None

    def replayed(self, job: Job) -> PackedRun | None:
        """The record whose rates a job replays; None where there is none yet, or it replays nothing."""
        source = replayed_job(self.profile, job)
        return self.runs.get((source.table, source.name, source.seed)) if source else None

    def _has_replayed(self, run: PackedRun, job: Job) -> bool:
        """Whether a run replayed the rates of the present record, where it replays any."""
        source = self.replayed(job)
        return source is None or run.summary.get("replayed_weights") == source.summary["weights_sha256"]

    def resolve(self, job: Job) -> Job | None:
        """The job with the value that was best on seed 0; None as long as one of those runs has no record."""
        if job.value != "best":
            return job
        candidates = job.candidates()
        runs = [run for candidate in candidates if (run := self.find(candidate))]
        if len(runs) < len(candidates):
            return None
        best = max(range(len(runs)), key=lambda i: score(runs[i]))
        return replace(job, value=candidates[best].value)

    def folder_of(self, job: Job) -> Path:
        """Where a resolved job runs."""
        return self.folder / job.table / "runs" / job.id


def score(run: PackedRun) -> float:
    """Validation accuracy, -1 where the run diverged. Test accuracies are not looked at."""
    accuracy = run.summary["validation_accuracy"]
    return -1.0 if run.summary.get("diverged") or accuracy is None or not math.isfinite(accuracy) else accuracy


def row_options(job: Job) -> dict[str, str]:
    """The options of a resolved job as a packed record has them."""
    experiment = job.experiment
    options = options_of(experiment.options.split())
    if experiment.tune and job.value:
        options[experiment.tune.option] = job.value
    if experiment.replays:
        options["--replay"] = experiment.replays
    return options


def is_record_of(run: PackedRun, job: Job) -> bool:
    """Whether a packed run was made with the script, ranks and options of a resolved job."""
    return (run.script, run.ranks, run.options) == (job.experiment.script, job.experiment.ranks, row_options(job))
