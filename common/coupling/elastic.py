"""Updates of a worker and of the center in elastic averaging and its comparators. Pure; no MPI.

A worker couples its weights x to a center variable x~ before and after each of its steps (`common.optim.protocols.Coupling`):
the gradient is taken at the weights *before* the elastic move, and both sides use the same difference. Equations (E), (M), (A)
and algorithms are those of arXiv 1412.6651v8; docs/algorithms.md has them all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.optim.protocols import Coupling

Averaging = float | None  # rate of the average over the centre's past: 0 for 1/t, the plain mean; None for no average


class Centre(Protocol):
    """A worker's access to the center variable x~. Tensors are flat float32, all of the same length."""

    def pull(self, into: Tensor) -> None:
        """Copy the current x~ to `into`; blocking."""
        ...

    def push(self, update: Tensor) -> bool:
        """Send an update, non-blocking; `update` may be changed once `flush` has returned.

        Returns False and sends nothing if it is not finite, so that a diverged worker cannot spoil the centre.
        """
        ...

    def flush(self) -> None:
        """Wait until all pushed updates are applied to x~."""
        ...


def is_finite(update: Tensor) -> bool:
    """Whether an update (its sum) is finite and may be applied to a centre."""
    return bool(torch.isfinite(update.sum()))


class CenterVariable:
    """The center variable x~, or a slice of it, with its update rule. No communication.

    centre: flat tensor, changed in place. rule: applies an update to it; `add` by default. averaging: rate of the mean z of its
    past.

    Attributes:
        average: z, None without averaging. z does not feed back.
        clock: number of updates applied.
    """

    def __init__(
        self, centre: Tensor, rule: Callable[[Tensor, Tensor], None] | None = None, averaging: Averaging = None
    ) -> None:
        self.centre, self.rule, self.averaging = centre, rule or add, averaging
        self.average = None if averaging is None else centre.clone()
        self.clock = 0

    def receive(self, update: Tensor) -> None:
        """z_{t+1} = (1 - a) z_t + a x~_t with a = 1/(t+1) (ADOWNPOUR, ASGD) or constant; then the update."""
        if self.average is not None:
            self.average.lerp_(self.centre, self.averaging or 1 / (self.clock + 1))
        self.rule(self.centre, update)
        self.clock += 1

    def tensors(self) -> dict[str, Tensor]:
        """State for a checkpoint, besides `clock`; restored in place."""
        kept = {"centre": self.centre}
        if self.average is not None:
            kept["average"] = self.average
        if isinstance(self.rule, MomentumRule):
            kept["velocity"] = self.rule.velocity_of(self.centre)
        return kept

    @property
    def evaluated(self) -> Tensor:
        """The evaluated weights: z with averaging, else x~."""
        return self.centre if self.average is None else self.average


def add(centre: Tensor, update: Tensor) -> None:
    """x~ <- x~ + e."""
    centre.add_(update)


class MomentumRule:
    """MDOWNPOUR's master (algorithm 5): updates are gradients. v <- delta v - eta g, then

    printed: x~ <- x~ + delta v, as the paper has it (delta = 0 freezes it). nesterov: x~ <- x~ - eta g + delta v.
    """

    def __init__(self, eta: float, delta: float, variant: str = "printed") -> None:
        if variant not in ("printed", "nesterov"):
            raise ValueError(f"unknown variant '{variant}': printed or nesterov")
        self.eta, self.delta, self.nesterov = eta, delta, variant == "nesterov"
        self.velocity: Tensor | None = None

    def velocity_of(self, centre: Tensor) -> Tensor:
        """v, zeros at first use."""
        if self.velocity is None:
            self.velocity = torch.zeros_like(centre)
        return self.velocity

    def __call__(self, centre: Tensor, gradient: Tensor) -> None:
        """Apply one gradient."""
        velocity = self.velocity_of(centre).mul_(self.delta).sub_(gradient, alpha=self.eta)
        if self.nesterov:
            centre.sub_(gradient, alpha=self.eta)
        centre.add_(velocity, alpha=self.delta)


@dataclass
class LocalCenter:
    """A centre in this process: for runs with one worker, and for tests that step all workers in turn."""

    master: CenterVariable

    def pull(self, into: Tensor) -> None:
        """Copy the current x~ to `into`."""
        into.copy_(self.master.centre)

    def push(self, update: Tensor) -> bool:
        """Apply at once; False if not finite."""
        finite = is_finite(update)
        if finite:
            self.master.receive(update)
        return finite

    def flush(self) -> None:
        """No-op."""


class NoSync(Coupling):
    """No coupling (SGD, MSGD). A centre receives every step: it equals x, and may keep an average (ASGD, MVASGD)."""

    def __init__(self, x: Tensor, centre: Centre | None = None) -> None:
        self.centre, self.before = centre, x.detach().clone() if centre else None

    def end(self, t: int, x: Tensor, gradient: Tensor) -> bool:
        """x~ <- x~ + (x - x before the step)."""
        if self.centre and self.before is not None:
            self.centre.flush()
            self.centre.push(torch.sub(x, self.before))
            self.before.copy_(x)
        return False

    def tensors(self) -> dict[str, Tensor]:
        """x before the next step."""
        return {} if self.before is None else {"before": self.before}


class Elastic(Coupling):
    """Asynchronous EASGD (algorithm 1); over the steps of `NesterovSGD` it is EAMSGD (algorithm 2).

    Every `period` steps, from t = 0 on: e = alpha (x - x~) with the fetched x~, x <- x - e, x~ <- x~ + e.
    alpha: moving rate of one exchange, beta / p.
    """

    def __init__(self, x: Tensor, centre: Centre, alpha: float, period: int) -> None:
        self.centre, self.alpha, self.period = centre, alpha, period
        self.fetched, self.pull = torch.empty_like(x), torch.empty_like(x)
        self.due = False

    def begin(self, t: int, x: Tensor) -> None:
        """Push e. Both sides use the same e: x + x~ is conserved."""
        self.due = t % self.period == 0
        if self.due:
            self.centre.flush()
            self.centre.pull(self.fetched)
            torch.sub(x, self.fetched, out=self.pull).mul_(self.alpha)
            self.centre.push(self.pull)

    def end(self, t: int, x: Tensor, gradient: Tensor) -> bool:
        """x <- x - e."""
        if self.due:
            x.sub_(self.pull)
        return False


class Downpour(Coupling):
    """DOWNPOUR (supplement, algorithm 3): every `period` steps x~ <- x~ + v, x <- x~, v <- 0, where v is the sum of
    the worker's own steps. The fetch follows the acknowledgement of the push: the fetched x~ contains v.
    """

    def __init__(self, x: Tensor, centre: Centre, period: int) -> None:
        self.centre, self.period = centre, period
        self.fetched, self.sum = x.detach().clone(), torch.empty_like(x)

    def begin(self, t: int, x: Tensor) -> None:
        """The exchange."""
        if t % self.period == 0:
            torch.sub(x, self.fetched, out=self.sum)
            self.centre.push(self.sum)
            self.centre.flush()
            self.centre.pull(self.fetched)
            x.copy_(self.fetched)

    def restart(self, x: Tensor) -> None:
        """v <- 0."""
        self.fetched.copy_(x)

    def tensors(self) -> dict[str, Tensor]:
        """The last fetched x~."""
        return {"fetched": self.fetched}


class MomentumDownpour(Coupling):
    """MDOWNPOUR's worker (algorithm 4): fetch x~, compute a gradient there, send it; the master steps (`MomentumRule`).

    weight_decay: L2 coefficient lambda; the sent gradient includes lambda x.
    """

    steps = False

    def __init__(self, x: Tensor, centre: Centre, weight_decay: float = 0.0) -> None:
        self.centre, self.weight_decay = centre, weight_decay
        self.sent = torch.empty_like(x)

    def begin(self, t: int, x: Tensor) -> None:
        """x <- x~."""
        self.centre.flush()
        self.centre.pull(x)

    def end(self, t: int, x: Tensor, gradient: Tensor) -> bool:
        """Send g."""
        self.sent.copy_(gradient).add_(x, alpha=self.weight_decay)
        self.centre.push(self.sent)
        return False


class Admm(Coupling):
    """Asynchronous ADMM (section 4), multipliers scaled by rho. Every `period` steps, with the fetched x~:

    (A1) lambda <- lambda - (x - x~)
    (A2) x <- [x - eta g + eta rho (lambda + x~)] / (1 + eta rho)
    (A3) x~ <- mean_j (x^j - lambda^j): this worker sends the change of its term, divided by p

    alpha: eta rho. workers: p.
    """

    def __init__(self, x: Tensor, centre: Centre, alpha: float, workers: int, period: int = 1) -> None:
        self.centre, self.alpha, self.workers, self.period = centre, alpha, workers, period
        self.fetched, self.multiplier, self.term = torch.empty_like(x), torch.zeros_like(x), x.detach().clone()
        self.change = torch.empty_like(x)
        self.due = False

    def begin(self, t: int, x: Tensor) -> None:
        """(A1)."""
        self.due = t % self.period == 0
        if self.due:
            self.centre.flush()
            self.centre.pull(self.fetched)
            self.multiplier.sub_(x).add_(self.fetched)

    def end(self, t: int, x: Tensor, gradient: Tensor) -> bool:
        """(A2) after the plain step, and (A3)."""
        if self.due:
            x.add_(self.multiplier + self.fetched, alpha=self.alpha).div_(1 + self.alpha)
            torch.sub(x, self.multiplier, out=self.change).sub_(self.term)
            if self.centre.push(self.change / self.workers):
                self.term.add_(self.change)
        return False

    def restart(self, x: Tensor) -> None:
        """lambda <- 0; the centre still holds the last sent term."""
        self.multiplier.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """lambda, and this worker's term of the centre."""
        return {"multiplier": self.multiplier, "term": self.term}
