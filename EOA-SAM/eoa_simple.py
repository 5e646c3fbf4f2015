"""The Ecosphere Optimization Algorithm in one file: grey wolves and whales move the learning rates of data-parallel workers.

    mpirun --oversubscribe --bind-to none -np 4 python EOA-SAM/eoa_simple.py
    python EOA-SAM/eoa_simple.py                # one rank: ordinary training, the base rate is the schedule

Every rank is a worker with a learning rate of its own; the first half of them are grey wolves, the others whales. One round:

    train   gradients are averaged over all workers at every step; each worker steps with its own rate
    elect   the leader is the worker with the best held-out accuracy, among equals the one with the larger rate
    merge   the weights become the mean over all workers
    move    the base rate b follows from the leader's rate, and each population moves its workers' rates around b

Plain PyTorch and mpi4py on scikit-learn's digits, with the rules of the published CIFAR-100 script (`Rules()`); the other
scripts differ in these fields alone. EOASAM.py does the same on Wide ResNets with Horovod, sharpness-aware minimisation, any
populations, lost workers and records; the tests compare its moves with the ones below.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, exp, floor, pi
from random import Random

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

ROUNDS, BATCH, ETA0, SEED = 10, 48, 0.05, 0
Draw = Callable[[], float]  # a number from U(0, 1)


@dataclass(frozen=True)
class Rules:
    """Settings in which the published scripts differ (docs/algorithms.md, "With --reference")."""

    base: str = "blend"  # best, blend or anneal
    damping: str = "relative"  # none, proportional, relative, annealed, fixed or scaled
    signed: bool = True  # D keeps its sign
    absolute_leaders: bool = True  # beta' and delta' are made positive before others follow them
    higher_rank_first: bool = True  # among wolves equal in fitness and rate
    world_prey: bool = False  # an exploring whale's prey is one of the first workers of the world
    fold_prey: bool = False  # and is divided by floor(x_r / b) where it is more than twice b


@dataclass(frozen=True)
class Moment:
    """Round t of T, and the base rate b for the next one."""

    t: int
    rounds: int
    b: float


def base_rate(rule: str, leader: float, start: float, t: int, rounds: int) -> float:
    """b of the next round, from the leader's rate x* and the starting rate k eta0."""
    if rule == "best":
        return leader
    if rule == "blend":
        return (leader + start * (1 + cos(pi * t / rounds)) / 2) / 2
    return 0.0 if t >= rounds - 1 else leader * (1 + cos(pi * (t + 1) / rounds)) / (1 + cos(pi * t / rounds))


def damp(s: float, now: Moment, rules: Rules) -> float:
    """Damping d(s) of a step s = A D."""
    annealed = (1 + cos(pi * (now.t + 1) / now.rounds)) / 2
    return {
        "none": s,
        "proportional": 0.2 * s / 4,
        "relative": s / 4 * now.b * 0.2,
        "annealed": (s + 4) / 8 * annealed,
        "fixed": (s + 4) / 8 * 0.01,
        "scaled": (s + 4) / 8 * 0.01 * now.b,
    }[rules.damping]


def damp_spiral(s: float, now: Moment, rules: Rules) -> float:
    """d(s) for a whale's spiral, whose step lies in another interval."""
    annealed = (1 + cos(pi * (now.t + 1) / now.rounds)) / 2
    own = {"annealed": (s + 1.67) / 4.38 * annealed, "fixed": (s + 1.67) / 4.38 * 0.01, "scaled": s * 0.01 * now.b}
    return own.get(rules.damping, damp(s, now, rules))


def coefficient(now: Moment, draw: Draw) -> float:
    """A = a(t) (2 u - 1); the exploration range a(t) falls from 2 to 0."""
    return (2 - 2 * now.t / now.rounds) * (2 * draw() - 1)


def distance(prey: float, x: float, rules: Rules, draw: Draw) -> float:
    """D(X_p, X) = C X_p - X with C from U(0, 2)."""
    d = 2 * draw() * prey - x
    return d if rules.signed else abs(d)


def wolves(rates: list[float], fitness: list[float], now: Moment, rules: Rules, draw: Draw) -> list[float]:
    """Grey wolves: alpha follows b; beta b and alpha'; delta b, alpha' and beta'; every omega alpha', beta' and delta'."""
    ties = -1 if rules.higher_rank_first else 1
    order = sorted(range(len(rates)), key=lambda i: (-fitness[i], -rates[i], ties * i))
    new, leaders = [0.0] * len(rates), []
    for place, wolf in enumerate(order):
        steps = []
        for guide in [now.b, *leaders] if place < 3 else leaders:
            a = coefficient(now, draw)
            steps.append(guide - damp(a * distance(guide, rates[wolf], rules, draw), now, rules))
        moved = sum(steps) / len(steps)
        new[wolf] = abs(moved)
        if place < 3:
            leaders.append(abs(moved) if place and rules.absolute_leaders else moved)
    return new


def whales(rates: list[float], world: list[float], now: Moment, rules: Rules, draw: Draw) -> list[float]:
    """Whales: a spiral towards b for p >= 1/2, else towards b for |A| < 1, else around a random whale."""
    new = []
    for x in rates:
        p, l, r = draw(), draw(), floor(draw() * len(rates))  # noqa: E741  (the paper's letter)
        a = coefficient(now, draw)
        prey = (world if rules.world_prey else rates)[r] if abs(a) >= 1 else now.b
        step = damp(a * distance(prey, x, rules, draw), now, rules)
        if p >= 0.5:
            gap = now.b - x if rules.signed else abs(now.b - x)
            moved = now.b + damp_spiral(gap * exp(l) * cos(2 * pi * l), now, rules)
        else:
            folded = rules.fold_prey and abs(a) >= 1 and prey > 2 * now.b > 0
            moved = (prey / floor(prey / now.b) if folded else prey) - step
        new.append(abs(moved))
    return new


def starting_rates(ranks: int) -> list[float]:
    """eta0 scaled by the number of workers for wolves, by its square root for whales, plus up to 10 % noise."""
    if ranks == 1:
        return [ETA0]
    scales = [ranks if rank < ranks // 2 else ranks**0.5 for rank in range(ranks)]
    return [scale * ETA0 * (1 + 0.1 * Random(f"start {rank}").random()) for rank, scale in enumerate(scales)]


def next_rates(rates: list[float], fitness: list[float], t: int, rules: Rules) -> list[float]:
    """The rates of all workers for round t + 1; every rank computes the same from the same draws."""
    leader = max(range(len(rates)), key=lambda i: (fitness[i], rates[i], -i))
    now = Moment(t, ROUNDS, base_rate(rules.base, rates[leader], len(rates) * ETA0, t, ROUNDS))
    if len(rates) == 1:
        return [now.b]
    half = len(rates) // 2
    pack = wolves(rates[:half], fitness[:half], now, rules, Random(f"{SEED} {t} wolves").random)
    return pack + whales(rates[half:], rates, now, rules, Random(f"{SEED} {t} whales").random)


def main() -> None:
    """Train, and print the leader of every round on rank 0."""
    os.environ.setdefault("OPAL_PREFIX", sys.prefix)  # where the MPI of the wheel finds its files; its mpirun sets it too
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    rank, ranks = world.Get_rank(), world.Get_size()
    torch.manual_seed(SEED)  # the same weights and the same batches on every rank
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(digits.target)
    held_out, training = slice(0, 300), slice(300, None)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))

    def average_(tensors: list[torch.Tensor]) -> None:
        """Average every tensor over all workers, in place."""
        for tensor in tensors:
            world.Allreduce(MPI.IN_PLACE, tensor.numpy())
            tensor.div_(ranks)

    rates = starting_rates(ranks)
    for t in range(ROUNDS):
        optimizer = torch.optim.SGD(model.parameters(), rates[rank], momentum=0.9)  # momentum restarts every round
        for batch in torch.randperm(len(labels[training])).split(BATCH):
            mine = batch[rank::ranks] if len(batch) >= ranks else batch
            optimizer.zero_grad()
            F.cross_entropy(model(images[training][mine]), labels[training][mine]).backward()
            average_([p.grad for p in model.parameters() if p.grad is not None])
            optimizer.step()
        with torch.no_grad():
            fitness = (model(images[held_out]).argmax(1) == labels[held_out]).float().mean().item()
        everyones = world.allgather(fitness)  # elect
        average_([p.detach() for p in model.parameters()])  # merge
        if rank == 0:
            best = max(range(ranks), key=lambda i: (everyones[i], rates[i], -i))
            kind = "worker" if ranks == 1 else "wolf" if best < ranks // 2 else "whale"
            print(f"round {t + 1:2}  leader {kind} {best}: rate {rates[best]:.4f}, accuracy {everyones[best]:.3f}", flush=True)
        rates = next_rates(rates, everyones, t, Rules())  # move


if __name__ == "__main__":
    main()
