"""Evolution strategy with cumulative step-size adaptation (CMA-ES, Hansen & Ostermeier 2001), by the library `cmaes`."""

from typing import TYPE_CHECKING

import numpy as np

from common.ecosphere.species.moves import Memory, View

if TYPE_CHECKING:
    from cmaes import CMA


def propose_samples(view: View, rng: np.random.Generator) -> tuple[np.ndarray, Memory]:
    """New samples around the base.

    Each round is one generation: the strategy is told the fitness of its samples and draws new ones around the base, which
    replaces its mean; step size and evolution paths are the strategy's own. The library needs at least two dimensions: the
    second one is drawn, never used, and told as 0. A single worker cannot be ranked and draws around the base with the initial
    standard deviation.

    The memory holds the samples `told` and their `fitness`, both of shape (generations, m), their origin `centre`, and the
    initial standard deviation `sigma`, half of `view.width`.
    """
    m = len(view.x)
    if m < 2:
        return view.base + 0.5 * view.width * rng.standard_normal(m), {}
    memory = _extended(view)
    strategy = _replayed(memory, int(rng.integers(2**31)))
    centre = view.base - strategy.mean[0]
    return centre + np.array([strategy.ask()[0] for _ in range(m)]), {**memory, "centre": np.array([centre])}


def _extended(view: View) -> Memory:
    """The memory with this round's generation appended, in the strategy's own frame (`centre` is its origin)."""
    none = np.empty((0, len(view.x)))
    first = {"told": none, "fitness": none, "centre": view.x.mean(keepdims=True), "sigma": np.array([0.5 * view.width])}
    before = view.memory or first
    told = np.vstack([before["told"], view.x - before["centre"]])
    return {**before, "told": told, "fitness": np.vstack([before["fitness"], view.fitness])}


def _replayed(memory: Memory, seed: int) -> "CMA":
    """The strategy, rebuilt from all generations: a checkpoint can hold arrays only, and replaying takes milliseconds."""
    from cmaes import CMA  # not needed by the other species

    m = memory["told"].shape[1]
    with np.errstate(divide="ignore"):  # with two samples the library selects one and divides by a rate of 0
        strategy = CMA(mean=np.zeros(2), sigma=float(memory["sigma"][0]), population_size=m, seed=seed)
    for places, fitness in zip(memory["told"], memory["fitness"], strict=True):
        strategy.tell([(np.array([x, 0.0]), -f) for x, f in zip(places, fitness, strict=True)])
    return strategy
