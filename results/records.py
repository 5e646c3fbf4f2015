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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).parent
OTHERS = ("tables", "figures", "dhpo")  # beside the training runs in a profile's folder; searches: searches.py
ECOSPHERE = {  # methods as tables and figures name them, in their order; others follow under their own name
    "eoa": "EOA",
    "eoa-reference": "EOA with reference rules",
    "foraging": "foraging",
    "cosine": "cosine",
    "linear": "linear scaling",
    "sqrt": "square-root scaling",
    "replay": "replay of EOA's rates",
}
SEARCHES = {  # steps found by a line search
    "salsa": "SaLSA",
    "salsa-released": "SaLSA, released class",
    "sls": "Armijo search (SLS)",
}
ELASTIC = {  # a group of their own in figures, with what they are compared to
    "easgd": "EASGD",
    "easgd-gs": "EASGD, Gauss-Seidel",
    "aeasgd": "AEASGD",
    "eamsgd": "EAMSGD",
    "downpour": "DOWNPOUR",
    "mdownpour": "MDOWNPOUR",
    "adownpour": "ADOWNPOUR",
    "mvadownpour": "MVADOWNPOUR",
    "admm": "ADMM",
    "easgd-tree": "EASGD tree (unverified)",
    "sgd": "SGD alone",
    "msgd": "MSGD alone",
    "asgd": "ASGD alone",
    "mvasgd": "MVASGD alone",
    "sync": "synchronous SGD",
    "average": "periodic averaging",
    "post-local": "post-local SGD",
    "diloco": "DiLoCo",
    "independent": "independent SGD",
    "pbt": "population-based training",
    "PSO-PS (our reconstruction)": "PSO-PS (our reconstruction)",  # never without these words
}
METHODS = {**ECOSPHERE, **SEARCHES, **ELASTIC}
DATASETS = {  # as they call themselves; others under their own name
    "digits": "digits",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "topics": "Python topics",
}
SPECIES = {  # as figures spell them out; others under their own name
    "gwo": "grey wolves (gwo)",
    "woa": "whales (woa)",
    "pso": "particles (pso)",
    "de": "differential evolution (de)",
}
PHASES = ("setup", "train", "evaluate", "exchange", "other")

# Not another configuration: seed, paths, what follows from another run, and names for what other keys spell out.
NOT_A_SETTING = {"seed", "out", "data_dir", "resume", "replay", "replayed_rates", "preset", "populations"}
# Settings that have columns of their own in the tables.
IN_OTHER_COLUMNS = {"population_list", "ranks", "rounds", "batch_size", "optimizer"}

CONFIG_KEYS = ("method", "dataset", "model", "seed", "ranks", "rounds", "population_list", "batch_size", "round_steps")
ENVIRONMENT_KEYS = ("commit", "command", "device", "processor", "cores", "memory_gib")
SWARM = ("average_test_accuracy", "best_worker_test_accuracy", "new_best_share", "distance")  # of a swarm's summary.json
NUMBERS = (
    "test_accuracy",
    "validation_accuracy",
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
SWARMS = ("hull", "clerc", "shi", "oz")  # coefficients of a swarm, the default ones first
LEAST_IN_A_SWEEP = 3  # base rates, or periods
METRICS_COLUMNS = ("round", "rank", "population", "species", "optimizer", "lr", "fitness", "val_accuracy")


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
        """(name, rows) of each data set and model, in the order of the tables; methods that couple weights in groups of their
        own, by whether workers keep to images of their own.
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
            firsts = [self.counted(number).iloc[0] for number in rows.index]  # of the lowest seed
            rows = rows.assign(first=[-1.0 if run.diverged else float(run.validation_accuracy) for run in firsts])
            best = rows.groupby(["title", "period"])["first"].idxmax()
            found.append((name, rows.assign(chosen=rows.index.isin(best)).drop(columns="first")))
        return found

    def _with_results(self, many: str) -> list[tuple[str, pd.DataFrame]]:
        """Groups whose rows with results have three values or more of `asked` (--learning-rate) or `period` (--period)."""
        found = []
        for name, part in self.groups():
            rows = part[part.n > 0]
            rows = rows.assign(
                asked=[settings.get("learning_rate", np.nan) for settings in rows.settings],
                period=[np.nan if (tau := settings.get("period")) is None else tau or np.inf for settings in rows.settings],
            )
            if rows[many].nunique() >= LEAST_IN_A_SWEEP:
                found.append((name, rows))
        return found


def from_command_line(description: str) -> tuple[Records, Path]:
    """Read the arguments all three scripts share; returns the records and the profile's folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", nargs="?", default="smoke", help="smoke, cpu, gpu or paper (default: smoke)")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the profiles (default: results/)")
    given = parser.parse_args()
    try:
        return load(given.root, given.profile), given.root / given.profile
    except FileNotFoundError as error:
        parser.error(str(error))


def load(root: Path, profile: str) -> Records:
    """All records of a profile. Raises FileNotFoundError where there is not one run directory."""
    folder = root / profile
    experiments = sorted(p for p in folder.glob("*") if p.is_dir() and p.name not in OTHERS)
    directories = [run for e in experiments for run in sorted(e.iterdir()) if run.is_dir()]
    if not directories:
        raise FileNotFoundError(f"no runs under {folder}: make some with `./run_all.sh --profile {profile}`")
    read = [_read_run(d) for d in directories]
    runs = pd.DataFrame([line for line, _ in read]).set_index("run")
    metrics = pd.concat([frame for _, frame in read if len(frame)] or [read[0][1]], ignore_index=True)
    runs = _name_rows(runs)
    return Records(profile, runs, metrics, _make_rows(runs))


def _read_run(directory: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """One line of `runs`, and the run's part of `metrics`."""
    name = f"{directory.parent.name}/{directory.name}"
    problems: list[str] = []
    config = _read_json(directory / "config.json", CONFIG_KEYS, problems)
    environment = _read_json(directory / "environment.json", ENVIRONMENT_KEYS, problems)
    metrics = _read_metrics(directory / "metrics.csv", problems)
    rounds_done = metrics["round"].nunique()
    summary = _summary_line(directory / "summary.json", problems)
    if summary:
        a_round = summary["lines_per_round"]
        expected = summary["rounds_done"] * a_round
        lines = len(metrics) - a_round if summary["diverged"] and len(metrics) > expected else len(metrics)  # the fatal round's
        if lines != expected:
            problems.append(f"metrics.csv has {len(metrics)} lines instead of {expected}")
        elif not len(metrics):
            problems = [p for p in problems if "metrics.csv" not in p]  # it diverged before there was a line to write
    planned, method = config.get("rounds", "?"), summary.get("method", config.get("method"))
    if problems:
        status, problem = "incomplete", f"{'; '.join(problems)} ({rounds_done} of {planned} rounds recorded)"
    elif summary["diverged"]:
        status, problem = (
            "diverged",
            f"diverged after {summary['rounds_done']} of {planned} rounds; judged by its last finite weights",
        )
    else:
        status, problem = "finished", ""
    line = {
        "run": name,
        "experiment": directory.parent.name,
        "method": method,
        **{k: config.get(k) for k in ("dataset", "seed", "ranks", "rounds", "batch_size")},
        "network": tuple(config.get(k, "?") for k in ("model", "depth", "width")),
        "workers": _workers(config.get("population_list", []), method),
        "optimizers": ", ".join(dict.fromkeys(p["optimizer"] for p in config.get("population_list", []))),
        "settings": {k: v for k, v in config.items() if k not in NOT_A_SETTING},
        "commit": environment.get("commit", "unknown"),
        "command": environment.get("command", "unknown"),
        "hardware": _hardware(environment),
        **(summary if status != "incomplete" else {}),
        "status": status,
        "problem": problem,
    }
    return line, _complete(metrics, name, config, line.get("train_images"))


def _read_json(path: Path, keys: Sequence[str], problems: list[str]) -> dict[str, Any]:
    """The file's content, {} if it cannot be used; what is wrong with it goes to `problems`."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        problems.append(f"no {path.name}")
        return {}
    except ValueError:
        problems.append(f"{path.name} is not valid JSON")
        return {}
    if missing := [k for k in keys if k not in content]:
        problems.append(f"{path.name} lacks {', '.join(missing)}")
    return content


def _read_metrics(path: Path, problems: list[str]) -> pd.DataFrame:
    """metrics.csv, empty if it cannot be used."""
    empty = pd.DataFrame({c: pd.Series(dtype=object if c in ("species", "optimizer") else float) for c in METRICS_COLUMNS})
    try:
        metrics = pd.read_csv(path)
    except FileNotFoundError:
        problems.append("no metrics.csv")
        return empty
    except ValueError:  # pandas' parser errors are ValueErrors
        problems.append("metrics.csv is not readable")
        return empty
    if missing := [c for c in METRICS_COLUMNS if c not in metrics]:
        problems.append(f"metrics.csv lacks {', '.join(missing)}")
        return empty
    metrics = metrics.dropna(subset=["round", "rank", "population", "lr"])  # a line may be cut where a run was killed
    return metrics.astype(dict.fromkeys(("round", "rank", "population"), int)).reset_index(drop=True)


def _summary_line(path: Path, problems: list[str]) -> dict[str, Any]:
    """The flat numbers of summary.json, {} where it is missing or lacks one of them."""
    plain = ("method", "model", "ranks", "train_images", "gradient_evaluations", "validation_accuracy", "test_accuracy")
    keys = (*plain, "rounds", "diverged", "seconds", "images_per_second", "bytes_sent", "commit")
    before = len(problems)
    summary = _read_json(path, keys, problems)
    if len(problems) > before:
        return {}
    seconds, sent = summary["seconds"], summary["bytes_sent"]
    if missing := {"total", *PHASES} - set(seconds) | {"inside", "across"} - set(sent):
        problems.append(f"summary.json lacks {', '.join(sorted(missing))} in seconds or bytes_sent")
        return {}
    sync = seconds["evaluate"] + seconds["exchange"]
    return {
        **{k: summary[k] for k in (*plain, "diverged", "images_per_second", "commit")},
        "extra_forward": summary.get("extra_forward", 0.0),  # records from before line searches have none
        "rounds_done": summary["rounds"],
        "lines_per_round": summary.get("lines_per_round", summary["ranks"]),
        **{f"seconds_{k}": seconds[k] for k in ("total", *PHASES)},
        "sync_share": sync / (seconds["train"] + sync) if seconds["train"] + sync else np.nan,
        **{name: summary.get("swarm", {}).get(name, np.nan) for name in SWARM},
        "mb_inside": sent["inside"] / 1e6,
        "mb_across": sent["across"] / 1e6,
    }


def _complete(metrics: pd.DataFrame, run: str, config: dict[str, Any], train_images: float | None) -> pd.DataFrame:
    """The metrics of one run with the columns `run`, `images` and `leader`."""
    lengths = np.broadcast_to(config.get("round_steps", np.nan), config.get("rounds", 1))  # one number, or one per round
    steps = pd.Series(np.cumsum(lengths)).reindex(metrics["round"]).to_numpy()
    images = pd.Series(steps * config.get("batch_size", np.nan), index=metrics.index)
    if train_images:  # --max-steps cuts the last round short
        images = images.clip(upper=train_images)
    best_first = metrics.sort_values(["round", "fitness", "lr", "rank"], ascending=[True, False, False, True])
    leaders = best_first.drop_duplicates("round").index
    return metrics.assign(run=run, images=images, leader=metrics.index.isin(leaders))


def _workers(populations: list[dict[str, Any]], method: str | None) -> str:
    """`8: 4 gwo + 4 woa`; the number alone for a method without species."""
    if not populations:
        return "unknown"
    total = sum(p["workers"] for p in populations)
    if {p["species"] for p in populations} == {method}:
        return str(total)
    mixed = len({p["optimizer"] for p in populations}) > 1
    parts = [f"{p['workers']} {p['species']}{' with ' + p['optimizer'] if mixed else ''}" for p in populations]
    return f"{total}: {' + '.join(parts)}"


def _hardware(environment: dict[str, Any]) -> str:
    device = environment.get("device", "cpu")
    gpu = "" if device == "cpu" else f"{device}; "
    return f"{gpu}{environment.get('processor')}, {environment.get('cores')} cores, {environment.get('memory_gib')} GiB"


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
    rates = pd.Series([s.get("learning_rate") for s in runs.settings], index=runs.index)
    runs["family"] = _families(runs)
    runs["swept"] = (
        rates.groupby([runs.dataset, runs.model, runs.family]).transform("nunique") >= LEAST_IN_A_SWEEP
    )  # those come last
    order = ["swept", "family", "dataset", "model", "order", "method", "swarm", "ranks", "key"]
    first = runs.sort_values(order, kind="stable").drop_duplicates("key")
    runs["row"] = runs.key.map({key: i for i, key in enumerate(first.key, start=1)})
    has_result = runs.status.isin(["finished", "diverged"])
    for (_, seed), twins in runs[has_result].groupby(["row", "seed"]):
        for name in twins.index[1:]:
            runs.loc[name, ["status", "problem"]] = "repeated", f"seed {seed} again, as in {twins.index[0]}; not in the means"
    return runs.drop(columns=["key", "order", "swarm", "network", "swept", "family"])


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
    rows["title"] = [_title(m, settings) for m, settings in zip(rows.method, rows.settings, strict=True)]
    rows["data"] = [DATASETS.get(d, d) for d in rows.dataset]
    rows["setting"], rows["label"] = "", rows.title
    for _, part in rows.groupby(["dataset", "model", "family"]):
        for row, line in part.iterrows():
            varying = _varying(list(part[part.method == line.method].settings))
            bits = [line.optimizers] if part.optimizers.nunique() > 1 else []
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


def _families(runs: pd.DataFrame) -> np.ndarray:
    """What is compared with each other: `easgd`, of methods that couple weights; `own-images`, where each worker of such a
    method keeps to images of its own; else empty.
    """
    own = [settings.get("shards") == "own" for settings in runs.settings]
    return np.where(runs.method.isin(ELASTIC), np.where(own, "own-images", "easgd"), "")


def _title(method: str, settings: dict[str, Any]) -> str:
    """A method as tables name it; coefficients of a swarm other than the default ones make another method."""
    swarm = settings.get("swarm", SWARMS[0])
    return METHODS.get(method, method) + (f", {swarm}" if swarm != SWARMS[0] else "")


def count_ranks(n: int) -> str:
    """`1 rank`, `8 ranks`."""
    return f"{n} rank{'' if n == 1 else 's'}"


def _varying(settings: list[dict[str, Any]]) -> list[str]:
    """Keys whose values are not the same everywhere."""
    keys = dict.fromkeys(k for s in settings for k in s)
    return [k for k in keys if any(s.get(k) != settings[0].get(k) for s in settings)]
