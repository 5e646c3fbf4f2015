"""A run whose workers are particles (`common.coupling.swarm`): its model is G, and the workers' own weights are reported too.

Every line of metrics.csv has, besides what every run records, where the swarm stands (COLUMNS). Whatever is judged has
batch-norm statistics measured for it (`common.evaluate`), as the centre of elastic averaging.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.coupling.swarm import Swarm
from common.data.dataset import Pictures, Texts
from common.evaluate import COMPARED, REPORTED, Judged
from common.parallel.comm import Group, finite_mean_
from common.training.loop import Trained
from common.training.served_run import NOT_JUDGED, CentredRun, Stopwatch

COLUMNS = (
    *("swarm_rounds", "new_bests", "global_best_worker", "restarts", "personal_best", "global_best", "distance"),
    *("global_val_accuracy", "average_val_accuracy"),
)


class SwarmRun(CentredRun):
    """Workers that meet as a swarm; `follow` in the place of `couple`.

    Each judges its own weights after every round (`val_loss`, `val_accuracy`); together they judge G and the mean of them all.
    """

    def follow(self, swarm: Swarm) -> Stopwatch:
        """Tell the run which swarm its workers are in; returns what the weight optimizer is to be given."""
        self.swarm = swarm
        return self.couple(swarm, lambda: swarm.best.place[: swarm.length])

    def _line(self, t: int, trained: Trained, judged: Judged, lost: bool) -> dict[str, Any]:
        """This worker's own line; judged: G."""
        swarm, measuring, fitness_images = self.swarm, self._take_measuring(), [self.data.fitness]
        (own,) = self._judge(self.ecosphere.model.parameters.detach(), fitness_images, self.peers, t=t)
        (average,) = self._judge_average(fitness_images, t=t)
        self._note_time("evaluate", own.seconds + average.seconds)
        seconds = judged.seconds + own.seconds + average.seconds + measuring
        meetings, new, holder, restarts = swarm.counts.tolist()
        fitness = -swarm.fitness if meetings else math.nan
        trained = replace(trained, seconds=trained.seconds - measuring)
        row = super()._line(t, trained, Judged(own.loss, own.accuracy, seconds, fitness), lost)
        values = (meetings, new, holder, restarts, swarm.personal.fitness, swarm.best.fitness, swarm.distance())
        return row | dict(zip(COLUMNS, (*values, judged.accuracy, average.accuracy), strict=True))

    def _take_measuring(self) -> float:
        """Seconds of this round in which fitness was measured: they are of evaluation, not of training or exchange."""
        measuring, self.swarm.seconds = self.swarm.seconds, 0.0
        self.watch.seconds -= measuring
        self._note_time("train", -measuring)
        self._note_time("evaluate", measuring)
        return measuring

    def _judge(
        self, weights: Tensor, splits: Sequence[Pictures | Texts], group: Group | None, images: int = COMPARED, t: int = 0
    ) -> list[Judged]:
        """Parameters that all ranks of the group hold, as `Evaluator.of_weights` has it; collective over the group.

        It is only reported, so what is sent for it does not count.
        """
        traffic = self.topology.traffic
        sent = traffic.inside
        judged = self.evaluator.of_weights(self.ecosphere.model, weights.clone(), splits, group, images, t)
        traffic.inside = sent
        return judged

    def _judge_average(self, splits: Sequence[Pictures | Texts], images: int = COMPARED, t: int = 0) -> list[Judged]:
        """The mean of all finite workers' weights; collective."""
        world, traffic = self.topology.world, self.topology.traffic
        sent, weights = traffic.inside, self.ecosphere.model.parameters.detach()
        mean = torch.cat([weights, weights.new_zeros(1)])
        finite = finite_mean_(world, mean, "average")
        traffic.inside = sent
        return self._judge(mean[:-1], splits, world, images, t) if finite else [NOT_JUDGED] * len(splits)

    def _take_final_weights(self, diverged: bool) -> None:
        """The rest of a phase is measured; then G, after a last look at where the workers are."""
        self.swarm.arrive()  # nothing is to be under way when MPI ends
        if not diverged:
            self.swarm.close(self.optimizer.clock)
        began = time.perf_counter()
        self.ends = self._judge_workers()
        self._note_time("evaluate", time.perf_counter() - began)
        super()._take_final_weights(diverged)

    def _judge_workers(self) -> dict[str, Any]:
        """Every worker on the fitness images; the best one of them, and the average of all, on the test images as well."""
        world, data = self.topology.world, self.data
        weights = self.ecosphere.model.parameters.detach().clone()
        last = (REPORTED, len(self.lengths))  # images behind the statistics, address of their draws
        (own,) = self._judge(weights, [data.fitness], self.peers, *last)
        accuracy = own.accuracy if torch.isfinite(weights).all() else -math.inf
        mine = np.array([accuracy, self.swarm.distance(), float(self.swarm.counts[3])])
        accuracies, distances, restarts = world.gather_rows(mine).T
        average, average_test = self._judge_average([data.validation, data.test], *last)
        best = int(np.argmax(accuracies))
        (best_test,) = self._judge(world.broadcast_(weights, root=best), [data.test], world, *last)
        return {
            "distance": float(distances.mean()),
            "restarts": int(restarts.sum()),
            "average_validation_accuracy": average.accuracy,
            "average_test_accuracy": average_test.accuracy,
            "worker_val_accuracies": accuracies.tolist(),
            "best_worker": best,
            "best_worker_test_accuracy": best_test.accuracy,
        }

    def _summary(self, validation: Judged, test: Judged, diverged: bool) -> dict[str, Any]:
        meetings, new, holder, _ = self.swarm.counts.tolist()
        swarm = {
            "rounds": meetings,
            "new_best_share": new / meetings if meetings else 0.0,
            "global_best": self.swarm.best.fitness,
            "global_best_worker": holder,
            **self.ends,
        }
        return {**super()._summary(validation, test, diverged), "exchange": self.swarm.settings.exchange, "swarm": swarm}
