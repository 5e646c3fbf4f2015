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
from common.ecosphere.species.moves import Rules
from common.errors import Diverged, UsageError
from common.evaluate import REPORTED, EvalResult, Evaluator, evaluate
from common.models import build_model
from common.models.flat import FlatModel, share_model
from common.models.vit import load_published
from common.optim.options import optimizer_settings
from common.optim.registry import lr_scale
from common.options import check
from common.parallel.populations import PopulationSpec
from common.parallel.topology import Topology
from common.search.coordinator import Task
from common.search.space import Setting, Value
from common.search.worker import Reporter
from common.seeding import Purpose, stream, torch_seed
from common.training.eoa import EoaArgs, population_specs
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


@dataclass(frozen=True)
class Trials:
    """What all trials of a search share.

    base: options that are not searched. kind: `train`, or `eoa` for an ecosphere of `populations`. schedule: learning-rate
    schedule of `train`. ranks: per trial. own_seeds: one seed per trial instead of one for all.
    """

    base: CommonArgs
    kind: str = "train"
    schedule: str = "cosine"
    populations: str = "auto"
    ranks: int = 1
    own_seeds: bool = False

    def seed_of(self, trial: int) -> int:
        """Seed of initial weights, order of images and dropout of a trial."""
        return int(stream(self.base.seed, Purpose.TRIAL, trial).integers(2**31)) if self.own_seeds else self.base.seed

    def options(self, setting: Mapping[str, Value], seed: int | None = None) -> CommonArgs:
        """The options of one trial, in the form its script takes. seed: by default that of `base`. Raises UsageError."""
        values = {f.name: getattr(self.base, f.name) for f in fields(CommonArgs)}
        for name, value in setting.items():
            values[name] = float(value) if isinstance(values.get(name), float) else value
        if seed is not None:
            values["seed"] = seed
        args = EoaArgs(**values, populations=self.populations) if self.kind == "eoa" else CommonArgs(**values)
        check(args)
        return args

    def specs(self, args: CommonArgs) -> list[PopulationSpec]:
        """The populations of a trial with these options, and their weight optimizers. Raises UsageError."""
        if isinstance(args, EoaArgs):
            return population_specs(args, self.ranks)
        return [PopulationSpec(self.schedule, self.ranks, args.optimizer)]

    def sizes(self, args: CommonArgs, images: int) -> tuple[int, int, int]:
        """Global batch, steps per round and steps per epoch of a trial. images: training images. Raises UsageError."""
        batch = resolve_batch(args, set(), self.ranks)
        epoch = images // batch
        steps = args.round_steps or epoch
        if not 0 < steps <= epoch:
            raise UsageError(
                f"a batch of {batch} from {images} training images makes {epoch} steps per epoch, but {max(steps, 1)} "
                "are needed"
            )
        return batch, steps, epoch


class Training:
    """Objective of the search script; collective over the ranks of a trial.

    trials: with the precision resolved. topology: its world is the ranks of one trial.
    """

    def __init__(self, trials: Trials, topology: Topology, data: DataSet) -> None:
        self.trials, self.topology, self.data, self.precision = trials, topology, data, trials.base.precision

    def __call__(self, task: Task, report: Reporter) -> float:
        """Train; returns the accuracy after the last round."""
        return self.train(task.setting, self.trials.seed_of(task.id), report).value

    def train(self, setting: Setting, seed: int, report: Reporter = lambda step, value: None) -> Trained:
        """Train with one setting; `report(step, accuracy)` after every round but the last. Raises UsageError, Diverged."""
        args = self.trials.options(setting, seed)
        batch, steps, epoch = self.trials.sizes(args, len(self.data.train))
        worker, end = self._worker(args, batch, epoch / steps)
        model, optimizer, world = worker.model, worker.optimizer, self.topology.world
        evaluator = Evaluator(self.data.train, self.precision, seed)
        plan = Plan(batch, steps, args.label_smoothing, self.precision, args.accumulate)
        for t in range(args.rounds):
            train_round(worker, self.data.batches(seed, t, batch, world.rank, world.size, steps), seed, t, plan)
            if optimizer.end_training():
                evaluator.measure_statistics(model.module, worker.peers, t=t)
            own = evaluate(model.module, self.data.fitness, self.precision) if isinstance(args, EoaArgs) else NOT_COMPARED
            outcome = end.end_round(t, own)
            if outcome.diverged:
                raise Diverged(outcome.diverged)
            worker.rate = outcome.rate
            if t < args.rounds - 1:
                report(t + 1, evaluator.of_weights(model, None, [self.data.fitness], world, t=t)[0].accuracy)
        evaluator.measure_statistics(model.module, world, REPORTED, args.rounds)
        return Trained(model, evaluate(model.module, self.data.fitness, self.precision, world).accuracy)

    def _network(self, args: CommonArgs) -> Any:
        source = self.data.source
        sizes = (args.depth, args.width, args.dropout, torch_seed(args.seed, Purpose.INITIAL), self.data.train.size)
        module = build_model(args.model, source.channels, source.classes, *sizes, args.initialisation)
        if args.pretrained:
            load_published(module, args.model, args.pretrained)
        return module.to(self.topology.device)

    def _worker(self, args: CommonArgs, batch: int, rounds_per_epoch: float) -> tuple[Worker, EndOfRound]:
        """Worker and end of a round: data-parallel training, or an ecosphere."""
        ranks, specs = self.trials.ranks, self.trials.specs(args)
        topology = replace(self.topology, specs=specs)
        model = share_model(self._network(args), topology.world)
        settings = optimizer_settings(args, topology.spec.optimizer, args.seed)
        scale = lr_scale(topology.spec.optimizer, args.learning_rate, args.adam_rate, args.momentum_factor)
        if not isinstance(args, EoaArgs):
            eta0 = args.learning_rate
            schedule = ScheduledRates(SHAPES[self.trials.schedule], eta0, eta0, ranks, args.rounds)
            worker = build_worker(topology, model, schedule, settings, scale)
            return worker, DataParallelEnd(worker)
        settings = replace(settings, sam_scope=args.sam_scope, reset_momentum=args.momentum == "reset")
        rules = EoaSettings(base_rule=args.base_rate, rules=Rules(args.damping, args.lr_space))
        images = [batch * s.workers / ranks for s in specs]
        rates = EcosphereRates(specs, args.learning_rate, args.rounds, images, args.seed, rules, rounds_per_epoch)
        worker = build_worker(topology, model, rates, settings, scale, equal_weights=False)
        exchange = Exchange(args.exchange, args.ring_weight)
        return worker, EcosphereEnd(worker, Ecosphere(topology, model.state, rates, exchange))
