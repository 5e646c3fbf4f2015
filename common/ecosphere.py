"""The ecosphere as one object: what a training script talks to.

    ecosphere = Ecosphere(topology, rates, Exchange("average"))
    model = ecosphere.adopt(module)                 # flat buffers, rank 0's weights everywhere
    for t in range(rounds):
        ...backward; ecosphere.average_gradient()   # Horovod: inside the gradient scope
        turn = ecosphere.turn(t, fitness)           # MPI: elect, exchange weights across populations, move rates

`EOASAM.py` and `Baselines.py` are written with it; there is no private interface beside it.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from common import faults
from common.comm import Group, finite_mean_
from common.election import Standings, elect
from common.errors import Diverged
from common.exchange import Exchange
from common.flat import FlatModel
from common.rates import RateRule
from common.topology import Topology


@dataclass(frozen=True)
class Turn:
    """What happened between two rounds.

    standings: everybody's fitness and rates of the round. finite: whether this worker's weights were.
    seconds: this rank's time in elect, exchange and move, waiting included.
    """

    standings: Standings
    finite: bool
    seconds: float


class Ecosphere:
    """This worker's membership: its learning rate, and the three things it does together with others.

    Attributes:
        rate: this worker's learning rate in the present round; `rate_at` gives that of one step.
    """

    def __init__(self, topology: Topology, rates: RateRule, exchange: Exchange) -> None:
        self.topology, self.rates, self.exchange = topology, rates, exchange
        self.rate = float(rates.start[topology.world.rank])
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

    def rate_at(self, rounds_done: float) -> float:
        """This worker's rate for one step; rounds_done = t + fraction of round t that is done."""
        return self.rates.at(self.rate, rounds_done)

    def turn(self, t: int, fitness: float) -> Turn:
        """End round t: elect, exchange weights, move to the next rate. Collective over the world.

        fitness: larger is better, of this worker's own weights. Raises Diverged, with the last finite weights put back,
        where no worker in the world holds finite weights and a finite fitness.
        """
        began = time.perf_counter()
        rank = self.topology.world.rank
        finite = self.model.is_finite() and bool(np.isfinite(fitness))
        faults.trip("elect", rank, t)
        standings = elect(self.topology.world, fitness if finite else -np.inf, self.rate, self.topology.sizes)
        if not any(standings.alive):
            self._put_back()
            raise Diverged(
                f"no worker has finite weights after round {t + 1}; the last finite weights are kept. Try a lower rate"
            )
        faults.trip("exchange", rank, t)
        if not finite:
            self.model.state.detach().fill_(torch.nan)  # a finite state with a NaN fitness stays out of the merge as well
        self.exchange.run(self.topology, self.model, standings, finite)
        self._remember()
        faults.trip("move", rank, t)
        moved = self.rates.next(t, standings, self.topology.index)
        self.rate = float(moved[self.topology.population.rank])
        return Turn(standings, finite, time.perf_counter() - began)

    def final_population(self, standings: Standings) -> int:
        """The population whose weights are the run's model: the leader's (all hold the same after `average` and `best`)."""
        return standings.best_population

    def restore(self, state: torch.Tensor, rate: float) -> None:
        """Go back to saved weights (shape of `model.state`) and rate."""
        self.model.state.detach().copy_(state)
        self.rate = rate
        self._remember()

    def _remember(self) -> None:
        assert self._last_finite is not None, "adopt(module) comes first"
        self._last_finite.copy_(self.model.state.detach())

    def _put_back(self) -> None:
        assert self._last_finite is not None, "adopt(module) comes first"
        self.model.state.detach().copy_(self._last_finite)
