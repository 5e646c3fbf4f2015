"""Runs of workers that never meet."""

from typing import Any

import torch
from torch import Tensor

from common.evaluate import REPORTED, Judged
from common.parallel.comm import finite_mean_
from common.training.run import Run


class ApartRun(Run):
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
        model, splits = self.ecosphere.model, {"validation": self.data.validation, "test": self.data.test}
        world, last = self.topology.world, len(self.lengths)
        judged = self.evaluator.of_weights(model, self.mean, list(splits.values()), world, REPORTED, last)
        results = dict(zip(splits, judged, strict=True))
        return {f"{name}_{what}": getattr(results[name], what) for name in splits for what in ("accuracy", "loss")}
