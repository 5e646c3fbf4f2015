"""One round of training. It returns measurements and prints nothing."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.evaluate import autocast
from common.models.flat import FlatModel
from common.optim.protocols import Closure
from common.parallel import faults
from common.seeding import Purpose, torch_seed
from common.training.worker import Worker


@dataclass(frozen=True)
class Plan:
    """A full round: `steps` optimizer steps of `batch_size` images over all workers.

    parts: micro-batches that a rank's share of a batch is split into.
    """

    batch_size: int
    steps: int
    label_smoothing: float
    precision: str
    parts: int = 1


@dataclass(frozen=True)
class Trained:
    """This rank's measurements of one round: mean loss and accuracy (fraction) over its own augmented images.

    gradient_evaluations, forward_evaluations: images times backward and forward passes. The others are counts of a line search
    (`common.optim.armijo.State`).
    """

    loss: float
    accuracy: float
    images: int
    gradient_evaluations: int
    seconds: float
    forward_evaluations: int = 0
    searches: int = 0
    trials: int = 0
    exhausted: int = 0
    flat: int = 0
    skipped: int = 0


def train_round(
    worker: Worker,
    batches: Iterable[tuple[Tensor, Tensor]],
    seed: int,
    t: int,
    plan: Plan,
    after_step: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Round t on this rank's batches, each step averaging gradients over the gradient scope.

    batches: at most `plan.steps` pairs (images, labels), equally many on all ranks of the scope. `after_step(step)` is called
    after each step. Collective over the scope.
    """
    began = time.perf_counter()
    rank, model, optimizer = worker.topology.world.rank, worker.model, worker.optimizer
    torch.manual_seed(torch_seed(seed, Purpose.DROPOUT, t, rank))
    model.module.train()
    optimizer.begin_round(worker.rate)
    total = torch.zeros(2, device=model.device)  # summed loss, correct answers
    seen = answers = forward = 0
    before = optimizer.counts()
    for step, (images, labels) in enumerate(batches):
        closure = _closure(model, images, labels, plan, exact=optimizer.salsa is not None)
        total += optimizer.step(closure, worker.rate_at(t + step / plan.steps))[:2]
        seen, answers = seen + len(labels), answers + labels.numel()
        forward += len(labels) * optimizer.forward_passes
        after_step(step)
    if faults.trip("train", rank, t):
        model.state.detach().fill_(torch.nan)
    loss, correct = (total / max(answers, 1)).tolist()
    work = {name: count - before[name] for name, count in optimizer.counts().items()}
    return Trained(loss, correct, seen, seen * optimizer.passes, time.perf_counter() - began, forward, **work)


def _closure(model: FlatModel, images: Tensor, labels: Tensor, plan: Plan, exact: bool = False) -> Closure:
    """Forward pass and, unless `backwards=False`, backward pass on one batch, in parts; images may also be texts.

    The closure returns (summed loss, correct answers, answers) without synchronising with the accelerator. exact: sum the
    single losses in float64, since a line search compares nearly equal sums.
    """
    smoothing = plan.label_smoothing

    def closure(backwards: bool = True) -> Tensor:
        """Loss of the batch; with `backwards` its gradient as well."""
        if backwards:
            model.zero_gradient()
        report = torch.zeros(3, device=images.device, dtype=torch.float64 if exact else torch.float32)
        for part, truth in zip(images.chunk(plan.parts), labels.chunk(plan.parts), strict=True):
            with autocast(images.device, plan.precision):
                logits = model.module(part).float()
            logits, truth = logits.flatten(0, -2), truth.flatten()
            losses = F.cross_entropy(logits, truth, label_smoothing=smoothing, reduction="none" if exact else "mean")
            if backwards:
                (losses.mean() * (len(part) / len(images))).backward()
            summed = losses.detach().double().sum() if exact else losses.detach() * len(truth)
            report[:2] += torch.stack([summed, (logits.argmax(1) == truth).sum()])
            report[2] += len(truth)
        return report

    return closure
