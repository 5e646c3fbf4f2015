"""The packed records of one table as pandas frames: runs, rounds, and rows (means and deviations over the seeds).

Which runs belong to a row is the registry's to say: an experiment, with one value where an option is tuned. No run is dropped;
one that lost its finite weights (`diverged`) counts with the weights it ended with, and is listed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.jobs import Job, row_options, score
from experiments.packed import TRIALS, PackedRun, read_rounds, read_runs
from experiments.registry import Experiment, Profile, Table

PHASES = ("setup", "train", "evaluate", "exchange", "other")
SWARM = ("average_test_accuracy", "best_worker_test_accuracy", "new_best_share", "distance")
NUMBERS = (
    "test_accuracy",
    "validation_accuracy",
    "train_loss",
    "train_images",
    "gradient_evaluations",
    "extra_forward",
    "images_per_second",
    *(f"seconds_{phase}" for phase in ("total", *PHASES)),
    "sync_share",
    "mb_inside",
    "mb_across",
    *SWARM,
)
ROUND_COLUMNS = ("run", "round", "rank", "population", "species", "lr", "fitness", "val_accuracy", "workers")


@dataclass(frozen=True)
class TableRecords:
    """Everything recorded for one table of a profile."""

    profile: str
    table: Table
    packed: tuple[PackedRun, ...]
    folder: Path

    @cached_property
    def by_name(self) -> dict[str, list[PackedRun]]:
        """The packed runs by name, in order of their seeds."""
        found: dict[str, list[PackedRun]] = {}
        for run in sorted(self.packed, key=lambda run: run.seed):
            found.setdefault(run.name, []).append(run)
        return found

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One line per run, indexed by its id: NUMBERS, `seed`, `diverged`, and what its configuration says."""
        lines = [_run_line(run) for run in self.packed]
        return pd.DataFrame(lines, columns=None if lines else ["run"]).set_index("run")

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """The columns of metrics.csv (results/README.md), one line per worker, or per population where `workers` says of how
        many; and `run`, `images` (training images that all workers have seen by the end of the round), `leader`.
        """
        rounds = read_rounds(self.folder)
        rounds = rounds.reindex(columns=list(dict.fromkeys([*rounds, *ROUND_COLUMNS])))  # also where no run has a round
        parts = [_with_images(part, self.runs.loc[run]) for run, part in rounds.groupby("run") if run in self.runs.index]
        return pd.concat(parts) if parts else rounds.assign(images=np.nan, leader=False)

    def rounds_of(self, run: str) -> pd.DataFrame:
        """The rounds of one run."""
        return self.rounds[self.rounds.run == run]

    @cached_property
    def trials(self) -> pd.DataFrame:
        """The trials of all searches, and `run`."""
        return read_rounds(self.folder, TRIALS)

    def rows(self, experiments: Iterable[Experiment]) -> pd.DataFrame:
        """One line per experiment (and tuned value) with a record, indexed by name.

        label, at: the experiment's; value: of the tuned option (NaN without); chosen: whether it had the best validation
        accuracy on the lowest seed, of the values that were tried (always where nothing is tuned).
        n runs; NUMBERS as `<name>_mean` and `<name>_sd` (n - 1; NaN for one seed); diverged: how many.
        outdated: what differs between a record and the registry's row: options, "script", "ranks".
        """
        lines = [line for experiment in experiments for line in self._rows_of(experiment)]
        return pd.DataFrame(lines).set_index("name") if lines else pd.DataFrame(columns=["n"])

    def _rows_of(self, experiment: Experiment) -> list[dict[str, Any]]:
        found = {value: self.by_name.get(experiment.run_name(value), []) for value in experiment.values}
        found = {value: runs for value, runs in found.items() if runs}
        best = max(found, key=lambda value: score(found[value][0]), default=None)
        return [self._row(experiment, value, runs) | {"chosen": value == best} for value, runs in found.items()]

    def _row(self, experiment: Experiment, value: str | None, runs: list[PackedRun]) -> dict[str, Any]:
        lines = self.runs.loc[[run.id for run in runs]]
        numbers = lines[list(NUMBERS)].astype(float)
        outdated = {name for run in runs for name in _differences(run, Job(self.table.name, experiment, run.seed, value))}
        return {
            "name": experiment.run_name(value),
            "label": experiment.label,
            "at": np.nan if experiment.at is None else experiment.at,
            "value": np.nan if value is None else float(value),
            **lines.iloc[0][
                ["dataset", "model", "method", "ranks", "rounds", "batch_size", "workers", "optimizers", "settings"]
            ],
            "n": len(runs),
            "seeds": ", ".join(str(run.seed) for run in runs),
            "diverged": int(lines.diverged.sum()),
            "side_by_side": bool(lines.side_by_side.any()),
            "measured": bool(lines.measured.all()),
            **{f"{k}_mean": v for k, v in numbers.mean().items()},
            **{f"{k}_sd": v for k, v in numbers.std(ddof=1).items()},
            "outdated": tuple(sorted(outdated)),
            "commit": ", ".join(dict.fromkeys(lines.commit)),
            "command": lines.command.iloc[0],
            "hardware": "; ".join(dict.fromkeys(lines.hardware)),
        }

    def runs_of(self, name: str) -> pd.DataFrame:
        """The runs of a row, by seed."""
        return self.runs[self.runs.name == name].sort_values("seed")

    def missing(self) -> list[str]:
        """Experiments of the table that have no record yet."""
        experiments = {e.name: e for e in (*self.table.experiments, *self.table.first_steps)}
        return [name for name, e in experiments.items() if not any(e.run_name(value) in self.by_name for value in e.values)]

    def has_rows(self) -> bool:
        """Whether a record belongs to an experiment that the registry still has."""
        return len(self.missing()) < len({e.name for e in (*self.table.experiments, *self.table.first_steps)})


def load(profile: Profile, results: Path) -> list[TableRecords]:
    """The records of every table of a profile that has some."""
    folders = [(table, results / profile.name / table.name) for table in profile.tables]
    found = [TableRecords(profile.name, table, tuple(read_runs(folder)), folder) for table, folder in folders]
    return [records for records in found if records.has_rows()]


def _differences(run: PackedRun, job: Job) -> set[str]:
    """Names of what a record was made with and the registry's row does not say, or the other way round."""
    recorded = {**run.options, "script": run.script, "ranks": run.ranks}
    row = {**row_options(job), "script": job.experiment.script, "ranks": job.experiment.ranks}
    return {name for name in {**recorded, **row} if recorded.get(name) != row.get(name)}


def _run_line(run: PackedRun) -> dict[str, Any]:
    config, summary = run.config, run.summary
    populations = config.get("population_list", [])
    line = {
        "run": run.id,
        "name": run.name,
        "seed": run.seed,
        "method": summary["method"],
        "dataset": summary["dataset"],
        "model": summary["model"],
        "ranks": summary["ranks"],
        "rounds": config.get("rounds"),
        "batch_size": config.get("batch_size"),
        "workers": _workers(populations, summary["method"]),
        "optimizers": ", ".join(dict.fromkeys(p["optimizer"] for p in populations)),
        "settings": config,
        "side_by_side": run.side_by_side,
        "commit": summary["commit"],
        "command": run.environment["command"],
        "hardware": _hardware(run.environment),
        "diverged": bool(summary.get("diverged")),
        "rounds_done": summary.get("rounds"),
        "measured": summary.get("statistics_images") is not None,
        **dict.fromkeys(NUMBERS, np.nan),
        **{k: summary[k] for k in NUMBERS if summary.get(k) is not None},
        **{f"seconds_{k}": v for k, v in summary["seconds"].items()},
    }
    return line if "bytes_sent" not in summary else line | _derived(summary)


def _derived(summary: dict[str, Any]) -> dict[str, Any]:
    """Numbers that a training run's summary holds in other words."""
    seconds, sent = summary["seconds"], summary["bytes_sent"]
    sync = seconds["evaluate"] + seconds["exchange"]
    workers = summary.get("swarm", {})
    if "averaged" in summary:  # workers that never met: their mean, and the best one, which is the run's model
        mean, best = summary["averaged"]["test_accuracy"], summary["test_accuracy"]
        workers = {"average_test_accuracy": mean, "best_worker_test_accuracy": best}
    return {
        "extra_forward": summary.get("extra_forward", 0.0),
        "sync_share": sync / (seconds["train"] + sync) if seconds["train"] + sync else np.nan,
        "mb_inside": sent["inside"] / 1e6,
        "mb_across": sent["across"] / 1e6,
        **{k: workers.get(k, np.nan) for k in SWARM},
    }


def _with_images(rounds: pd.DataFrame, run: pd.Series) -> pd.DataFrame:
    """The rounds of one run with the columns `images` and `leader`."""
    config = run.settings
    lengths = np.broadcast_to(config["round_steps"], config["rounds"])  # one number, or one per round
    steps = pd.Series(np.cumsum(lengths)).reindex(rounds["round"]).to_numpy()
    images = pd.Series(steps * config["batch_size"], index=rounds.index)
    if run.train_images:  # --max-steps cuts the last round short
        images = images.clip(upper=run.train_images)
    best_first = rounds.sort_values(["round", "fitness", "lr", "rank"], ascending=[True, False, False, True])
    leaders = best_first.drop_duplicates("round").index
    return rounds.assign(images=images, leader=rounds.index.isin(leaders))


def mean_over_workers(rounds: pd.DataFrame, column: str, by: str) -> pd.Series:
    """Mean of a column over the workers of each value of `by`; a population's line counts for as many as it has."""
    known = rounds[rounds[column].notna()]
    weights = known.workers.fillna(1)
    sums = (known[column] * weights).groupby(known[by]).sum()
    return (sums / weights.groupby(known[by]).sum()).reindex(sorted(rounds[by].unique()))


def _workers(populations: list[dict[str, Any]], method: str) -> str:
    """`8: 4 gwo + 4 woa`; the number alone for a method without species."""
    total = sum(p["workers"] for p in populations)
    if {p["species"] for p in populations} <= {method}:
        return str(total)
    mixed = len({p["optimizer"] for p in populations}) > 1
    parts = [f"{p['workers']} {p['species']}{' with ' + p['optimizer'] if mixed else ''}" for p in populations]
    return f"{total}: {' + '.join(parts)}"


def _hardware(environment: dict[str, Any]) -> str:
    device = environment.get("device", "cpu")
    gpu = "" if device == "cpu" else f"{device}; "
    return f"{gpu}{environment.get('processor')}, {environment.get('cores')} cores, {environment.get('memory_gib')} GiB"
