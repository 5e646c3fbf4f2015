"""Exchange of weights across populations: transfer schedules (pure), and the `Sendrecv` calls that run them.

A schedule is a list of communication rounds, each a list of transfers between populations. In one such round a population
receives from at most one other and sends to at most one other. Each transfer moves a whole theta_k (parameters and floating
batch-norm buffers), cut into S = min_k m_k slices that ranks 0..S-1 of each population send to the ranks of equal index. After
the last one each population gathers the slices once.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from common.ecosphere.standings import Standings
from common.errors import UsageError
from common.parallel.comm import finite_mean_, host_array
from common.parallel.topology import Topology

POLICIES = ("average", "kin", "best", "migrate", "ring", "exploit", "none")
KIN = 0.05  # kin of the leader: populations whose fitness is within this fraction of the leader's


@dataclass(frozen=True)
class Transfer:
    """Transfer of theta from one population to another, which adds, takes or blends it: theta <- (1 - c) theta + c received."""

    source: int
    target: int
    effect: Literal["add", "replace", "blend"]


Schedule = list[list[Transfer]]


def sum_everywhere(n: int) -> Schedule:
    """All-reduce (sum) over n populations: recursive doubling, folded where n is no power of two.

    log2 n rounds for a power of two, else floor(log2 n) + 2. The order of additions is the same on both sides of a transfer,
    so the sums are bitwise equal on all populations.
    """
    core = 1 << (n.bit_length() - 1)
    extra = range(core, n)
    fold_in = [Transfer(e, e - core, "add") for e in extra]
    doubling = [[Transfer(k, k ^ (1 << bit), "add") for k in range(core)] for bit in range(core.bit_length() - 1)]
    fold_out = [Transfer(e - core, e, "replace") for e in extra]
    return [r for r in [fold_in, *doubling, fold_out] if r]


def copy_everywhere(n: int, root: int) -> Schedule:
    """Broadcast of the root's theta: a binomial tree of ceil(log2 n) rounds."""
    rounds: Schedule = []
    reach = 1
    while reach < n:
        pairs = [(i, i + reach) for i in range(reach) if i + reach < n]
        rounds.append([Transfer((a + root) % n, (b + root) % n, "replace") for a, b in pairs])
        reach *= 2
    return rounds


def schedule(policy: str, standings: Standings) -> Schedule:
    """The transfers of one exchange.

    average, kin: `sum_everywhere` over m_k theta_k, divided by the total weight at the end; with `kin` only populations nearly
    as good as the leader contribute.
    best: `copy_everywhere` from the leader's population. migrate: best population to worst, one round.
    ring: each population to its right neighbour, one round. exploit: the best to the worst (`Standings.copies`), one round.
    none: no transfer.
    Populations without a finite worker take the leader's theta, one per round: before the transfers of `ring`, in place of
    those of `migrate` and `exploit`, and also with `none`.
    """
    n, best = len(standings.sizes), standings.best_population
    if n == 1:
        return []
    rescue = [[Transfer(best, k, "replace")] for k in range(n) if not standings.alive[k]]
    match policy:
        case "average" | "kin":
            return sum_everywhere(n)
        case "best":
            return copy_everywhere(n, best)
        case "migrate":
            return rescue or [[Transfer(best, standings.worst_population, "replace")]]
        case "ring":
            return [*rescue, [Transfer(k, (k + 1) % n, "blend") for k in range(n)]]
        case "exploit":
            return rescue or [[Transfer(source, k, "replace") for k, source in standings.copies.items()]]
    return rescue  # none


def contributions(policy: str, standings: Standings) -> np.ndarray:
    """Weights m_k of the populations in the mean of `average` and `kin`, shape (n,); 0 for excluded ones.

    Populations without a finite worker are excluded, with `kin` also those with a fitness f_k < f* - 0.05 |f*|.
    """
    fitness = standings.fitness[standings.champions]
    counted = np.array(standings.alive)
    if policy == "kin":
        counted &= fitness >= fitness.max() - KIN * abs(fitness.max())
    return np.array(standings.sizes) * counted


def slice_bounds(length: int, slices: int) -> list[tuple[int, int]]:
    """Nearly equal consecutive slices of a buffer: [(start, stop)], `slices` of them."""
    cuts = [length * i // slices for i in range(slices + 1)]
    return list(pairwise(cuts))


@dataclass(frozen=True)
class Exchange:
    """Exchange policy across populations. ring_weight: c of `ring`, in [0, 1]."""

    policy: str = "average"
    ring_weight: float = 0.5

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise UsageError(f"unknown exchange policy '{self.policy}': choose from {', '.join(POLICIES)}")

    @property
    def merges_no_populations(self) -> bool:
        """Whether populations hold different weights afterwards, so that the run's model is the best population's."""
        return self.policy in ("migrate", "ring", "exploit", "none")

    def run(self, topology: Topology, state: Tensor, standings: Standings, finite: bool) -> None:
        """Merge inside every population, then across; all members of a population end with its theta_k in `state`.

        state: weights and floating buffers, contiguous float32, changed in place. finite: whether this worker's state is.
        Collective over the world; at least one worker must be finite.
        """
        plan = schedule(self.policy, standings)
        if self.policy != "best":
            merge_inside(topology, state, finite)
        elif topology.index == standings.best_population:
            topology.population.broadcast_(state, standings.leader - topology.offsets[topology.index])
        if not plan:
            return
        theta = host_array(state)
        mean = self.policy in ("average", "kin")
        if mean:
            weights = contributions(self.policy, standings)
            theta *= np.float32(weights[topology.index])
        self._carry(topology, theta, plan)
        if mean:
            theta /= np.float32(weights.sum())
        if state.device.type != "cpu":
            state.copy_(torch.from_numpy(theta))

    def _carry(self, topology: Topology, theta: np.ndarray, plan: Schedule) -> None:
        """Run the schedule on this rank's slice of theta, then gather the population's slices."""
        bounds = slice_bounds(len(theta), min(topology.sizes))
        if topology.population.rank < len(bounds):
            start, stop = bounds[topology.population.rank]
            piece, received = theta[start:stop], np.empty(stop - start, dtype=np.float32)
            for transfers in plan:
                self._one_round(topology, piece, received, transfers)
        topology.population.gather_slices_(theta, bounds)

    def _one_round(self, topology: Topology, piece: np.ndarray, received: np.ndarray, transfers: list[Transfer]) -> None:
        outgoing = next((t for t in transfers if t.source == topology.index), None)
        incoming = next((t for t in transfers if t.target == topology.index), None)
        topology.world.swap(
            piece,
            received,
            to=topology.counterpart(outgoing.target) if outgoing else None,
            source=topology.counterpart(incoming.source) if incoming else None,
        )
        if incoming is None:
            return
        if incoming.effect == "add":
            piece += received
        elif incoming.effect == "replace":
            piece[:] = received
        else:
            piece *= np.float32(1 - self.ring_weight)
            piece += np.float32(self.ring_weight) * received


def merge_inside(topology: Topology, state: Tensor, finite: bool) -> None:
    """theta_k: the mean of weights and floating buffers over the population's finite workers, in place on all of them.

    Without any the state is all zeros, to be filled from another population.
    """
    if topology.population.size == 1 and finite:
        return
    state_and_flag = torch.cat([state, state.new_zeros(1)])
    finite_mean_(topology.population, state_and_flag, "merge")
    state.copy_(state_and_flag[:-1])
