"""Updates of a worker and of the center in elastic averaging and its comparators. Pure; no MPI.

A worker couples its weights x to a center x~ before and after every step of its own (`common.optim.protocols.Coupling`): the
gradient is taken at the weights *before* the elastic move, and both sides use the same difference. Equations (E), (M), (A) and
algorithms are those of arXiv 1412.6651v8; docs/algorithms.md has them all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.optim.protocols import Coupling

Averaging = float | None  # rate of the average over the centre's past: 0 means 1/t, the mean of all of it; None: no average


class Centre(Protocol):
    """Where x~ lives, as one worker sees it. Tensors are flat float32, all of the same length."""

    def pull(self, into: Tensor) -> None:
        """The present x~; waits for it."""
        ...

    def push(self, update: Tensor) -> bool:
        """Send an update off without waiting; `update` may be changed once `flush` has returned.

        Returns False, and sends nothing, where it is not finite: a worker that is lost shall not take the centre with it.
        """
        ...

    def flush(self) -> None:
        """Wait until x~ has taken in everything that was pushed."""
        ...


def is_finite(update: Tensor) -> bool:
    """Whether an update may reach a centre."""
    return bool(torch.isfinite(update.sum()))


class CenterVariable:
    """The centre x~, or a slice of it, and what becomes of it with every update. It adds; it never waits or counts workers.

    centre: flat tensor, changed in place. rule: how an update changes it. averaging: whether a mean z of its past is kept.

    Attributes:
        average: z, None without averaging. z never feeds back.
        clock: updates taken in.
    """

    def __init__(
        self, centre: Tensor, rule: Callable[[Tensor, Tensor], None] | None = None, averaging: Averaging = None
    ) -> None:
        self.centre, self.rule, self.averaging = centre, rule or add, averaging
        self.average = None if averaging is None else centre.clone()
        self.clock = 0

    def receive(self, update: Tensor) -> None:
        """z_{t+1} = (1 - a) z_t + a x~_t with a = 1/(t+1) (ADOWNPOUR, ASGD) or constant; then x~ takes the update in."""
        if self.average is not None:
            self.average.lerp_(self.centre, self.averaging or 1 / (self.clock + 1))
        self.rule(self.centre, update)
        self.clock += 1

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep, besides `clock`, to be copied back in place."""
        kept = {"centre": self.centre}
        if self.average is not None:
            kept["average"] = self.average
        if isinstance(self.rule, MomentumRule):
            kept["velocity"] = self.rule.velocity_of(self.centre)
        return kept

    @property
    def evaluated(self) -> Tensor:
        """The weights a run is judged by: z where there is one, else x~."""
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
        """v, made where there is none yet."""
        if self.velocity is None:
            self.velocity = torch.zeros_like(centre)
        return self.velocity

    def __call__(self, centre: Tensor, gradient: Tensor) -> None:
        """One gradient taken in."""
        velocity = self.velocity_of(centre).mul_(self.delta).sub_(gradient, alpha=self.eta)
        if self.nesterov:
            centre.sub_(gradient, alpha=self.eta)
        centre.add_(velocity, alpha=self.delta)


@dataclass
class LocalCenter:
    """A centre in this process: of a run with one worker, and of tests that play all of them in turn."""

    master: CenterVariable

    def pull(self, into: Tensor) -> None:
        """The present x~."""
        into.copy_(self.master.centre)

    def push(self, update: Tensor) -> bool:
        """Taken in at once."""
        finite = is_finite(update)
        if finite:
            self.master.receive(update)
        return finite

    def flush(self) -> None:
        """Nothing is ever under way."""


class NoSync(Coupling):
    """No coupling (SGD, MSGD). A centre is told every step: it is where x is, and may keep an average (ASGD, MVASGD)."""

    steps = True

    def __init__(self, x: Tensor, centre: Centre | None = None) -> None:
        self.centre, self.before = centre, x.detach().clone() if centre else None

    def begin(self, t: int, x: Tensor) -> None:
        """Nothing to fetch."""

    def end(self, t: int, x: Tensor, gradient: Tensor) -> bool:
        """x~ <- x~ + (x - x before the step)."""
        if self.centre and self.before is not None:
            self.centre.flush()
            self.centre.push(torch.sub(x, self.before))
            self.before.copy_(x)
        return False

    def tensors(self) -> dict[str, Tensor]:
        """Where x was before the step that is to come."""
        return {} if self.before is None else {"before": self.before}


class Elastic(Coupling):
    """Asynchronous EASGD (algorithm 1); over the steps of `NesterovSGD` it is EAMSGD (algorithm 2).

    Every `period` steps, from t = 0 on: e = alpha (x - x~) with the x~ that is fetched, x <- x - e, x~ <- x~ + e.
    alpha: moving rate of one exchange, beta / p.
    """

    steps = True

    def __init__(self, x: Tensor, centre: Centre, alpha: float, period: int) -> None:
        self.centre, self.alpha, self.period = centre, alpha, period
        self.fetched, self.pull = torch.empty_like(x), torch.empty_like(x)
        self.due = False

    def begin(self, t: int, x: Tensor) -> None:
        """e, formed once and used on both sides: x + x~ is conserved."""
        self.due = t % self.period == 0
        if self.due:
            self.centre.flush()
            self.centre.pull(self.fetched)
            torch.sub(x, self.fetched, out=self.pull).mul_(self.alpha)
            self.centre.push(self.pull)

    def end(self, t: int, x: Tensor, gradient: Tensor) -> bool:
        """The worker's side of the move."""
        if self.due:
            x.sub_(self.pull)
        return False


class Downpour(Coupling):
    """DOWNPOUR (supplement, algorithm 3): every `period` steps x~ <- x~ + v, x <- x~, v <- 0, where v is what the worker's own
    steps have added up to. Pushed and acknowledged before it is fetched: the x~ that comes back contains v.
    """

    steps = True

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

    def end(self, t: int, x: Tensor, gradient: Tensor) -> bool:
        """Nothing: v is the difference to what was fetched."""
        return False

    def restart(self, x: Tensor) -> None:
        """v <- 0."""
        self.fetched.copy_(x)

    def tensors(self) -> dict[str, Tensor]:
        """What was fetched last."""
        return {"fetched": self.fetched}


class MomentumDownpour(Coupling):
    """MDOWNPOUR's worker (algorithm 4): fetch x~, compute a gradient there, send it; the master steps (`MomentumRule`).

    weight_decay: L2 coefficient lambda; the gradient that is sent includes lambda x.
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
    """Asynchronous ADMM (section 4), multipliers scaled by rho. Every `period` steps, with the x~ that is fetched:

    (A1) lambda <- lambda - (x - x~)
    (A2) x <- [x - eta g + eta rho (lambda + x~)] / (1 + eta rho)
    (A3) x~ <- mean_j (x^j - lambda^j): this worker sends the change of its term, divided by p

    alpha: eta rho. workers: p.
    """

    steps = True

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
        """lambda <- 0; the centre still holds the term that was sent last."""
        self.multiplier.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """lambda, and this worker's term of the centre."""
        return {"multiplier": self.multiplier, "term": self.term}
