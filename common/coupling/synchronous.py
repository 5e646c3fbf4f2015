"""Couplings by an all-reduce, without a server; all ranks of the group make the same number of steps.

SynchronousElastic    elastic averaging; every rank holds the same center variable. The all-reduce of a copy of the weights
                      starts before the gradient and completes after it: both overlap
LocalSteps            x^i <- outer(x~, mean_j x^j) after every `period` steps; the mean itself (periodic averaging,
                      post-local SGD) or Nesterov's momentum on the change of the mean (DiLoCo)
GradientAccumulation  sum of the gradients of `period` batches; then one step with their mean over all workers
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.coupling.elastic import is_finite
from common.optim.protocols import Coupling
from common.parallel.comm import Group, Wait, finite_mean_


class SynchronousElastic(Coupling):
    """Synchronous EASGD. Jacobi (eqs. 3-6): workers are pulled towards x~_t. Gauss-Seidel: towards the new x~_{t+1}.

    Every `period` steps, with a plain step otherwise:

        x_{t+1} = x_t - eta g(x_t) - alpha (x_t - x~)            (E1)
        x~_{t+1} = (1 - beta) x~_t + beta mean_i x^i_t           (E2)

    beta = p alpha unless given: (alpha, beta) = (1, 1) averages the workers, (1, p) is synchronous DOWNPOUR, both Gauss-Seidel.
    All ranks of the group start from the same x. Collective over the group: all make the same number of steps. A worker with
    non-finite weights counts with x^i = x~, until its weights are replaced.
    """

    def __init__(
        self, x: Tensor, group: Group, alpha: float, period: int, gauss_seidel: bool = False, beta: float | None = None
    ) -> None:
        self.group, self.alpha, self.period, self.gauss_seidel = group, alpha, period, gauss_seidel
        self.beta = group.size * alpha if beta is None else beta
        self.centre = x.detach().clone()
        self.before = torch.empty_like(x)
        self.total = x.new_empty(len(x) + 1)  # sum over the finite workers, and their number
        self.wait: Wait | None = None

    def begin(self, t: int, x: Tensor) -> None:
        """Start the all-reduce."""
        if t % self.period == 0:
            self.before.copy_(x)
            finite = is_finite(x)
            self.total[:-1] = x if finite else 0.0
            self.total[-1] = float(finite)
            self.wait = self.group.start_sum_(self.total, "elastic")

    def end(self, t: int, x: Tensor, gradient: Tensor) -> bool:
        """The moves of the worker and of its copy of the centre."""
        if self.wait is None:
            return False
        self.wait()
        self.wait = None
        total, workers = self.total[:-1], self.group.size
        lost = workers - round(self.total[-1].item())
        if lost:
            total.add_(self.centre, alpha=lost)
        new = torch.lerp(self.centre, total / workers, self.beta)
        x.sub_(self.before.sub_(new if self.gauss_seidel else self.centre), alpha=self.alpha)
        self.centre.copy_(new)
        return False

    def restart(self, x: Tensor) -> None:
        """Continue from weights x that replaced those of all ranks of the group: x~ <- x."""
        self.centre.copy_(x)

    def tensors(self) -> dict[str, Tensor]:
        """This rank's copy of the centre."""
        return {"centre": self.centre}


def couple(kind: str, x: Tensor, group: Group, period: int, beta: float = 0.9) -> SynchronousElastic:
    """Coupling of a group that shares weights, not gradients: `easgd`, `easgd-gs`, or `average` (the mean of weights)."""
    if kind == "average":
        return SynchronousElastic(x, group, 1.0, period, gauss_seidel=True, beta=1.0)
    return SynchronousElastic(x, group, beta / group.size, period, gauss_seidel=kind == "easgd-gs")


@dataclass(frozen=True)
class SyncSchedule:
    """Steps that synchronise: each of the first `switch` steps, then every `period`-th, and the last of `steps`.

    switch = 0 is periodic averaging, switch > 0 post-local SGD (Lin et al. 2020: H = 1 before the switch, H = period after it).
    """

    period: int
    steps: int
    switch: int = 0

    def due(self, t: int) -> bool:
        """Whether workers synchronise after step t, counted from 0."""
        since = t + 1 - self.switch
        return since <= 0 or since % self.period == 0 or t + 1 == self.steps


def outer_nesterov(x: Tensor, mean: Tensor, v: Tensor, rate: float, momentum: float) -> tuple[Tensor, Tensor]:
    """DiLoCo's outer step (Douillard et al. 2023, algorithm 1): the new x~ and velocity, from the pseudogradient d = x~ - mean.

        v' = mu v + d,    x~' = x~ - nu (d + mu v')

    nu: outer rate, mu: outer momentum. nu = 1 with mu = 0 gives the mean. Shapes as x; not in place.
    """
    d = x - mean
    v = momentum * v + d
    return x - rate * (d + momentum * v), v


class LocalSteps(Coupling):
    """Local SGD of the workers of a group, all starting from the same x.

    due(t): whether they synchronise after step t. outer: nu and mu of `outer_nesterov`; None for the mean. A worker with
    non-finite weights takes those of the others, and its momentum is reset. Collective over the group.

    Attributes:
        centre: x~, result of the last synchronisation; bitwise equal on all ranks.
    """

    def __init__(self, x: Tensor, group: Group, due: Callable[[int], bool], outer: tuple[float, float] | None = None) -> None:
        self.group, self.due, self.outer = group, due, outer
        self.centre, self.velocity = x.detach().clone(), torch.zeros_like(x)
        self.mean_and_flag = x.new_empty(len(x) + 1)

    def end(self, t: int, x: Tensor, gradient: Tensor) -> bool:
        """Average the finite workers, take the outer step, and copy the result to all workers."""
        if not self.due(t):
            return False
        mean, lost = self.mean_and_flag[:-1], not is_finite(x)
        mean.copy_(x)
        if not finite_mean_(self.group, self.mean_and_flag, "local"):
            return False  # all workers diverged; handled at the end of the round
        if self.outer:
            mean, self.velocity[:] = outer_nesterov(self.centre, mean, self.velocity, *self.outer)
        self.centre.copy_(mean)
        x.copy_(mean)
        return lost

    def tensors(self) -> dict[str, Tensor]:
        """x~, and the outer velocity where there is one."""
        return {"centre": self.centre, **({"velocity": self.velocity} if self.outer else {})}


class GradientAccumulation(Coupling):
    """Synchronous SGD with gradient accumulation: weights are the same on all ranks, and a step uses the mean of all gradients
    of the group's workers since the last step. With a period of 1, ordinary data parallelism.

    x: gives the shape of the gradients. Non-finite gradients are excluded from the mean. Collective over the group.
    """

    shares = "gradients"

    def __init__(self, x: Tensor, group: Group, due: Callable[[int], bool]) -> None:
        self.group, self.due = group, due
        self.sum_and_count = x.new_zeros(len(x) + 1)

    def take(self, t: int, gradient: Tensor, finite: bool) -> bool:
        """Accumulate the gradient; when a step is due, replace it by the mean and return True."""
        if finite:
            self.sum_and_count[:-1] += gradient
            self.sum_and_count[-1] += 1
        if not self.due(t):
            return False
        self.group.sum_(self.sum_and_count, "gathered")
        count = int(self.sum_and_count[-1])
        if count:
            torch.div(self.sum_and_count[:-1], count, out=gradient)
        self.sum_and_count.zero_()
        return count > 0

    def tensors(self) -> dict[str, Tensor]:
        """The accumulated gradients and their number."""
        return {"sum_and_count": self.sum_and_count}
