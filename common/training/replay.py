"""Learning rates of an earlier run by round, replayed by a plain run (`Baselines.py --replay`)."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UsageError
from common.optim.registry import lr_scale

WANTED = "name the folder, or the metrics.csv, of an EOA or pbt run"


def read_rates(path: Path, rounds: int) -> tuple[list[float], bool]:
    """The rate of every round on the scale of --learning-rate, and whether the run had a warm-up.

    path: the folder of a run, or its metrics.csv. Rates of other optimizers are divided by their ratio to --learning-rate
    (`lr_scale`), computed from config.json in the same folder; without that file they are not scaled. A round's rate is the
    mean over all workers; in population-based training, over the population whose weights became, by copying, those of the
    final model (`lineage` in summary.json).

    Raises UsageError if there are no rates or fewer than `rounds` rounds, or if the run is a foraging run.
    """
    table = path / "metrics.csv" if path.is_dir() else path
    try:
        with open(table, newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        config, summary = (_json_beside(table, name) for name in ("config.json", "summary.json"))
        rates = _rates(lines, config, summary.get("lineage"))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UsageError(f"cannot read rates from '{path}' ({error}): {WANTED}") from None
    if config.get("base_rate") == "forage":
        raise UsageError(f"{path} is of a foraging run, which takes rounds back: replay the rates of a run without it")
    if not rates:
        raise UsageError(f"{path} holds no rates: {WANTED}")
    if len(rates) < rounds:
        raise UsageError(f"{path} holds the rates of {len(rates)} rounds, not {rounds}: add --rounds {len(rates)}")
    return rates, "lineage" not in summary


def _rates(lines: list[dict[str, str]], config: dict[str, Any], lineage: list[int] | None) -> list[float]:
    """One rate per round, to the nine digits that metrics.csv keeps."""
    by_round: dict[int, list[dict[str, str]]] = {}
    for line in lines:
        by_round.setdefault(int(line["round"]), []).append(line)
    if lineage is not None:  # a round after which no worker had finite weights has no descendants
        by_round = {t: [line for line in by_round[t] if int(line["population"]) == p] for t, p in enumerate(lineage)}
    means = (np.mean([float(line["lr"]) / _scale(line["optimizer"], config) for line in by_round[t]]) for t in sorted(by_round))
    return [float(f"{mean:.9g}") for mean in means]


def _scale(optimizer: str, config: dict[str, Any]) -> float:
    if not config:
        return 1.0
    return lr_scale(optimizer, config["learning_rate"], config["adam_rate"], config["momentum_factor"])


def _json_beside(table: Path, name: str) -> dict[str, Any]:
    path = table.with_name(name)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
