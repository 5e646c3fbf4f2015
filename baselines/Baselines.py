"""Baselines for the ecosphere and the swarm, on the same harness.

    constant      synchronous SGD at eta0
    cosine        annealed to 0 by a cosine
    step          times 0.2 at 30, 60 and 80 % of the run
    onecycle      from eta0 / 25 up to eta0 at 30 % of the run, then down to eta0 / 250,000
    linear        cosine from k eta0 (k = batch / 128), after one epoch of linear warm-up
    sqrt          cosine from sqrt(k) eta0, likewise
    replay        the rates of an EOA or pbt run, from its folder; comparable at the batch size of one of its populations
    sync          synchronous SGD, by default at a constant rate; --period n: one step with the gradients of n batches
    average       local SGD: every --period steps all workers take the mean of their weights
    post-local    synchronous first, local SGD from --switch on
    diloco        local SGD whose mean moves the model by an outer Nesterov step
    independent   workers without communication; the best one is the run's model
    pbt           population-based training of the rate: the worst workers copy the best ones

SGD stands for any --optimizer. --find-lr is a learning-rate range test: it plots the loss over rising rates and suggests one.

    python baselines/Baselines.py --method cosine --preset smoke
    python baselines/Baselines.py --optimizer schedulefree-adamw --preset smoke
    python baselines/Baselines.py --find-lr --preset smoke
    mpirun --oversubscribe --bind-to none -np 4 python baselines/Baselines.py --method diloco --preset smoke
    python baselines/Baselines.py --replay runs/eoa-sam/RUN --preset cpu
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from common.coupling.synchronous import GradientAccumulation, LocalSteps, SyncSchedule
from common.ecosphere.end_of_round import Ecosphere
from common.ecosphere.exchange import Exchange
from common.ecosphere.rates import REFERENCE_BATCH_SIZE, SHAPES, PopulationBasedRates, RateRule, ReplayedRates, ScheduledRates
from common.errors import UsageError
from common.optim.options import WITH_RATE
from common.optim.registry import has_line_search, is_schedule_free, lr_option, split_name
from common.options import For, PathText, Range, check, flag
from common.parallel import launch
from common.parallel.populations import PopulationSpec
from common.parallel.topology import build_topology, world_size
from common.training.lr_finder import RangeTest
from common.training.options import CommonArgs, headline, make_presets, parse_args
from common.training.replay import read_rates
from common.training.round_ends import CenterEnd, DataParallelEnd, EcosphereEnd, EndOfRound, IndependentEnd
from common.training.run import Run
from common.training.worker import Worker

SCHEDULED = (
    "constant",
    "cosine",
    "step",
    "onecycle",
    "linear",
    "sqrt",
    "replay",
)  # schedules by name; images are distributed anew every round
LOCAL = ("average", "post-local", "diloco")
APART = ("independent", "pbt")
COUPLED = ("sync", *LOCAL, *APART)  # each worker has its own batch and, by default, its own shard
METHODS = (*SCHEDULED, *COUPLED)
STEADY = ("constant", "sync", "independent")  # allow a schedule-free optimizer
SEARCHABLE = (*LOCAL, "independent")  # allow a line search of each worker
PERIODS = {"sync": 1, **dict.fromkeys(LOCAL, 10)}  # defaults
WARMUPS = {"linear": 1.0, "sqrt": 1.0}  # defaults, epochs


@dataclass(frozen=True)
class Args(CommonArgs):
    """Baselines."""

    method: Literal[*METHODS] = "cosine"
    """coupling of the workers, or learning-rate schedule; replay is implied by --replay"""
    replay: PathText = ""
    """folder (or metrics.csv) of an EOA or pbt run whose rates are used, round by round: the mean, or pbt's lineage"""
    period: Annotated[int, For("method", ("sync", *LOCAL))] = 0
    """n: steps between two exchanges of sync, average, post-local and diloco; by default 1 (sync) or 10 (the others)
    (DiLoCo's paper: 500)"""
    schedule: Annotated[Literal[*SHAPES], For("method", ("sync", *LOCAL, "independent")), WITH_RATE] = "constant"
    """learning-rate schedule of methods without their own"""
    warmup: Annotated[float, Range(0), For("method", SCHEDULED[:-1])] = 0.0
    """epochs of linear warm-up from 0; linear and sqrt begin at eta0 instead, by default with one epoch"""
    find_lr: bool = False
    """learning-rate range test only: 200 steps, or --max-steps, from 1e-4 to 100 times the base rate"""
    worker_batch: Annotated[int, Range(1), For("method", COUPLED)] = 128
    """images per step of one worker, unless --batch-size gives those of all workers together"""
    shards: Annotated[Literal["own", "all"], For("method", COUPLED)] = "own"
    """training images of a worker: a shard, fixed for the whole run, or all images in an order of its own (default of pbt)"""
    switch: Annotated[float, Range(0, 1), For("method", ("post-local",))] = 0.5
    """fraction of the steps after which post-local averages weights only every --period steps (paper: when the rate first
    falls)"""
    outer_rate: Annotated[float, Range(above=0, usual="0.7"), For("method", ("diloco",))] = 0.7
    """nu, rate of diloco's outer step (paper: 0.7)"""
    outer_momentum: Annotated[float, Range(0, below=1, usual="0.9"), For("method", ("diloco",))] = 0.9
    """mu, Nesterov momentum of diloco's outer step (paper: 0.9)"""

    def refuse(self, given: set[str]) -> None:
        """Refuse options that do not fit the method. Raises UsageError."""
        if "period" in given and self.period < 1:
            raise UsageError(f"--period {self.period} has to be at least 1")
        self._refuse_line_search()
        self._refuse_schedule(given)
        name = self.optimizer
        if self.method == "pbt" and lr_option(name) != "sgd":
            raise UsageError(
                f"--method pbt copies weights, rate and momentum, but not the moments of {name}: choose sgd or sam"
            )
        if self.method == "sync" and self.period > 1 and split_name(name)[1] == "nesterov":
            raise UsageError(f"--optimizer {name} looks ahead at every batch, sync steps every {self.period}: choose sgd")

    def _refuse_line_search(self) -> None:
        """Refuse a line search if the method sets a rate, or accumulates gradients without their losses."""
        if has_line_search(self.optimizer) and self.method not in SEARCHABLE:
            raise UsageError(
                f"--method {self.method} is for optimizers with a rate, and {self.optimizer} finds its steps by itself: use "
                f"SaLSA/SaLSA.py, or --method {', '.join(SEARCHABLE)}"
            )

    def _refuse_schedule(self, given: set[str]) -> None:
        """Refuse a schedule with a schedule-free optimizer, and in a range test."""
        if self.find_lr:
            if self.method != "constant":
                raise UsageError(f"--find-lr tries rates, --method {self.method} moves them: leave one of them out")
            if lr_option(self.optimizer) == "one":
                raise UsageError(f"--find-lr: {self.optimizer} estimates its rate by itself")
            for name in sorted(given & {"resume", "rounds", "round_steps", "warmup"}):
                raise UsageError(f"{flag(name)} is for training, --find-lr only tries rates: leave it out")
        if is_schedule_free(self.optimizer) and (self.method not in STEADY or self.schedule != "constant"):
            moving = f"--schedule {self.schedule}" if self.method in STEADY else f"--method {self.method}"
            raise UsageError(
                f"{moving}: {self.optimizer} is for a constant rate and weights that no other worker moves: use --method "
                f"{', '.join(STEADY)}"
            )


PRESETS = make_presets(
    Args,
    expect=("10 to 30 seconds", "15 to 20 minutes on 2 quiet cores", "200 epochs of WRN-22-8, for GPUs"),
    smoke={"worker_batch": 16},
    cpu={"batch_size": 128, "worker_batch": 32},  # reference batch size of eta0; EOA has half of 256 in each population
)
COST_OF_RANGE_TEST = {
    "smoke": "seconds",
    "cpu": "about a minute on 2 quiet cores",
    "paper": "200 steps, for GPUs",
}


def main() -> None:
    """Parse, build the topology the method needs, train."""
    args, given = parse_args(PRESETS, __doc__)
    ranks = world_size()
    args = resolve(args, given, ranks)
    method = args.method
    replayed = read_rates(Path(args.replay), args.rounds) if method == "replay" else ()
    apart = method in APART
    specs = [PopulationSpec(method, 1 if apart else ranks, args.optimizer)] * (ranks if apart else 1)
    topology = build_topology(specs, "population" if method in SCHEDULED else "worker")
    title = headline(f"Baseline {method}", args.preset, PRESETS.expect)
    if args.find_lr:
        title = headline("Learning-rate range test", args.preset, COST_OF_RANGE_TEST)
    shards = "drawn" if method in SCHEDULED else args.shards
    run = Run("baselines", method, args, given, topology, [title], ranks, shards)
    if args.find_lr:
        RangeTest(run).go()
        return
    start(run, args, rate_rule(args, run, *replayed))
    with run:
        for t in run.rounds():
            run.train(t)  # Horovod: all-reduce over all ranks, every step, or of weights every `period` steps
            result = run.evaluate(t)  # for the record only, except with independent and pbt
            run.close(t, run.end_round(t, result))


def resolve(args: Args, given: set[str], ranks: int) -> Args:
    """The arguments with the method's defaults filled in, checked. Raises UsageError."""
    if args.replay:
        if "method" in given and args.method != "replay":
            raise UsageError(f"--replay and --method {args.method} exclude each other: leave one of them out")
        args = replace(args, method="replay")
    elif args.method == "replay":
        raise UsageError("--method replay needs --replay RUN: the folder of an EOA or pbt run")
    if (is_schedule_free(args.optimizer) or args.find_lr) and "method" not in given:
        args = replace(args, method="constant")
    method = args.method
    own: dict[str, Any] = {"warmup": WARMUPS.get(method, 0.0)}
    if method in COUPLED:
        own = {"batch_size": args.worker_batch * ranks, "period": PERIODS.get(method, 0)}
        own |= {"optimizer": "adamw" if method == "diloco" else "sgd", "shards": "all" if method == "pbt" else "own"}
    args = replace(args, **{name: value for name, value in own.items() if name not in given})
    check(args, given)
    return args


def start(run: Run, args: Args, rates: RateRule) -> None:
    """Build the worker and its end of round, and open the record."""
    model = run.build_model()
    x, group = model.parameters.data, run.topology.population
    config = {"replayed_rates": rates.rates if isinstance(rates, ReplayedRates) else []}
    if args.method in LOCAL:
        outer = (args.outer_rate, args.outer_momentum) if args.method == "diloco" else None
        local = LocalSteps(x, group, sync_schedule(args, run).due, outer)
        worker = run.build_worker(model, rates, local)
        center = CenterEnd(worker, lambda: local.centre, run.evaluator, run.data.fitness)
        run.start(worker, center, center, config=config)
        return
    gathered = GradientAccumulation(x, group, sync_schedule(args, run).due) if args.method == "sync" else None
    worker = run.build_worker(model, rates, gathered)
    run.start(worker, end_of_round(run, args, worker), config=config)


def end_of_round(run: Run, args: Args, worker: Worker) -> EndOfRound:
    """The end of a round of the method: data-parallel, independent or pbt."""
    match args.method:
        case "independent":
            ecosphere = Ecosphere(run.topology, worker.model.state, worker.rates, Exchange("none"))
            return IndependentEnd(worker, ecosphere, run.evaluator, run.data, args.rounds)
        case "pbt":  # momentum is copied together with weights and rate
            exchange, momentum = Exchange("exploit"), worker.optimizer.momentum
            return EcosphereEnd(worker, Ecosphere(run.topology, worker.model.state, worker.rates, exchange, momentum))
    return DataParallelEnd(worker)


def sync_schedule(args: Args, run: Run) -> SyncSchedule:
    """When workers synchronise, over all steps of the run."""
    steps = args.rounds * run.plan.steps
    steps = min(steps, args.max_steps or steps)
    return SyncSchedule(args.period, steps, round(args.switch * steps) if args.method == "post-local" else 0)


def rate_rule(args: Args, run: Run, replayed: Sequence[float] = (), warmed: bool = True) -> RateRule:
    """The learning rates of one method for this world and batch. warmed: whether the replayed run had a warm-up."""
    ranks, eta0, rounds = run.topology.world.size, args.learning_rate, args.rounds
    epoch = run.epoch_steps / run.plan.steps  # a warm-up is one epoch, counted in rounds
    k = run.plan.batch_size / REFERENCE_BATCH_SIZE
    match args.method:
        case "replay":
            return ReplayedRates(list(replayed), eta0, ranks, epoch if warmed else 0.0)
        case "pbt":
            return PopulationBasedRates(run.topology.sizes, eta0, args.seed)
        case "linear" | "sqrt":
            scale = k if args.method == "linear" else math.sqrt(k)
            return ScheduledRates(SHAPES["cosine"], scale * eta0, eta0, ranks, rounds, args.warmup * epoch)
    shape = SHAPES[args.method if args.method in SHAPES else args.schedule]
    return ScheduledRates(shape, eta0, 0.0, ranks, rounds, args.warmup * epoch)


if __name__ == "__main__":
    launch.run(main)
