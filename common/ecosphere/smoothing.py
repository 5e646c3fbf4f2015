"""Smoothed weights and their fitness, by which foraging populations (`common.ecosphere.forage`) are compared."""

from dataclasses import replace

import torch

from common.data.dataset import ImageDataset, Texts
from common.evaluate import EvalResult, Evaluator
from common.models.flat import FlatModel
from common.parallel.comm import Group

SMOOTHING = 0.8  # decay of the average of the weights, per step


class SmoothedWeights:
    """Exponential average of a population's weights during a round, and its fitness: the evaluated weights of foraging.

    fitness: the images to evaluate on.
    """

    def __init__(self, model: FlatModel, evaluator: Evaluator, fitness: ImageDataset | Texts, population: Group) -> None:
        self.model, self.evaluator, self.fitness, self.population = model, evaluator, fitness, population
        self.average = model.parameters.detach().clone()

    def begin_round(self) -> None:
        """Restart the average at the current weights."""
        self.average.copy_(self.model.parameters.detach())

    @torch.no_grad()
    def after_step(self) -> None:
        """average <- 0.8 average + 0.2 weights."""
        self.average.lerp_(self.model.parameters.detach(), 1 - SMOOTHING)

    def evaluate(self, t: int) -> EvalResult:
        """Loss and accuracy of the average on the fitness images after round t; fitness is minus the loss.

        The population's workers hold the same weights and divide the images among them. Batch-norm statistics are measured on
        the same augmented training images in all populations. Collective over the population; the model is left unchanged.
        """
        (result,) = self.evaluator.of_weights(self.model, self.average, [self.fitness], self.population, t=t)
        return replace(result, fitness=-result.loss)
