"""PSO-PS (our reconstruction): weights synchronised as particles of a swarm (after Ye, Han, Sun and Lv, IJCNN 2020).

Every worker trains its own weights on its own images. Every n steps all workers make one particle-swarm move instead of an
average: each moves towards its own best position and the global best position, which is the run's model. Only the paper's
abstract was available: equations, coefficients and settings are ours, and no result here reproduces the paper's.

For example:

    mpirun --oversubscribe --bind-to none -np 4 python PSO-PS/PSOPS.py --preset smoke
    mpirun --oversubscribe --bind-to none -np 4 python PSO-PS/PSOPS.py --dataset mnist --preset cpu --period 20
    mpirun --oversubscribe --bind-to none -np 4 python PSO-PS/PSOPS.py --preset smoke --swarm clerc --rand scalar
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Literal

import numpy as np

from common.coupling.swarm import EXCHANGES, FITNESSES, Fitness, PhaseLoss, Probe, Swarm, SwarmSettings
from common.coupling.swarm_rules import MEMORIES, MOTIONS, RANDS, UNITS, Motion, second_moments
from common.ecosphere.rates import ScheduledRates
from common.errors import UsageError
from common.models.flat import FlatModel
from common.optim.options import refuse_averages
from common.optim.registry import lr_option
from common.options import For, Needs, Range, check
from common.parallel import launch
from common.parallel.populations import PopulationSpec
from common.parallel.topology import build_topology, world_size
from common.training.options import CommonArgs, headline, make_presets, parse_args
from common.training.run import Run
from common.training.swarm_end import SwarmEnd

METHOD = "PSO-PS (our reconstruction)"


@dataclass(frozen=True)
class Args(CommonArgs):
    """Swarm. The paper's values are not known."""

    learning_rate: Annotated[float, Range(above=0)] = 0.1
    """eta of a worker, constant and unscaled"""
    batch_size: Annotated[int, Range(1)] = 256
    """images per step of all workers together; by default --worker-batch times the workers, not the value shown"""
    period: Annotated[int, Range(1)] = 10
    """n: local steps between two moves of the swarm"""
    swarm: Literal[*MOTIONS] = "hull"
    """coefficients of the move: hull (ours; within the hull of x, P and G), clerc (constriction), shi (falling inertia), oz
    (of another method, from a thesis); the next eight options override single coefficients (None: as in --swarm)"""
    inertia: Annotated[float | None, Range(0, 1)] = None
    """w at the start"""
    inertia_end: Annotated[float | None, Range(0, 1)] = None
    """w after the last move, linear in between (with only --inertia given: equal to it)"""
    cognitive: Annotated[float | None, Range(0)] = None
    """c1: pull to the best position of this worker"""
    social: Annotated[float | None, Range(0)] = None
    """c2: pull to the best position of all workers"""
    decay: bool | None = None
    """shrink c1 and c2 by (1 - 1/K)^k at move k of K; --decay True or --decay False"""
    rand: Literal[*RANDS] | None = None
    """r1 and r2 are drawn for every coordinate, for every parameter tensor, or once a move"""
    v_max: Annotated[float | None, Range(0)] = None
    """largest velocity of a coordinate, in units of --v-max-unit; 0 for no limit"""
    v_max_unit: Annotated[
        Literal[*UNITS] | None, Needs(lambda args: args.v_max > 0, "is for a --v-max above 0: add one, or leave it out")
    ] = None
    """absolute, or multiples of the root mean square of the parameter tensor"""
    fitness: Literal[*FITNESSES] = "probe"
    """fitness of a position: loss on a few training images, the same for all workers; mean loss of the local steps since the
    last move; or loss of the last step (paper: training loss, unknown which)"""
    probe_images: Annotated[int, Range(1), For("fitness", ("probe",))] = 256
    """images of the probe, at most all training images"""
    memory: Literal[*MEMORIES] = "standard"
    """best positions: kept until better ones are found (standard); likewise, but measured again on a new probe at every move
    (reeval); or always the current ones (fresh)"""
    consensus: bool = False
    """after a move all workers take the weights of the worker that found G; each keeps its own velocity"""
    opt_state: Literal["keep", "reset"] = "keep"
    """local momentum at a move"""
    exchange: Literal[*EXCHANGES] = "broadcast"
    """communication of the best position: broadcast; allgather of all positions, with the same result at a higher cost; or
    delayed, overlapped with the next steps, so that a move uses the best position of the previous synchronisation"""
    worker_batch: Annotated[int, Range(1)] = 64
    """images per step of one worker, unless --batch-size gives those of all workers together"""
    shards: Literal["own", "all"] = "own"
    """training images of a worker: a shard, fixed for the whole run, or all images in an order of its own"""

    def refuse(self, given: set[str]) -> None:
        """Refuse incompatible options. Raises UsageError."""
        refuse_averages([self.optimizer], "the moves of a swarm")
        if self.fitness != "probe" and self.memory == "reeval":
            raise UsageError(
                f"--memory reeval measures positions again, which --fitness {self.fitness} cannot: use --fitness probe"
            )
        if self.opt_state == "reset" and lr_option(self.optimizer) == "sgd" and not self.momentum_factor:
            raise UsageError("--opt-state reset is for local momentum: add --momentum-factor 0.9, or leave it out")


LOCAL = {"optimizer": "sgd", "momentum_factor": 0.0, "label_smoothing": 0.0}
PRESETS = make_presets(
    Args,
    expect=(
        "10 to 30 seconds",
        "about 25 seconds with 4 workers on 2 quiet cores",
        "100 epochs at a size of our own choice (the paper's is unknown), for GPUs",
    ),
    smoke={**LOCAL, "worker_batch": 16, "rounds": 15, "width": 2, "learning_rate": 0.1, "weight_decay": 1e-4},
    cpu={
        **{**LOCAL, "model": "cnn", "width": 2, "crop": 28, "train_images": 10000, "fitness_images": 500},
        **{"rounds": 8, "worker_batch": 32, "learning_rate": 0.1, "weight_decay": 1e-4},
    },
    paper={
        **{**LOCAL, "model": "easgd-cnn", "width": 8, "crop": 28, "rounds": 100, "worker_batch": 128},
        **{"learning_rate": 0.05, "weight_decay": 1e-4},
    },
)


def main() -> None:
    """Parse, form the swarm, train."""
    args, given = parse_args(PRESETS, __doc__)
    ranks = world_size()
    args, motion = resolve(args, given, ranks)
    topology = build_topology([PopulationSpec(METHOD, ranks, args.optimizer)], "worker", horovod=False)
    titles = [headline(METHOD, args.preset, PRESETS.expect), *cautions(motion)]
    run = Run("pso-ps", METHOD, args, given, topology, titles, shards=args.shards)

    rates = ScheduledRates(lambda progress: 1.0, args.learning_rate, args.learning_rate, ranks, args.rounds)
    model = run.build_model()  # (0): one x_0 for all
    swarm = make_swarm(args, motion, run, model)
    worker = run.build_worker(model, rates, swarm)
    end = SwarmEnd(worker, swarm, run.evaluator, run.data, args.rounds)

    run.start(worker, end, end)
    with run:
        for t in run.rounds():
            run.train(t)  # MPI: every n steps one MINLOC, and a broadcast if there is a new G
            result = run.evaluate(t)  # for the record only
            run.close(t, run.end_round(t, result))


def resolve(args: Args, given: set[str], ranks: int) -> tuple[Args, Motion]:
    """The arguments with the swarm's coefficients filled in, checked, and these coefficients. Raises UsageError."""
    own = {f.name: getattr(args, f.name) for f in fields(Motion) if getattr(args, f.name) is not None}
    if "inertia" in own:
        own = {"inertia_end": own["inertia"], **own}
    motion = replace(MOTIONS[args.swarm], **own)
    args = replace(args, **asdict(motion))
    check(args, given)
    return args if "batch_size" in given else replace(args, batch_size=args.worker_batch * ranks), motion


def cautions(motion: Motion) -> list[str]:
    """Notes on coefficients with which a swarm with fixed P and G is unstable."""
    w, c1, c2 = motion.inertia, motion.cognitive, motion.social
    if motion.v_max or np.abs(np.linalg.eigvals(second_moments(w, c1, c2))).max() <= 1 + 1e-9:
        return []  # without pulls the radius is 1 up to rounding
    return [f"note: with w = {w:g}, c1 = {c1:g} and c2 = {c2:g} positions spread without bound unless --v-max limits them"]


def make_swarm(args: Args, motion: Motion, run: Run, model: FlatModel) -> Swarm:
    """This worker's particle, with zero velocity at x_0."""
    steps = args.rounds * run.plan.steps
    settings = SwarmSettings(
        motion,
        args.period,
        rounds=max(1, min(steps, args.max_steps or steps) // args.period),
        memory=args.memory,
        consensus=args.consensus,
        reset=args.opt_state == "reset",
        exchange=args.exchange,
        seed=args.seed,
    )
    if args.fitness == "probe":
        fitness: Fitness = Probe(model, run.evaluator, args.probe_images, anew=args.memory == "reeval")
    else:
        fitness = PhaseLoss(last=args.fitness == "last-batch")
    sizes = [weights.numel() for weights, _ in model.views()]
    return Swarm(model.state, sizes, run.topology.world, settings, fitness)


if __name__ == "__main__":
    launch.run(main)
