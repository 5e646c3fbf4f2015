"""Trials that train a network: an ordinary run of the baselines, or an ecosphere, with the options of one setting.

The data are read once. A trial makes the same steps as `baselines/Baselines.py`, with `--schedule` for its method, or
`EOA-SAM/EOASAM.py` with the same options, without their records. Its value is the accuracy on the fitness images, which are
held out of the training set. Test images are not used here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from common.data.dataset import DataSet
from common.ecosphere.end_of_round import Ecosphere
from common.ecosphere.exchange import Exchange
from common.ecosphere.rates import SHAPES, EcosphereRates, EoaSettings, ScheduledRates
from common.ecosphere.species import SPECIES
from common.ecosphere.species.moves import Rules
from common.errors import Diverged, UsageError
from common.evaluate import REPORTED, EvalResult, Evaluator, evaluate
from common.models import build_model
from common.models.flat import FlatModel, share_model
from common.models.vit import load_published
from common.optim.options import optimizer_settings
from common.optim.registry import OPTIMIZERS, lr_scale
from common.options import check
from common.parallel.populations import PopulationSpec, default_populations, parse_populations
from common.parallel.topology import Topology
from common.search.coordinator import Task
from common.search.space import Setting, Value
from common.search.worker import Reporter
from common.seeding import Purpose, stream, torch_seed
from common.training.eoa import EoaArgs
from common.training.loop import Plan, train_round
from common.training.options import CommonArgs, resolve_batch
from common.training.round_ends import DataParallelEnd, EcosphereEnd, EndOfRound
from common.training.worker import Worker, build_worker

NOT_COMPARED = EvalResult(0.0, 0.0, 0.0, 0.0)  # where all workers hold the same weights


@dataclass(frozen=True)
class Trained:
    """Result of a trial: its model, equal on all its ranks, and its accuracy on the fitness images."""

    model: FlatModel
    value: float


class Training:
    """Objective of the search script; collective over the ranks of a trial.

    args: options that are not searched, precision resolved. topology: its world is the ranks of one trial. kind: `train`, or
    `eoa` for an ecosphere of `populations`. schedule: learning-rate schedule of `train`. own_seeds: one seed per trial instead
    of one for all.
    """

    def __init__(
        self,
        args: CommonArgs,
        topology: Topology,
        data: DataSet,
        kind: str = "train",
        schedule: str = "cosine",
        populations: str = "auto",
        own_seeds: bool = False,
    ) -> None:
        self.args, self.topology, self.data, self.precision = args, topology, data, args.precision
        self.kind, self.schedule, self.populations, self.own_seeds = kind, schedule, populations, own_seeds

    def seed_of(self, trial: int) -> int:
        """Seed of initial weights, order of images and dropout of a trial."""
        return int(stream(self.args.seed, Purpose.TRIAL, trial).integers(2**31)) if self.own_seeds else self.args.seed

    def __call__(self, task: Task, report: Reporter) -> float:
        """Train; returns the accuracy after the last round."""
        return self.train(task.setting, self.seed_of(task.id), report).value

    def train(self, setting: Setting, seed: int, report: Reporter = lambda step, value: None) -> Trained:
        """Train with one setting; `report(step, accuracy)` after every round but the last. Raises UsageError, Diverged."""
        args = with_setting(self.args, setting, self.kind, self.populations, seed)
        batch, steps, epoch = sizes_of(args, len(self.data.train), self.topology.world.size)
        worker, end = self._worker(args, batch, epoch / steps, seed)
        model, optimizer, world = worker.model, worker.optimizer, self.topology.world
        evaluator = Evaluator(self.data.train, self.precision, seed)
        plan = Plan(batch, steps, args.label_smoothing, self.precision, args.accumulate)
        for t in range(args.rounds):
            train_round(worker, self.data.batches(seed, t, batch, world.rank, world.size, steps), seed, t, plan)
            if optimizer.end_training():
                evaluator.measure_statistics(model.module, worker.peers, t=t)
            own = evaluate(model.module, self.data.fitness, self.precision) if self.kind == "eoa" else NOT_COMPARED
            outcome = end.end_round(t, own)
            if outcome.diverged:
                raise Diverged(outcome.diverged)
            worker.rate = outcome.rate
            if t < args.rounds - 1:
                report(t + 1, self._value(model, evaluator, end.measured_at_end, t))
        if end.measured_at_end or optimizer.averaging:
            evaluator.measure_statistics(model.module, world, REPORTED, args.rounds)
        return Trained(model, evaluate(model.module, self.data.fitness, self.precision, world).accuracy)

    def _value(self, model: FlatModel, evaluator: Evaluator, merged: bool, t: int) -> float:
        """Accuracy on the fitness images after round t; the model is not changed."""
        world, images = self.topology.world, self.data.fitness
        if merged:
            return evaluator.of_weights(model, None, [images], world, t=t)[0].accuracy
        return evaluate(model.module, images, self.precision, world).accuracy

    def _network(self, args: CommonArgs, seed: int) -> Any:
        source = self.data.source
        sizes = (args.depth, args.width, args.dropout, torch_seed(seed, Purpose.INITIAL), self.data.train.size)
        module = build_model(args.model, source.channels, source.classes, *sizes, args.initialisation)
        if args.pretrained:
            load_published(module, args.model, args.pretrained)
        return module.to(self.topology.device)

    def _worker(self, args: CommonArgs, batch: int, rounds_per_epoch: float, seed: int) -> tuple[Worker, EndOfRound]:
        """Worker and end of a round: data-parallel training, or an ecosphere."""
        ranks = self.topology.world.size
        specs = population_specs(args, ranks) if self.kind == "eoa" else [PopulationSpec(self.schedule, ranks, args.optimizer)]
        topology = replace(self.topology, specs=specs)
        model = share_model(self._network(args, seed), topology.world)
        own = {"sam_scope": args.sam_scope, "reset_momentum": args.momentum == "reset"} if isinstance(args, EoaArgs) else {}
        settings = optimizer_settings(args, topology.spec.optimizer, args.seed, **own)
        scale = lr_scale(topology.spec.optimizer, args.learning_rate, args.adam_rate, args.momentum_factor)
        if not isinstance(args, EoaArgs):
            eta0 = args.learning_rate
            schedule = ScheduledRates(SHAPES[self.schedule], eta0, eta0, ranks, args.rounds)
            worker = build_worker(topology, model, schedule, settings, scale)
            return worker, DataParallelEnd(worker)
        rules = EoaSettings(base_rule=args.base_rate, rules=Rules(args.damping, args.lr_space))
        images = [batch * s.workers / ranks for s in specs]
        rates = EcosphereRates(specs, args.learning_rate, args.rounds, images, args.seed, rules, rounds_per_epoch)
        worker = build_worker(topology, model, rates, settings, scale, equal_weights=False)
        exchange = Exchange(args.exchange, args.ring_weight)
        return worker, EcosphereEnd(worker, Ecosphere(topology, model.state, rates, exchange))


def sizes_of(args: CommonArgs, images: int, ranks: int) -> tuple[int, int, int]:
    """Global batch, steps per round and steps per epoch of a trial. images: training images. Raises UsageError."""
    batch = resolve_batch(args, set(), ranks)
    epoch = images // batch
    steps = args.round_steps or epoch
    if not 0 < steps <= epoch:
        raise UsageError(
            f"a batch of {batch} from {images} training images makes {epoch} steps per epoch, but {max(steps, 1)} are needed"
        )
    return batch, steps, epoch


def with_setting(base: CommonArgs, setting: Mapping[str, Value], kind: str, populations: str, seed: int) -> CommonArgs:
    """The options of one trial, in the form its script takes. Raises UsageError."""
    plain = {f.name: getattr(base, f.name) for f in fields(CommonArgs)}
    own: dict[str, Any] = {
        name: float(value) if isinstance(plain.get(name), float) else value for name, value in setting.items()
    }
    values = {**plain, **own, "seed": seed}
    args = EoaArgs(**values, populations=populations) if kind == "eoa" else CommonArgs(**values)
    check(args)
    return args


def population_specs(args: CommonArgs, ranks: int) -> list[PopulationSpec]:
    """The populations of a trial that is an ecosphere. Raises UsageError."""
    assert isinstance(args, EoaArgs)
    wanted = default_populations(ranks) if args.populations == "auto" else args.populations
    return parse_populations(wanted, ranks, args.optimizer, tuple(SPECIES), OPTIMIZERS)
