"""EOA on a Wide ResNet with SAM, CIFAR-10.

Workers are split into populations; in each, Horovod averages gradients every step. After every round all workers elect
a leader by held-out accuracy, populations exchange weights by Sendrecv, and each population's optimizer (grey wolves, whales)
moves its workers' learning rates around the elected base rate.

    horovodrun -np 16 python EOA-SAM/EOASAM.py
    mpirun --oversubscribe --bind-to none -np 8 python EOA-SAM/EOASAM.py --preset cpu
    python EOA-SAM/EOASAM.py --preset smoke
"""

from dataclasses import dataclass, replace
from typing import Literal

from common import launch
from common.cli import CommonArgs, check_common, headline, make_presets, parse_args
from common.ecosphere import Ecosphere
from common.errors import UsageError
from common.exchange import Exchange
from common.optim import OPTIMIZERS, OptimizerSettings, WeightOptimizer
from common.optim.sam import PERTURBATIONS
from common.populations import PopulationSpec, default_populations, parse_populations
from common.rates import REFERENCE, EcosphereRates, EoaSettings
from common.run import Run
from common.species import SPECIES, Rules
from common.topology import build_topology, world_size


@dataclass(frozen=True)
class Args(CommonArgs):
    """Options of the ecosphere, after those that every script has."""

    populations: str = "auto"
    """species:workers:optimizer,... e.g. gwo:4,woa:4 or gwo:50%,woa:50% (auto: gwo,woa, equal shares; paper: gwo:4,woa:4)"""
    exchange: Literal["average", "best", "migrate", "ring"] = "average"
    """what happens to weights across populations after a round (paper: average)"""
    scope: Literal["population", "world"] = "population"
    """over whom gradients are averaged every step (paper: world)"""
    base_rate: Literal["best", "blend", "anneal"] = "blend"
    """rule for the base rate of the next round (paper: best for CIFAR-10, blend for CIFAR-100)"""
    damping: Literal["none", "proportional", "relative", "annealed", "fixed", "scaled"] = "proportional"
    """how far a worker may move (paper: annealed for CIFAR-10, relative for CIFAR-100)"""
    sam_scope: Literal["local", "population", "world"] = "local"
    """over whom SAM's first gradient is averaged (paper: world)"""
    momentum: Literal["keep", "reset"] = "keep"
    """whether momentum outlives a round (paper: reset)"""
    ring_weight: float = 0.5
    """share of the left neighbour's weights under --exchange ring"""
    reference: bool = False
    """behave as the published scripts do, wherever no option says otherwise; prints what that changes"""


PRESETS = make_presets(Args)
COST = {
    "smoke": "20 to 60 seconds",
    "cpu": "20 to 25 minutes on 2 quiet cores",
    "paper": "200 epochs of WRN-16-8: hours on 8 GPUs, weeks on a laptop",
}
# What --reference means besides the rules of the moves (common.rates.REFERENCE), and our own choice beside it.
REFERENCE_OPTIONS = {"scope": "world", "sam_scope": "world", "momentum": "reset", "exchange": "average"}


def main(presets: dict[str, Args] = PRESETS, column: str = "cifar10", description: str = __doc__) -> None:
    """Parse, build the topology, train. column: which reference script --reference follows."""
    args, given = parse_args(presets, description)
    check_common(args)
    ranks = world_size()
    args, settings, changes = settle_reference(args, given, column)
    wanted = default_populations(ranks) if args.populations == "auto" else args.populations
    specs = parse_populations(wanted, ranks, args.optimizer, tuple(SPECIES), OPTIMIZERS)
    check_sam_scope(args, specs)
    exchange = Exchange(args.exchange, args.ring_weight)
    topology = build_topology(specs, args.scope)
    method = "eoa-reference" if args.reference else "eoa"
    run = Run("eoa-sam", method, args, given, topology, [headline("EOA-SAM", args.preset, COST), *changes])

    behind = [run.images_per_gradient(ranks if args.scope == "world" else s.workers) for s in specs]
    rounds_per_epoch = run.epoch_steps / run.plan.steps
    rates = EcosphereRates(specs, args.learning_rate, args.rounds, behind, args.seed, settings, rounds_per_epoch)
    ecosphere = Ecosphere(topology, rates, exchange)
    ecosphere.adopt(run.build_model())
    optimizer = WeightOptimizer(ecosphere, optimizer_settings(args, topology.spec.optimizer))

    run.start(ecosphere, optimizer, {})
    with run:
        for t in run.rounds():
            rate = ecosphere.rate
            trained = run.train(t)  # Horovod: all-reduce inside the gradient scope, every step
            judged = run.judge(t)  # own weights, held-out images
            turn = ecosphere.turn(t, judged.accuracy)  # MPI: elect, exchange weights across populations, move the rate
            run.close_round(t, rate, trained, judged, turn)


def check_sam_scope(args: Args, specs: list[PopulationSpec]) -> None:
    """Refuse a first gradient averaged over the world where some workers have none: they would be waited for."""
    kinds = {s.optimizer for s in specs}
    without = sorted(kinds - set(PERTURBATIONS))
    if args.sam_scope == "world" and without and len(without) < len(kinds):
        raise UsageError(
            f"--sam-scope world averages SAM's first gradient over all workers, but those of {', '.join(without)} make none: "
            "use --sam-scope population or local"
        )


def settle_reference(args: Args, given: set[str], column: str) -> tuple[Args, EoaSettings, list[str]]:
    """The arguments and move rules in force, and what to say of them.

    With --reference they are those of one published script, except for options that were given.
    """
    settings = EoaSettings(base_rule=args.base_rate, rules=Rules(damping=args.damping))
    if not args.reference:
        return args, settings, []
    reference = REFERENCE[column]
    wanted = {**REFERENCE_OPTIONS, "base_rate": reference.base_rule, "damping": reference.rules.damping}
    changed = {name: value for name, value in wanted.items() if name not in given and getattr(args, name) != value}
    options = [f"--{name.replace('_', '-')} {value} (instead of {getattr(args, name)})" for name, value in changed.items()]
    args = replace(args, **changed)
    rules = replace(reference.rules, damping=args.damping)
    said = [f"reference behaviour of the {column} script; against the defaults:"]
    said += [f"  {line}" for line in [*options, *reference_lines(rules)]]
    return args, replace(reference, base_rule=args.base_rate, rules=rules), said


def reference_lines(rules: Rules) -> list[str]:
    """What of the reference behaviour has no option of its own, in words."""
    lines = [
        "k = number of workers (instead of images behind one gradient / 128)",
        "no warm-up, no limits on the rates",
        "wolves equal in fitness and rate: higher rank first",
    ]
    if not rules.signed:
        lines.append("distances D are absolute (instead of signed)")
    if rules.absolute_leaders:
        lines.append("the new beta and delta are made positive before others follow them")
    if rules.world_prey:
        lines.append("an exploring whale picks its prey from the first ranks of the world (instead of its population)")
    return [*lines, "not reproduced: fitness on the test set; ours is measured on held-out training images"]


def optimizer_settings(args: Args, name: str) -> OptimizerSettings:
    """The weight optimizer of this worker's population."""
    return OptimizerSettings(
        name=name,
        momentum=args.momentum_factor,
        weight_decay=args.weight_decay,
        rho=args.rho,
        sam_scope=args.sam_scope,
        reset_momentum=args.momentum == "reset",
    )


if __name__ == "__main__":
    launch.run(main)
