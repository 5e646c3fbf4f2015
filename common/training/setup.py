"""Setup of a run before its first round: data and batch, the network, the worker of this rank."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from common.data.dataset import DataSet, open_data
from common.ecosphere.rates import RateRule
from common.errors import UsageError
from common.evaluate import Evaluator
from common.models import build_model, load_published
from common.models.flat import FlatModel, share_model
from common.optim.armijo import PAPER, Rules
from common.optim.bases import OptimizerSettings
from common.optim.options import refuse_clipping
from common.optim.protocols import Coupling
from common.optim.registry import lr_scale
from common.parallel import faults
from common.parallel.topology import Topology
from common.paths import data_directory
from common.seeding import Purpose, torch_seed
from common.training.loop import Plan
from common.training.options import CommonArgs, resolve_batch, resolve_precision
from common.training.record import choose_directory
from common.training.worker import Worker, build_worker


class Setup:
    """One run of one script on all ranks, before it starts. Everything here is collective over the world.

    workers: number of ranks that train (0: all); the other ranks come first. shards: assignment of training images to workers,
    see `batches`. wrong_classes_only: spread label smoothing over the wrong classes alone, as EOA's scripts do.

    Attributes:
        plan: batch size and steps of a round. data: all splits. epoch_steps: steps of one pass over the training images.
        evaluator: for weights that no rank trained with. headlines: printed when the run starts.
    """

    def __init__(
        self,
        experiment: str,
        method: str,
        args: CommonArgs,
        given: set[str],
        topology: Topology,
        headlines: Sequence[str],
        workers: int = 0,
        shards: str = "drawn",
        wrong_classes_only: bool = False,
    ) -> None:
        self.workers, self.shards = workers or topology.world.size, shards
        self.experiment, self.method, self.topology = experiment, method, topology
        self.headlines = list(headlines)  # printed after all checks, so that an error is the only line
        faults.trip("setup", topology.world.rank)
        self.directory = choose_directory(args.out, experiment, args.dataset, args.seed, args.resume, topology)
        batch_size = resolve_batch(args, given, self.workers)
        if batch_size != args.batch_size:
            self.note(
                f"batch size {args.batch_size} of preset {args.preset} rounded to {batch_size}, a multiple of the workers"
            )
        faults.trip("data", topology.world.rank)
        self.data = read_data(args, topology)
        self.headlines.extend(self.data.source.notes)
        if wrong_classes_only:
            args = replace(args, label_smoothing=over_wrong_classes(args.label_smoothing, self.data.source.classes))
        self.args = args
        self.epoch_steps = self._steps_per_epoch(batch_size)
        precision = topology.world.bcast_object(resolve_precision(args.precision, topology.device.type))
        self.plan = Plan(batch_size, args.round_steps or self.epoch_steps, args.label_smoothing, precision, args.accumulate)
        self.evaluator = Evaluator(self.data.train, precision, args.seed)

    def _steps_per_epoch(self, batch_size: int) -> int:
        images, steps = len(self.data.train), len(self.data.train) // batch_size
        if not steps:
            raise UsageError(
                f"--batch-size {batch_size} is more than the {images} training images (a shard of "
                f"{images // self.workers} for each of {self.workers} workers): choose a smaller one"
            )
        if self.args.round_steps > steps:
            raise UsageError(
                f"--round-steps {self.args.round_steps} is more than one epoch, {steps} steps of {batch_size} images"
            )
        return steps

    def note(self, line: str) -> None:
        """Add a line to print when the run starts."""
        self.headlines.append(line)

    def images_per_gradient(self, workers: int) -> float:
        """Images per gradient averaged over `workers` workers."""
        return self.plan.batch_size * workers / self.workers

    def build_model(self) -> FlatModel:
        """The network of the arguments in flat buffers; initial weights drawn from the seed, equal on all ranks."""
        source, args = self.data.source, self.args
        seed = torch_seed(args.seed, Purpose.INITIAL)
        sizes = (args.depth, args.width, args.dropout, seed, self.data.train.size)
        module = build_model(args.model, source.channels, source.classes, *sizes, args.initialisation)
        if args.pretrained:
            with self.topology.world.raise_together():
                load_published(module, args.model, args.pretrained)
        return share_model(module.to(self.topology.device), self.topology.world)

    def build_worker(
        self,
        model: FlatModel,
        rates: RateRule,
        coupling: Coupling | None = None,
        sam_scope: str = "local",
        reset_momentum: bool = False,
        line_search: Rules = PAPER,
        equal_weights: bool = True,
    ) -> Worker:
        """This rank's worker, with the optimizer of the arguments. Raises UsageError on all ranks.

        line_search: rules of the optimizer's line search, if it has one. Other arguments: see `worker.build_worker`.
        """
        args, name = self.args, self.topology.spec.optimizer
        refuse_clipping(args.clip_norm, (spec.optimizer for spec in self.topology.specs))
        if args.momentum_factor == 0 and any(spec.optimizer == "schedulefree-sgd" for spec in self.topology.specs):
            raise UsageError("--momentum-factor 0: schedulefree-sgd takes gradients between two iterates; 0.9 is usual")
        settings = optimizer_settings(args, name, sam_scope=sam_scope, reset_momentum=reset_momentum, search=line_search)
        return build_worker(self.topology, model, rates, settings, self._lr_scale(name), coupling, equal_weights)

    def _lr_scale(self, optimizer: str) -> float:
        """Ratio of a weight optimizer's base rate to --learning-rate."""
        return lr_scale(optimizer, self.args.learning_rate, self.args.adam_rate, self.args.momentum_factor)

    def batches(self, t: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This worker's part of the first `steps` batches of round t, by `shards`.

        drawn: images are redistributed every round, each to one worker. own: fixed shard per worker. all: every worker iterates
        over all images in its own order.
        """
        seed, batch, workers = self.args.seed, self.plan.batch_size, self.workers
        worker = self.topology.world.rank - (self.topology.world.size - workers)
        match self.shards:
            case "own":
                return self.data.own_batches(seed, t, batch // workers, worker, workers, steps)
            case "all":
                return self.data.batches(seed, t, batch // workers, 0, 1, steps, worker)
        return self.data.batches(seed, t, batch, worker, workers, steps)


def read_data(args: CommonArgs, topology: Topology) -> DataSet:
    """The data set that the options name, all splits. Collective over the world."""
    directory = str(data_directory(args.data_dir))
    shares = (args.val_fraction, args.fitness_images, args.train_images)
    sizes = (args.image_size, args.crop_scale, args.crop)
    looks: dict[str, Any] = {"flip": args.flip, "pixels": args.pixels}
    return open_data(args.dataset, directory, topology, args.seed, *shares, *sizes, **looks)


def optimizer_settings(args: CommonArgs, name: str, **own: Any) -> OptimizerSettings:
    """Settings of the weight optimizer `name`, from the options. own: those that not all scripts have as options."""
    return OptimizerSettings(
        name=name,
        momentum=args.momentum_factor,
        weight_decay=args.weight_decay,
        adam_decay=args.adam_decay,
        rho=args.rho,
        clip_norm=args.clip_norm,
        seed=args.seed,
        **own,
    )


def over_wrong_classes(smoothing: float, classes: int) -> float:
    """Label smoothing e for torch that gives the share s = `smoothing` of a label to its wrong classes alone.

    torch spreads e over all K classes, e/K each; so e = s K/(K - 1) leaves 1 - s to the right class and gives s/(K - 1) to
    each wrong one.
    """
    return smoothing * classes / (classes - 1) if classes > 1 else smoothing
