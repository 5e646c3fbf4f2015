"""Record of a run, in its own directory; tables and figures read nothing else.

    config.json  environment.json  metrics.csv  summary.json  weights.safetensors  checkpoints/  events.out.*

Written by rank 0 alone. Every file but metrics.csv is written under a temporary name and renamed; metrics.csv grows by one
line per round and rank. The columns are explained in results/README.md.
"""

import csv
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save
from torch import nn

from common.errors import UsageError
from common.optim.armijo import COUNTS
from common.parallel.comm import Group
from common.parallel.topology import Topology
from common.paths import expand
from common.training.loop import Trained
from common.training.provenance import environment, peak_memory_gib

PHASES = ("setup", "train", "evaluate", "exchange")
MAY_CHANGE = {"resume", "out", "data_dir"}  # between the start of a run and its resumption


@dataclass
class Totals:
    """Counters and times of one rank since the start of the run, across resumptions; saved with every checkpoint."""

    train_images: int = 0
    gradient_evaluations: int = 0
    forward_evaluations: int = 0
    searches: int = 0
    trials: int = 0
    exhausted: int = 0
    flat: int = 0
    skipped: int = 0
    bytes_inside: int = 0
    bytes_across: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*PHASES, "total"), 0.0))

    def as_dict(self) -> dict[str, Any]:
        """For a checkpoint; `Totals(**d)` reads it back."""
        return {**vars(self), "seconds": dict(self.seconds)}

    def add(self, trained: Trained) -> None:
        """Add one round of training."""
        self.train_images += trained.images
        for name in ("gradient_evaluations", "forward_evaluations", *COUNTS):
            setattr(self, name, getattr(self, name) + getattr(trained, name))

    def over_ranks(self, world: Group) -> dict[str, Any]:
        """Entries of summary.json: sums over the world, seconds as means over the ranks that trained; collective."""
        names = [name for name, value in vars(self).items() if name != "seconds"]
        mine = [*(getattr(self, name) for name in names), *(self.seconds[p] for p in (*PHASES, "total")), peak_memory_gib()]
        table = world.gather_rows(np.array(mine))
        sums = {name: int(column.sum()) for name, column in zip(names, table.T, strict=False)}
        inside, across = sums.pop("bytes_inside"), sums.pop("bytes_across")
        images, gradients, forward = (sums[n] for n in ("train_images", "gradient_evaluations", "forward_evaluations"))
        trained = table[:, 0] > 0 if images else np.full(len(table), True)  # servers train nothing and would bias the means
        *phases, total = (float(s) for s in table[trained, len(names) : -1].mean(axis=0))
        return {
            **sums,
            "extra_forward": (forward - gradients) / (3 * gradients) if gradients else 0.0,
            "seconds": {"total": total, **dict(zip(PHASES, phases, strict=True)), "other": total - sum(phases)},
            "images_per_second": images / phases[1] if phases[1] else 0.0,
            "peak_memory_gib": float(table[:, -1].sum()),
            "bytes_sent": {"inside": inside, "across": across},
        }


def choose_directory(out: str, experiment: str, dataset: str, seed: int, resume: bool, topology: Topology) -> Path:
    """The run's directory, the same on every rank; refuses one that holds a record. Collective over the world.

    out: a path, in which `~` is expanded, or `auto` for a new directory under runs/. Raises UsageError.
    """
    stamp = topology.world.bcast_object(time.strftime("%Y%m%d-%H%M%S"))
    directory = Path(f"runs/{experiment}/{dataset}-seed{seed}-{stamp}" if out == "auto" else expand(out, "--out"))
    if resume and out == "auto":
        raise UsageError("--resume needs --out: the directory of the run to go on with")
    if topology.world.bcast_object((directory / "config.json").exists()) and not resume:
        raise UsageError(f"{directory} already holds a record: choose another --out, or --resume to go on with it")
    with topology.world.raise_together():
        if topology.world.rank == 0:
            _check_writable(directory)
    return directory


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {directory} ({error.strerror}): choose another --out") from None


def _check_writable(directory: Path) -> None:
    existing = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(
            f"cannot write the record to {directory}: {existing} is not a writable directory; choose another --out"
        )


def check_same_config(directory: Path, config: Mapping[str, Any], topology: Topology) -> None:
    """Check before resuming that the recorded configuration is `config`. Collective; raises UsageError naming what differs."""
    with topology.world.raise_together():
        path = directory / "config.json"
        if topology.world.rank == 0 and path.exists():
            recorded = json.loads(path.read_text(encoding="utf-8"))
            keys = [k for k in {**recorded, **config} if k not in MAY_CHANGE and recorded.get(k) != _plain(config.get(k))]
            if keys:
                was, now = ({k: c.get(k) for k in keys} for c in (recorded, config))
                raise UsageError(f"cannot resume {directory} with another configuration: recorded {was}, given {now}")


class Record:
    """Writer of a run's directory; all methods are no-ops on ranks other than 0."""

    def __init__(self, directory: Path, topology: Topology, first_round: int) -> None:
        self.directory, self.topology = directory, topology
        self.active = topology.world.rank == 0
        self.events = None
        self.environment = environment(topology) if self.active else {}  # read before the first file is written
        with topology.world.raise_together():
            if self.active:
                _make(directory)
        if not self.active:
            return
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import, and only rank 0 needs it

        self._forget_rounds_from(first_round)
        self.events = SummaryWriter(str(directory), purge_step=first_round)

    def start(self, config: Mapping[str, Any]) -> None:
        """Write config.json and environment.json."""
        if self.active:
            self.write_json("environment.json", self.environment)
            self.write_json("config.json", config)

    def add_round(self, t: int, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Append this round's line of every rank; collective over the world. Returns the lines on rank 0, [] elsewhere."""
        rows = self.topology.world.gather_records({"round": t, "rank": self.topology.world.rank, **row})
        if self.active and rows is not None:
            self.write_round(t, rows)
        return rows or []

    def write_round(self, t: int, rows: list[dict[str, Any]]) -> None:
        """Append the lines of round t, one for each rank that trains; on rank 0."""
        path = self.directory / "metrics.csv"
        fresh = not path.exists()
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            if fresh:
                writer.writeheader()
            writer.writerows({k: _short(v) for k, v in r.items()} for r in rows)
        self._add_events(t, rows)

    def _add_events(self, t: int, rows: list[dict[str, Any]]) -> None:
        assert self.events is not None
        for name in ("lr", "fitness", "train_loss", "val_accuracy"):
            for row in rows:
                self.events.add_scalar(f"{name}/rank{row['rank']:02d}-{row['species']}", row[name], t)
        self.events.add_scalar("workers that diverged", sum(row["fitness"] == -math.inf for row in rows), t)
        self.events.flush()

    def _forget_rounds_from(self, t: int) -> None:
        """Drop lines of rounds that will be run (again)."""
        path = self.directory / "metrics.csv"
        if not path.exists():
            return
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        whole = (line for line in lines if None not in line.values())  # a kill may have truncated the last one
        kept = [line for line in whole if int(line["round"]) < t]
        if not kept:
            path.unlink()
            return
        temporary = path.with_suffix(".tmp")
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(kept[0]))
            writer.writeheader()
            writer.writerows(kept)
        os.replace(temporary, path)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one JSON file atomically."""
        if self.active:
            write_json(self.directory / name, content)

    def write_weights(self, module: nn.Module) -> None:
        """weights.safetensors: the module's state dict, for `module.load_state_dict(load_file(path))`."""
        if self.active:
            write_weights(self.directory, module)

    def close(self) -> None:
        """Flush what is buffered."""
        if self.events is not None:
            self.events.close()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; non-finite numbers become null."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(_plain(content), indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def write_weights(directory: Path, module: nn.Module) -> None:
    """Write weights.safetensors atomically."""
    temporary = directory / "weights.tmp"
    # Not save_file: its files are readable by their owner only.
    temporary.write_bytes(save({n: t.detach().cpu().clone() for n, t in module.state_dict().items()}))
    os.replace(temporary, directory / "weights.safetensors")


def _short(value: Any) -> Any:
    return f"{value:.9g}" if isinstance(value, float) else value


def _plain(value: Any) -> Any:
    """The value in strict JSON: no NaN or infinity, paths as text, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
