"""Shared by the EOA scripts: options of an ecosphere, the reference behaviour, and the setup of a run.

    run = prepare("eoa-sam", args, given, column="cifar10", title="...")

The round loop itself is in the scripts.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from common.coupling.synchronous import couple
from common.ecosphere.end_of_round import Ecosphere
from common.ecosphere.exchange import POLICIES, Exchange
from common.ecosphere.forage import FORAGE_RULES, ForageRates, round_lengths
from common.ecosphere.rates import BASE_RULES, REFERENCE, EcosphereRates, EoaSettings, RateRule
from common.ecosphere.smoothing import SmoothedWeights
from common.ecosphere.species import SPECIES
from common.ecosphere.species.moves import DAMPINGS, LOG_DAMPINGS, SPACES, Rules
from common.errors import UsageError
from common.models import NETWORKS, without
from common.optim.options import refuse_averages
from common.optim.registry import OPTIMIZERS, has_line_search, lr_option, split_name
from common.options import Needs, Range, check, flag
from common.parallel.populations import PopulationSpec, default_populations, parse_populations
from common.parallel.topology import build_topology, world_size
from common.training.options import CommonArgs
from common.training.round_ends import EcosphereEnd
from common.training.run import Run
from common.training.worker import Worker

FORAGING = Needs(lambda args: args.base_rate == "forage", "is for --base-rate forage: add that, or leave it out")
COUPLED = Needs(
    lambda args: args.intra_coupling != "gradients",
    "is for --intra-coupling easgd, easgd-gs or average: gradients are averaged every step",
)


@dataclass(frozen=True)
class EoaArgs(CommonArgs):
    """Ecosphere."""

    one_optimizer: ClassVar[bool] = False  # populations may name their own

    populations: str = "auto"
    """species:workers:optimizer,... e.g. gwo:4,woa:4 or gwo:50%,woa:50% or pso:4:sgd,de:4:sam+adamw; species are gwo, woa, pso,
    de, cmaes, hold, random (auto: gwo,woa, equal shares; paper: gwo:4,woa:4)"""
    exchange: Literal[*POLICIES] = "average"  # type: ignore[valid-type]
    """exchange of weights across populations after a round; forage implies kin (paper: average)"""
    scope: Literal["population", "world"] = "population"
    """ranks that gradients are averaged over every step (paper: world)"""
    base_rate: Literal[*BASE_RULES, "forage"] = "blend"  # type: ignore[valid-type]
    """rule for the base rate of the next round; forage (experimental) finds it from a start that is wrong by decades, needs two
    populations, and splits epochs (--rounds) into shorter rounds, see docs/algorithms.md (paper: best for CIFAR-10 and ViT,
    blend for CIFAR-100)"""
    forage_rule: Annotated[Literal[*FORAGE_RULES], FORAGING] = "improved"  # type: ignore[valid-type]
    """variant of --base-rate forage: improved (begins with a short scouting phase) or as first specified, see
    docs/algorithms.md"""
    forage_proposals: Annotated[Literal["species", "spread"], FORAGING] = "species"
    """how --base-rate forage spreads the populations' rates: by their species, or at random"""
    damping: Literal[*DAMPINGS] = "proportional"  # type: ignore[valid-type]
    """damping of the moves of the learning rates (paper: annealed for CIFAR-10, relative for CIFAR-100, fixed for ViT)"""
    lr_space: Literal[*SPACES] = "linear"  # type: ignore[valid-type]
    """whether species move rates or their logarithms (paper: linear)"""
    intra_coupling: Literal["gradients", "easgd", "easgd-gs", "average"] = "gradients"
    """coupling of the workers of a population: gradients every step, or weights every --period steps (common/coupling)"""
    period: Annotated[int, Range(1), COUPLED] = 10
    """steps between weight exchanges inside a population, if --intra-coupling is not gradients"""
    sam_scope: Literal["local", "population", "world"] = "local"
    """ranks that SAM's first gradient is averaged over (paper: world)"""
    momentum: Literal["keep", "reset"] = "keep"
    """keep or reset the momentum after a round (paper: reset; keep for ViT)"""
    ring_weight: Annotated[float, Range(0, 1)] = 0.5
    """share of the left neighbour's weights under --exchange ring"""
    reference: bool = False
    """reproduce the published scripts, except for options that are given; prints what this changes and does not reproduce"""

    def refuse(self, given: set[str]) -> None:
        """Refuse incompatible options. Raises UsageError."""
        check_space(self)
        check_intra_coupling(self, given)
        if self.base_rate == "forage":
            for name in sorted(given & {"reference", "damping", "lr_space"}):
                raise UsageError(f"--base-rate forage has rules of its own for the moves: leave {flag(name)} out")
            if self.intra_coupling != "gradients":
                raise UsageError(f"--base-rate forage needs one gradient: leave --intra-coupling {self.intra_coupling} out")


A = TypeVar("A", bound=EoaArgs)

# Options that --reference sets besides the move rules (common.ecosphere.rates.REFERENCE): in every script, and in one.
REFERENCE_OPTIONS = {"scope": "world", "sam_scope": "world", "exchange": "average", "precision": "float32"}
OF_WIDE_RESNETS = {"momentum": "reset", "initialisation": "fan-in"}
REFERENCE_OF_SCRIPT: dict[str, dict[str, Any]] = {
    "cifar10": OF_WIDE_RESNETS,
    "cifar100": OF_WIDE_RESNETS,
    "vit": {"momentum": "keep", "dropout": 0.1, "flip": False},
}
VIT_WORKER_BATCH = 512  # per worker in the ViT script; the other scripts divide a global batch among the workers
VIT_RATE = 0.03  # of the ViT script, for one worker; our preset has 0.03 for 512 images, as fine-tuning recipes do


def prepare(experiment: str, args: EoaArgs, given: set[str], column: str, title: str) -> Run:
    """Check the arguments, form the populations, load the data, build the worker, open the record.

    column: reference script that --reference follows, a key of `rates.REFERENCE`. title: first line to print.
    Collective over the world. Raises UsageError.
    """
    ranks = world_size()
    args, settings, changes = settle_reference(args, given, column, ranks)
    check(args, given)
    forage = args.base_rate == "forage"
    if forage and "exchange" not in given:
        args = replace(args, exchange="kin")  # default of foraging
    specs = population_specs(args, ranks)
    check_sam_scope(args, specs)
    check_search(args, specs)
    exchange = Exchange(args.exchange, args.ring_weight)
    topology = build_topology(specs, args.scope if args.intra_coupling == "gradients" else "worker")
    method = "eoa-reference" if args.reference else "foraging" if forage else "eoa"
    if forage and len(specs) == 1:
        changes = ["foraging compares populations: a single one keeps --learning-rate"]
    if args.model in NETWORKS and not args.pretrained:
        changes.append(f"{args.model} starts from scratch; --pretrained FILE begins at Google's weights, as the paper does")
    wrong_classes_only = args.reference and "label_smoothing" not in given
    run = Run(experiment, method, args, given, topology, [title, *changes], wrong_classes_only=wrong_classes_only)
    if forage:
        start_foraging(run, args, exchange)
    else:
        start_ecosphere(run, args, settings, exchange)
    return run


def population_specs(args: EoaArgs, ranks: int) -> list[PopulationSpec]:
    """The populations that the options name, for this many ranks. Raises UsageError."""
    wanted = default_populations(ranks) if args.populations == "auto" else args.populations
    return parse_populations(wanted, ranks, args.optimizer, tuple(SPECIES), OPTIMIZERS)


def start_ecosphere(run: Run, args: EoaArgs, settings: EoaSettings, exchange: Exchange) -> None:
    """Start a run in which every worker has its own learning rate, moved by its species."""
    topology, ranks = run.topology, run.topology.world.size
    averaging = [
        1 if args.intra_coupling != "gradients" else ranks if args.scope == "world" else s.workers for s in topology.specs
    ]
    images = [run.images_per_gradient(workers) for workers in averaging]
    rounds_per_epoch = run.epoch_steps / run.plan.steps
    rates = EcosphereRates(topology.specs, args.learning_rate, args.rounds, images, args.seed, settings, rounds_per_epoch)
    worker = build_eoa_worker(run, args, rates, equal_weights=False)
    run.start(worker, EcosphereEnd(worker, Ecosphere(topology, worker.model.state, rates, exchange)))


def start_foraging(run: Run, args: EoaArgs, exchange: Exchange) -> None:
    """Start a run with `--base-rate forage`: its own round lengths, smoothed fitness, momentum exchanged with the weights."""
    topology, steps = run.topology, args.rounds * run.plan.steps
    settings = replace(FORAGE_RULES[args.forage_rule], proposals=args.forage_proposals)
    lengths = round_lengths(steps, round(settings.per_epoch * steps / run.epoch_steps))
    rates = ForageRates(topology.specs, args.learning_rate, lengths, args.seed, settings)
    worker = build_eoa_worker(run, args, rates, equal_weights=True)
    # Only if all optimizers have a momentum: populations exchange buffers of equal length.
    momentum = all(lr_option(spec.optimizer) == "sgd" for spec in topology.specs)
    carried = worker.optimizer.momentum if momentum else list
    ecosphere = Ecosphere(topology, worker.model.state, rates, exchange, carried)
    evaluated = SmoothedWeights(worker.model, run.evaluator, run.data.fitness, topology.population)
    run.start(worker, EcosphereEnd(worker, ecosphere), evaluated, lengths)


def build_eoa_worker(run: Run, args: EoaArgs, rates: RateRule, equal_weights: bool) -> Worker:
    """This rank's worker, coupled to its population as --intra-coupling says."""
    model, population = run.build_model(), run.topology.population
    weights = model.parameters.data
    coupling = None if args.intra_coupling == "gradients" else couple(args.intra_coupling, weights, population, args.period)
    reset = args.momentum == "reset"
    peers = equal_weights and args.intra_coupling == "gradients"
    return run.build_worker(model, rates, coupling, args.sam_scope, reset, equal_weights=peers)


def check_intra_coupling(args: EoaArgs, given: set[str]) -> None:
    """Refuse options that need averaged gradients when weights are exchanged instead."""
    if args.intra_coupling == "gradients":
        return
    if args.reference:
        raise UsageError(f"--reference averages gradients: leave it or --intra-coupling {args.intra_coupling} out")
    if "scope" in given:
        raise UsageError(
            f"--scope {args.scope} averages gradients, --intra-coupling {args.intra_coupling} weights: leave one out"
        )


def check_sam_scope(args: EoaArgs, specs: list[PopulationSpec]) -> None:
    """Refuse a first gradient averaged over the world if some workers compute none: the all-reduce would hang."""
    kinds = {s.optimizer for s in specs}
    without = sorted(k for k in kinds if not split_name(k)[0])
    if args.sam_scope == "world" and without and len(without) < len(kinds):
        raise UsageError(
            f"--sam-scope world averages SAM's first gradient over all workers, but those of {', '.join(without)} make none: "
            "use --sam-scope population or local"
        )


def check_search(args: EoaArgs, specs: list[PopulationSpec]) -> None:
    """Refuse a line search whose trial points some workers would not evaluate, and optimizers unfit for foraging or couplings.

    Raises UsageError.
    """
    kinds = {s.optimizer for s in specs}
    searching = sorted(k for k in kinds if has_line_search(k))
    finding = sorted(k for k in kinds if has_line_search(k) or lr_option(k) == "one")
    if finding and args.base_rate == "forage":
        raise UsageError(f"--base-rate forage looks for what {finding[0]} finds by itself: leave one of them out")
    if args.base_rate == "forage":
        refuse_averages(kinds, "rounds that --base-rate forage takes back")
    if args.intra_coupling != "gradients":
        refuse_averages(kinds, f"--intra-coupling {args.intra_coupling}")
    if searching and args.scope == "world" and len(kinds) > 1:
        raise UsageError(
            f"--scope world: all workers would have to try the steps of {searching[0]}, but there are also "
            f"{', '.join(sorted(kinds - {searching[0]}))}: leave --scope at population, or give all the same optimizer"
        )


def check_space(args: EoaArgs) -> None:
    """Refuse dampings in units of rates with --lr-space log."""
    if args.lr_space == "log" and args.damping not in LOG_DAMPINGS:
        raise UsageError(
            f"--lr-space log needs --damping {' or '.join(LOG_DAMPINGS)}, not {args.damping}"
            f"{', which --reference sets and' * args.reference} which is in units of rates"
        )


def settle_reference(args: A, given: set[str], column: str, ranks: int) -> tuple[A, EoaSettings, list[str]]:
    """Effective arguments and move rules, and lines to print about them.

    With --reference these are those of one published script, except for options that were given or that the network lacks.
    """
    settings = EoaSettings(base_rule=args.base_rate, rules=Rules(args.damping, args.lr_space))
    if not args.reference:
        return args, settings, []
    reference = REFERENCE[column]
    wanted = {
        **REFERENCE_OPTIONS,
        **REFERENCE_OF_SCRIPT[column],
        "base_rate": reference.base_rule,
        "damping": reference.rules.damping,
    }
    if column == "vit" and args.preset == "paper":
        wanted |= {"batch_size": VIT_WORKER_BATCH * ranks, "learning_rate": VIT_RATE}
    sharp = "sam" in args.optimizer or "sam" in args.populations
    fixed = given.union(without(args.model), () if sharp else ("sam_scope",))
    changed = {name: value for name, value in wanted.items() if name not in fixed and getattr(args, name) != value}
    kept = {name: getattr(args, name) for name in wanted if name in given and getattr(args, name) != wanted[name]}
    if args.label_smoothing and "label_smoothing" in given:
        kept["label_smoothing"] = args.label_smoothing
    options = [_option(name, value, getattr(args, name)) for name, value in changed.items()]
    if args.label_smoothing and "label_smoothing" not in given:
        options.append("label smoothing over the K - 1 wrong classes alone: K/(K - 1) times as much by torch's rule")
    args = replace(args, **changed)
    rules = replace(reference.rules, damping=args.damping, space=args.lr_space)
    said = [f"reference behaviour of the {column} script; against the defaults:"]
    said += [f"  {line}" for line in [*options, *reference_lines(rules)]]
    said += ["kept as given: " + " ".join(_words(name, value) for name, value in kept.items())] if kept else []
    said += ["not reproduced:", *(f"  {line}" for line in not_reproduced(column, sharp))]
    return args, replace(reference, base_rule=args.base_rate, rules=rules), said


def _option(name: str, value: object, before: object) -> str:
    """A change, as `--option value (instead of before)`."""
    return f"{_words(name, value)} (instead of {_words(name, before) if isinstance(value, bool) else before})"


def _words(name: str, value: object) -> str:
    """An option as it is written on the command line."""
    if isinstance(value, bool):
        return flag(name if value else f"no_{name}")
    return f"{flag(name)} {value}"


def reference_lines(rules: Rules) -> list[str]:
    """Lines on the reference behaviour that has no option of its own."""
    lines = [
        "starting rates scale with the number of workers (instead of images behind one gradient / 128)",
        "no warm-up, no limits on the rates",
        "ties among wolves: higher rank first",
    ]
    if not rules.signed:
        lines.append("distances D are absolute (instead of signed)")
    if rules.absolute_leaders:
        lines.append("the new beta and delta are made positive before others follow them")
    if rules.world_prey:
        lines.append("an exploring whale picks its prey from the first ranks of the world (instead of its population)")
    return lines


def not_reproduced(column: str, sharp: bool = True) -> list[str]:
    """Lines on what --reference does not reproduce of a published script. sharp: whether SAM is used."""
    lines = [
        "fitness: theirs is accuracy on the test set; ours on held-out training images, which the script trains on as well",
        "wolves: theirs are four, whatever the number of workers; ours as --populations says, by default half of the workers",
        "superiors of a wolf: theirs draw the moves of their superiors anew, so that ranks disagree; ours agree",
        "shared rates: theirs are rounded to float32; ours stay float64",
        "numbers that are not finite: theirs spread from rank to rank; ours stay out of every mean",
    ]
    if column == "cifar100":
        lines.append("reference rate of `blend`: theirs is 0.8 (8 x 0.1), whatever workers and base rate are; ours is k eta0")
    if column == "vit":
        return [
            *lines,
            "position embeddings at another image size: theirs are resized bilinearly; ours bicubically, by timm",
        ]
    return [
        *lines,
        "batch-norm statistics: theirs are rank 0's, broadcast at every forward pass, evaluation included; ours each worker's "
        "own, averaged with the weights after a round",
        *["SAM's second pass: theirs moves batch-norm statistics once more; ours leaves them"] * sharp,
    ]
