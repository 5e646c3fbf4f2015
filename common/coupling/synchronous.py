"""Synchronous elastic averaging: an all-reduce every tau steps, no server; every rank holds the same center variable.

The all-reduce of a copy of the weights starts before the gradient and completes after it: both overlap.
"""

import torch
from torch import Tensor

from common.coupling.elastic import is_finite
from common.optim.protocols import Coupling
from common.parallel.comm import Group, Wait


def centre_after(centre: Tensor, total: Tensor, beta: float, workers: int) -> Tensor:
    """(E2) x~_{t+1} = (1 - beta) x~_t + (beta / p) sum_i x^i_t, a new tensor."""
    return torch.lerp(centre, total / workers, beta)


class SynchronousElastic(Coupling):
    """Synchronous EASGD. Jacobi (eqs. 3-6): workers are pulled towards x~_t. Gauss-Seidel: towards the new x~_{t+1}.

    x_{t+1} = x_t - eta g(x_t) - alpha (x_t - x~), every `period` steps; a plain step otherwise. beta = p alpha unless
    given: (alpha, beta) = (1, 1) averages the workers, (1, p) is synchronous DOWNPOUR, both Gauss-Seidel.
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
        new = centre_after(self.centre, total, self.beta, workers)
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
    """Coupling of a group that shares weights, not gradients: `easgd`, `easgd-gs`, or `average` (the mean of weights).

    Raises ValueError for another name.
    """
    match kind:
        case "easgd" | "easgd-gs":
            return SynchronousElastic(x, group, beta / group.size, period, kind == "easgd-gs")
        case "average":
            return SynchronousElastic(x, group, 1.0, period, gauss_seidel=True, beta=1.0)
    raise ValueError(f"unknown coupling '{kind}': easgd, easgd-gs or average")
