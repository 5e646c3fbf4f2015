"""Hyper-parameter search over MPI: every rank trains, rank 0 also assigns the trials.

grid, random      all settings are distributed evenly at the start
evolution         (mu + mu), generation by generation, as in the reference project
async-evolution   steady state: no rank waits for a generation
tpe               Optuna's tree-structured Parzen estimator, under the same coordinator

python DHPO/DHPO.py --preset smoke
mpirun --oversubscribe --bind-to none -np 2 python DHPO/DHPO.py --strategy evolution --preset smoke
mpirun --oversubscribe --bind-to none -np 4 python DHPO/DHPO.py --objective eoa --ranks-per-trial 2 --preset smoke
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch

from common.data.dataset import open_data
from common.ecosphere.rates import SHAPES
from common.errors import UsageError
from common.evaluate import evaluate
from common.models import model_title
from common.options import For, PathText, Range, check, flag
from common.parallel import launch, machine
from common.parallel.populations import PopulationSpec
from common.parallel.topology import Topology, build_topology, split_world, world_size
from common.search.checks import check_searchable, check_training
from common.search.coordinator import Coordinator
from common.search.journal import Journal
from common.search.objective import Training, Trials
from common.search.pruning import Halving, Median, Pruner
from common.search.report import check_same_search, command_of, totals, write_trials
from common.search.search import Limits, Search
from common.search.space import Space, read_space
from common.search.steady_state import Order, Steady
from common.search.strategies import Evolution, Grid, Random, Strategy
from common.search.trial import ENDED, State, Trial
from common.search.worker import run
from common.training.options import CommonArgs, headline, make_presets, parse_args, resolve_precision
from common.training.provenance import all_reduce, commit, environment
from common.training.record import choose_directory, write_json, write_weights

STRATEGIES: dict[str, Callable[["Args", Space, Order], Strategy]] = {
    "grid": lambda args, space, order: Grid(space, args.grid_size),
    "random": lambda args, space, order: Random(space),
    "evolution": lambda args, space, order: Evolution(space, args.population),
    "async-evolution": lambda args, space, order: Steady(space, args.population, order),
    "tpe": lambda args, space, order: import_module("common.search.tpe").Tpe(space, order),  # importing Optuna takes a second
}
ASYNCHRONOUS = ("async-evolution", "tpe")


@dataclass(frozen=True)
class Args(CommonArgs):
    """Search."""

    one_optimizer: ClassVar[bool] = False  # a space may name several

    resume: bool = False
    """continue the search in --out from its journal; the number of ranks may differ"""
    strategy: Literal[*STRATEGIES] = "async-evolution"
    """strategy that proposes settings (published: grid, random, evolution)"""
    space: PathText = "cifar10"
    """search space: a TOML file, or the name of one in DHPO/spaces"""
    trials: Annotated[int, Range(1, 10**5)] = 64
    """settings to try (published: 64)"""
    population: Annotated[int, Range(2, 10**5), For("strategy", ("evolution", "async-evolution"))] = 4
    """mu of both evolutions, and children per generation (published: 4)"""
    grid_size: Annotated[int, Range(1), For("strategy", ("grid",))] = 4
    """grid values of a numeric variable, unless given by the space (published: 4)"""
    order: Literal["lag", "free"] = "lag"
    """trials that a proposal or a pruning decision uses: those --lag before it (lag; results do not depend on timing or on the
    number of ranks), or all that have ended (free)"""
    lag: Annotated[int, Range(1), For("strategy", ASYNCHRONOUS)] = 16
    """W: trial i waits for trials up to i - W and uses these; up to W workers are busy at a time"""
    pruning: Literal["none", "median", "halving"] = "none"
    """stop poor trials early: median rule, or asynchronous successive halving"""
    reduction: Annotated[int, Range(2), For("pruning", ("halving",))] = 4
    """one trial in this many continues at each rung of --pruning halving"""
    time_budget: Annotated[float, Range(0)] = 0.0
    """seconds after which no trial is started; 0 for no limit"""
    target: Annotated[float, Range(0, 1)] = 0.0
    """accuracy (a fraction) after which no trial is started; 0 for none"""
    retries: Annotated[int, Range(0)] = 1
    """retries of a trial that raised an error"""
    trial_seeds: Literal["common", "own"] = "common"
    """seeds of trials: --seed for all (common), so that only settings differ, or one per trial (own) (published: common)"""
    ranks_per_trial: int = 1
    """ranks that train one trial together"""
    threads: Annotated[int, Range(1, 1024)] = 1
    """threads of a rank; for networks this small more are slower, and another number rounds differently"""
    objective: Literal["train", "eoa"] = "train"
    """objective of a trial: training as in baselines/, or an ecosphere (EOA) of its ranks"""
    schedule: Annotated[Literal[*SHAPES], For("objective", ("train",))] = "cosine"
    """learning-rate schedule of --objective train (published: constant)"""
    populations: Annotated[str, For("objective", ("eoa",))] = "auto"
    """populations of --objective eoa, as in EOA-SAM"""


OWN: dict[str, Any] = {"optimizer": "sgd", "fitness_images": 0, "precision": "float32"}  # for small networks
PUBLISHED = {"schedule": "constant", "label_smoothing": 0.0, "weight_decay": 0.0}
PRESETS = make_presets(
    Args,
    expect=(
        "10 to 20 seconds",
        "64 trials of 2 epochs of 10,000 images, minutes on 2 quiet cores",
        "64 epochs of MNIST on 906 parameters, minutes on 2 quiet cores",
    ),
    smoke={**OWN, "space": "digits", "rounds": 3, "trials": 12, "lag": 4},
    cpu={**OWN, "space": "cifar10", "model": "cnn", "width": 2, "train_images": 10000, "rounds": 2, "batch_size": 128},
    paper={
        **{**OWN, **PUBLISHED, "space": "mnist", "dataset": "mnist", "model": "dhpo-cnn", "width": 1, "crop": 28},
        **{"rounds": 1, "batch_size": 128},
    },
)


def main() -> None:
    """Parse, read the data once, search, and retrain the best setting to evaluate it on the test images."""
    args, given = parse_args(PRESETS, __doc__)
    ranks = world_size()
    space = read_checked_space(args, given, ranks)
    topology = build_topology([PopulationSpec("search", ranks, args.optimizer)], "worker", horovod=False)
    trial = trial_topology(trials_of(args), topology)
    torch.set_num_threads(args.threads)
    directory = choose_directory(args.out, "dhpo", args.dataset, args.seed, args.resume, topology)
    training = build_objective(args, topology, trial)
    with topology.world.raise_together():
        check_training(space, training.trials, training.data)
    start_record(directory, args, space, training, topology)
    for line in (headline(f"Search by {args.strategy}", args.preset, PRESETS.expect), *training.data.source.notes):
        launch.say(line)
    setup = machine.seconds_since_start()

    workers = ranks // args.ranks_per_trial
    search = run(training, lambda: coordinator(args, space, workers, directory), topology.world.comm, trial.world)

    if search:
        write_trials(directory / "trials.csv", space, search.trials, training.trials.seed_of)
    best = topology.world.bcast_object(search and search.best)
    if best is None:
        launch.leave(1, f"no trial has reached a value; the errors are in {directory / 'trials.csv'}")
    if topology.world.rank < args.ranks_per_trial:  # the ranks of worker 0; the others are done
        finish(args, space, training, search, best, directory, setup)
    topology.world.sleeping_barrier()


def build_objective(args: Args, topology: Topology, trial: Topology) -> Training:
    """The data, the same on all ranks, and the objective of a trial. Collective over the world."""
    data = open_data(args, topology, args.seed)
    args = replace(args, precision=topology.world.bcast_object(resolve_precision(args.precision, topology.device.type)))
    return Training(trials_of(args), trial, data)


def start_record(directory: Path, args: Args, space: Space, training: Training, topology: Topology) -> None:
    """Write config.json and environment.json; a resumed search must match the recorded one. Collective."""
    named = {"experiment": "dhpo", "method": args.strategy, "space": space.as_dict(), "space_name": args.space}
    config = {**vars(args), "precision": training.precision, **named}
    with topology.world.raise_together():
        if topology.world.rank == 0:
            check_same_search(directory, config)
            about = {**environment(topology), "all_reduce": all_reduce(training.topology), "threads_per_rank": args.threads}
            directory.mkdir(parents=True, exist_ok=True)
            write_json(directory / "environment.json", about)
            write_json(directory / "config.json", config)


def finish(
    args: Args, space: Space, training: Training, search: Search | None, best: Trial, directory: Path, setup: float
) -> None:
    """Retrain the best setting, evaluate it on the test images, write the record. Collective over the ranks of a trial.

    Weights are not kept during a search, which may be killed and resumed. Retraining also shows whether the value is
    reproducible.
    """
    began = time.perf_counter()
    winner = training.train(best.setting, training.trials.seed_of(best.id))
    module, data, precision, group = winner.model.module, training.data, training.precision, training.topology.world
    validation = evaluate(module, data.validation, precision, group)
    test = evaluate(module, data.test, precision, group)  # the only use of the test images
    if search is None:
        return
    from common.search.figures import write_figures  # seconds to import, and only rank 0 needs them
    from common.search.importance import importance

    shares = importance(space, search.trials, args.seed)
    settled = settings_of(training, best)
    command = command_of(settled, best.setting, args.schedule, args.ranks_per_trial, args.threads)
    about = {"id": best.id, "value": best.value, "setting": best.setting, "seed": settled.seed, "command": command}
    summary = {
        "experiment": "dhpo",
        "method": args.strategy,
        "dataset": args.dataset,
        "seed": args.seed,
        "model": model_title(settled.model, settled.depth, settled.width),
        "parameters": winner.model.parameters.numel(),
        **totals(search),
        "ranks": group.size * search.workers,
        "ranks_per_trial": group.size,
        "best": about,
        "reproduced": winner.value == best.value,
        "importance": shares,
        "validation_accuracy": validation.accuracy,
        "validation_loss": validation.loss,
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "seconds": {"setup": setup, "search": search.now, "winner": time.perf_counter() - began},
        "weights_sha256": winner.model.sha256(),
        "commit": commit(),
    }
    title = f"{args.strategy}, {data.source.title}, {workers_of(args, search.workers)}"
    write_weights(directory, module)
    write_figures(directory / "figures", search, space, title)
    write_json(directory / "best.json", about)
    write_json(directory / "summary.json", summary)
    if reason := why(search):
        print(f"no more trials: {reason}", flush=True)
    say_end(summary, directory)


def trials_of(args: Args) -> Trials:
    """What all trials share."""
    own_seeds = args.trial_seeds == "own"
    return Trials(args, args.objective, args.schedule, args.populations, args.ranks_per_trial, own_seeds)


def settings_of(training: Training, trial: Trial) -> CommonArgs:
    """The options of a trial, with its batch size rounded to divide by the ranks."""
    args = training.trials.options(trial.setting, training.trials.seed_of(trial.id))
    return replace(args, batch_size=training.trials.sizes(args, len(training.data.train))[0])


def read_checked_space(args: Args, given: set[str], ranks: int) -> Space:
    """Check all options and read the search space. Raises UsageError."""
    check(args, given)
    if args.ranks_per_trial < 1 or ranks % args.ranks_per_trial:
        size = args.ranks_per_trial
        raise UsageError(
            f"--ranks-per-trial {size} does not divide the {ranks} ranks: start as many as it divides, or leave it out"
        )
    if "max_steps" in given:
        raise UsageError("--max-steps is of a single run: trials are as long as --rounds and --round-steps say")
    check_order(args, given)
    path = Path(args.space)
    space = read_space(path if path.suffix else Path(__file__).parent / "spaces" / f"{args.space}.toml")
    if searched := sorted(given.intersection(space.names)):
        raise UsageError(f"{flag(searched[0])} is searched in {args.space}: leave it out, or out of the space")
    if args.pruning != "none" and (args.rounds < 2 or "rounds" in space.names):
        raise UsageError(
            f"--pruning {args.pruning} stops trials between rounds: give all of them the same --rounds, at least 2"
        )
    if args.strategy == "grid":
        space.grid_shape(args.grid_size)  # refuses what is too large to be listed
    check_searchable(space, trials_of(args), given)
    return space


def check_order(args: Args, given: set[str]) -> None:
    """Refuse an --order or --lag without effect. Raises UsageError."""
    if args.order == "free" and "lag" in given:
        raise UsageError("--order free has no lag: leave one of them out")
    if args.strategy not in ASYNCHRONOUS and "order" in given and args.pruning == "none":
        raise UsageError(
            f"--order is for async-evolution and tpe, or for --pruning: {args.strategy} waits for all of a generation"
        )
    if args.strategy in ("grid", "random") and args.pruning != "none" and args.order == "lag":
        raise UsageError(
            f"--pruning {args.pruning} with {args.strategy} can only use the trials that have ended, since all trials are "
            "proposed at once: add --order free, and results depend on timing"
        )


def trial_topology(trials: Trials, topology: Topology) -> Topology:
    """The ranks of one trial as a world of their own; Horovod is started on it if there are several."""
    if trials.ranks == 1:
        return topology.alone()
    return build_topology(trials.specs(trials.options({})), comm=split_world(trials.ranks))


def strategy_of(args: Args, space: Space) -> Strategy:
    """The search strategy."""
    return STRATEGIES[args.strategy](args, space, Order(args.lag if args.order == "lag" else None))


def coordinator(args: Args, space: Space, workers: int, directory: Path) -> Coordinator:
    """The coordinator of the search, rebuilt from its journal; on rank 0."""
    journal = Journal(directory)
    pruners: dict[str, Pruner] = {"median": Median(), "halving": Halving(args.rounds, args.reduction)}
    limits = Limits(args.trials, args.time_budget or math.inf, args.target or math.inf, args.retries)
    pruner, free = pruners.get(args.pruning), args.order == "free"
    search = Search(strategy_of(args, space), limits, workers, args.seed, pruner, free, journal.record)
    journal.recover(search)
    rounds = "" if "rounds" in space.names else f" of {args.rounds} round{'s'[: args.rounds > 1]}"
    print(
        f"{workers_of(args, workers)}, {args.trials} trials{rounds} over {', '.join(space.names)}; record: {directory}",
        flush=True,
    )
    most = {"evolution": args.population, "async-evolution": args.lag, "tpe": args.lag}.get(args.strategy, workers)
    if most < workers and (args.strategy == "evolution" or args.order == "lag"):
        name = "population" if args.strategy == "evolution" else "lag"
        print(f"note: --{name} {most} keeps at most {most} of {workers} workers busy", flush=True)
    if search.trials:
        ended, begun = search.count(*ENDED), search.count(State.RUNNING)
        print(f"resuming after {ended} trials; unfinished trials, to be restarted: {begun}", flush=True)
    elif args.resume:
        print(f"nothing to resume in {directory}: starting", flush=True)
    return Coordinator(search, lambda number: say_trial(search, number))


def workers_of(args: Args, workers: int) -> str:
    """Text of the number of workers and of their ranks."""
    ranks = args.ranks_per_trial
    return f"{workers} worker{'s'[: workers > 1]} of {ranks} rank{'s'[: ranks > 1]}"


def why(search: Search) -> str:
    """Why a search has ended before all its trials, '' if it has not."""
    if search.has_reached_target:
        return f"the target of {search.limits.target:g} is reached"
    if search.now >= search.limits.seconds:
        return f"the {search.limits.seconds:g} s are over"
    return "all settings of the space are tried" if search.exhausted else ""


def say_trial(search: Search, number: int) -> None:
    """Print a line for an ended trial."""
    trial, best = search.trials[number], search.best
    what = f"{trial.value:.4f}" if trial.value is not None else trial.error
    states = {State.COMPLETE: "", State.WAITING: " to be tried again"}
    state = states.get(trial.state, f" {trial.state}")
    so_far = f"best {best.value:.4f} (trial {best.id})" if best else "nothing yet"
    print(
        f"{search.count(*ENDED)}/{search.limits.trials}  trial {number}{state}: {what} | {so_far} | {search.now:.0f} s",
        flush=True,
    )


def say_end(summary: dict[str, Any], directory: Path) -> None:
    """Print the result of the search."""
    best = summary["best"]
    setting = ", ".join(f"{name} {value}" for name, value in best["setting"].items())
    print(
        f"best: trial {best['id']} with {setting}\n"
        f"validation accuracy {100 * summary['validation_accuracy']:.2f} %, test accuracy {100 * summary['test_accuracy']:.2f} "
        f"%; {summary['seconds']['search']:.0f} s, {100 * summary['utilisation']:.0f} % of the workers' time in trials; "
        f"record in {directory}\nto train it again: {best['command']}",
        flush=True,
    )


if __name__ == "__main__":
    launch.run(main)
