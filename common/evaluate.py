"""Loss and accuracy of weights, and the batch-norm statistics of weights that no rank has trained with.

Merged, averaged or smoothed weights, a centre, a swarm's best place: no forward pass of the training ran with them, so the
stored running statistics belong to other weights. An `Evaluator` measures them anew, on *augmented* training
images, because that is what training normalises by (docs/algorithms.md, "Batch-norm statistics"). Weights that were trained
keep their running statistics.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data.dataset import ImageDataset, Texts
from common.models.batch_norm import fresh_statistics, running_statistics
from common.models.flat import FlatModel
from common.parallel.comm import Group, finite_mean_
from common.seeding import Purpose, drawn_from, stream

EVALUATION_BATCH = 250  # small enough that activations of a Wide ResNet stay in cache and memory
REPORTED = 2000  # training images behind the statistics of an accuracy that a run reports at its end
COMPARED = 256  # likewise, of the fitness of a round
STATISTICS_BATCH = 32  # images of a batch whose statistics are taken; the same on any number of ranks


@dataclass(frozen=True)
class EvalResult:
    """Mean cross-entropy and accuracy (fraction) over a set of images, or of the places of texts; fitness is what an election
    compares.
    """

    loss: float
    accuracy: float
    seconds: float
    fitness: float


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Forward passes in bfloat16 where the run asks for it; parameters and their sums stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@torch.no_grad()
def evaluate(module: nn.Module, pictures: ImageDataset | Texts, precision: str, group: Group | None = None) -> EvalResult:
    """Loss and accuracy without augmentation or smoothing, in evaluation mode; of texts, over all their places.

    With a group, its ranks share the images out and the sums are reduced over it (collective): all get the same answer,
    provided that they hold the same weights. Without one, every rank judges its own weights on all the images.
    """
    began = time.perf_counter()
    module.eval()
    device = pictures.labels.device
    everything = torch.arange(len(pictures), device=device)
    mine = everything[group.rank :: group.size] if group else everything
    total = torch.zeros(2, dtype=torch.float64, device=device)
    for indices in mine.split(EVALUATION_BATCH):
        with autocast(device, precision):
            images, labels = pictures.plain(indices)
            logits, labels = module(images).float().flatten(0, -2), labels.flatten()
        total[0] += F.cross_entropy(logits, labels, reduction="sum")
        total[1] += (logits.argmax(1) == labels).sum()
    sums = total.cpu().numpy()
    if group:
        sums = group.gather_rows(sums).sum(axis=0)
    loss, accuracy = sums / pictures.labels.numel()
    return EvalResult(float(loss), float(accuracy), time.perf_counter() - began, fitness=float(accuracy))


@dataclass(frozen=True)
class Evaluator:
    """Evaluates weights that no rank has trained with.

    train: the training images. seed: addresses, together with a round, which of them are drawn and how they are augmented.
    """

    train: ImageDataset | Texts
    precision: str
    seed: int

    def of_weights(
        self,
        model: FlatModel,
        weights: Tensor | None,
        splits: Sequence[ImageDataset | Texts],
        group: Group | None,
        images: int = COMPARED,
        t: int = 0,
    ) -> list[EvalResult]:
        """Loss and accuracy of these parameters on each of the splits, with statistics measured for them.

        weights: shape (P,), the same on all ranks of the group, or None for those of the model. The ranks share out the images
        of the statistics and of the splits. images, t: see `measure_statistics`. The model is left as it was. Seconds are
        divided evenly over the splits. Collective over the group; None is this rank alone.
        """
        began, before = time.perf_counter(), model.state.detach().clone()
        if weights is not None:
            model.parameters.data.copy_(weights)
        self.measure_statistics(model.module, group, images, t)
        judged = [evaluate(model.module, split, self.precision, group) for split in splits]
        model.state.detach().copy_(before)
        seconds = (time.perf_counter() - began) / len(splits)
        return [replace(j, seconds=seconds) for j in judged]

    @torch.no_grad()
    def measure_statistics(self, module: nn.Module, group: Group | None, images: int = COMPARED, t: int = 0) -> float:
        """Set the batch-norm statistics of a network to those measured for its weights on augmented training images.

        Batches of `STATISTICS_BATCH` images are dealt out to the ranks of the group, all of which hold the same weights;
        per layer the statistics are the mean over all batches of the batch mean and of the unbiased batch variance. A rank
        whose statistics are not finite is left out of the mean; where they are finite on no rank, they become NaN.

        images: how many at least (fewer where the data set has fewer). t: the round, part of the address of the draws: the
        images do not depend on ranks or populations. Collective over the group (None: this rank alone): one sum of all
        statistics. Nothing happens without batch norm. All random generators are left as they were. Returns the seconds it
        took.
        """
        began = time.perf_counter()
        statistics = running_statistics(module)
        if statistics:
            batches = self._measure(module, images, t, *((group.rank, group.size) if group else (0, 1)))
            if group and group.size > 1:
                _mean_over(group, statistics, batches)
        return time.perf_counter() - began

    def _measure(self, module: nn.Module, images: int, t: int, rank: int, ranks: int) -> int:
        """This rank's batches through the network, in training mode; returns their number."""
        pictures, draws, batches = self._draw(images, t)
        mine, device = batches[rank::ranks], batches.device
        generators = [device] if device.type == "cuda" else []
        with drawn_from(self.seed, generators), fresh_statistics(module), autocast(device, self.precision):
            for indices in mine:
                module(pictures.augmented(indices, draws)[0])
        return len(mine)

    def _draw(self, images: int, t: int) -> tuple[ImageDataset | Texts, Tensor, Tensor]:
        """The images of round t, how each is augmented, and their indices in batches, shape (batches, size)."""
        n, rng = len(self.train), stream(self.seed, Purpose.STATISTICS, t)
        size = min(STATISTICS_BATCH, n // 2) if n >= 4 else n  # neither a single batch nor single images
        batches = min(max(2, -(-images // size)), n // size)
        chosen = torch.from_numpy(rng.choice(n, batches * size, replace=False)).to(self.train.labels.device)
        pictures = self.train.take(chosen)
        draws = pictures.draw(int(rng.integers(2**63 - 1)), t)
        return pictures, draws, torch.arange(len(chosen), device=chosen.device).reshape(batches, size)


def _mean_over(group: Group, statistics: list[Tensor], batches: int) -> None:
    """The mean over all ranks' batches, in place; this rank has seen so many of them."""
    values_and_flag = torch.cat([*(s.flatten() for s in statistics), statistics[0].new_zeros(1)])
    if not finite_mean_(group, values_and_flag, "statistics", weight=batches):
        values_and_flag.fill_(torch.nan)
    parts = values_and_flag[:-1].split([s.numel() for s in statistics])
    for statistic, part in zip(statistics, parts, strict=True):
        statistic.copy_(part.view_as(statistic))
