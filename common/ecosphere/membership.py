"""Join an ecosphere from your own training script.

    ecosphere = join(module, "auto", eta0=0.1, rounds=20, batch_size=64)
    for t in range(20):
        ...backward; ecosphere.average_gradient()   # Horovod: inside the population
        ecosphere.end_round(t, fitness)             # MPI: elect, exchange weights across populations, move the rate

examples/digits_ecosphere.py is a complete script; docs/extending.md explains it.
"""

from torch import nn

from common.ecosphere.end_of_round import Ecosphere, RoundEnd
from common.ecosphere.exchange import Exchange
from common.ecosphere.rates import EcosphereRates, EoaSettings, RateRule
from common.ecosphere.species import SPECIES
from common.errors import Diverged
from common.models.flat import share_model
from common.parallel.comm import finite_mean_
from common.parallel.populations import default_populations, parse_populations
from common.parallel.topology import Topology, build_topology, world_size


class Membership:
    """One worker of an ecosphere, in a script that has its own training loop and optimizer.

    Attributes:
        rate: this worker's learning rate in the current round; `rate_at`, the rate of one step, includes the warm-up.
        model: the module in flat buffers.
    """

    def __init__(self, topology: Topology, module: nn.Module, rates: RateRule, exchange: Exchange) -> None:
        self.topology, self.rates = topology, rates
        self.model = share_model(module, topology.world)
        self.ecosphere = Ecosphere(topology, self.model.state, rates, exchange)
        self.rate = float(rates.start[topology.world.rank])

    def average_gradient(self) -> bool:
        """Mean of the gradient over the finite ranks of the population, in place; collective over it.

        Returns False if no rank of the population had a finite gradient: the mean is then zero, and the step must be skipped.
        The result is the same on all ranks of the population.
        """
        self.model.collect_gradient()
        return finite_mean_(self.topology.gradients, self.model.gradient_and_flag, "gradient") > 0

    def shard(self, n: int) -> range:
        """Indices of this worker's shard of n training examples: every N-th, the same number on every rank."""
        world = self.topology.world
        return range(world.rank, n // world.size * world.size, world.size)

    def share_of(self, batch_size: int) -> int:
        """This worker's number of examples of a global batch, at least one."""
        return max(1, batch_size // self.topology.world.size)

    def rate_at(self, rounds_done: float) -> float:
        """This worker's rate for one step; rounds_done = t + fraction of round t that is done."""
        return self.rates.at(self.rate, rounds_done)

    def end_round(self, t: int, fitness: float) -> RoundEnd:
        """End round t: elect, exchange weights, move to the next rate. Collective over the world.

        fitness: of this worker's own weights, larger is better. Raises Diverged, after restoring the weights of the previous
        round, if no worker in the world has both finite weights and a finite fitness.
        """
        end = self.ecosphere.end_round(t, fitness, self.rate)
        self.rate = end.rate
        if end.lost:
            raise Diverged(end.lost)
        return end


def join(
    module: nn.Module,
    populations: str,
    eta0: float,
    rounds: int,
    batch_size: int,
    exchange: str = "average",
    seed: int = 0,
    settings: EoaSettings | None = None,
) -> Membership:
    """Make this process a worker of an ecosphere. Collective over the world.

    populations: as in `--populations`, or `auto`. eta0: base rate for 128 examples behind one averaged gradient. rounds: number
    of `end_round` calls. batch_size: examples per step of all workers together. A module on a GPU is moved to this rank's GPU,
    `model.device`. Raises UsageError for invalid `populations` or `exchange`.
    """
    ranks = world_size()
    names = default_populations(ranks) if populations == "auto" else populations
    specs = parse_populations(names, ranks, "own", tuple(SPECIES), ("own",))
    images_per_gradient = [batch_size * s.workers / ranks for s in specs]
    topology = build_topology(specs)
    on_gpu = any(p.is_cuda for p in module.parameters())
    rates = EcosphereRates(specs, eta0, rounds, images_per_gradient, seed, settings)
    return Membership(topology, module.to(topology.device) if on_gpu else module, rates, Exchange(exchange))
