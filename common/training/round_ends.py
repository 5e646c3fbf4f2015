"""End of a round, by method: exchange of an ecosphere, averages of data-parallel workers, evaluation of a center.

A run calls its `EndOfRound` after every round and once at its end; its `Evaluated` defines the evaluated weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from common.coupling.elastic import CenterVariable
from common.data.dataset import DataSet, ImageDataset, Texts
from common.ecosphere.end_of_round import Ecosphere
from common.ecosphere.exchange import Exchange
from common.evaluate import REPORTED, EvalResult, Evaluator, evaluate
from common.parallel.comm import Group, finite_mean_
from common.training.checkpoint import State
from common.training.worker import Worker

NOT_EVALUATED = EvalResult(math.nan, math.nan, 0.0, math.nan)
WAY_OUT = "Try a lower --learning-rate or a shorter --period"


@dataclass(frozen=True)
class Outcome:
    """The end of one round for this worker.

    fitness: as recorded; -inf if the worker's weights are not finite. rate: of the next round. seconds: communication time,
    waiting included. population: index of the population whose weights are the run's model if it ends now. diverged: reason
    why the run cannot continue, else "".
    """

    fitness: float
    rate: float
    seconds: float = 0.0
    population: int = 0
    diverged: str = ""


class Evaluated(Protocol):
    """Which weights are evaluated after a round."""

    def begin_round(self) -> None:
        """Called before the first step of a round; does nothing by default."""
        return

    def after_step(self) -> None:
        """Called after every step; does nothing by default."""
        return

    def evaluate(self, t: int) -> EvalResult:
        """Loss and accuracy on the fitness images after round t."""
        ...


class OwnWeights(Evaluated):
    """The worker's own weights, on all the fitness images."""

    def __init__(self, worker: Worker, images: ImageDataset | Texts, precision: str) -> None:
        self.worker, self.images, self.precision = worker, images, precision

    def evaluate(self, t: int) -> EvalResult:
        """Evaluate locally, without communication."""
        return evaluate(self.worker.model.module, self.images, self.precision)


class EndOfRound(Protocol):
    """End of a round and end of a run, by method. All methods are collective over the world.

    exchange: its name in summary.json.
    """

    exchange: str = "average"

    def end_round(self, t: int, result: EvalResult) -> Outcome:
        """End round t. result: evaluation of its weights."""
        ...

    def columns(self) -> dict[str, Any]:
        """Additional columns of metrics.csv for the round that has ended."""
        return {}

    def take_final_weights(self, population: int, diverged: bool) -> None:
        """Put the run's model in place on all ranks; a no-op by default. population: of the last `Outcome`."""
        return

    def summary(self) -> dict[str, Any]:
        """Additional keys of summary.json."""
        return {}

    def state(self) -> State:
        """State for a checkpoint: tensors, restored in place, and numbers."""
        return {}, {}

    def restore(self, numbers: dict[str, Any]) -> None:
        """Restore the numbers of `state`; its tensors are already restored."""
        return

    def begin(self) -> None:
        """Called before the first round, after resumed weights are restored."""
        return


class EcosphereEnd(EndOfRound):
    """End of a round of EOA and of population-based training: elect, exchange across populations, move the rate."""

    def __init__(self, worker: Worker, ecosphere: Ecosphere) -> None:
        self.worker, self.ecosphere = worker, ecosphere
        self.exchange = ecosphere.exchange.policy

    def end_round(self, t: int, result: EvalResult) -> Outcome:
        """Diverged if no worker has finite weights and the rate rule has no lower rates to try."""
        end = self.ecosphere.end_round(t, result.fitness, self.worker.rate)
        if not end.lost:
            self.worker.optimizer.after_exchange(end.finite)
        fitness = float(end.standings.fitness[self.worker.topology.world.rank])
        return Outcome(fitness, end.rate, end.seconds, end.standings.best_population, end.lost)

    def take_final_weights(self, population: int, diverged: bool) -> None:
        """Broadcast the weights of the best population if those of the populations differ."""
        topology = self.worker.topology
        if self.ecosphere.exchange.merges_no_populations:
            topology.world.broadcast_(self.worker.model.state.detach(), topology.offsets[population])

    def begin(self) -> None:
        """Keep the current weights as the last finite ones."""
        self.ecosphere.remember()


class IndependentEnd(EcosphereEnd):
    """Independent workers; `averaged` in summary.json is the accuracy of the mean of their last weights."""

    def __init__(self, worker: Worker, ecosphere: Ecosphere, evaluator: Evaluator, data: DataSet, rounds: int) -> None:
        super().__init__(worker, ecosphere)
        self.evaluator, self.rounds = evaluator, rounds
        self.splits = {"validation": data.validation, "test": data.test}

    def take_final_weights(self, population: int, diverged: bool) -> None:
        """Broadcast the best worker's weights; keep the mean over the finite workers for the summary."""
        weights, world = self.worker.model.parameters.detach(), self.worker.topology.world
        mean_and_flag = torch.cat([weights, weights.new_zeros(1)])
        finite_mean_(world, mean_and_flag, "mean")
        self.mean = mean_and_flag[:-1]
        super().take_final_weights(population, diverged)

    def summary(self) -> dict[str, Any]:
        """Accuracy and loss of the mean; the run's model is not changed."""
        model, world = self.worker.model, self.worker.topology.world
        found = self.evaluator.of_weights(model, self.mean, list(self.splits.values()), world, REPORTED, self.rounds)
        results = dict(zip(self.splits, found, strict=True))
        words = ("accuracy", "loss")
        return {"averaged": {f"{name}_{word}": getattr(results[name], word) for name in results for word in words}}


class DataParallelEnd(EcosphereEnd):
    """End of a round of data-parallel training, in one population: average batch-norm statistics, advance the schedule."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker, Ecosphere(worker.topology, worker.model.state, worker.rates, Exchange("average")))

    def end_round(self, t: int, result: EvalResult) -> Outcome:
        """Diverged if no worker has finite weights; not counted as an exchange."""
        return replace(super().end_round(t, result), seconds=0.0)


class CenterEnd(EndOfRound, Evaluated):
    """Workers with their own weights, coupled to a center; all ranks together evaluate the center instead of the workers.

    weights: returns the flat parameters to evaluate, shape (P,), finite at the start. center: state to checkpoint; None if the
    coupling keeps it. A worker whose weights are not finite continues from the last finite center.
    """

    def __init__(
        self,
        worker: Worker,
        weights: Callable[[], Tensor],
        evaluator: Evaluator,
        images: ImageDataset | Texts,
        center: CenterVariable | None = None,
    ) -> None:
        self.worker, self.weights, self.evaluator, self.images, self.center = worker, weights, evaluator, images, center
        self._lost = False

    def evaluate(self, t: int) -> EvalResult:
        """Evaluate the center, if it and at least one worker are finite; the worker's own weights are not changed."""
        model, world = self.worker.model, self.worker.topology.world
        self._lost = not model.is_finite()
        alive = int(world.gather_rows(np.array([float(not self._lost)])).sum())
        sound = alive > 0 and self.keep_finite()
        self._unsound = "" if sound else "the centre is not finite" if alive else "no worker has finite weights"
        return self.evaluate_center(t, world) if sound else NOT_EVALUATED

    def evaluate_center(self, t: int, group: Group) -> EvalResult:
        """Evaluate the center on the fitness images, divided among the ranks of the group; collective over it."""
        (result,) = self.evaluator.of_weights(self.worker.model, self.weights().clone(), [self.images], group, t=t)
        return result

    def keep_finite(self) -> bool:
        """Whether the center is finite; if so, keep a copy to restore."""
        present = self.weights()
        finite = bool(torch.isfinite(present).all())
        if finite:
            self.last_finite = present.clone()
        return finite

    def end_round(self, t: int, result: EvalResult) -> Outcome:
        """Diverged if the center, or every worker, is not finite."""
        diverged = self._unsound and f"{self._unsound} after round {t + 1}; the last finite centre is kept. {WAY_OUT}"
        if self._lost and not diverged:
            self.begin_anew(self.last_finite)
        return Outcome(-math.inf if self._lost else result.fitness, self.worker.rate_at(t + 1), diverged=diverged)

    def begin_anew(self, weights: Tensor) -> None:
        """Restart this worker, whose weights are not finite, from `weights`; reset momentum and coupling."""
        self.worker.model.parameters.data.copy_(weights)
        self.evaluator.measure_statistics(self.worker.model.module, self.worker.peers)
        self.worker.optimizer.after_exchange(finite=False)

    def take_final_weights(self, population: int, diverged: bool) -> None:
        """Take the center; the last finite one if the run diverged."""
        self.worker.model.parameters.data.copy_(self.last_finite if diverged else self.weights())

    def state(self) -> State:
        """State of the center."""
        if not self.center:
            return {}, {}
        return {f"center.{name}": value for name, value in self.center.tensors().items()}, {"updates": self.center.clock}

    def begin(self) -> None:
        """Keep the current center as the last finite one."""
        self.keep_finite()

    def restore(self, numbers: dict[str, Any]) -> None:
        """Restore the numbers of the center."""
        if self.center:
            self.center.clock = numbers["updates"]
