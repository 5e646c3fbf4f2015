"""Loss and accuracy of weights.

Trained weights keep their running batch-norm statistics. Merged, averaged or smoothed weights, a centre, or a swarm's best
position have none of their own, because no training pass used them: an `Evaluator` re-estimates them on *augmented* training
images, as in training (docs/algorithms.md, "Batch-norm statistics").
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
REPORTED = 2000  # training images for the statistics behind a reported final accuracy
COMPARED = 256  # likewise for the fitness of a round
STATISTICS_BATCH = 32  # batch size for the statistics, independent of the number of ranks


@dataclass(frozen=True)
class EvalResult:
    """Mean cross-entropy and accuracy (fraction) over images, or over the positions of texts; elections compare fitness."""

    loss: float
    accuracy: float
    seconds: float
    fitness: float


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Forward passes in bfloat16 where `precision` is "bfloat16"; parameters and their sums stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@torch.no_grad()
def evaluate(module: nn.Module, pictures: ImageDataset | Texts, precision: str, group: Group | None = None) -> EvalResult:
    """Loss and accuracy in evaluation mode, without augmentation or label smoothing; of texts, over all positions.

    With a group, its ranks divide the images among them and the sums are reduced over it (collective): all ranks must hold the
    same weights, and get the same result. Without one, the rank evaluates its own weights on all images.
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
    """Evaluates weights that were not trained as they are: `train` are the images that their statistics are measured on.

    seed: with the round, the address of the images drawn and of their augmentation.
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
        """Loss and accuracy of these parameters on each split, with re-estimated statistics; the model is restored.

        weights: shape (P,), the same on all ranks of the group, or None for those of the model. All images are divided among
        the ranks. images, t: see `measure_statistics`. Seconds are divided evenly over the splits. Collective over the group
        (None: this rank alone).
        """
        began, before = time.perf_counter(), model.state.detach().clone()
        if weights is not None:
            model.parameters.data.copy_(weights)
        self.measure_statistics(model.module, group, images, t)
        results = [evaluate(model.module, split, self.precision, group) for split in splits]
        model.state.detach().copy_(before)
        seconds = (time.perf_counter() - began) / len(splits)
        return [replace(result, seconds=seconds) for result in results]

    @torch.no_grad()
    def measure_statistics(self, module: nn.Module, group: Group | None, images: int = COMPARED, t: int = 0) -> float:
        """Re-estimate the batch-norm statistics of a network on augmented training images; returns the seconds it took.

        Batches of `STATISTICS_BATCH` images are distributed over the ranks of the group, all of which hold the same weights;
        per layer the statistics are the mean over all batches of the batch mean and of the unbiased batch variance. Ranks with
        non-finite statistics are left out of the mean; if no rank's are finite, the result is NaN.

        images: at least this many (fewer where the data set has fewer). t: round, part of the address of the draws; the images
        do not depend on ranks or populations. Collective over the group (None: this rank alone): one all-reduce of all
        statistics. No effect without batch norm. All random generators are restored.
        """
        began = time.perf_counter()
        if statistics := running_statistics(module):
            pictures, draws, batches = self._draw(images, t)
            mine, device = batches[group.rank :: group.size] if group else batches, batches.device
            with drawn_from(self.seed, [device]), fresh_statistics(module), autocast(device, self.precision):
                for indices in mine:
                    module(pictures.augmented(indices, draws)[0])
            if group and group.size > 1:
                _mean_over(group, statistics, len(mine))
        return time.perf_counter() - began

    def _draw(self, images: int, t: int) -> tuple[ImageDataset | Texts, Tensor, Tensor]:
        """Images of round t, their augmentation parameters, and their indices in batches, shape (batches, size)."""
        n, rng = len(self.train), stream(self.seed, Purpose.STATISTICS, t)
        size = min(STATISTICS_BATCH, n // 2) if n >= 4 else n  # at least two batches of at least two images
        batches = min(max(2, -(-images // size)), n // size)
        chosen = torch.from_numpy(rng.choice(n, batches * size, replace=False)).to(self.train.labels.device)
        pictures = self.train.take(chosen)
        draws = pictures.draw(int(rng.integers(2**63 - 1)), t)
        return pictures, draws, torch.arange(len(chosen), device=chosen.device).reshape(batches, size)


def _mean_over(group: Group, statistics: list[Tensor], batches: int) -> None:
    """Mean over the batches of all ranks, in place; batches: number on this rank."""
    values_and_flag = torch.cat([*(s.flatten() for s in statistics), statistics[0].new_zeros(1)])
    if not finite_mean_(group, values_and_flag, "statistics", weight=batches):
        values_and_flag.fill_(torch.nan)
    parts = values_and_flag[:-1].split([s.numel() for s in statistics])
    for statistic, part in zip(statistics, parts, strict=True):
        statistic.copy_(part.view_as(statistic))
