"""A worker: one rank that trains, with its model, the optimizer of its weights and the rule of its learning rate."""

from dataclasses import dataclass
from functools import partial

from common.ecosphere.rates import RateRule
from common.models.flat import FlatModel
from common.optim.bases import OptimizerSettings
from common.optim.protocols import Coupling, Reductions
from common.optim.weight_optimizer import WeightOptimizer
from common.parallel.comm import Group, finite_mean_
from common.parallel.topology import Topology


@dataclass
class Worker:
    """State that every method has.

    rate: learning rate of the current round; `rate_at` gives that of one step. peers: ranks that hold the same weights as this
    one during a round, None for this rank alone.
    """

    topology: Topology
    model: FlatModel
    optimizer: WeightOptimizer
    rates: RateRule
    rate: float
    peers: Group | None

    def rate_at(self, rounds_done: float) -> float:
        """The learning rate of one step; rounds_done = t + fraction of round t that is done."""
        return self.rates.at(self.rate, rounds_done)


def build_worker(
    topology: Topology,
    model: FlatModel,
    rates: RateRule,
    settings: OptimizerSettings,
    lr_scale: float = 1.0,
    coupling: Coupling | None = None,
    equal_weights: bool = True,
) -> Worker:
    """The worker of this rank. equal_weights: whether the ranks of its gradient scope hold the same weights in a round.

    If not, each has its own learning rate. lr_scale, coupling: see `WeightOptimizer`.
    """
    optimizer = WeightOptimizer(model, settings, reductions_of(topology, settings.sam_scope), lr_scale, coupling)
    rate = float(rates.start[topology.world.rank])
    return Worker(topology, model, optimizer, rates, rate, topology.gradients if equal_weights else None)


def reductions_of(topology: Topology, sam_scope: str = "local") -> Reductions:
    """Reductions over ranks that this rank's optimizer uses. sam_scope: local, population or world."""
    gradients = topology.gradients
    scopes = {"local": None, "population": topology.population, "world": topology.world}
    first = scopes[sam_scope]
    return Reductions(
        mean=partial(finite_mean_, gradients, name="gradient"),
        first_mean=partial(finite_mean_, first, name="gradient") if first else None,
        gather=gradients.gather_rows,
        rank=topology.world.rank,
    )
