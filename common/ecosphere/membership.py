"""The ecosphere as one object: what a training script talks to.

    ecosphere = Ecosphere(topology, rates, Exchange("average"))
    model = ecosphere.adopt(module)                 # flat buffers, rank 0's weights everywhere
    for t in range(rounds):
        ...backward; ecosphere.average_gradient()   # Horovod: inside the gradient scope
        turn = ecosphere.turn(t, fitness)           # MPI: elect, exchange weights across populations, move rates

`EOASAM.py` and `Baselines.py` are written with it; there is no private interface beside it. `join` puts the first two lines
into one for a script of your own (examples/, docs/extending.md).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from common.ecosphere.election import Standings, elect
from common.ecosphere.exchange import Exchange
from common.ecosphere.rates import EcosphereRates, EoaSettings, RateRule
from common.ecosphere.species import SPECIES
from common.errors import Diverged
from common.models.flat import FlatModel
from common.parallel import faults
from common.parallel.comm import Group, finite_mean_
from common.parallel.populations import default_populations, parse_populations
from common.parallel.topology import Topology, build_topology, world_size


@dataclass(frozen=True)
class Turn:
    """What happened between two rounds.

    standings: everybody's fitness and rates of the round. finite: whether this worker's weights were.
    seconds: this rank's time in elect, exchange and move, waiting included.
    """

    standings: Standings
    finite: bool
    seconds: float


def join(
    module: nn.Module,
    populations: str,
    eta0: float,
    rounds: int,
    batch_size: int,
    exchange: str = "average",
    seed: int = 0,
    settings: EoaSettings | None = None,
) -> "Ecosphere":
    """An ecosphere around a module that has its own training loop and optimizer. Collective over the world.

    populations: as in `--populations`, or `auto`. eta0: base rate, right for 128 examples behind one gradient. rounds: how
    often `turn` will be called. batch_size: examples per step of all workers together. exchange: policy across populations.
    A module on a GPU is moved to the one that is this rank's, `model.device`; one on the CPU stays there.
    `rate` is the rate of the round; `rate_at` warms up during the first. Raises UsageError.
    """
    ranks = world_size()
    names = default_populations(ranks) if populations == "auto" else populations
    specs = parse_populations(names, ranks, "own", tuple(SPECIES), ("own",))
    behind = [batch_size * s.workers / ranks for s in specs]
    ecosphere = Ecosphere(
        build_topology(specs), EcosphereRates(specs, eta0, rounds, behind, seed, settings), Exchange(exchange)
    )
    on_gpu = any(p.is_cuda for p in module.parameters())
    ecosphere.adopt(module.to(ecosphere.topology.device) if on_gpu else module)
    return ecosphere


class Ecosphere:
    """This worker's membership: its learning rate, and the three things it does together with others.

    Attributes:
        rate: this worker's learning rate in the present round; `rate_at` gives that of one step.
        companions: returns tensors that travel with the weights wherever these go (momentum under foraging); by default none.
    """

    def __init__(self, topology: Topology, rates: RateRule, exchange: Exchange) -> None:
        self.topology, self.rates, self.exchange = topology, rates, exchange
        self.rate = float(rates.start[topology.world.rank])
        self.companions: Callable[[], list[torch.Tensor]] = list
        self._last_finite: torch.Tensor | None = None

    def adopt(self, module: nn.Module) -> FlatModel:
        """Move the module into flat buffers and give everybody rank 0's weights. Collective over the world."""
        self.model = FlatModel(module)
        self.topology.world.broadcast_(self.model.state.detach(), root=0)
        self._last_finite = self.model.state.detach().clone()
        return self.model

    def average_gradient(self, group: Group | None = None) -> bool:
        """Mean of the flat gradient over the finite ranks of a group (default: the gradient scope), in place.

        Returns False where no rank of the group had a finite gradient: it is zero then, and the step is to be left out.
        The group's answer is the same on all its ranks. A group of one is an ordinary check of its own gradient.
        """
        self.model.collect_gradient()
        return finite_mean_(group or self.topology.gradients, self.model.gradient_and_flag, "gradient") > 0

    def shard(self, n: int) -> range:
        """Indices of this worker's part of n training examples: every N-th, equally many on every rank."""
        world = self.topology.world
        return range(world.rank, n // world.size * world.size, world.size)

    def share_of(self, batch_size: int) -> int:
        """This worker's part of a global batch, at least one example."""
        return max(1, batch_size // self.topology.world.size)

    def rate_at(self, rounds_done: float) -> float:
        """This worker's rate for one step; rounds_done = t + fraction of round t that is done."""
        return self.rates.at(self.rate, rounds_done)

    def turn(self, t: int, fitness: float) -> Turn:
        """End round t: elect, exchange weights (and `companions`), move to the next rate. Collective over the world.

        fitness: larger is better, of this worker's own weights. Where no worker in the world holds finite weights and a finite
        fitness, the weights of the round before are put back, and unless the rate rule knows lower rates to go on with,
        Diverged is raised.
        """
        began = time.perf_counter()
        rank = self.topology.world.rank
        finite = self.model.is_finite() and bool(np.isfinite(fitness))
        faults.trip("elect", rank, t)
        standings = elect(self.topology.world, fitness if finite else -np.inf, self.rate, self.topology.sizes)
        if self.rates.takes_back(t) or not any(standings.alive):
            self._put_back()
            turn = Turn(standings, False, time.perf_counter() - began)
            retreat = self.rates.retreat(t, standings, self.topology.index)
            if retreat is None:
                lost = f"no worker has finite weights after round {t + 1}; the last finite weights are kept; try lower rates"
                raise Diverged(lost, turn)
            self.rate = float(retreat[self.topology.population.rank])
            return turn
        faults.trip("exchange", rank, t)
        if not finite:
            self.model.state.detach().fill_(torch.nan)  # a finite state with a NaN fitness stays out of the merge as well
        self._trade(standings, finite)
        self._remember()
        faults.trip("move", rank, t)
        moved = self.rates.next(t, standings, self.topology.index)
        self.rate = float(moved[self.topology.population.rank])
        return Turn(standings, finite, time.perf_counter() - began)

    def _trade(self, standings: Standings, finite: bool) -> None:
        """The exchange, on weights and companions as one buffer."""
        state = self.model.state.detach()
        companions = self.companions()
        if not companions:
            self.exchange.run(self.topology, state, standings, finite)
            return
        parts = [state, *(torch.nan_to_num(c, 0.0, 0.0, 0.0) for c in companions)]  # it is the weights that tell who is lost
        together = torch.cat(parts)
        self.exchange.run(self.topology, together, standings, finite)
        for part, new in zip([state, *companions], together.split([len(p) for p in parts]), strict=True):
            part.copy_(new)

    def final_population(self, standings: Standings) -> int:
        """The population whose weights are the run's model: the leader's (all hold the same after `average` and `best`)."""
        return standings.best_population

    def restore(self, state: torch.Tensor, rate: float, rule: dict[str, Any]) -> None:
        """Go back to saved weights (shape of `model.state`), rate, and state of the rate rule."""
        self.model.state.detach().copy_(state)
        self.rate = rate
        self.rates.load_state(rule)
        self._remember()

    def _remember(self) -> None:
        assert self._last_finite is not None, "adopt(module) comes first"
        self._last_finite.copy_(self.model.state.detach())

    def _put_back(self) -> None:
        assert self._last_finite is not None, "adopt(module) comes first"
        self.model.state.detach().copy_(self._last_finite)
