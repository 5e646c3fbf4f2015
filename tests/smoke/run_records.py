"""Read the record of a run and check its content."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launching import Done, run

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
TOTALS = (
    *("train_images", "gradient_evaluations", "forward_evaluations", "searches", "trials", "extra_forward", "bytes_sent"),
    *("rounds", "validation_accuracy", "test_accuracy", "test_loss", "swarm", "lineage", "weights_sha256"),
)  # what a clock does not change, of the scripts that have it
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

    def check_equals(self, other: "RunRecord") -> None:
        """Both runs ended with the same bits, after the same rounds."""
        assert self.untimed_metrics == other.untimed_metrics
        for key in TOTALS:
            assert self.summary.get(key) == other.summary.get(key), key

    def check_lost(self, rank: int, t: int, rounds: int) -> None:
        """One worker lost its weights in round t, and went on with finite ones."""
        assert [(m["round"], m["rank"]) for m in self.metrics if m["fitness"] == "-inf"] == [(str(t), str(rank))]
        assert (self.summary["rounds"], self.summary["diverged"]) == (rounds, False)
        assert math.isfinite(self.column("train_loss", round=t + 1, rank=rank)[0])
        assert math.isfinite(self.summary["test_loss"])

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


def check_complete(directory: Path, rounds: int, ranks: int, columns: Sequence[str] = COLUMNS) -> RunRecord:
    """Assert that a finished run's record is whole and agrees with itself."""
    record = RunRecord(directory)
    names = {p.name for p in directory.iterdir()}
    assert names >= FILES
    assert not [n for n in names if n.endswith((".tmp", ".partial"))]
    assert any(n.startswith("events.out.tfevents") for n in names)
    summary, metrics = record.summary, record.metrics
    assert set(summary) >= KEYS
    assert (summary["ranks"], summary["rounds"], summary["diverged"]) == (ranks, rounds, False)
    assert list(metrics[0]) == list(columns)
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


def run_to_end(out: Path, rounds: int, script: str | Path, *options: object, ranks: int = 1, **how) -> tuple[Done, RunRecord]:
    """Run a script as `launching.run` does; its record is whole."""
    done = run(script, *options, "--out", out, ranks=ranks, **how)
    return done, check_complete(out, rounds, ranks)


def kill_and_resume(out: Path, fault: str, script: str, *options: object, ranks: int) -> RunRecord:
    """A run that is killed by a fault, "kill:RANK:PHASE:ROUND", and finished by `--resume`."""
    t = fault.split(":")[-1]
    killed = run(script, *options, "--out", out, ranks=ranks, code=None, ECOSPHERE_FAULT=fault)
    assert killed.code != 0, killed
    assert not (out / "summary.json").exists()
    assert len(RunRecord(out).metrics) == int(t) * ranks
    resumed = run(script, *options, "--out", out, "--resume", ranks=ranks)
    assert f"resuming after round {t} of " in resumed.out, resumed
    return RunRecord(out)


def check_kept(done: Done, out: Path) -> RunRecord:
    """All workers lost their weights: the run said so in one line, and kept the last finite ones."""
    assert len(done.ours) == 1, done
    record = RunRecord(out)
    assert record.summary["diverged"] is True
    assert math.isfinite(record.summary["test_loss"])
    return record
