"""Cost of a line search: extra forward passes (counted) and time, relative to the same network under Adam in the same run.

    python benchmarks/line_search.py        # a few minutes on two quiet cores, no download

Every kind of step trains its own copy of the network. After `--warm-up` untimed steps, in which the adaptive interval settles,
`--repeats` pieces of `--steps` steps are timed, the kinds in turn, and each piece is compared with Adam's of the same turn. A
step without a line search counts as three forward passes (the backward pass as two), so extra forward passes are given in
thirds of it. Writes results/benchmarks/line_search.md.
"""

import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from common.data.dataset import DataSet, open_data
from common.data.options import DataOptions
from common.ecosphere.rates import ScheduledRates
from common.models import build_model, model_title
from common.models.flat import share_model
from common.optim.armijo import PAPER, Rules
from common.optim.bases import OptimizerSettings
from common.options import PathText, read_options
from common.parallel import launch
from common.parallel.populations import PopulationSpec
from common.parallel.topology import Topology, build_topology
from common.training.loop import Plan, train_round
from common.training.provenance import commit
from common.training.worker import build_worker

ADAM = "Adam, no search"
KINDS: dict[str, tuple[str, Rules]] = {
    ADAM: ("adamw", PAPER),
    "searched every step (L = 1)": ("salsa", replace(PAPER, interval=1)),
    "adaptive": ("salsa", PAPER),
    "searched every tenth step (L = 10)": ("salsa", replace(PAPER, interval=10)),
}
TASKS = {"digits": ("wrn", 10, 1, 64), "topics": ("transformer", 2, 2, 8)}  # network, depth, width, batch


@dataclass(frozen=True)
class Args:
    """What is measured."""

    warm_up: int = 400
    """steps before anything is timed"""
    steps: int = 100
    """steps of one timed piece"""
    repeats: int = 11
    """timed pieces of each kind"""
    out: PathText = "results/benchmarks"
    """folder of the table"""


class Trainer:
    """One network under one kind of step."""

    def __init__(self, kind: str, data: DataSet, task: str, topology: Topology) -> None:
        optimizer, rules = KINDS[kind]
        model, depth, width, self.batch = TASKS[task]
        rates = ScheduledRates(lambda progress: 1.0, 0.001, 0.001, 1, 1)
        source = data.source
        module = build_model(model, source.channels, source.classes, depth, width, image_size=data.train.size)
        settings = OptimizerSettings(optimizer, adam_decay=0.0, search=rules)
        self.worker = build_worker(topology, share_model(module, topology.world), rates, settings)
        self.batches = self._endless(data)

    def _endless(self, data: DataSet) -> Iterator[tuple[Tensor, Tensor]]:
        for t in itertools.count():
            yield from data.batches(0, t, self.batch, 0, 1, len(data.train) // self.batch)

    def train(self, steps: int) -> tuple[float, float, float]:
        """(seconds, extra forward passes / 3, line searches), each per step."""
        batches = itertools.islice(self.batches, steps)
        began = time.perf_counter()
        done = train_round(self.worker, batches, 0, 0, Plan(self.batch, steps, 0.0, "float32"))
        seconds = time.perf_counter() - began
        return seconds / steps, done.trials / 3 / steps, done.searches / steps


def measure(task: str, args: Args, topology: Topology) -> list[str]:
    """The table rows of one task."""
    data = open_data(DataOptions(dataset=task, fitness_images=0), topology, 0)
    trainers = {kind: Trainer(kind, data, task, topology) for kind in KINDS}
    first = {kind: trainer.train(args.warm_up) for kind, trainer in trainers.items()}
    pieces: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in KINDS}
    for repeat in range(args.repeats):
        launch.say(f"{task}: piece {repeat + 1} of {args.repeats}")
        for kind, trainer in trainers.items():
            pieces[kind].append(trainer.train(args.steps))
    model, depth, width, batch = TASKS[task]
    lines = []
    for kind, found in pieces.items():
        ratios = sorted(piece[0] / adam[0] for piece, adam in zip(found, pieces[ADAM], strict=True))
        extra, searches = (statistics.fmean(piece[i] for piece in found) for i in (1, 2))
        lines.append(
            f"| {data.source.title}, {model_title(model, depth, width)}, batch {batch} | {kind} | "
            f"{f'{1 / searches:.1f}' if searches else '-'} | {first[kind][1]:.1%} | {extra:.1%} | "
            f"{statistics.median(ratios) - 1:+.1%} ({ratios[0] - 1:+.1%} to {ratios[-1] - 1:+.1%}) | "
            f"{1000 * statistics.median(piece[0] for piece in found):.1f} |"
        )
    return lines


def main() -> None:
    """Measure in turn, print and write the table."""
    args = read_options(Args, __doc__)
    topology = build_topology([PopulationSpec("hold", 1, "salsa")])
    lines = [line for task in TASKS for line in measure(task, args, topology)]
    text = [
        f"One process, {torch.get_num_threads()} threads. Extra: forward passes at trial points, counted, as a share of a "
        "step's one forward pass and one backward pass that counts as two: in the first "
        f"{args.warm_up} steps, and in the {args.repeats * args.steps} after them, which were timed in {args.repeats} pieces, "
        "the kinds in turn. Time over Adam: median of the ratios to Adam's piece of the same turn, and their range.",
        "",
        f"| data, network | step | steps per search | extra, first {args.warm_up} | extra, then | time over Adam | ms a step |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        *lines,
        "",
        "In theory (1 + r) / (3 L), r = ln 1.1 / ln 1.25 = 0.43 rejections per search: 47.6 % at L = 1, 4.8 % at L = 10.",
        "",
        f"Made by `python benchmarks/line_search.py`, commit {commit()}.",
    ]
    print("\n".join(text))
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "line_search.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    launch.run(main)
