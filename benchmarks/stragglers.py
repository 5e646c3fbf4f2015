"""Cost of one slow worker for the others: steps per second of every worker, relative to the same worker without coupling.

    mpirun --oversubscribe --bind-to none -np 5 python benchmarks/stragglers.py

Rank 0 is the server of the methods that have one, the others are workers, the last of them `--factor` times slower. A gradient
is a sleep, so that the machine's cores do not matter, and in the rows of real training a step of a small network, followed by
a sleep in the slow worker. As in training, MPI may progress a pending push after every layer: a sleep has `--layers` parts.
Each worker's speed is relative to its own in the same job without coupling; medians over `--repeats`, in turn. The table also
has the time of an exchange, and the floats sent, to compare with the paper's 2 N / tau per step and worker (synchronous: N).
Writes results/benchmarks/stragglers.md.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.coupling.elastic import (
    Admm,
    CenterVariable,
    Centre,
    Coupling,
    Downpour,
    Elastic,
    MomentumCenter,
    MomentumDownpour,
)
from common.coupling.server import RemoteCenter, ServedCenter, Server, WindowCenter
from common.coupling.synchronous import SynchronousElastic
from common.errors import UsageError
from common.models import build_model
from common.models.flat import FlatModel
from common.options import PathText, read_options
from common.parallel import launch
from common.parallel.comm import Group, Traffic
from common.parallel.mpi import MPI
from common.parallel.topology import world_size
from common.training.provenance import commit
from common.training.served_run import progress_hooks

RULES: dict[str, Callable[[Tensor, Centre, int, int], Coupling]] = {  # of (x, centre, workers, period)
    "aeasgd": lambda x, centre, p, tau: Elastic(x, centre, 0.9 / p, tau),
    "aeasgd, window": lambda x, centre, p, tau: Elastic(x, centre, 0.9 / p, tau),
    "downpour": lambda x, centre, p, tau: Downpour(x, centre, tau),
    "mdownpour": lambda x, centre, p, tau: MomentumDownpour(centre),
    "admm": lambda x, centre, p, tau: Admm(x, centre, 0.9 / p, p, tau),
}
UNCOUPLED, TOGETHER = "no coupling", "easgd"
ROWS = [(UNCOUPLED, 1), (TOGETHER, 1), (TOGETHER, 10)]
ROWS += [("aeasgd", 1), ("aeasgd", 10), ("aeasgd, window", 1), ("aeasgd, window", 10), ("downpour", 1), ("downpour", 10)]
ROWS += [("mdownpour", 1), ("admm", 10)]
TRAINED = [(UNCOUPLED, 1), (TOGETHER, 10), ("aeasgd", 10)]
ETA = 1e-4  # small, so that nothing diverges


def nothing() -> None:
    """Progress function without pending messages."""


@dataclass(frozen=True)
class Args:
    """What is measured."""

    milliseconds: float = 40.0
    """duration of a gradient that is a sleep"""
    layers: int = 10
    """parts of such a sleep, after each of which MPI may progress pending messages"""
    factor: int = 4
    """slowdown of the last worker"""
    steps: int = 40
    """steps of the slow worker in one measurement"""
    repeats: int = 3
    """measurements of each row"""
    out: PathText = "results/benchmarks"
    """folder of the table"""


class World:
    """All ranks: rank 0 may be a server, the others are workers."""

    def __init__(self, args: Args) -> None:
        self.args = args
        self.group = Group(MPI.COMM_WORLD, Traffic())
        rank = self.group.rank
        self.workers = Group(MPI.COMM_WORLD.Split(min(rank, 1), rank), self.group.traffic)
        self.is_slow = rank == self.group.size - 1
        self.model = FlatModel(build_model("easgd-cnn", 3, 10, width=8, image_size=28))
        self.images = torch.rand(16, 3, 28, 28)
        self.progress: Callable[[], None] = nothing
        progress_hooks(self.model.module, lambda: self.progress())

    def sleep(self) -> None:
        """A gradient that takes time but no core."""
        for _ in range(self.args.layers):
            time.sleep(self.args.milliseconds / 1000 / self.args.layers * (self.args.factor if self.is_slow else 1))
            self.progress()

    def train(self) -> None:
        """A gradient of the paper's network on 16 images; the slow worker then sleeps, according to its factor."""
        began = time.perf_counter()
        self.model.zero_gradient()
        F.cross_entropy(self.model.module(self.images), torch.zeros(16, dtype=torch.long)).backward()
        if self.is_slow:
            time.sleep((self.args.factor - 1) * (time.perf_counter() - began))

    def measure(self, method: str, period: int, gradient: Callable[[], None]) -> tuple[float, float]:
        """(this worker's steps per second, floats sent by all ranks per step and worker, over N). Collective."""
        world, x = self.group, self.model.parameters.data
        world.barrier()
        world.traffic.inside = 0
        window = WindowCenter(world, x) if method.endswith("window") else None
        if world.rank == 0:
            speed, steps = 0.0, 0
            if method in RULES:
                center = MomentumCenter(x.clone(), ETA, 0.9) if method == "mdownpour" else CenterVariable(x.clone())
                Server(world, None if window else center, list(range(1, world.size)), print).serve()
        else:
            steps = self.args.steps if self.is_slow or method == TOGETHER else self.args.steps * self.args.factor
            speed = self._work(method, period, gradient, steps, window)
        world.sleeping_barrier()
        if window:
            window.free()
        table = world.gather_rows(np.array([speed, steps, world.traffic.inside]))
        return speed, float(table[:, 2].sum() / 4 / len(x) / table[:, 1].sum())

    def _work(self, method: str, period: int, gradient: Callable[[], None], steps: int, window: WindowCenter | None) -> float:
        x, p = self.model.parameters.data, self.workers.size
        centre: RemoteCenter | None = None
        coupling: Coupling | None = None
        if method == TOGETHER:
            coupling = SynchronousElastic(x, self.workers, 0.9 / p, period)
        elif method != UNCOUPLED:
            centre = window or ServedCenter(self.group, len(x), 1)
            coupling = RULES[method](x, centre, p, period)
        self.progress = centre.progress if centre else nothing
        began = time.perf_counter()
        for t in range(steps):
            if coupling:
                coupling.begin(t, x)
            gradient()
            x.sub_(self.model.gradient, alpha=ETA)
            if coupling:
                coupling.end(t, x, self.model.gradient)
        speed = steps / (time.perf_counter() - began)
        if centre:
            centre.close()
        return speed


def main() -> None:
    """Measure in turn, print and write the table on rank 0."""
    args = read_options(Args, __doc__)
    if world_size() < 3:
        raise UsageError(f"a slow worker and others beside a server are at least 3 ranks, not {world_size()}: mpirun -np 5")
    torch.set_num_threads(1)
    world = World(args)
    rows = [(*row, "sleep") for row in ROWS] + [(*row, "real training") for row in TRAINED]
    measured: dict[tuple[str, int, str], list[tuple[float, float]]] = {row: [] for row in rows}
    for repeat in range(args.repeats):
        for method, period, kind in rows:
            launch.say(f"repeat {repeat + 1} of {args.repeats}: {method}, tau {period}, {kind}")
            gradient = world.sleep if kind == "sleep" else world.train
            measured[method, period, kind].append(world.measure(method, period, gradient))
    lines = []
    for row in rows:
        method, period, kind = row
        own = statistics.median(speed for speed, _ in measured[UNCOUPLED, 1, kind])
        speed, sent = (statistics.median(values) for values in zip(*measured[row], strict=True))
        lost = 1000 * period * (1 / speed - 1 / own) if own else 0.0
        shares, costs = world.group.gather_rows(np.array([speed / own if own else 0.0, lost]))[1:].T
        lines.append((kind, method, period, shares[:-1].min(), shares[:-1].mean(), shares[-1], costs[:-1].mean(), sent))
    if world.group.rank == 0:
        write(args, world, lines)


def write(args: Args, world: World, lines: list[tuple]) -> None:
    """The table as Markdown."""
    workers, n = world.group.size - 1, len(world.model.parameters)
    text = [
        f"{workers} workers, one of them {args.factor} times slower, {n:,} parameters: speed of each worker as a share of its "
        f"own without any coupling (steps per second, medians of {args.repeats}). Gradients are sleeps of "
        f"{args.milliseconds:g} ms in {args.layers} parts, or steps of the EASGD paper's network on 16 images. Exchange: what "
        "one costs the others on average, ms; sent: floats per step, worker and parameter. downpour waits until its push is "
        "in, mdownpour until its gradient is.",
        "",
        "| gradients | method | tau | slowest of the others | mean of the others | slow worker | exchange | sent |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {kind} | {method} | {tau} | {low:.1%} | {mean:.1%} | {slow:.1%} | {cost:.1f} | {sent:.3f} |"
            for kind, method, tau, low, mean, slow, cost, sent in lines
        ),
        "",
        f"Made by `mpirun --oversubscribe --bind-to none -np {workers + 1} python benchmarks/stragglers.py`, "
        f"commit {commit()}.",
    ]
    print("\n".join(text))
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stragglers.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    launch.run(main)
