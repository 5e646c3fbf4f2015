"""PSO-PS (our reconstruction), the communication side: workers are the particles of a swarm.

Every n steps of local training all workers synchronise:

    fitness   a loss of each worker's own weights                              no communication
    P         best position of each worker                                     no communication
    G         rank of the best P                                               one MINLOC
              that P, if it is better than G                                   at most one broadcast
    move      velocity, position (`common.coupling.swarm_rules`)               no communication
    buffers   batch-norm statistics are averaged, if the model has any         one small all-reduce

All ranks agree on whether to broadcast: f_G and the result of the MINLOC are the same on all of them.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.coupling import swarm_rules
from common.coupling.swarm_rules import Best, Motion
from common.data.dataset import ImageDataset, Texts
from common.evaluate import Evaluator
from common.models.flat import FlatModel
from common.optim.protocols import Coupling
from common.parallel.comm import Group, Wait
from common.seeding import Purpose, stream

FITNESSES = ("probe", "phase-mean", "last-batch")
EXCHANGES = ("broadcast", "allgather", "delayed")


class Fitness(Protocol):
    """Fitness of a particle: a loss, lower is better."""

    def observe(self, report: Tensor) -> None:
        """Batch report of a step's closure: (summed loss, correct answers, answers). Ignored by default."""
        return

    def measure(self, k: int) -> float:
        """Fitness of the current weights at the end of round k's local phase; +inf or NaN if they are lost."""
        ...

    def restart(self) -> None:
        """This worker's weights have been replaced; by default a no-op."""
        return

    def tensors(self) -> dict[str, Tensor]:
        """State for a checkpoint, restored in place; by default empty."""
        return {}


class Probe(Fitness):
    """Mean loss on `images` training images (at most all), the same on every worker, without augmentation, in evaluation mode.

    Batch-norm statistics are re-estimated, because the layers' own precede the last move. anew: whether images are drawn every
    round instead of once.
    """

    def __init__(self, model: FlatModel, evaluator: Evaluator, images: int, anew: bool = False) -> None:
        self.model, self.evaluator, self.images, self.anew = model, evaluator, images, anew
        self.round, self.pictures = 0, self._draw(0)

    def _draw(self, k: int) -> ImageDataset | Texts:
        train = self.evaluator.train
        rng = stream(self.evaluator.seed, Purpose.PROBE, k)
        indices = rng.choice(len(train), min(self.images, len(train)), replace=False)
        return train.take(torch.from_numpy(indices).to(train.labels.device))

    def measure(self, k: int) -> float:
        """Loss on round k's images; may be called for several positions per round."""
        if self.anew and k != self.round:
            self.round, self.pictures = k, self._draw(k)
        training = self.model.module.training
        (judged,) = self.evaluator.of_weights(self.model, None, [self.pictures], None, t=self.round)
        self.model.module.train(training)
        return judged.loss


class PhaseLoss(Fitness):
    """Training loss on the local batches: mean over the phase's steps, or with `last` of the last one. No extra passes."""

    def __init__(self, last: bool = False) -> None:
        self.last = last
        self.seen = torch.zeros(2, dtype=torch.float64)  # sum of the batches' mean losses, steps

    def observe(self, report: Tensor) -> None:
        """Add one step; the sum stays on the report's device, which avoids a synchronisation."""
        self.seen = self.seen.to(report.device)
        if self.last:
            self.seen.zero_()
        self.seen[0] += report[0] / report[-1]
        self.seen[1] += 1

    def measure(self, k: int) -> float:
        """Loss of the phase; resets the sum."""
        total, steps = self.seen.tolist()
        self.seen.zero_()
        return total / steps if steps else math.inf

    def restart(self) -> None:
        """Discard the losses of the replaced weights."""
        self.seen.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """The phase so far."""
        return {"phase": self.seen}


@dataclass(frozen=True)
class SwarmSettings:
    """Settings of a swarm.

    period: n, local steps between two moves. rounds: K, moves in the whole run. memory: when P and G are replaced
    (`swarm_rules.is_personal_best`). consensus: whether all workers take the new position of the round's best particle.
    reset: whether local momentum is reset after every move. exchange: communication of G: `broadcast`; `allgather` of all P,
    which gives the same G and shows the cost of gathering all weights; or `delayed`, overlapped with the next phase, so that a
    move uses the G of the previous synchronisation.
    """

    motion: Motion
    period: int
    rounds: int
    memory: str = "standard"
    consensus: bool = False
    reset: bool = False
    exchange: str = "broadcast"
    seed: int = 0


class Swarm(Coupling):
    """One worker's particle. Collective over the group: all ranks make the same number of steps, from the same weights.

    state: flat parameters, then floating buffers; changed in place. sizes: lengths of the parameter tensors.

    A worker with a non-finite loss cannot win. One with non-finite weights restarts from G with zero velocity and momentum.

    Attributes:
        velocity: v, shape (N,). personal, best: P and G with their fitness, over the whole state. coming: a pending G,
            its fitness +inf if there is none.
        fitness: F_i of the last synchronisation. counts: synchronisations so far, those with a new G, the rank that G comes
            from, and how often this worker was lost.
    """

    def __init__(self, state: Tensor, sizes: Sequence[int], group: Group, settings: SwarmSettings, measured: Fitness) -> None:
        self.state, self.sizes, self.group, self.settings = state.detach(), list(sizes), group, settings
        self.measured = measured
        self.length = sum(sizes)
        self.buffers = self.state[self.length :]
        self.velocity = torch.zeros_like(self.state[: self.length])
        self.personal, self.best = Best(self.state), Best(self.state)
        self.coming = Best(self.state if settings.exchange == "delayed" else self.state[:0])
        self.wait: Wait | None = None
        self.present = torch.full((1,), math.inf, dtype=torch.float64)
        self.counts = torch.zeros(4, dtype=torch.int64)
        self._seconds = 0.0

    @property
    def fitness(self) -> float:
        """F_i, +inf before the first synchronisation."""
        return self.present.item()

    def measuring_seconds(self) -> float:
        """Seconds spent measuring fitness since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def observe(self, report: Tensor) -> None:
        """(1) The batch losses of the phase."""
        self.measured.observe(report)

    def end(self, t: int, x: Tensor, gradient: Tensor) -> bool:
        """(2) to (9), after the last of n steps."""
        if (t + 1) % self.settings.period:
            return False
        k = (t + 1) // self.settings.period
        winner, lost = self.elect(k)
        if lost:
            self.state.copy_(self.best.place)
            self.velocity.zero_()
            self.counts[3] += 1
        if self.best.fitness < math.inf:
            self._move(k, x, winner)
        if len(self.buffers):
            self.group.sum_(self.buffers, "statistics").div_(self.group.size)
        return lost or self.settings.reset

    def close(self, t: int) -> None:
        """After the run's last step, of t: an incomplete phase is measured too, and its weights may become G."""
        if t % self.settings.period:
            self.elect(t // self.settings.period + 1)
        self._take_coming()

    def elect(self, k: int) -> tuple[int, bool]:
        """(2) to (4); returns the rank with the best P, and whether this worker is lost: its weights are not finite."""
        memory, lost = self.settings.memory, not bool(torch.isfinite(self.state).all())
        self._take_coming()
        began = time.perf_counter()
        fitness = _or_infinite(self.measured.measure(k))
        fitness = math.inf if lost else fitness
        if memory == "reeval" and self.personal.fitness < math.inf:
            self.personal.fitness = self._measure_again(k)
        self._seconds += time.perf_counter() - began
        self.present.fill_(fitness)
        if swarm_rules.is_personal_best(memory, fitness, self.personal.fitness):
            self.personal.take(self.personal.place if lost else self.state, fitness)
        lowest, winner = self.group.minloc(self.personal.fitness)
        gathered = self.group.gather_flat(self.personal.place) if self.settings.exchange == "allgather" else None
        self.counts[0] += 1
        if swarm_rules.is_global_best(memory, lowest, self.best.fitness):
            self._fetch(winner, lowest, gathered)
        elif memory != "standard":
            self.best.fitness = lowest  # no finite fitness on any worker
        return winner, lost

    def _measure_again(self, k: int) -> float:
        """The fitness of P on this round's probe; the worker's weights are left unchanged."""
        present = self.state.clone()
        self.state.copy_(self.personal.place)
        fitness = _or_infinite(self.measured.measure(k))
        self.state.copy_(present)
        return fitness

    def _fetch(self, winner: int, fitness: float, gathered: Tensor | None) -> None:
        """G <- P of the winner, now or at the next synchronisation."""
        best = self.coming if self.settings.exchange == "delayed" else self.best
        if winner == self.group.rank:
            best.place.copy_(self.personal.place)
        if gathered is not None:
            best.place.copy_(gathered[winner])
        elif best is self.coming:
            self.wait = self.group.start_broadcast_(best.place, root=winner)
        else:
            self.group.broadcast_(best.place, root=winner)
        best.fitness = fitness
        self.counts[1] += 1
        self.counts[2] = winner

    def arrive(self) -> None:
        """Wait for a pending broadcast."""
        if self.wait:
            self.wait()
            self.wait = None

    def _take_coming(self) -> None:
        """G <- the pending G, if there is one."""
        self.arrive()
        if self.coming.fitness < math.inf:
            self.best.take(self.coming.place, self.coming.fitness)
            self.coming.fitness = math.inf

    def _move(self, k: int, x: Tensor, winner: int) -> None:
        """(5) to (8)."""
        motion, n = self.settings.motion, self.length
        r1, r2 = self.factors(k)
        limit = swarm_rules.limits(x, motion.v_max, motion.v_max_unit, self.sizes)
        places = self.personal.place[:n], self.best.place[:n]
        swarm_rules.move(x, self.velocity, *places, motion.at(k, self.settings.rounds), r1, r2, limit)
        if self.settings.consensus:
            self.group.broadcast_(x, root=winner)

    def factors(self, k: int) -> tuple[Tensor, Tensor]:
        """r1 and r2 of this worker in round k, on the device of the weights."""
        rng = stream(self.settings.seed, Purpose.SWARM, k, worker=self.group.rank)
        r1, r2 = (swarm_rules.draw(self.settings.motion.rand, self.sizes, rng) for _ in range(2))
        return r1.to(self.state.device), r2.to(self.state.device)

    def distance(self) -> float:
        """||x_i - G||, Euclidean, over the parameters."""
        return (self.state - self.best.place)[: self.length].norm().item()

    def restart(self, x: Tensor) -> None:
        """v <- 0. P stays valid: this worker has visited it."""
        self.velocity.zero_()
        self.measured.restart()

    def tensors(self) -> dict[str, Tensor]:
        """State of the particle, for a checkpoint."""
        self.arrive()  # a checkpoint must hold the complete G
        return {
            "velocity": self.velocity,
            "personal": self.personal.place,
            "personal_fitness": self.personal.value,
            "best": self.best.place,
            "best_fitness": self.best.value,
            "fitness": self.present,
            "counts": self.counts,
            **({"coming": self.coming.place, "coming_fitness": self.coming.value} if len(self.coming.place) else {}),
            **{f"measured.{name}": value for name, value in self.measured.tensors().items()},
        }


def _or_infinite(loss: float) -> float:
    """The loss, +inf if it is not finite: NaN must not win a MINLOC."""
    return loss if math.isfinite(loss) else math.inf
