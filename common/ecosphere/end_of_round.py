"""The end of a round of EOA: elect, exchange weights across populations, move the learning rates.

Training scripts use it through `common.training.round_ends.EcosphereEnd`, your own scripts through
`common.ecosphere.membership.join`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.ecosphere.exchange import Exchange
from common.ecosphere.rates import RateRule
from common.ecosphere.standings import Standings
from common.parallel import faults
from common.parallel.comm import Group
from common.parallel.topology import Topology


def elect(world: Group, fitness: float, rate: float, sizes: list[int]) -> Standings:
    """Fitness and rates of all workers: one all-gather over the world, two float64 per worker. sizes: of the populations.

    fitness: this worker's; -inf if and only if its weights are not finite.
    """
    table = world.gather_rows(np.array([fitness, rate]))
    return Standings(fitness=table[:, 0], rates=table[:, 1], sizes=sizes)


@dataclass(frozen=True)
class RoundEnd:
    """Result of the end of a round.

    standings: fitness and rates of all workers in the round. finite: whether this worker's weights were finite. rate: this
    worker's learning rate in the next round. lost: message where no worker has finite weights and the rate rule has no rates to
    continue with, else ""; the weights of the previous round are then restored. seconds: this rank's time in elect, exchange
    and move, including waiting.
    """

    standings: Standings
    finite: bool
    rate: float
    lost: str
    seconds: float


class Ecosphere:
    """Ends rounds for one worker. Every method is collective over the world.

    state: weights and floating buffers, shape (P + B,), float32, finite; changed in place. rates: the rate rule. exchange: the
    policy across populations. carried_state: returns tensors that travel with the weights (momentum under foraging).
    """

    def __init__(
        self,
        topology: Topology,
        state: Tensor,
        rates: RateRule,
        exchange: Exchange,
        carried_state: Callable[[], list[Tensor]] = list,
    ) -> None:
        self.topology, self.state, self.rates, self.exchange = topology, state.detach(), rates, exchange
        self.carried_state = carried_state
        self._last_finite = self.state.clone()

    def end_round(self, t: int, fitness: float, rate: float) -> RoundEnd:
        """End round t: elect, exchange weights (and `carried_state`), move to the next rate.

        fitness: of this worker's own weights, larger is better. rate: this worker's learning rate in round t. If no worker in
        the world has both finite weights and a finite fitness, the weights of the previous round are restored.
        """
        began = time.perf_counter()
        rank, place = self.topology.world.rank, self.topology.population.rank
        finite = bool(torch.isfinite(self.state).all()) and bool(np.isfinite(fitness))
        faults.trip("elect", rank, t)
        standings = elect(self.topology.world, fitness if finite else -np.inf, rate, self.topology.sizes)
        if self.rates.is_trial(t) or not any(standings.alive):
            self.state.copy_(self._last_finite)
            rolled_back = self.rates.rollback_rates(t, standings, self.topology.index)
            following, lost = rate, ""
            if rolled_back is None:
                lost = f"no worker has finite weights after round {t + 1}; the last finite weights are kept; try lower rates"
            else:
                following = float(rolled_back[place])
            return RoundEnd(standings, False, following, lost, time.perf_counter() - began)
        faults.trip("exchange", rank, t)
        if not finite:
            self.state.fill_(torch.nan)  # a finite state with a NaN fitness is excluded from the merge as well
        self._trade(standings, finite)
        self.remember()
        faults.trip("move", rank, t)
        rates = self.rates.next(t, standings, self.topology.index)
        return RoundEnd(standings, finite, float(rates[place]), "", time.perf_counter() - began)

    def remember(self) -> None:
        """Save the current weights, which are finite, as the ones to roll back to."""
        self._last_finite.copy_(self.state)

    def _trade(self, standings: Standings, finite: bool) -> None:
        """Exchange weights and carried state as one buffer."""
        carried = self.carried_state()
        # Only the weights decide whether a worker is lost: non-finite carried values count as zero.
        together = torch.cat([self.state, *(torch.nan_to_num(c, 0.0, 0.0, 0.0) for c in carried)])
        self.exchange.run(self.topology, together, standings, finite)
        parts = [self.state, *carried]
        for part, new in zip(parts, together.split([len(p) for p in parts]), strict=True):
            part.copy_(new)
