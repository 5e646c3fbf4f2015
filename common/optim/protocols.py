"""What a weight optimizer is given: reductions over ranks, the closure, and the coupling to other workers' weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Reductions:
    """The collective operations of a step, as functions: this package does not communicate itself.

    mean: replaces the first n of n + 1 float32 values by their mean over the finite ranks of the gradient scope, and returns
    the number of these ranks; the last value is overwritten. first_mean: likewise over the SAM scope, for SAM's first gradient;
    None where that stays local. gather: all-gathers a float64 row of shape (k,) over the gradient scope; shape (ranks, k).
    rank: world rank, part of the address of random draws.
    """

    mean: Callable[[Tensor], int]
    first_mean: Callable[[Tensor], int] | None
    gather: Callable[[np.ndarray], np.ndarray]
    rank: int


class Closure(Protocol):
    """Forward and backward pass of one batch."""

    def __call__(self, backwards: bool = True) -> Tensor:
        """Forward pass; with `backwards`, also set the gradient to zero and run a backward pass.

        Returns a report of the batch. A line search reads the first number as the summed loss and the last as the number of
        losses; a single number as the mean loss.
        """
        ...


class Coupling:
    """Coupling of a worker's weights to those of other workers; methods that a subclass leaves out do nothing.

    t: the worker's clock, gradient steps since the start.

        coupling.begin(t, x)                         # e.g. every tau steps: fetch the center, form the difference, send it
        ...gradient at x
        if coupling.take(t, gradient, finite):       # whether to take a step
            x <- x - eta g                           # the local step
        renew = coupling.end(t, x, gradient)         # e.g. the elastic move, x <- x - e

    shares: what it sends to other workers, `weights` or `gradients`.
    """

    shares = "weights"

    def begin(self, t: int, x: Tensor) -> None:
        """Called before the gradient of step t."""

    def observe(self, report: Tensor) -> None:
        """Called with the closure's report of a step: (summed loss, correct answers, answers)."""

    def take(self, t: int, gradient: Tensor, finite: bool) -> bool:
        """Called after the gradient of step t, which may be changed in place; returns whether the worker takes a local step.

        finite: whether the gradient is finite.
        """
        return finite

    def end(self, t: int, x: Tensor, gradient: Tensor) -> bool:
        """Called after the local step t; gradient: of this step. Returns whether the optimizer's state has to be reset."""
        return False

    def restart(self, x: Tensor) -> None:
        """Called when weights x have replaced this worker's."""

    def tensors(self) -> dict[str, Tensor]:
        """State for a checkpoint, restored by copying in place."""
        return {}
