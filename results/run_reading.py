"""One run directory as a line of numbers and a frame of its rounds; what is wrong with it is said, and never stops a table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PHASES = ("setup", "train", "evaluate", "exchange", "other")
# Not another configuration: seed, paths, what follows from another run, and names for what other keys spell out.
NOT_A_SETTING = {"seed", "out", "data_dir", "resume", "replay", "replayed_rates", "preset", "populations"}
# What records from before these options were made with.
BEFORE = {"initialisation": "fan-out", "flip": True, "statistics_images": 128}
CONFIG_KEYS = ("method", "dataset", "model", "seed", "ranks", "rounds", "population_list", "batch_size", "round_steps")
ENVIRONMENT_KEYS = ("commit", "command", "device", "processor", "cores", "memory_gib")
SWARM = ("average_test_accuracy", "best_worker_test_accuracy", "new_best_share", "distance")
METRICS_COLUMNS = ("round", "rank", "population", "species", "optimizer", "lr", "fitness", "val_accuracy")


def with_pixels(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that says how pixels were scaled: those from before there was an option had them in [0, 1] where they
    were cropped, else normalised.
    """
    return {"pixels": "unit" if config.get("crop") else "normalised", **config} if config else config


def read_run(directory: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """One line of `runs`, and the run's part of `metrics`."""
    name = f"{directory.parent.name}/{directory.name}"
    problems: list[str] = []
    config = with_pixels(_read_json(directory / "config.json", CONFIG_KEYS, problems))
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
        "settings": {**BEFORE, **{k: v for k, v in config.items() if k not in NOT_A_SETTING}},
        "commit": environment.get("commit", "unknown"),
        "command": environment.get("command", "unknown"),
        "hardware": _hardware(environment),
        **(summary | {"train_loss": _last_loss(metrics)} if status != "incomplete" else {}),
        "status": status,
        "problem": problem,
    }
    return line, _complete(metrics, name, config, line.get("train_images"))


def _read_json(path: Path, keys: Sequence[str], problems: list[str]) -> dict[str, Any]:
    """The file's content, {} if it cannot be used; what is wrong with it goes to `problems`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
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
        **{name: _of_workers(summary).get(name, np.nan) for name in SWARM},
        "mb_inside": sent["inside"] / 1e6,
        "mb_across": sent["across"] / 1e6,
    }


def _of_workers(summary: dict[str, Any]) -> dict[str, Any]:
    """What became of the workers of a swarm; of workers that never met the mean and the best one, which is their model."""
    if "averaged" in summary:
        mean, best = summary["averaged"]["test_accuracy"], summary["test_accuracy"]
        return {"average_test_accuracy": mean, "best_worker_test_accuracy": best}
    return summary.get("swarm", {})


def _last_loss(metrics: pd.DataFrame) -> float:
    """Training loss of the last round, mean over the workers; NaN where none is recorded."""
    if "train_loss" not in metrics or not len(metrics):
        return np.nan
    return float(metrics[metrics["round"] == metrics["round"].max()].train_loss.mean())


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
