"""SaLSA as a torch optimizer: SGD or Adam with step sizes from a line search (mathematics: `common.optim.armijo`).

    optimizer = Salsa(model.parameters(), buffers=model.buffers())

    def closure(backwards):
        loss = F.cross_entropy(model(images), labels)
        if backwards:
            loss.backward()
        return loss

    optimizer.zero_grad()
    optimizer.step(closure)

The closure is called again at trial points and must use the same batch. Its random numbers (dropout) come from the same seed in
all calls of a step, and buffers (batch-norm statistics) are restored after each trial point.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from common.optim.armijo import LONG_AGO, PAPER, Rules, State, Step, decide, skip
from common.optim.eager import Eager
from common.seeding import Purpose, drawn_from, torch_seed

AGREEMENT = 100  # steps between two checks that all ranks have the same line-search state

Closure = Callable[[bool], Tensor]
Direction = Literal["adam", "sgd"]


@dataclass
class Move:
    """Updates of one parameter: trial points `base - eta direction`, final step `base - eta scale momentum / root`.

    root: denominator of Adam's preconditioner, None for SGD. slope: <g, direction>. base: weights before the trial points.
    """

    parameter: Tensor
    momentum: Tensor
    scale: float
    direction: Tensor
    slope: Tensor
    root: Tensor | None
    decay: float
    base: Tensor | None = None

    def try_at(self, eta: float) -> None:
        """Move to a trial point; the first call saves the weights."""
        if self.base is None:
            self.base = self.parameter.clone()
        torch.sub(self.base, self.direction, alpha=eta, out=self.parameter)

    def return_(self) -> None:
        """Restore the weights before the trial points, bit for bit."""
        if self.base is not None:
            self.parameter.copy_(self.base)

    def take(self, eta: float) -> None:
        """Take the step with momentum and decoupled weight decay, from the weights before the trial points."""
        self.return_()
        self.decay_weights(eta)
        if self.root is None:
            self.parameter.sub_(self.momentum, alpha=eta * self.scale)
        else:
            self.parameter.addcdiv_(self.momentum, self.root, value=-eta * self.scale)

    def decay_weights(self, eta: float) -> None:
        """Decoupled weight decay: w <- (1 - eta lambda) w."""
        if self.decay:
            self.parameter.mul_(1 - eta * self.decay)


def alone(row: np.ndarray) -> np.ndarray:
    """`gather` for a single rank."""
    return row[None]


class Salsa(Eager, torch.optim.Optimizer):
    """w <- w - eta m^ (sgd) or w - eta m^ / (sqrt(v^) + eps) (adam), eta by the Armijo test with g in place of m^.

    params: tensors, or groups with their own `betas`, `eps` and `weight_decay` (decoupled); one step size for all.
    rules: line-search settings. direction: search direction; with `rules.released`, `sgd` is Adam with both betas 0, as advised
    by the authors, which moves by the sign of the gradient. betas: SGD uses only the first. buffers: those that a forward pass
    may change and a trial point must not, `model.buffers()`. seed, rank: address of the random numbers of a step.

    gather: with several ranks, all-gathers a float64 row; shape (ranks, len(row)), in rank order and the same on every rank.
    The closure then averages the gradient over these ranks. All decisions use gathered values only, so that all ranks take the
    same step; otherwise a rank could wait for ever at a trial point that the others do not evaluate.

    `step(closure)`: closure(backwards) returns the mean loss of the batch, or several numbers, the first the sum of the losses
    and the last their number (required with several ranks, whose batches may differ in size). With `backwards` it also leaves
    the gradient in `.grad`. It is called once with `backwards`, and once per trial point without; it must not set gradients to
    zero then, since they may be the direction. If it raises, weights and buffers are restored, but the moments already
    include the gradient.

    `lr` of the parameter groups is the last step size. If the caller sets it (in the first group), the next step makes a line
    search that begins there.

    Attributes:
        search: line-search state with counters; part of `state_dict`.
        last: the last step, with its slope and the decrease at its last trial point.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        rules: Rules = PAPER,
        direction: Direction = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        buffers: Iterable[Tensor] = (),
        seed: int = 0,
        rank: int = 0,
        gather: Callable[[np.ndarray], np.ndarray] = alone,
    ) -> None:
        if direction not in ("adam", "sgd"):
            raise ValueError(f"unknown direction '{direction}': adam or sgd")
        super().__init__(params, {"lr": rules.eta0, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            if not all(0 <= beta < 1 for beta in group["betas"]):
                raise ValueError(f"betas {group['betas']} have to lie in [0, 1)")
            if group["eps"] < 0 or group["weight_decay"] < 0:
                raise ValueError(f"eps {group['eps']} and weight_decay {group['weight_decay']} have to be at least 0")
            if rules.released and direction == "sgd":
                group["betas"] = (0.0, 0.0)
        self.rules = rules
        self.preconditioned = direction == "adam" or rules.released
        self.buffers = list(buffers)
        self.seed, self.rank, self.gather = seed, rank, gather
        self.search = State(rules.eta0)
        self.last = Step(0.0)
        self._written = rules.eta0  # lr as written by `step`; any other value was set by the caller

    @torch.no_grad()
    def step(self, closure: Closure) -> Tensor:  # type: ignore[override]
        """One update; returns the result of the first closure call: the loss before the step.

        Skipped where loss or gradient is not finite; then only counters and the gradient change. Collective over the ranks of
        `gather`. Raises ValueError where `lr` was set to an invalid step size, RuntimeError where the closure changes the
        gradient at a trial point or the states of the ranks differ.
        """
        self._listen()
        report = self._call(closure, backwards=True)
        loss = self._mean(report)
        if math.isfinite(loss) and self._has_finite_gradient():
            self._go(closure, loss)
        else:
            self.search, self.last = skip(self.search), Step(0.0)
        if self.search.steps % AGREEMENT == 0:
            self._check_agreement()
        return report

    def _listen(self) -> None:
        """Start a line search at an lr that the caller has set, in this step, since it has not been tested."""
        lr = float(self.param_groups[0]["lr"])
        if lr == self._written:
            return
        if not 0 < lr < math.inf:
            raise ValueError(f"lr {lr} has been set: the first step of a line search has to be positive and finite")
        self.search = replace(self.search, eta=min(lr, self.rules.limit), since=LONG_AGO)

    def _go(self, closure: Closure, loss: float) -> None:
        """The step, given a finite gradient."""
        moves = [self._move(p, p.grad, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        slopes = self.gather(np.array([float(sum(move.slope for move in moves))]))
        slope = float(slopes[0, 0])  # the first rank's: sums over equal tensors may differ in the last digits between ranks
        versions = [move.direction._version for move in moves]

        def trial(eta: float) -> float:
            """Mean loss at the trial point of this step size."""
            for move in moves:
                move.try_at(eta)
            there = self._mean(self._tried(closure))
            if [move.direction._version for move in moves] != versions:
                raise RuntimeError("the closure changed the gradient at a trial: zero_grad belongs before `step`")
            return there

        try:
            self.search, step = decide(self.search, loss, slope, trial, self.rules)
        except BaseException:
            for move in moves:
                move.return_()
            raise
        self._finish(moves, step)
        self.last = replace(step, slope=slope)

    def _tried(self, closure: Closure) -> Tensor:
        """Closure call at a trial point; restores buffers."""
        kept = [buffer.clone() for buffer in self.buffers]
        try:
            return self._call(closure, backwards=False)
        finally:
            for buffer, before in zip(self.buffers, kept, strict=True):
                buffer.copy_(before)

    def _finish(self, moves: list[Move], step: Step) -> None:
        """Move from the last trial point, or from w if there was none, to the result of the step."""
        for move in moves:
            if not step.eta:
                move.return_()
            elif step.at_trial and self.rules.released:
                move.decay_weights(step.eta)
            else:
                move.take(step.eta)
        self._written = step.eta or self.search.eta
        for group in self.param_groups:
            group["lr"] = self._written

    def _call(self, closure: Closure, backwards: bool) -> Tensor:
        """Closure call with the random numbers of this step."""
        seed = torch_seed(self.seed, Purpose.INSIDE_STEP, self.search.steps, self.rank)
        devices = {p.device for group in self.param_groups for p in group["params"]}
        with drawn_from(seed, devices), torch.set_grad_enabled(backwards):
            return closure(backwards)

    def _mean(self, report: Tensor) -> float:
        """The loss per sample over all ranks, summed in float64."""
        numbers = report.detach().double().flatten().tolist()
        table = self.gather(np.array([numbers[0], numbers[-1] if len(numbers) > 1 else 1.0]))
        if len(table) > 1 and len(numbers) == 1:
            raise ValueError("with several ranks the closure has to return the sum of the losses and their number")
        total, count = table.sum(axis=0).tolist()
        return total / count

    def _has_finite_gradient(self) -> bool:
        """Whether the gradient is finite; the same on all ranks, since they hold the same average."""
        sums = [p.grad.sum(dtype=torch.float64) for group in self.param_groups for p in group["params"] if p.grad is not None]
        return math.isfinite(sum(sums, 0.0))  # finite float32 numbers cannot overflow in float64

    def _move(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> Move:
        """m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, bias-corrected by 1 - b^k (the released class: 1 - b^(k+1))."""
        state, betas, decay = self.state[p], group["betas"], group["weight_decay"]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(p)
            if self.preconditioned:
                state["exp_avg_sq"] = torch.zeros_like(p)
        state["step"] += 1
        k = int(state["step"]) + self.rules.released
        m = state["exp_avg"].lerp_(g, 1 - betas[0])
        scale = 1 / (1 - betas[0] ** k)
        if not self.preconditioned:
            return Move(p, m, scale, g, _dot(g, g), None, decay)
        v = state["exp_avg_sq"].mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
        root = v.sqrt().div_(math.sqrt(1 - betas[1] ** k)).add_(group["eps"])
        direction = g / root
        return Move(p, m, scale, direction, _dot(g, direction), root, decay)

    def _check_agreement(self) -> None:
        """Raise RuntimeError unless all ranks have the same line-search state, bit for bit."""
        numbers = {name: float(getattr(self.search, name)) for name in ("eta", "h", "s", "since", "trials")}
        table = self.gather(np.array(list(numbers.values())))
        if (table != table[0]).any():
            raise RuntimeError(f"the ranks of a line search disagree: {', '.join(numbers)} are {table.tolist()}")

    def state_dict(self) -> dict[str, Any]:
        """torch's state dict and the line-search state."""
        return {**super().state_dict(), "search": asdict(self.search), "written": self._written, "adam": self.preconditioned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a `state_dict`. Raises ValueError where it is of the other direction."""
        if state_dict["adam"] != self.preconditioned:
            raise ValueError(f"this state is of {'Adam' if state_dict['adam'] else 'SGD'}, the optimizer uses the other one")
        super().load_state_dict(state_dict)
        self.search = State(**state_dict["search"])
        self._written = state_dict["written"]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b>, a scalar summed in float64: long float32 sums depend on threads and alignment."""
    if a.dtype in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()
    return (a * b).sum(dtype=torch.float64)
