"""Smoothed weights and their fitness: what populations that forage (`common.ecosphere.forage`) are compared by."""

from dataclasses import replace

import torch

from common.data.dataset import ImageDataset, Texts
from common.evaluate import EvalResult, Evaluator
from common.models.flat import FlatModel
from common.parallel.comm import Group

SMOOTHING = 0.8  # of the weights that are judged, per step


class Smoother:
    """Exponential average of the weights during a round, and its fitness.

    fitness: the images that are judged on. Call `restart` before a round and `add` after every step.
    """

    def __init__(self, model: FlatModel, evaluator: Evaluator, fitness: ImageDataset | Texts) -> None:
        self.model, self.evaluator, self.fitness = model, evaluator, fitness
        self.average = model.parameters.detach().clone()

    def restart(self) -> None:
        """Begin a round at the present weights."""
        self.average.copy_(self.model.parameters.detach())

    @torch.no_grad()
    def add(self) -> None:
        """average <- 0.8 average + 0.2 weights."""
        self.average.lerp_(self.model.parameters.detach(), 1 - SMOOTHING)

    def evaluate(self, population: Group, t: int) -> EvalResult:
        """Loss and accuracy of the smoothed weights on the fitness images; fitness is minus the loss.

        The population's workers hold the same weights and share the images out. Batch-norm statistics are measured on the
        same augmented training images in all populations. Collective over the population; the model is left as it was.
        """
        (result,) = self.evaluator.of_weights(self.model, self.average, [self.fitness], population, t=t)
        return replace(result, fitness=-result.loss)
