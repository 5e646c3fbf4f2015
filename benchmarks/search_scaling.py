"""Scaling of a search with its ranks: simulated up to 1024, sleeping trials on this job's, real training on one and two.

    mpirun --oversubscribe --bind-to none -np 4 python benchmarks/search_scaling.py

Costs are log-normal with mean 1 and a given spread (coefficient of variation); S_P is the sum of the costs over the time of P
ranks. Simulated and real ranks use the same `Search`, so sleeping trials, which need no cores, check the simulation. mpi4py's
own pool, whose rank 0 only assigns tasks, runs the same sleeps in the same job. In the real training each rank has one thread,
and ranks that are not measured sleep. Writes results/benchmarks/search_scaling.md.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from mpi4py.futures import MPICommExecutor

from common.data.dataset import open_data
from common.errors import UsageError
from common.options import PathText, read_options
from common.parallel import launch
from common.parallel.comm import Group, Traffic
from common.parallel.mpi import MPI
from common.parallel.populations import PopulationSpec
from common.parallel.topology import build_topology, world_size
from common.search.coordinator import Coordinator
from common.search.objective import Training, Trials
from common.search.search import Limits, Search
from common.search.simulation import Generations, Queue, log_normal, speed_up, utilisation
from common.search.space import Space
from common.search.steady_state import FREE, Order, Steady
from common.search.strategies import Random, Strategy
from common.search.worker import Objective, run
from common.training.options import CommonArgs
from common.training.provenance import commit

RANKS = (1, 2, 4, 8, 16, 64, 1024)
SPREADS = (0.1, 0.5, 1.0)
SPACE = Space.of({"learning_rate": {"kind": "float", "low": 0.01, "high": 1.0, "scale": "log"}})


@dataclass(frozen=True)
class Args:
    """What is measured."""

    trials: int = 256
    """sleeping trials; simulations have as many, or 16 per rank if that is more"""
    milliseconds: float = 100.0
    """mean of a sleep"""
    spread: float = 0.5
    """coefficient of variation of the sleeps"""
    simulations: int = 40
    """draws of all costs per simulated number (4 for 1024 ranks)"""
    trained: int = 48
    """trials of real training, 0 to leave it out"""
    repeats: int = 3
    """measurements of sleeping and of training; the median is reported"""
    dataset: str = "digits"
    """data set of the real training"""
    out: PathText = "results/benchmarks"
    """folder of the table"""


def schemes(ranks: int, trials: int) -> dict[str, Strategy]:
    """The compared schemes on so many ranks, by column name."""
    return {
        "static, all at once": Generations(trials),
        "static, λ = 4": Generations(4),
        "static, λ = 16": Generations(16),
        "static, λ = 4 P": Generations(4 * ranks),
        "asynchronous, W = 2 P": Queue(Order(2 * ranks)),
        "asynchronous, W = 4 P": Queue(Order(4 * ranks)),
        "asynchronous, free": Queue(FREE),
    }


def simulated(args: Args) -> Iterator[str]:
    """Lines of the table of simulated speed-ups."""
    for spread in SPREADS:
        for ranks in RANKS:
            rng = np.random.default_rng([ranks, round(100 * spread)])
            n, repeats = max(args.trials, 16 * ranks), args.simulations if ranks < 1024 else min(args.simulations, 4)
            costs = [log_normal(rng, n, spread) for _ in range(repeats)]
            means = [np.mean([speed_up(scheme, c, ranks) for c in costs]) for scheme in schemes(ranks, n).values()]
            yield f"| {spread:g} | {ranks} | {n} | {' | '.join(f'{m:.2f}' for m in means)} |"


def evaluate(objective: Objective, strategy: Strategy, trials: int, comm: MPI.Comm) -> tuple[float, float]:
    """(seconds, utilisation) of a search on the ranks of a communicator, on its rank 0; collective over it."""
    search = run(objective, lambda: Coordinator(Search(strategy, Limits(trials), comm.Get_size())), comm)
    return (max(t.end or 0.0 for t in search.trials), utilisation(search)) if search else (0.0, 0.0)


def parts_of(world: Group) -> dict[int, MPI.Comm]:
    """Communicators of the first 1, 2, 4, ... ranks, up to all; on other ranks, of the remaining ones. Collective."""
    sizes = [k for k in RANKS if k <= world.size]
    return {k: world.comm.Split(0 if world.rank < k else 1, world.rank) for k in sizes}


def slept(args: Args, world: Group) -> list[str]:
    """Lines of the table of sleeping trials, medians; on rank 0. Collective."""
    costs = args.milliseconds / 1000 * log_normal(np.random.default_rng(0), args.trials, args.spread)
    lines = []
    for ranks, comm in parts_of(world).items():
        compared = schemes(ranks, args.trials) if ranks > 1 else {"any": Queue(FREE)}
        measured: dict[str, list[tuple[float, float]]] = {}
        for repeat, (name, scheme) in itertools.product(range(args.repeats if ranks > 1 else 1), compared.items()):
            launch.say(f"sleeping on {ranks}, {name}, repeat {repeat + 1} of {args.repeats}")
            world.sleeping_barrier()
            if world.rank < ranks:
                found = evaluate(lambda task, report: _sleep(costs[task.id]), scheme, args.trials, comm)
                measured.setdefault(name, []).append(found)
            world.sleeping_barrier()
        for name, values in measured.items():
            seconds, busy = (statistics.median(v) for v in zip(*values, strict=True))
            gained = costs.sum() / max(seconds, 1e-9)
            simulated = speed_up(compared[name], costs, ranks)
            lines.append(f"| {ranks} | {name} | {simulated:.2f} | {gained:.2f} | {100 * busy:.1f} |")
    pooled = statistics.median(_pooled(costs, world) for _ in range(args.repeats))
    expected = speed_up(Queue(FREE), costs, world.size - 1)
    pool = f"| {world.size} | mpi4py.futures, whose first rank only hands out | {expected:.2f} |"
    return [*lines, f"{pool} {costs.sum() / max(pooled, 1e-9):.2f} | |"]


def _pooled(costs: np.ndarray, world: Group) -> float:
    """Seconds of mpi4py's pool; on rank 0, which only assigns tasks. Collective."""
    launch.say("sleeping, mpi4py.futures")
    world.barrier()
    began = time.perf_counter()
    with MPICommExecutor(world.comm, root=0) as pool:
        if pool is not None:
            list(pool.map(_sleep, costs))
    return time.perf_counter() - began


def _sleep(seconds: float) -> float:
    time.sleep(seconds)
    return 0.0


def trained(args: Args, world: Group) -> list[str]:
    """Speed-up of two ranks over one in real training, medians of the same job; lines on rank 0. Collective."""
    options = CommonArgs(
        **{"dataset": args.dataset, "model": "cnn", "width": 4, "rounds": 6, "batch_size": 64, "optimizer": "sgd"},  # type: ignore[arg-type]
        precision="float32",
    )
    topology = build_topology([PopulationSpec("search", world.size, "sgd")], "worker", horovod=False)
    torch.set_num_threads(1)
    data = open_data(replace(options, fitness_images=0), topology, 0)
    training = Training(Trials(options), topology.alone(), data)
    parts = parts_of(world)
    rng = np.random.default_rng(0)
    training.train(SPACE.draw(rng), 0)  # warm

    def halves() -> float:
        """Seconds of half of the trials on each of two independent ranks."""
        began = time.perf_counter()
        for _ in range(args.trained // 2):
            training.train(SPACE.draw(rng), 0)
        Group(parts[2], Traffic()).sleeping_barrier()
        return time.perf_counter() - began

    kinds: dict[str, tuple[int, Callable[[], float]]] = {
        "a search on one rank": (1, lambda: evaluate(training, Random(SPACE), args.trained, parts[1])[0]),
        "one on two ranks, dealt out": (2, lambda: evaluate(training, Random(SPACE), args.trained, parts[2])[0]),
        "one on two ranks, asynchronous": (2, lambda: evaluate(training, Steady(SPACE), args.trained, parts[2])[0]),
        "two ranks with half of the trials each, and no search": (2, halves),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for repeat, (name, (ranks, measure)) in itertools.product(range(args.repeats), kinds.items()):
        launch.say(f"training, {name}, repeat {repeat + 1} of {args.repeats}")
        world.sleeping_barrier(0.1)
        if world.rank < ranks:
            seconds[name].append(measure())
        world.sleeping_barrier(0.1)
    if world.rank != 0:
        return []
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    one = medians["a search on one rank"]
    return [
        f"Real training, {args.trained} trials of a small CNN on {data.source.title}, one thread per rank, medians of "
        f"{args.repeats} in turn; the last line is what the machine gives two ranks at best.",
        "",
        "| | seconds | S_P |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {median:.1f} | {one / median:.2f} |" for name, median in medians.items()),
    ]


def main() -> None:
    """Simulate on rank 0, sleep on all ranks, train on two; print and write the tables."""
    args = read_options(Args, __doc__)
    if world_size() < 2:
        raise UsageError(f"ranks are compared with one, so there have to be at least 2, not {world_size()}: mpirun -np 4")
    world = Group(MPI.COMM_WORLD, Traffic())
    sleeping = slept(args, world)
    training = trained(args, world) if args.trained else []
    if world.rank == 0:
        write(args, world.size, sleeping, list(simulated(args)), training)
    world.sleeping_barrier()


def write(args: Args, ranks: int, sleeping: list[str], simulation: list[str], training: list[str]) -> None:
    """The tables as Markdown."""
    names = " | ".join(schemes(ranks, args.trials))
    text = [
        f"Speed-up S_P of a search, simulated: the sum of all costs over the time, means of {args.simulations} drawings (4 for "
        "1024 ranks) of log-normal costs. Static: all trials, or generations of λ, are dealt out evenly, and a generation "
        "waits for the slowest rank of the one before. Asynchronous: the next trial goes to the next free rank; with a lag "
        "trial i waits for all up to i - W.",
        "",
        f"| spread | P | trials | {names} |",
        f"| ---: | ---: | ---: |{' ---: |' * len(schemes(ranks, args.trials))}",
        *simulation,
        "",
        f"The same on real ranks: {args.trials} sleeps of {args.milliseconds:g} ms on average, spread {args.spread:g}, "
        f"medians of {args.repeats}, and the simulation with the same costs.",
        "",
        "| P | scheme | S_P, simulated | S_P, measured | time in trials, % |",
        "| ---: | --- | ---: | ---: | ---: |",
        *sleeping,
        "",
        *([*training, ""] if training else []),
        f"Made by `mpirun --oversubscribe --bind-to none -np {ranks} python benchmarks/search_scaling.py"
        f"{'' if args.trained else ' --trained 0'}`, commit {commit()}.",
    ]
    print("\n".join(text))
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "search_scaling.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    launch.run(main)
