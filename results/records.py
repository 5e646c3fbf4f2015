"""The records of one profile as pandas frames: the only reader of what runs leave behind.

    records = load(Path("results"), "smoke")
    records.runs      one line per run directory, whatever became of it
    records.metrics   every metrics.csv, one below the other
    records.rows      one line per configuration: means and standard deviations over its seeds

Runs whose configurations differ in nothing but seed and paths share a row. No run is dropped: one without a readable summary
is `incomplete`, one that lost its finite weights `diverged`; both are counted in their row and listed by the tables.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from names import DATASETS, ELASTIC, METHODS, OPTIMIZERS, SEARCHES, STEPPING, SWARMS
from run_reading import PHASES, SWARM, read_run

from common.errors import UsageError
from common.parallel import launch
from common.paths import expand

ROOT = Path(__file__).parent
OTHERS = ("tables", "figures", "dhpo")  # beside the training runs in a profile's folder; searches: searches.py

# Settings that have columns of their own in the tables.
IN_OTHER_COLUMNS = {"population_list", "ranks", "rounds", "batch_size", "optimizer"}

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
LEAST_IN_A_SWEEP = 3  # base rates, or periods
STEPS = "steps"  # the family of runs whose steps are compared
USUAL_ETA0 = {"salsa": 0.1, "sls": 0.1, "salsa-released": 1.0}  # first steps of line searches that nobody has tuned


@dataclass(frozen=True)
class Records:
    """Everything recorded under one profile.

    runs: indexed by `<experiment>/<run>`; `status` is finished, diverged, incomplete or repeated (same configuration and seed
    as an earlier run, left out of the means), `problem` says it in words, `row` is the number of the configuration.
    metrics: the columns of metrics.csv, and `run`, `images` (training images all workers have seen by the end of the round)
    and `leader` (whether this worker led the round).
    rows: indexed by number from 1; `label` tells a row from the others of its data set and model; NUMBERS as `<name>_mean` and
    `<name>_sd` (n - 1; NaN for one seed) over `n` runs, diverged ones included with the weights they ended with.
    """

    profile: str
    runs: pd.DataFrame
    metrics: pd.DataFrame
    rows: pd.DataFrame

    def runs_of(self, row: int, *statuses: str) -> pd.DataFrame:
        """The runs of one row, by seed; of all statuses if none is named."""
        runs = self.runs[self.runs.row == row].sort_values("seed", kind="stable")
        return runs[runs.status.isin(statuses)] if statuses else runs

    def counted(self, row: int) -> pd.DataFrame:
        """The runs that the means of a row are taken over."""
        return self.runs_of(row, "finished", "diverged")

    def rounds_of(self, run: str) -> pd.DataFrame:
        """The metrics of one run."""
        return self.metrics[self.metrics.run == run]

    def groups(self) -> list[tuple[str, pd.DataFrame]]:
        """(name, rows) of each data set and model, in the order of the tables; in groups of their own: methods that couple
        weights, by whether workers keep to images of their own, and runs whose steps are compared (`_families`).
        """
        parts = self.rows.groupby(["dataset", "model", "family"], sort=False)
        return [("-".join(word for word in key if word), part) for key, part in parts]

    def sweeps(self) -> list[tuple[str, pd.DataFrame]]:
        """(name, rows with results) of the groups where methods were started with three base rates or more; the column
        `asked` is --learning-rate.
        """
        return [(name, rows) for name, rows in self._with_results("asked") if rows.period.nunique() < LEAST_IN_A_SWEEP]

    def periods(self) -> list[tuple[str, pd.DataFrame]]:
        """(name, rows with results and a period) of the groups with three periods or more; the column `period` is tau (inf
        where workers never meet), `asked` the learning rate, and `chosen` whether that rate had the best validation accuracy
        of its method (as `title` names it) and period, on the lowest seed.
        """
        found = []
        for name, rows in self._with_results("period"):
            rows = rows.dropna(subset="period")
            rows = rows.assign(first=[self._first_score(number) for number in rows.index])
            best = rows.groupby(["title", "period"])["first"].idxmax()
            found.append((name, rows.assign(chosen=rows.index.isin(best)).drop(columns="first")))
        return found

    def steps(self) -> list[tuple[str, pd.DataFrame]]:
        """(name, rows with results) of the groups in which steps are compared and a line search is among them.

        The column `asked` is the rate, or the first step of a line search (NaN where there is neither), and `chosen` whether
        it had the best validation accuracy of its method (as `title` names it), on the lowest seed. Of a line search the usual
        first step is chosen, whatever others came to.
        """
        found = []
        for name, rows in self.groups():
            rows = rows[(rows.family == STEPS) & (rows.n > 0)]
            if not rows.method.isin(SEARCHES).any():
                continue
            rows = rows.assign(asked=[_asked(settings) for settings in rows.settings])
            firsts = pd.Series([self._first_score(number) for number in rows.index], index=rows.index)
            usual = rows.asked == rows.method.map(USUAL_ETA0)
            firsts[rows.method.isin(SEARCHES) & ~usual] = -np.inf
            found.append((name, rows.assign(chosen=rows.index.isin(firsts.groupby(rows.title).idxmax()))))
        return found

    def _first_score(self, row: int) -> float:
        """Validation accuracy of a row's lowest seed; -1 where that diverged."""
        run = self.counted(row).iloc[0]
        return -1.0 if run.diverged else float(run.validation_accuracy)

    def _with_results(self, many: str) -> list[tuple[str, pd.DataFrame]]:
        """Groups whose rows with results have three values or more of `asked` (--learning-rate) or `period` (--period)."""
        found = []
        for name, part in self.groups():
            rows = part[(part.n > 0) & (part.family != STEPS)]
            rows = rows.assign(
                asked=[settings.get("learning_rate", np.nan) for settings in rows.settings],
                period=[np.nan if (tau := settings.get("period")) is None else tau or np.inf for settings in rows.settings],
            )
            if rows[many].nunique() >= LEAST_IN_A_SWEEP:
                found.append((name, rows))
        return found


def from_command_line(description: str) -> tuple[Records, Path]:
    """Read the arguments the scripts for training runs share; returns the records and the profile's folder."""
    parser, root, profile = command_line(description)
    try:
        return load(root, profile), root / profile
    except FileNotFoundError as error:
        parser.error(str(error))


def command_line(description: str) -> tuple[argparse.ArgumentParser, Path, str]:
    """Read the arguments all scripts share: the parser, for errors, the folder of the profiles, and the profile."""
    launch.tolerate_terminal()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", nargs="?", default="smoke", help="smoke, cpu, gpu or paper (default: smoke)")
    parser.add_argument("--root", default=str(ROOT), help="folder of the profiles (default: results/)")
    given = parser.parse_args()
    try:
        return parser, Path(expand(given.root, "--root")), expand(given.profile, "the profile")
    except UsageError as error:
        parser.error(str(error))


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; a path in it that is not UTF-8 itself keeps its bytes as escapes."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def load(root: Path, profile: str) -> Records:
    """All records of a profile. Raises FileNotFoundError where there is not one run directory."""
    folder = root / profile
    experiments = sorted(p for p in folder.glob("*") if p.is_dir() and p.name not in OTHERS)
    directories = [run for e in experiments for run in sorted(e.iterdir()) if run.is_dir()]
    if not directories:
        raise FileNotFoundError(f"no runs under {folder}: make some with `./run_all.sh --profile {profile}`")
    read = [read_run(d) for d in directories]
    runs = pd.DataFrame([line for line, _ in read]).set_index("run")
    metrics = pd.concat([frame for _, frame in read if len(frame)] or [read[0][1]], ignore_index=True)
    runs = _name_rows(runs)
    return Records(profile, runs, metrics, _make_rows(runs))


def _name_rows(runs: pd.DataFrame) -> pd.DataFrame:
    """Number the configurations in the order of the tables, give each run its row, and mark repetitions of a seed."""
    runs = runs.reindex(columns=[*runs.columns, *(c for c in ("model", "diverged", *NUMBERS) if c not in runs)])
    runs["key"] = [json.dumps(s, sort_keys=True) for s in runs.settings]
    titles = runs.dropna(subset=["model"]).drop_duplicates("network").set_index("network").model  # only summaries name it
    runs["model"] = [titles.get(network, network[0]) for network in runs.network]
    runs[["method", "dataset"]] = runs[["method", "dataset"]].fillna("?")
    runs = runs.astype(dict.fromkeys(("seed", "ranks", "rounds", "batch_size"), "Int64"))  # a lost config.json leaves gaps
    place = {name: i for i, name in enumerate(METHODS)}
    runs["order"] = [place.get(m, len(place)) for m in runs.method]
    runs["swarm"] = [SWARMS.index(settings.get("swarm", SWARMS[0])) for settings in runs.settings]
    names = {name: i for i, name in enumerate(OPTIMIZERS)}
    runs["steps"] = [names.get(settings.get("optimizer"), len(names)) for settings in runs.settings]
    rates = pd.Series([s.get("learning_rate") for s in runs.settings], index=runs.index)
    runs["family"] = _families(runs)
    runs["swept"] = (
        rates.groupby([runs.dataset, runs.model, runs.family]).transform("nunique") >= LEAST_IN_A_SWEEP
    )  # those come last
    order = ["swept", "family", "dataset", "model", "order", "method", "swarm", "steps", "ranks", "key"]
    first = runs.sort_values(order, kind="stable").drop_duplicates("key")
    runs["row"] = runs.key.map({key: i for i, key in enumerate(first.key, start=1)})
    has_result = runs.status.isin(["finished", "diverged"])
    for (_, seed), twins in runs[has_result].groupby(["row", "seed"]):
        for name in twins.index[1:]:
            runs.loc[name, ["status", "problem"]] = "repeated", f"seed {seed} again, as in {twins.index[0]}; not in the means"
    return runs.drop(columns=["key", "order", "swarm", "steps", "network", "swept", "family"])


def _make_rows(runs: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for row, part in runs.groupby("row"):
        counted = part[part.status.isin(["finished", "diverged"])].sort_values("seed")
        numbers = counted[list(NUMBERS)].astype(float)
        shown = counted if len(counted) else part
        lines.append(
            {
                "row": row,
                **part.iloc[0][["dataset", "model", "method", "ranks", "rounds", "batch_size", "workers", "optimizers"]],
                "settings": part.iloc[0].settings,
                "n": len(counted),
                "seeds": ", ".join(str(s) for s in shown.seed.dropna()) or "unknown",
                **{status: int((part.status == status).sum()) for status in ("diverged", "incomplete", "repeated")},
                **{f"{k}_mean": v for k, v in numbers.mean().items()},
                **{f"{k}_sd": v for k, v in numbers.std(ddof=1).items()},
                "commit": ", ".join(dict.fromkeys(shown.commit)),
                "command": shown.iloc[0].command,
                "hardware": "; ".join(dict.fromkeys(shown.hardware)),
            }
        )
    return _label(pd.DataFrame(lines).set_index("row"))


def _label(rows: pd.DataFrame) -> pd.DataFrame:
    """Add `title` and `data`, the names of method and data set; `setting`, the options that tell a row from others of its
    method; and `label`, title and setting."""
    rows["family"] = _families(rows)
    rows["title"] = [_title(row) for _, row in rows.iterrows()]
    rows["data"] = [DATASETS.get(d, d) for d in rows.dataset]
    rows["setting"], rows["label"] = "", rows.title
    for _, part in rows.groupby(["dataset", "model", "family"]):
        for row, line in part.iterrows():
            same = part.title == line.title if line.family == STEPS else part.method == line.method
            varying = _varying(list(part[same].settings))
            bits = [line.optimizers] if part.optimizers.nunique() > 1 and line.family != STEPS else []
            bits += [f"{k.replace('_', '-')} {line.settings.get(k)}" for k in varying if k not in IN_OTHER_COLUMNS]
            rows.loc[row, "setting"] = ", ".join(bits)
            columns = {
                "population_list": count_ranks(int(line.workers)) if line.workers.isdigit() else line.workers,
                "rounds": f"{line.rounds} rounds",
                "batch_size": f"batch {line.batch_size}",
            }
            bits += [text for key, text in columns.items() if key in varying]
            rows.loc[row, "label"] = f"{line.title} ({', '.join(bits)})" if bits else line.title
    return rows


def _families(runs: pd.DataFrame) -> list[str]:
    """What is compared with each other: `easgd`, of methods that couple weights; `own-images`, where each worker of such a
    method keeps to images of its own; `steps`, where one worker's labels are not smoothed nor its weights decayed, so that
    training losses mean the same and steps can be compared by them; else empty.
    """
    return [_family(method, settings) for method, settings in zip(runs.method, runs.settings, strict=True)]


def _family(method: str, settings: dict[str, Any]) -> str:
    if method in ELASTIC:
        return "own-images" if settings.get("shards") == "own" else "easgd"
    _, _, decay = OPTIMIZERS.get(settings.get("optimizer", ""), ("", "", ""))
    bare = settings.get("label_smoothing") == 0 and settings.get(decay) == 0
    return STEPS if bare and method in STEPPING else ""


def _asked(settings: dict[str, Any]) -> float:
    """The rate that a run of STEPS was given, or the first step of its line search; NaN where it has neither."""
    _, rate, _ = OPTIMIZERS[settings["optimizer"]]
    return float(settings.get(rate, np.nan))


def _title(row: pd.Series) -> str:
    """A method as tables name it; other coefficients of a swarm make another method, and so does the optimizer where steps are
    compared.
    """
    swarm, title = row.settings.get("swarm"), METHODS.get(row.method, row.method)
    if row.family == STEPS:
        return f"{title}, {OPTIMIZERS[row.settings['optimizer']][0]}"
    return f"{title}, {swarm}" if swarm else title


def count_ranks(n: int) -> str:
    """`1 rank`, `8 ranks`."""
    return f"{n} rank{'' if n == 1 else 's'}"


def _varying(settings: list[dict[str, Any]]) -> list[str]:
    """Keys whose values are not the same everywhere."""
    keys = dict.fromkeys(k for s in settings for k in s)
    return [k for k in keys if any(s.get(k) != settings[0].get(k) for s in settings)]
