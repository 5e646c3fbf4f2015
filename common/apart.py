"""Runs whose workers are judged by weights of their own, with batch-norm statistics measured as those of a centre are.

What a network has averaged while it trained describes augmented images and weights that were its own a while ago; measured
statistics are worth a point or two. So that methods are compared and not this, `CalibratedRun` judges by measured ones as well.
"""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from common.comm import finite_mean_
from common.loop import Judged, evaluate
from common.run import Run
from common.smoother import calibrate


class CalibratedRun(Run):
    """As every run, but batch-norm statistics of what is judged are taken from a few training images (`calibrate`)."""

    def judge(self, t: int) -> Judged:
        """This worker's own weights on the fitness images; its own statistics are left as they were."""
        model, began = self.ecosphere.model, time.perf_counter()
        before = model.buffers.detach().clone()
        calibrate(model, self.data, self.plan.precision, self.topology.gradients)
        measuring = time.perf_counter() - began
        judged = super().judge(t)
        model.buffers.detach().copy_(before)
        self._note_time("evaluate", measuring)
        return replace(judged, seconds=judged.seconds + measuring)

    def _take_final_weights(self, diverged: bool) -> None:
        super()._take_final_weights(diverged)
        calibrate(self.ecosphere.model, self.data, self.plan.precision, self.topology.world)


class ApartRun(CalibratedRun):
    """Workers that never meet; `averaged` in summary.json says how good the mean of their last weights is."""

    mean: Tensor

    def _take_final_weights(self, diverged: bool) -> None:
        weights = self.ecosphere.model.parameters.detach()
        mean_and_flag = torch.cat([weights, weights.new_zeros(1)])
        finite_mean_(self.topology.world, mean_and_flag, "mean")
        self.mean = mean_and_flag[:-1]
        super()._take_final_weights(diverged)

    def _summary(self, validation: Judged, test: Judged, diverged: bool) -> dict[str, Any]:
        return super()._summary(validation, test, diverged) | {"averaged": self._judge_mean()}

    def _judge_mean(self) -> dict[str, float]:
        """Accuracy and loss of the mean; the run's model is left as it was."""
        model, world, precision = self.ecosphere.model, self.topology.world, self.plan.precision
        before = model.state.detach().clone()
        model.parameters.data.copy_(self.mean)
        calibrate(model, self.data, precision, world)
        numbers: dict[str, float] = {}
        for name, pictures in (("validation", self.data.validation), ("test", self.data.test)):
            judged = evaluate(model.module, pictures, precision, world)
            numbers |= {f"{name}_accuracy": judged.accuracy, f"{name}_loss": judged.loss}
        model.state.detach().copy_(before)
        return numbers
