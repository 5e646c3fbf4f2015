"""End of a round of a swarm (`common.coupling.swarm`): its model is G; the workers' own weights are reported too.

metrics.csv has additional columns with the state of the swarm (COLUMNS). Batch-norm statistics are measured for all evaluated
weights (`common.evaluate`), as for the center of elastic averaging.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.coupling.swarm import Swarm
from common.data.dataset import DataSet, ImageDataset, Texts
from common.evaluate import COMPARED, REPORTED, EvalResult, Evaluator
from common.parallel.comm import Group, finite_mean_
from common.training.round_ends import NOT_EVALUATED, CenterEnd, Outcome
from common.training.worker import Worker

COLUMNS = (
    *("swarm_rounds", "new_bests", "global_best_worker", "restarts", "personal_best", "global_best", "distance"),
    *("global_val_accuracy", "average_val_accuracy"),
)


class SwarmEnd(CenterEnd):
    """Workers are particles; after every round each evaluates its own weights, and all together G and the mean of the weights.

    rounds: of the whole run; seed component of the draws at its end.
    """

    def __init__(self, worker: Worker, swarm: Swarm, evaluator: Evaluator, data: DataSet, rounds: int) -> None:
        super().__init__(worker, lambda: swarm.best.place[: swarm.length], evaluator, data.fitness)
        self.swarm, self.data, self.rounds = swarm, data, rounds
        self.exchange = swarm.settings.exchange

    def evaluate(self, t: int) -> EvalResult:
        """Loss and accuracy of this worker's own weights; fitness is that of the swarm."""
        self.best = super().evaluate(t)
        (own,) = self._evaluate(self.worker.model.parameters.detach(), [self.images], self.worker.peers, t=t)
        (self.average,) = self._evaluate_average([self.images], t=t)
        self.measuring = self.swarm.measuring_seconds()
        seconds = self.best.seconds + own.seconds + self.average.seconds + self.measuring
        meetings = int(self.swarm.counts[0])
        return EvalResult(own.loss, own.accuracy, seconds, -self.swarm.fitness if meetings else math.nan)

    def end_round(self, t: int, result: EvalResult) -> Outcome:
        """As for every center; the time to measure fitness counts as evaluation, not as exchange."""
        meetings, new, holder, restarts = self.swarm.counts.tolist()
        swarm = self.swarm
        values = (meetings, new, holder, restarts, swarm.personal.fitness, swarm.best.fitness, swarm.distance())
        self._values = (*values, self.best.accuracy, self.average.accuracy)
        outcome = super().end_round(t, result)
        return Outcome(outcome.fitness, outcome.rate, -self.measuring, diverged=outcome.diverged)

    def columns(self) -> dict[str, Any]:
        """The state of the swarm."""
        return dict(zip(COLUMNS, self._values, strict=True))

    def _evaluate(
        self, weights: Tensor, splits: Sequence[ImageDataset | Texts], group: Group | None, images: int = COMPARED, t: int = 0
    ) -> list[EvalResult]:
        """`Evaluator.of_weights` for parameters that all ranks of the group hold; collective over the group.

        The results are only reported, so their traffic is not counted.
        """
        traffic = self.worker.topology.traffic
        sent = traffic.inside
        results = self.evaluator.of_weights(self.worker.model, weights.clone(), splits, group, images, t)
        traffic.inside = sent
        return results

    def _evaluate_average(self, splits: Sequence[ImageDataset | Texts], images: int = COMPARED, t: int = 0) -> list[EvalResult]:
        """Evaluate the mean of the finite workers' weights; collective over the world."""
        world, traffic = self.worker.topology.world, self.worker.topology.traffic
        sent, weights = traffic.inside, self.worker.model.parameters.detach()
        mean = torch.cat([weights, weights.new_zeros(1)])
        finite = finite_mean_(world, mean, "average")
        traffic.inside = sent
        return self._evaluate(mean[:-1], splits, world, images, t) if finite else [NOT_EVALUATED] * len(splits)

    def take_final_weights(self, population: int, diverged: bool) -> None:
        """Measure the unfinished phase, evaluate the workers, then take G."""
        self.swarm.arrive()  # no message may be pending when MPI is finalized
        if not diverged:
            self.swarm.close(self.worker.optimizer.clock)
        self.at_end = self._evaluate_workers()
        super().take_final_weights(population, diverged)

    def _evaluate_workers(self) -> dict[str, Any]:
        """Evaluate every worker on the fitness images, the best one on the test images, the average on validation and test."""
        world, data = self.worker.topology.world, self.data
        weights = self.worker.model.parameters.detach().clone()
        last = (REPORTED, self.rounds)  # images for the statistics, seed component of their draws
        (own,) = self._evaluate(weights, [data.fitness], self.worker.peers, *last)
        accuracy = own.accuracy if torch.isfinite(weights).all() else -math.inf
        mine = np.array([accuracy, self.swarm.distance(), float(self.swarm.counts[3])])
        accuracies, distances, restarts = world.gather_rows(mine).T
        average, average_test = self._evaluate_average([data.validation, data.test], *last)
        best = int(np.argmax(accuracies))
        (best_test,) = self._evaluate(world.broadcast_(weights, root=best), [data.test], world, *last)
        return {
            "distance": float(distances.mean()),
            "restarts": int(restarts.sum()),
            "average_validation_accuracy": average.accuracy,
            "average_test_accuracy": average_test.accuracy,
            "worker_val_accuracies": accuracies.tolist(),
            "best_worker": best,
            "best_worker_test_accuracy": best_test.accuracy,
        }

    def summary(self) -> dict[str, Any]:
        """State of the swarm over the whole run, and of its workers at the end."""
        meetings, new, holder, _ = self.swarm.counts.tolist()
        return {
            "swarm": {
                "rounds": meetings,
                "new_best_share": new / meetings if meetings else 0.0,
                "global_best": self.swarm.best.fitness,
                "global_best_worker": holder,
                **self.at_end,
            }
        }
