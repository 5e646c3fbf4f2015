"""Effect of the number of images behind batch-norm statistics on accuracy, and on the choice between two rates.

    python benchmarks/statistics_noise.py        # CIFAR-10, about 20 minutes on two quiet cores

A WRN-10-1 is trained on 20,000 images with SGD. At the end, the same weights are evaluated with the running statistics of
training and with statistics measured on more or fewer images, in batches of 32 or 128. At each epoch of `SNAPSHOTS` two
copies continue for 20 steps at rates that lie a factor apart, as two populations of a foraging ecosphere do; counted is how
often each kind of statistics finds the better copy. Writes results/benchmarks/statistics_noise.md.
"""

import copy
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from common import evaluate as evaluation
from common.data.dataset import DataSet, ImageDataset, open_data
from common.data.options import DataOptions
from common.evaluate import COMPARED, REPORTED, STATISTICS_BATCH, EvalResult, Evaluator, evaluate
from common.models import build_model
from common.options import PathText, read_options
from common.parallel import launch
from common.parallel.populations import PopulationSpec
from common.parallel.topology import build_topology
from common.training.provenance import commit

IMAGES, EPOCHS, BATCH = 20_000, 12, 256
SIZES = {REPORTED: (STATISTICS_BATCH, 128), COMPARED: (STATISTICS_BATCH, 128), 128: (STATISTICS_BATCH,)}  # images: batch sizes
SCHEDULES = {"cosine from 1.0": lambda done: 0.5 * (1 + math.cos(math.pi * done)), "constant 0.5": lambda done: 0.5}
SNAPSHOTS = (1, 6)  # epochs
FACTORS = (10.0, 3.0, 1.35)  # between the two rates: scouts, first and last rounds of the search
APART, AROUND = 20, 0.5  # steps, and the geometric mean of the two rates
JUDGED, HELD_OUT = 250, 2000  # held-out images: of a fitness, and of the difference between two rates


@dataclass(frozen=True)
class Args:
    """What is measured."""

    dataset: str = "cifar10"
    """data set"""
    data_dir: PathText = "auto"
    """folder of the data set (auto: $EOA_DATA, else data/)"""
    draws: int = 10
    """draws of images for every number"""
    out: PathText = "results/benchmarks"
    """folder of the table"""


class Trainer:
    """A network under SGD, with the learning rate of every step given."""

    def __init__(self, data: DataSet) -> None:
        self.data = data
        torch.manual_seed(0)
        self.module = build_model("wrn", data.source.channels, data.source.classes, 10, 1, image_size=data.train.size)
        self.optimizer = torch.optim.SGD(self.module.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)

    def train(self, t: int, rates: list[float]) -> None:
        """One step of pass t per rate."""
        self.module.train()
        batches = self.data.batches(0, t, BATCH, 0, 1, len(rates))
        for rate, (images, labels) in zip(rates, batches, strict=True):
            self.optimizer.param_groups[0]["lr"] = rate
            self.optimizer.zero_grad()
            F.cross_entropy(self.module(images), labels, label_smoothing=0.1).backward()
            self.optimizer.step()


def judged(module: nn.Module, data: DataSet, part: ImageDataset, images: int, batch: int, t: int) -> EvalResult:
    """Evaluate the network with statistics of the t-th draw of `images` images, in batches of `batch`."""
    evaluation.STATISTICS_BATCH = batch
    module = copy.deepcopy(module)
    Evaluator(data.train, "float32", 0).measure_statistics(module, None, images, t)
    return evaluate(module, part, "float32")


def accuracies(name: str, module: nn.Module, data: DataSet, draws: int) -> list[str]:
    """Rows: test accuracy with each kind of statistics, mean and deviation over the draws."""
    test = data.test
    assert isinstance(test, ImageDataset)
    lines = [f"| {name} | running statistics of training | | {100 * evaluate(module, test, 'float32').accuracy:.2f} | |"]
    for images, batches in SIZES.items():
        for batch in batches:
            found = [100 * judged(module, data, test, images, batch, t).accuracy for t in range(draws)]
            spread = statistics.stdev(found)
            lines.append(f"| {name} | {images:,} | {batch} | {statistics.fmean(found):.2f} | {spread:.2f} |")
    return lines


def choices(epoch: int, trainer: Trainer, data: DataSet, draws: int) -> list[str]:
    """Rows: difference of two rates' losses, its deviation due to the statistics, and how often the better rate is found.

    The difference is the mean over the draws with the most images, on `HELD_OUT` held-out images.
    """
    assert isinstance(data.validation, ImageDataset)
    held_out = data.validation.take(torch.arange(min(HELD_OUT, len(data.validation))))
    few = [held_out.take(torch.arange(k * JUDGED, (k + 1) * JUDGED)) for k in range(len(held_out) // JUDGED)]
    lines = []
    for factor in FACTORS:
        pair = []
        for rate in (AROUND / math.sqrt(factor), AROUND * math.sqrt(factor)):
            one = copy.deepcopy(trainer, {id(trainer.data): trainer.data})  # the data are shared
            one.train(1000 + epoch, [rate] * APART)
            pair.append(one.module)

        def gaps(part: list[ImageDataset], images: int, pair: list[nn.Module] = pair) -> list[float]:
            """Loss of the higher rate minus that of the lower one; draws go through the parts in turn."""
            losses = [
                [judged(m, data, part[t % len(part)], images, STATISTICS_BATCH, t).loss for t in range(draws)] for m in pair
            ]
            return [high - low for low, high in zip(*losses, strict=True)]

        whole_by_images = {images: gaps([held_out], images) for images in (REPORTED, COMPARED, 128)}
        gap = statistics.fmean(whole_by_images[REPORTED])
        for images, whole in whole_by_images.items():
            part = gaps(few, images)
            right = sum(g * gap > 0 for g in part)
            lines.append(
                f"| {epoch} | {factor:g} | {gap:+.3f} | {images:,} | {statistics.stdev(whole):.3f} | "
                f"{statistics.stdev(part):.3f} | {right} of {draws} |"
            )
    return lines


def main() -> None:
    """Train, evaluate, print and write the tables."""
    args = read_options(Args, __doc__)
    topology = build_topology([PopulationSpec("hold", 1, "sgd")])
    options = DataOptions(dataset=args.dataset, data_dir=args.data_dir, train_images=IMAGES, fitness_images=0)
    data = open_data(options, topology, 0)
    steps = len(data.train) // BATCH
    accuracy, choice = [], []
    for name, at in SCHEDULES.items():
        trainer = Trainer(data)
        for epoch in range(EPOCHS):
            trainer.train(epoch, [at((epoch + s / steps) / EPOCHS) for s in range(steps)])
            launch.say(f"{name}: epoch {epoch + 1} of {EPOCHS}")
            if epoch + 1 in SNAPSHOTS and name.startswith("constant"):
                choice += choices(epoch + 1, trainer, data, args.draws)
        accuracy += accuracies(name, trainer.module, data, args.draws)
    text = [
        f"WRN-10-1, {data.source.title}, {len(data.train):,} training images, {EPOCHS} epochs, SGD, batch {BATCH}; one seed. "
        f"Mean and standard deviation over {args.draws} draws of the images that statistics are measured on.",
        "",
        "| weights | images behind the statistics | in batches of | test accuracy, % | deviation |",
        "| --- | ---: | ---: | ---: | ---: |",
        *accuracy,
        "",
        f"Two copies of the weights after so many epochs at {AROUND:g}, trained on for {APART} steps at two rates: loss on "
        f"held-out images at the higher rate minus loss at the lower one. Fitness of a round: on {JUDGED} images, others in "
        "every draw.",
        "",
        "| epochs | rates apart by | difference | images behind the statistics | its deviation, all held-out images | "
        f"on {JUDGED} | the better one is found |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *choice,
        "",
        f"Made by `python benchmarks/statistics_noise.py`, commit {commit()}.",
    ]
    print("\n".join(text))
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "statistics_noise.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    launch.run(main)
