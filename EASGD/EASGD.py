"""Elastic averaging SGD, its family and its comparators (Zhang, Choromanska and LeCun, NeurIPS 2015).

Every worker trains its own weights on all images (--shards own: on a shard). Every tau steps it exchanges with the center
variable (the centre). The centre is evaluated.

    together        easgd (Jacobi), easgd-gs (Gauss-Seidel): synchronous, by an all-reduce over the workers (Horovod)
    with a server   aeasgd, eamsgd, downpour, mdownpour, adownpour, mvadownpour, admm: asynchronous; the first rank
                    (--servers S: the first S) keeps the centre and trains nothing
    alone           sgd, msgd, asgd, mvasgd: sequential; rank 0 trains, other ranks wait

For example:

    mpirun --oversubscribe --bind-to none -np 5 python EASGD/EASGD.py --method aeasgd --preset smoke
    horovodrun -np 4 python EASGD/EASGD.py --method easgd --period 4
    python EASGD/EASGD.py --method msgd --preset smoke
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from common.coupling.elastic import (
    Admm,
    CenterVariable,
    Centre,
    Downpour,
    Elastic,
    MomentumCenter,
    MomentumDownpour,
    NoSync,
)
from common.coupling.server import ServedCenter, WindowCenter, slices_of
from common.coupling.synchronous import couple
from common.ecosphere.rates import RateRule, ScheduledRates
from common.errors import UsageError
from common.models.flat import FlatModel
from common.optim.options import WITH_RATE, refuse_averages
from common.optim.protocols import Coupling
from common.options import For, Range, check
from common.parallel import launch
from common.parallel.populations import PopulationSpec
from common.parallel.topology import build_topology, world_size
from common.training.options import CommonArgs, headline, make_presets, parse_args
from common.training.round_ends import CenterEnd
from common.training.run import Run
from common.training.served_run import ServedEnd, ServedRun

TOGETHER = ("easgd", "easgd-gs")
SERVED = ("aeasgd", "eamsgd", "downpour", "mdownpour", "adownpour", "mvadownpour", "admm")
ALONE = ("sgd", "msgd", "asgd", "mvasgd")
METHODS = (*TOGETHER, *SERVED, *ALONE)
WITH_MOMENTUM = ("eamsgd", "mdownpour", "msgd")
AVERAGED = {"adownpour": 0.0, "asgd": 0.0}  # plain mean of the centre's past; the other averages use --average-rate
MOVING = ("mvadownpour", "mvasgd")
PULLED = (*TOGETHER, "aeasgd", "eamsgd", "admm")
NOT_MDOWNPOUR = tuple(m for m in METHODS if m != "mdownpour")  # its master steps, at a constant rate
# Default learning rates. paper: of its figures 8 and 9, else the middle one of those tried. cpu: by
# validation accuracy at periods 4 and 16 for aeasgd, eamsgd, downpour and mvadownpour (periods.md), else by analogy.
SLOW, SLOWEST = ("downpour", "adownpour", "mvadownpour"), ("mdownpour",)
RATES = {
    "smoke": {},
    "cpu": {
        **dict.fromkeys((*TOGETHER, "aeasgd", "admm", "sgd", "asgd", "mvasgd"), 0.1),
        **{"eamsgd": 0.0025, "msgd": 0.0025, **dict.fromkeys(SLOW, 0.02), **dict.fromkeys(SLOWEST, 0.0005)},
    },
    "paper": {
        **dict.fromkeys((*TOGETHER, "aeasgd", "eamsgd", "admm", "sgd", "asgd", "mvasgd"), 0.01),
        **{"msgd": 5e-4, **dict.fromkeys(SLOW, 1e-3), **dict.fromkeys(SLOWEST, 1e-5)},
    },
}


@dataclass(frozen=True)
class Args(CommonArgs):
    """Elastic averaging."""

    method: Literal[*METHODS] = "aeasgd"
    """optimization method, which couples the workers"""
    learning_rate: Annotated[float, Range(above=0)] = 0.05
    """eta of a worker, unscaled; the default is the method's own, not the value shown, except in preset smoke"""
    momentum_factor: Annotated[float, Range(0, below=1)] = 0.99
    """delta of eamsgd, msgd and mdownpour (paper: 0.99); default 0 with the other methods"""
    batch_size: Annotated[int, Range(1)] = 256
    """images per step of all workers together; by default --worker-batch times the workers, not the value shown"""
    period: Annotated[int, Range(1), For("method", (*TOGETHER, *SERVED))] = 10
    """tau: local steps between two exchanges of a worker (paper: 1 to 64; mdownpour: only 1)"""
    beta: Annotated[float, Range(0, usual="0.9"), For("method", PULLED)] = 0.9
    """moving rate of the centre: an exchange moves a worker by beta / workers times its distance (paper: 0.9)"""
    worker_batch: Annotated[int, Range(1)] = 128
    """images per step of one worker, unless --batch-size gives those of all workers together (paper: 128)"""
    variant: Annotated[Literal["printed", "nesterov"], For("method", ("mdownpour",))] = "printed"
    """step of mdownpour's master: as printed in the paper, or standard Nesterov momentum"""
    shards: Annotated[Literal["all", "own"], For("method", (*TOGETHER, *SERVED))] = "all"
    """training images of a worker: all images in an order of its own, or a shard, fixed for the whole run (paper: all)"""
    average_rate: Annotated[float, Range(above=0, most=1), For("method", MOVING)] = 0.001
    """rate of the moving average of mvadownpour and mvasgd (paper: 0.001)"""
    decay: Annotated[float, Range(0), For("method", NOT_MDOWNPOUR), WITH_RATE] = 0.0
    """gamma: the learning rate after t steps of a worker is eta / sqrt(1 + gamma t) (paper: 0, or 1e-4)"""
    servers: Annotated[int, Range(1), For("method", SERVED)] = 1
    """server ranks; each keeps a slice of the centre"""
    server: Annotated[Literal["messages", "rma"], For("method", SERVED)] = "messages"
    """access of workers to the centre: messages to its servers, or one-sided in an RMA window of rank 0"""

    def refuse(self, given: set[str]) -> None:
        """Refuse options that do not fit the method. Raises UsageError."""
        refuse_averages([self.optimizer], "a center variable")
        if "optimizer" in given and self.method in WITH_MOMENTUM:  # these use the paper's
            others = tuple(m for m in METHODS if m not in WITH_MOMENTUM)
            raise UsageError(f"--optimizer {For('method', others).wrong(self)}")
        if "clip_norm" in given and self.method == "mdownpour":
            raise UsageError(f"--clip-norm {For('method', NOT_MDOWNPOUR).wrong(self)}")
        if self.method == "mdownpour" and self.period != 1:
            raise UsageError(f"--method mdownpour exchanges every step: leave --period {self.period} out")
        if self.server == "rma" and (self.method in AVERAGED or self.method in (*MOVING, "mdownpour") or self.servers > 1):
            raise UsageError("--server rma has one window that is only added to: no averages, no momentum, no --servers")


PRESETS = make_presets(
    Args,
    expect=("10 to 40 seconds", "about a minute on 2 quiet cores", "400 epochs of the paper's network, for GPUs"),
    smoke={
        **{"optimizer": "sgd", "worker_batch": 16, "rounds": 15, "width": 2, "learning_rate": 0.05},
        **{"momentum_factor": 0.9, "weight_decay": 1e-4, "average_rate": 0.05},  # a few hundred updates in all
    },
    cpu={
        **{"model": "easgd-cnn", "width": 4, "crop": 28, "pixels": "unit", "train_images": 20000, "rounds": 12},
        **{"optimizer": "sgd", "average_rate": 0.01, "worker_batch": 32},
        **{"learning_rate": 0.05, "momentum_factor": 0.99, "weight_decay": 1e-4, "label_smoothing": 0.0},
    },
    paper={
        **{"model": "easgd-cnn", "width": 8, "crop": 28, "pixels": "unit", "dropout": 0.5, "rounds": 400},
        **{"optimizer": "sgd", "learning_rate": 0.05, "momentum_factor": 0.99, "weight_decay": 1e-4, "label_smoothing": 0.0},
    },
)


def main() -> None:
    """Parse, assign roles to ranks, train."""
    args, given = parse_args(PRESETS, __doc__)
    args = resolve(args, given)
    ranks, method = world_size(), args.method
    if method in ALONE and ranks > 1:
        launch.say(f"{method} is sequential: rank 0 trains, {ranks - 1} other rank(s) wait")
    servers = count_servers(args, ranks)
    topology = build_topology(populations(args, ranks, servers), "worker", horovod=method in TOGETHER)
    title = headline(f"EASGD {method}", args.preset, PRESETS.expect)
    if method in ALONE and ranks > 1:
        if topology.world.rank == 0:
            train_together(Run("easgd", method, batched(args, given, 1), given, topology.alone(), [title], 1, args.shards))
        topology.world.sleeping_barrier()
        return
    workers = ranks - servers
    kind = ServedRun if servers else Run
    run = kind("easgd", method, batched(args, given, workers), given, topology, [title], workers, args.shards)
    if isinstance(run, ServedRun):
        train_with_servers(run)
    else:
        train_together(run)


def resolve(args: Args, given: set[str]) -> Args:
    """The arguments with the method's defaults filled in, checked. Raises UsageError."""
    own: dict[str, Any] = {"learning_rate": RATES[args.preset].get(args.method, args.learning_rate)}
    if args.method in WITH_MOMENTUM and args.method != "mdownpour":
        own["optimizer"] = "nesterov"
    if args.method not in WITH_MOMENTUM:
        own["momentum_factor"] = 0.0
    if args.method == "mdownpour":
        own["period"] = 1
    args = replace(args, **{name: value for name, value in own.items() if name not in given})
    check(args, given)
    return args


def count_servers(args: Args, ranks: int) -> int:
    """Number of servers, the first ranks, which train nothing. Raises UsageError if no worker is left."""
    if args.method not in SERVED:
        return 0
    if ranks == 1:
        if args.servers > 1 or args.server != "messages":
            raise UsageError("on one rank the centre is the worker's own: leave --servers and --server out")
        return 0
    if args.servers >= ranks:
        raise UsageError(f"--servers {args.servers} of {ranks} ranks leave no worker: start more ranks")
    return args.servers


def populations(args: Args, ranks: int, servers: int) -> list[PopulationSpec]:
    """Servers first, then workers."""
    if args.method in ALONE:
        idle = [PopulationSpec("idle", ranks - 1, args.optimizer)] if ranks > 1 else []
        return [PopulationSpec(args.method, 1, args.optimizer), *idle]
    first = PopulationSpec("server", servers, args.optimizer)
    workers = PopulationSpec(args.method, ranks - servers, args.optimizer)
    return [first, workers] if servers else [workers]


def batched(args: Args, given: set[str], workers: int) -> Args:
    """The arguments with the batch size of all workers together."""
    return args if "batch_size" in given else replace(args, batch_size=args.worker_batch * workers)


def make_center(args: Args, centre: Tensor) -> CenterVariable:
    """The center variable, or a slice of it, with the rule and the average of the method."""
    if args.method == "mdownpour":
        return MomentumCenter(centre.clone(), args.learning_rate, args.momentum_factor, args.variant == "nesterov")
    return CenterVariable(centre.clone(), args.average_rate if args.method in MOVING else AVERAGED.get(args.method))


def make_coupling(args: Args, x: Tensor, centre: Centre, workers: int) -> Coupling:
    """A worker's coupling to a separate center variable."""
    alpha = args.beta / workers
    rules: dict[str, Callable[[], Coupling]] = {
        "mdownpour": lambda: MomentumDownpour(centre, args.weight_decay),
        "admm": lambda: Admm(x, centre, alpha, workers, args.period),
        **dict.fromkeys(("aeasgd", "eamsgd"), lambda: Elastic(x, centre, alpha, args.period)),
        **dict.fromkeys(("downpour", "adownpour", "mvadownpour"), lambda: Downpour(x, centre, args.period)),
        **dict.fromkeys(ALONE, lambda: NoSync(x, centre)),
    }
    return rules[args.method]()


def prepare(run: Run) -> tuple[Args, FlatModel, RateRule]:
    """The model, with the same x_0 on all ranks, and the learning rate of every step."""
    args: Args = run.args  # type: ignore[assignment]
    steps = args.rounds * run.plan.steps
    if args.method in (*TOGETHER, *SERVED) and args.period > min(steps, args.max_steps or steps):
        run.note(f"note: --period {args.period} is more than the steps of the run: no exchange after the first one")
    shape = lambda progress: (1 + args.decay * progress * steps) ** -0.5  # noqa: E731
    rates = ScheduledRates(shape, args.learning_rate, args.learning_rate, run.topology.world.size, args.rounds)
    return args, run.build_model(), rates


def train_together(run: Run) -> None:
    """Train synchronous workers, or one worker with the center in its own process."""
    args, model, rates = prepare(run)
    x = model.parameters.data
    center: CenterVariable | None = None
    if args.method in TOGETHER:
        elastic = couple(args.method, x, run.topology.population, args.period, args.beta)
        worker = run.build_worker(model, rates, elastic)
        end = CenterEnd(worker, lambda: elastic.centre, run.evaluator, run.data.fitness)
    else:
        center = make_center(args, x)
        worker = run.build_worker(model, rates, make_coupling(args, x, center, 1))
        end = CenterEnd(worker, lambda: center.evaluated, run.evaluator, run.data.fitness, center)
    run.start(worker, end, end)
    with run:
        for t in run.rounds():
            run.train(t)  # MPI or Horovod: every tau steps one all-reduce of the weights
            result = run.evaluate(t)  # the center
            run.close(t, run.end_round(t, result))


def train_with_servers(run: ServedRun) -> None:
    """Run servers and workers; collective over the world."""
    args, model, rates = prepare(run)
    world, x = run.topology.world, model.parameters.data
    serving = world.rank < run.servers
    window = WindowCenter(world, x) if args.server == "rma" else None
    remote = None if serving else window or ServedCenter(world, len(x), run.servers)
    center, weights = (my_slice(args, x, run, window), None) if serving else (None, x.clone())

    def evaluated() -> Tensor:
        if center:
            return center.evaluated
        remote.pull(weights, evaluated=True)
        return weights

    coupling = make_coupling(args, x, remote, run.workers) if remote else None
    worker = run.build_worker(model, rates, coupling)
    run.start(worker, ServedEnd(worker, evaluated, run.evaluator, run.data.fitness, center))
    if args.method == "admm" and run.first_round:
        restore_admm(run, coupling)
    world.barrier()  # a window must hold the resumed center before workers read it
    with run:
        if remote:
            run.work(remote)
        else:
            run.serve(reports_only=window is not None)
        run.bring_center()
        if window:
            window.free()
        run.check()


def my_slice(args: Args, x: Tensor, run: ServedRun, window: WindowCenter | None) -> CenterVariable:
    """The slice of the center that this server keeps; with a window, all of it."""
    if window:
        return CenterVariable(torch.from_numpy(window.memory))
    return make_center(args, x[slices_of(len(x), run.servers)[run.topology.world.rank]].cpu())


def restore_admm(run: ServedRun, coupling: Coupling | None) -> None:
    """Set a resumed center to the mean of its workers' terms, because center and terms were saved at different moments."""
    world = run.topology.world
    total = torch.zeros(len(run.worker.model.parameters))
    if isinstance(coupling, Admm):
        total.copy_(coupling.term)
    world.sum_(total, "terms").div_(run.workers)
    if run.end.center:
        run.end.center.centre.copy_(total[slices_of(len(total), run.servers)[world.rank]])


if __name__ == "__main__":
    launch.run(main)
