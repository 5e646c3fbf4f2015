"""Read the record of a run and check its content."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from common.ecosphere.exchange import copy_everywhere, sum_everywhere
from common.ecosphere.forage import IMPROVED
from common.ecosphere.standings import TRUNCATED

FILES = {"config.json", "environment.json", "metrics.csv", "summary.json", "weights.safetensors"}
COLUMNS = [
    *("round", "rank", "population", "species", "optimizer", "lr", "fitness"),
    *("train_loss", "train_accuracy", "val_loss", "val_accuracy", "forward_evaluations", "searches", "trials"),
    *("seconds_train", "seconds_evaluate", "seconds_exchange", "bytes_inside", "bytes_across"),
]
KEYS = {
    *("experiment", "method", "dataset", "model", "seed", "ranks", "populations", "rounds"),
    *("train_images", "gradient_evaluations", "validation_accuracy", "test_accuracy", "test_loss", "diverged"),
    *("forward_evaluations", "searches", "trials", "extra_forward"),
    *("seconds", "images_per_second", "bytes_sent", "weights_sha256", "commit"),
}
SECONDS = {"total", "setup", "train", "evaluate", "exchange", "other"}


@dataclass(frozen=True)
class RunRecord:
    """One directory that a run wrote."""

    directory: Path

    @property
    def summary(self) -> dict:
        return json.loads((self.directory / "summary.json").read_text())

    @property
    def config(self) -> dict:
        return json.loads((self.directory / "config.json").read_text())

    @property
    def environment(self) -> dict:
        return json.loads((self.directory / "environment.json").read_text())

    @property
    def metrics(self) -> list[dict[str, str]]:
        """Lines of metrics.csv."""
        with open(self.directory / "metrics.csv", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    @property
    def untimed_metrics(self) -> list[dict[str, str]]:
        """The same without what a clock measured: equal for equal runs."""
        return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in self.metrics]

    @property
    def hash(self) -> str:
        return self.summary["weights_sha256"]

    def column(self, name: str, **where: object) -> list[float]:
        """Numbers of one column, of the lines with these values."""
        return [float(m[name]) for m in self.metrics if all(m[k] == str(v) for k, v in where.items())]

    def bytes_by_formula(self) -> int:
        """Bytes that all ranks send across in all rounds by the specification, if no population is lost."""
        summary = self.summary
        n, theta = len(summary["populations"]), 4 * (summary["parameters"] + summary["buffers"])
        rounds = summary["rounds"]
        if self.config.get("base_rate") == "forage":
            if all(p["optimizer"] in ("sgd", "sam", "asam") for p in summary["populations"]):
                theta += 4 * summary["parameters"]  # momentum travels with the weights
            silent = [t for t in range(rounds) if not any(self.column("bytes_across", round=t))]
            assert silent == list(range(len(silent))), "scouts come first, and send nothing"
            assert len(silent) <= IMPROVED.scouting
            rounds -= len(silent)
        if summary["method"] == "pbt":
            theta += 4 * summary["parameters"]  # momentum as well
        transfers = {
            "average": sum(map(len, sum_everywhere(n))),
            "kin": sum(map(len, sum_everywhere(n))),
            "best": sum(map(len, copy_everywhere(n, 0))),
            "migrate": 1,
            "ring": n,
            "exploit": max(1, round(TRUNCATED * n)),
            "none": 0,
        }
        return rounds * theta * (transfers[summary["exchange"]] if n > 1 else 0)


def check_complete(directory: Path, rounds: int, ranks: int) -> RunRecord:
    """Assert that a finished run's record is whole and agrees with itself."""
    record = RunRecord(directory)
    names = {p.name for p in directory.iterdir()}
    assert names >= FILES
    assert not [n for n in names if n.endswith((".tmp", ".partial"))]
    assert any(n.startswith("events.out.tfevents") for n in names)
    summary, metrics = record.summary, record.metrics
    assert set(summary) >= KEYS
    assert (summary["ranks"], summary["rounds"], summary["diverged"]) == (ranks, rounds, False)
    assert list(metrics[0]) == COLUMNS
    assert [(int(m["round"]), int(m["rank"])) for m in metrics] == [(t, r) for t in range(rounds) for r in range(ranks)]
    assert sum(p["workers"] for p in summary["populations"]) == ranks
    assert set(summary["seconds"]) == SECONDS
    assert abs(sum(v for k, v in summary["seconds"].items() if k != "total") - summary["seconds"]["total"]) < 1e-6
    assert 0 <= summary["test_accuracy"] <= 1
    assert summary["bytes_sent"]["across"] == sum(record.column("bytes_across")) == record.bytes_by_formula()
    assert summary["bytes_sent"]["inside"] == sum(record.column("bytes_inside"))
    for name in ("forward_evaluations", "searches", "trials"):
        assert summary[name] == sum(record.column(name))
    extra = summary["forward_evaluations"] - summary["gradient_evaluations"]
    assert (extra > 0) == (summary["trials"] > 0)
    assert abs(summary["extra_forward"] * 3 * summary["gradient_evaluations"] - extra) < 1e-6
    return record
