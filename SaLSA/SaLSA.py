"""SaLSA: SGD and Adam with step sizes from a line search on moving averages (Kenneweg et al., IJCNN 2024).

All ranks form one worker: they average gradients and losses every step, and take the same step.

    python SaLSA/SaLSA.py --preset smoke                                    # digits, seconds
    python SaLSA/SaLSA.py --preset smoke --dataset topics --rounds 4        # a language model on Python's reference
    mpirun --oversubscribe --bind-to none -np 2 python SaLSA/SaLSA.py --direction sgd
    python SaLSA/SaLSA.py --plain --preset smoke                            # without averages: Vaswani et al.'s line search

To use the line search in a population of an ecosphere: `--populations gwo:4:sgd,hold:4:salsa` (EOA-SAM).
"""

from dataclasses import dataclass, replace
from typing import Literal

from common.ecosphere.rates import ScheduledRates
from common.errors import UsageError
from common.optim.armijo import PAPER, PLAIN, RELEASED, Rules
from common.options import check, flag
from common.parallel import launch
from common.parallel.populations import PopulationSpec
from common.parallel.topology import build_topology, world_size
from common.training.options import CommonArgs, headline, make_presets, parse_args
from common.training.round_ends import DataParallelEnd
from common.training.run import Run


@dataclass(frozen=True)
class Args(CommonArgs):
    """Line search."""

    direction: Literal["adam", "sgd"] = "adam"
    """search direction of the line search"""
    eta0: float = PAPER.eta0
    """first step size tried; the first line search may lower or raise it (paper: 0.1, down; released class: 1, down)"""
    c: float = PAPER.c
    """required fraction of the predicted decrease (paper: 0.3; released class: 0.5; plain: 0.1)"""
    beta3: float = PAPER.beta3
    """decay of the moving averages of decrease and slope (paper: 0.99; released class: 0.9)"""
    interval: int = 0
    """steps between two line searches; 0 adapts them, up to 10, to changes of the step size (paper: adapted)"""
    variant: Literal["paper", "released"] = "paper"
    """follow the paper, or the authors' released class where it differs (docs/algorithms.md)"""
    plain: bool = False
    """test on the current batch alone, without averages"""

    def refuse(self, given: set[str]) -> None:
        """Refuse options that the line search does not use. Raises UsageError."""
        for name in sorted(given & {"learning_rate", "adam_rate", "optimizer", "rho"}):
            raise UsageError(f"{flag(name)} is for optimizers with a rate: SaLSA has --eta0 and --direction")
        if self.plain and {"beta3", "variant"} & given:
            raise UsageError("--plain has no averages and no variants: leave --beta3 and --variant out")
        if self.variant == "released" and "momentum_factor" in given:
            raise UsageError("--variant released has no momentum along SGD's direction: leave --momentum-factor out")


PLAIN_LOSS = {"label_smoothing": 0.0, "weight_decay": 0.0, "adam_decay": 0.0, "precision": "float32"}  # of the line search
PRESETS = make_presets(
    Args,
    expect=("10 to 30 seconds", "about a minute on one core", "200 epochs of WRN-22-8, for GPUs"),
    smoke=PLAIN_LOSS,
    cpu={**PLAIN_LOSS, "batch_size": 128, "model": "cnn", "width": 2, "train_images": 10000, "rounds": 12},
    paper={**PLAIN_LOSS, "batch_size": 128},
)


def main() -> None:
    """Parse, build one population over all ranks, train."""
    args, given = parse_args(PRESETS, __doc__)
    args, rules = resolve(args, given)
    method = "sls" if args.plain else "salsa-released" if rules.released else "salsa"
    topology = build_topology([PopulationSpec(method, world_size(), args.optimizer)])
    run = Run(
        "salsa", method, args, given, topology, [headline(f"SaLSA, direction {args.direction}", args.preset, PRESETS.expect)]
    )

    constant = ScheduledRates(lambda progress: 1.0, args.learning_rate, args.learning_rate, topology.world.size, args.rounds)
    worker = run.build_worker(run.build_model(), constant, line_search=rules)
    run.start(worker, DataParallelEnd(worker))
    with run:
        for t in run.rounds():
            run.train(t)  # Horovod: gradients of all ranks; MPI: their losses, here and at every trial point
            result = run.evaluate(t)  # for the record only
            run.close(t, run.end_round(t, result))  # batch-norm statistics are averaged


def resolve(args: Args, given: set[str]) -> tuple[Args, Rules]:
    """The checked arguments, with the line search's values filled in, and its rules. Raises UsageError."""
    base = PLAIN if args.plain else RELEASED if args.variant == "released" else PAPER
    chosen = {name: getattr(args if name in given else base, name) for name in ("eta0", "c", "beta3")}
    settled = replace(args, **chosen, optimizer="salsa" if args.direction == "adam" else "salsa-sgd")
    check(settled, given)
    try:
        return settled, replace(base, **chosen, interval=args.interval)
    except ValueError as error:
        raise UsageError(f"--{error}") from None


if __name__ == "__main__":
    launch.run(main)
