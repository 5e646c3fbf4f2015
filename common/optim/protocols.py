"""What a weight optimizer is given from outside: the reductions of its ranks, and what couples its weights to others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Reductions:
    """The collective operations of a step, as functions: this package sends no messages itself.

    mean: replaces the first n of n + 1 float32 values by their mean over the finite ranks of the gradient scope, and returns
    how many those are; the last value is overwritten. first_mean: likewise over the SAM scope, for the first gradient of SAM;
    None where that one stays local. gather: this rank's row of float64, shape (k,), to the table of the gradient scope, shape
    (ranks, k). rank: of this process in the world, an address of random draws.
    """

    mean: Callable[[Tensor], int]
    first_mean: Callable[[Tensor], int] | None
    gather: Callable[[np.ndarray], np.ndarray]
    rank: int


class Closure(Protocol):
    """Forward and backward pass of one batch."""

    def __call__(self, backwards: bool = True) -> Tensor:
        """Forward pass; with `backwards`, the gradient is set to zero first and a backward pass adds to it.

        Returns what is reported of the batch; a line search takes the first number for the summed loss and the last for the
        number of losses, a single number for the mean loss.
        """
        ...


class Coupling(Protocol):
    """What couples a worker's weights to those of others. t: the worker's own clock, gradient steps since the start.

        coupling.begin(t, x)                         # e.g. every tau steps: fetch the center, form the difference, send it
        ...gradient at x
        if coupling.take(t, gradient, finite):       # whether there is a step to take
            x <- x - eta g                           # the worker's own
        renew = coupling.end(t, x, gradient)         # e.g. the elastic move, x <- x - e

    Attributes:
        steps: whether the worker takes steps of its own between `begin` and `end`.
        shares: what it sends to others, `weights` or `gradients`.
    """

    steps: bool
    shares: str = "weights"

    def begin(self, t: int, x: Tensor) -> None:
        """Before the gradient of step t."""
        ...

    def observe(self, report: Tensor) -> None:
        """What the closure of a step reported of its batch: (summed loss, correct answers, answers). Ignored by default."""
        return

    def take(self, t: int, gradient: Tensor, finite: bool) -> bool:
        """After the gradient of step t, which may be changed in place: whether the worker takes a step with it.

        finite: whether the gradient is. By default such a step is taken by workers that take steps at all.
        """
        return finite and self.steps

    def end(self, t: int, x: Tensor, gradient: Tensor) -> bool:
        """After the worker's own step t; `gradient` is the one of this step.

        Returns whether the momentum of the worker has to begin anew.
        """
        ...

    def restart(self, x: Tensor) -> None:
        """Go on from weights x that replaced this worker's; by default nothing has to be done."""
        return

    def tensors(self) -> dict[str, Tensor]:
        """State that a checkpoint keeps, to be copied back in place; by default none."""
        return {}
