"""Splits communicators, starts Horovod, and assigns devices and threads; nothing else in the project does.

The world communicator is split into one communicator per population, ranks in order. Horovod is started on the communicator
over which gradients are averaged (`scope`): the population or the world.
"""

import os
from bisect import bisect
from dataclasses import dataclass, replace
from types import ModuleType

import torch

from common.errors import UsageError
from common.parallel import environment, launch, machine
from common.parallel.comm import Group, Traffic
from common.parallel.mpi import MPI
from common.parallel.populations import PopulationSpec


@dataclass(frozen=True)
class Topology:
    """Communicators, populations and resources of one worker.

    gradients: communicator over which gradients are averaged: `world`, `population`, or this rank alone. specs: populations,
    in order of their ranks. index: of this worker's population. offsets: world rank of the first worker of each population.
    node: the ranks of this machine. threads: compute threads of this worker. traffic: bytes this rank has sent.
    """

    world: Group
    population: Group
    gradients: Group
    specs: list[PopulationSpec]
    index: int
    offsets: list[int]
    node: Group
    device: torch.device
    threads: int
    traffic: Traffic

    @property
    def spec(self) -> PopulationSpec:
        """Population of this worker."""
        return self.specs[self.index]

    @property
    def sizes(self) -> list[int]:
        """Workers in each population."""
        return [s.workers for s in self.specs]

    def counterpart(self, population: int) -> int:
        """World rank of the worker of another population with this worker's index."""
        return self.offsets[population] + self.population.rank

    def alone(self) -> "Topology":
        """Topology of this rank alone, on the same device."""
        me = Group(MPI.COMM_SELF, Traffic())
        spec = replace(self.spec, workers=1)
        return Topology(me, me, me, [spec], 0, [0], me, self.device, self.threads, me.traffic)


def world_size() -> int:
    """Ranks in this job. Raises UsageError if the launcher started more processes than MPI can see."""
    size, promised = MPI.COMM_WORLD.Get_size(), environment.launcher_size()
    if promised not in (None, size):
        why = environment.foreign_launcher()
        raise UsageError(f"the launcher started {promised} processes, but MPI sees a world of {size}: {why}")
    return size


def build_topology(
    specs: list[PopulationSpec], scope: str = "population", horovod: bool = True, comm: MPI.Comm = MPI.COMM_WORLD
) -> Topology:
    """Split the world into populations and start Horovod on the gradient scope. Collective over all ranks of the job.

    scope: `population`, `world`, or `worker`: every worker steps on its own gradient, and Horovod runs on the population, for
    its weights. With `horovod` false, or without Horovod installed, MPI replaces it. comm: communicator that serves as the
    world, where a job runs several side by side (trials of a search).
    """
    environment.keep_freed_memory()
    rank = comm.Get_rank()
    traffic = Traffic()
    offsets = [sum(s.workers for s in specs[:k]) for k in range(len(specs))]
    index = bisect(offsets, rank) - 1
    population = comm.Split(color=index, key=rank)
    launch.place["population"] = f"{index} ({specs[index].species})"
    node = Group(comm.Split_type(MPI.COMM_TYPE_SHARED), traffic)
    neighbours = node if comm == MPI.COMM_WORLD else Group(MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED), traffic)
    over_world = scope == "world"
    averaging = comm if over_world else population
    engine = start_horovod(averaging) if horovod and averaging.Get_size() > 1 else None
    groups = {
        "world": Group(comm, traffic, engine if over_world else None),
        "population": Group(population, traffic, None if over_world else engine),
        "worker": Group(MPI.COMM_SELF, traffic),
    }
    return Topology(
        world=groups["world"],
        population=groups["population"],
        gradients=groups[scope],
        specs=specs,
        index=index,
        offsets=offsets,
        node=node,
        device=choose_device(neighbours.rank),
        threads=set_threads(neighbours),
        traffic=traffic,
    )


def split_world(size: int) -> MPI.Comm:
    """Split the world into communicators of `size` consecutive ranks; returns this rank's. Collective over the world."""
    rank = MPI.COMM_WORLD.Get_rank()
    return MPI.COMM_WORLD.Split(color=rank // size, key=rank)


def start_horovod(comm: MPI.Comm) -> ModuleType | None:
    """Start Horovod on a communicator; None where it is not installed, with a note from rank 0."""
    try:
        import horovod.torch as hvd
    except ImportError:
        launch.say("note: Horovod is not installed; gradients are averaged by MPI all-reduce")
        return None
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise UsageError(
            "MPI was started for fewer threads than Horovod needs: import package common before mpi4py, or build MPI with "
            "MPI_THREAD_MULTIPLE, or set up without Horovod (scripts/setup.sh --no-horovod)"
        )
    if hvd.is_initialized():
        hvd.shutdown()  # a second init would silently keep the first one's communicator
    hvd.init(comm=comm)
    return hvd


def choose_device(local_rank: int) -> torch.device:
    """One GPU per local rank, round-robin where there are more ranks than GPUs; else the CPU."""
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


def set_threads(node: Group) -> int:
    """Set and return torch's threads of this rank: OMP_NUM_THREADS, else its share of the node's cores, at least one.

    Cores and quotas are gathered from all ranks of the node: a launcher may have bound each rank to its own cores, and a quota
    may hold for all ranks together or for each. Collective over the node. Raises UsageError where OMP_NUM_THREADS is invalid.
    """
    with node.raise_together():
        wanted = machine.threads_wanted(os.environ.get("OMP_NUM_THREADS"))
    visible, quotas = zip(*node.comm.allgather((machine.visible_cores(), machine.quotas())), strict=True)
    threads = wanted or machine.share_of_cores(visible, quotas, node.rank)
    torch.set_num_threads(threads)
    return threads
