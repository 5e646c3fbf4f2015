"""One run of a training script on all ranks: data and batch, the rounds, resumption, the record, the end.

    run = Run("eoa-sam", "eoa", args, given, topology, ["what this is, and how long it takes"])
    worker = run.build_worker(rates)
    run.start(worker, end, evaluated)
    with run:
        for t in run.rounds():
            run.train(t)
            result = run.evaluate(t)
            run.close(t, run.end_round(t, result))

What differs between methods is in two objects (`common.training.round_ends`): how a round ends, and which weights are
evaluated.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from common.data.dataset import open_data
from common.ecosphere.rates import RateRule
from common.errors import Diverged, UsageError
from common.evaluate import REPORTED, EvalResult, Evaluator, evaluate
from common.models import build_model, load_published, model_title
from common.models.flat import FlatModel
from common.optim.armijo import PAPER, Rules
from common.optim.bases import OptimizerSettings
from common.optim.options import refuse_clipping
from common.optim.protocols import Coupling
from common.optim.registry import lr_scale
from common.parallel import faults, launch, machine
from common.parallel.topology import Topology
from common.paths import data_directory
from common.seeding import Purpose, torch_seed
from common.training import checkpoint
from common.training.loop import Plan, Trained, train_round
from common.training.options import CommonArgs, settle_batch, settle_precision
from common.training.progress import Reporter, span
from common.training.record import Record, Totals, check_same_config, choose_directory, commit
from common.training.round_ends import EndOfRound, Evaluated, Outcome, OwnWeights
from common.training.worker import Worker, build_worker, share_model


class Run:
    """One run of one script on all ranks. Everything here is collective over the world.

    workers: ranks that train (0: all); others, if there are any, come first. shards: which training images a worker sees, see
    `batches`. wrong_classes_only: label smoothing gives its share to the wrong classes alone, as EOA's scripts do.

    Attributes:
        plan: batch size and steps of a round. data: all splits. epoch_steps: steps of one pass over the training images.
        evaluator: for weights that no rank trained with. lengths: steps of every round.
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
        self.headlines = list(headlines)  # printed once everything is in order: an error is then the only line
        faults.trip("setup", topology.world.rank)
        self.directory = choose_directory(args.out, experiment, args.dataset, args.seed, args.resume, topology)
        batch_size = settle_batch(args, given, self.workers)
        if batch_size != args.batch_size:
            self.note(
                f"batch size {args.batch_size} of preset {args.preset} rounded to {batch_size}, a multiple of the workers"
            )
        self._open_data(args)
        if wrong_classes_only:
            args = replace(args, label_smoothing=over_wrong_classes(args.label_smoothing, self.data.source.classes))
        self.args = args
        self.epoch_steps = self._steps_per_epoch(batch_size)
        precision = topology.world.share(settle_precision(args.precision, topology.device.type))
        self.plan = Plan(batch_size, args.round_steps or self.epoch_steps, args.label_smoothing, precision, args.accumulate)
        self.evaluator = Evaluator(self.data.train, precision, args.seed)
        self.lengths = [self.plan.steps] * args.rounds
        self.totals = Totals()
        self.last_round: int | None = None
        self.final_population = 0

    def _open_data(self, args: CommonArgs) -> None:
        directory = str(data_directory(args.data_dir))
        faults.trip("data", self.topology.world.rank)
        shares = (args.val_fraction, args.fitness_images, args.train_images)
        sizes = (args.image_size, args.crop_scale, args.crop)
        looks: dict[str, Any] = {"flip": args.flip, "pixels": args.pixels}
        self.data = open_data(args.dataset, directory, self.topology, args.seed, *shares, *sizes, **looks)
        self.headlines.extend(self.data.source.notes)

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
        """One more line to print when the run starts."""
        self.headlines.append(line)

    def images_per_gradient(self, workers: int) -> float:
        """Images behind one gradient that is averaged over so many workers."""
        return self.plan.batch_size * workers / self.workers

    def build_model(self) -> FlatModel:
        """The network the arguments name, in flat buffers, with the same weights on all ranks; they are drawn by the seed."""
        source, args = self.data.source, self.args
        seed = torch_seed(args.seed, Purpose.INITIAL)
        sizes = (args.depth, args.width, args.dropout, seed, self.data.train.size)
        module = build_model(args.model, source.channels, source.classes, *sizes, args.initialisation)
        if args.pretrained:
            with self.topology.world.raise_together():
                load_published(module, args.model, args.pretrained)
        return share_model(module.to(self.topology.device), self.topology)

    def build_worker(
        self,
        model: FlatModel,
        rates: RateRule,
        coupling: Coupling | None = None,
        sam_scope: str = "local",
        reset_momentum: bool = False,
        line_search: Rules = PAPER,
        equal_inside: bool = True,
    ) -> Worker:
        """This rank's worker, its optimizer as the arguments set it up. Raises UsageError, on all ranks alike.

        line_search: the rules of one, where the optimizer has one. The others: see `worker.build_worker`.
        """
        args, name = self.args, self.topology.spec.optimizer
        refuse_clipping(args.clip_norm, (spec.optimizer for spec in self.topology.specs))
        if args.momentum_factor == 0 and any(spec.optimizer == "schedulefree-sgd" for spec in self.topology.specs):
            raise UsageError("--momentum-factor 0: schedulefree-sgd takes gradients between two places; 0.9 is usual")
        settings = OptimizerSettings(
            name=name,
            momentum=args.momentum_factor,
            weight_decay=args.weight_decay,
            adam_decay=args.adam_decay,
            rho=args.rho,
            sam_scope=sam_scope,
            clip_norm=args.clip_norm,
            reset_momentum=reset_momentum,
            search=line_search,
            seed=args.seed,
        )
        return build_worker(self.topology, model, rates, settings, self._lr_scale(name), coupling, equal_inside)

    def _lr_scale(self, optimizer: str) -> float:
        """Base rate of a weight optimizer over --learning-rate, which rates are quoted for."""
        return lr_scale(optimizer, self.args.learning_rate, self.args.adam_rate, self.args.momentum_factor)

    def start(
        self,
        worker: Worker,
        end: EndOfRound,
        evaluated: Evaluated | None = None,
        lengths: Sequence[int] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the record and, with --resume, go back to the last complete round. Before this, nothing is written.

        end, evaluated: the two objects of the method (None: the worker's own weights). lengths: steps of every round, where
        they are not those of the plan. config: more keys of config.json.
        """
        self.worker, self.end = worker, end
        self.evaluated = evaluated or OwnWeights(worker, self.data.fitness, self.plan.precision)
        self.lengths = list(lengths) or self.lengths
        config = self._config(config or {})
        check_same_config(self.directory, config, self.topology)
        first = self._resume() if self.args.resume else 0
        self.end.begin()
        self.first_round = first
        self.record = Record(self.directory, self.topology, first)
        self.record.start(config)
        self.reporter = Reporter([n for t in range(len(self.lengths)) if (n := self._steps_left(t)) > 0], first)
        self._describe(first)
        self._note_time("setup", machine.seconds_since_start())
        self._total_before = self.totals.seconds["total"]

    def _config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The content of config.json."""
        alike = len(set(self.lengths)) == 1
        return {
            **asdict(self.args),
            "experiment": self.experiment,
            "method": self.method,
            "ranks": self.topology.world.size,
            "population_list": [s.as_dict() for s in self.topology.specs],
            "title": model_title(self.args.model, self.args.depth, self.args.width),
            "batch_size": self.plan.batch_size,
            "precision": self.plan.precision,
            "round_steps": self.lengths[0] if alike else self.lengths,
            "statistics_images": REPORTED,
            **({"data_sha256": self.data.source.digest} if self.data.source.digest else {}),
            "rounds": len(self.lengths),
            **config,
        }

    def _describe(self, first: int) -> None:
        for line in self.headlines:
            self.reporter.line(line)
        topology = self.topology
        sizes = ", ".join(f"{s.workers} {s.species} ({s.optimizer})" for s in topology.specs)
        ranks = f"{topology.world.size} rank{'s'[: topology.world.size > 1]}"
        self.reporter.line(
            f"{ranks}: {sizes}; {topology.threads} thread(s) each on {topology.device.type}, "
            f"{self.plan.precision}; {self._engine()}; {len(self.data.train)} training images, "
            f"{span(self.lengths)} steps of {self.plan.batch_size} per round; record: {self.directory}"
        )
        if first:
            self.reporter.line(f"resuming after round {first} of {len(self.lengths)}")
        elif self.args.resume:
            self.reporter.line(f"no complete round in {self.directory} to go on after: starting with the first")

    def _engine(self) -> str:
        """What is averaged by what."""
        coupling = self.worker.optimizer.coupling
        group = self.topology.population if coupling else self.topology.gradients
        engine = "Horovod" if group.horovod else "MPI" if group.size > 1 else "its own"
        return f"{coupling.shares if coupling else 'gradients'}: {engine}"

    def rounds(self) -> Iterator[int]:
        """Numbers of the rounds still to run; ends early where --max-steps is reached."""
        for t in range(self.first_round, len(self.lengths)):
            if self._steps_left(t) < 1:
                return
            yield t

    def _steps_left(self, t: int) -> int:
        """Steps that round t is to make; fewer than its length where --max-steps cuts it short, none after that."""
        length = self.lengths[t]
        return min(length, self.args.max_steps - sum(self.lengths[:t])) if self.args.max_steps else length

    def batches(self, t: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This worker's part of the round's first `steps` batches, as `shards` deals the images out.

        drawn: every round anew, each image to one worker. own: once, each worker keeps to its own. all: every worker goes
        through all images, in an order of its own.
        """
        seed, batch, workers = self.args.seed, self.plan.batch_size, self.workers
        worker = self.topology.world.rank - (self.topology.world.size - workers)
        match self.shards:
            case "own":
                return self.data.own_batches(seed, t, batch // workers, worker, workers, steps)
            case "all":
                return self.data.batches(seed, t, batch // workers, 0, 1, steps, worker)
        return self.data.batches(seed, t, batch, worker, workers, steps)

    def train(self, t: int) -> Trained:
        """Round t of training; the last one is cut short by --max-steps. Seconds in a coupling count as exchange."""
        plan, optimizer = replace(self.plan, steps=self.lengths[t]), self.worker.optimizer
        self.evaluated.begin_round()

        def after_step(step: int) -> None:
            self.reporter.step(t, step)
            self.evaluated.after_step()

        batches = self.batches(t, self._steps_left(t))
        trained = train_round(self.worker, batches, self.args.seed, t, plan, after_step)
        seconds, self.coupling_seconds = trained.seconds, optimizer.coupling_seconds()
        if optimizer.end_training():
            seconds += self.evaluator.measure_statistics(self.worker.model.module, self.worker.peers, t=t)
        self.trained = replace(trained, seconds=seconds - self.coupling_seconds)
        self._note_time("train", self.trained.seconds)
        self.totals.add(self.trained)
        return self.trained

    def evaluate(self, t: int) -> EvalResult:
        """The evaluated weights of the method on the fitness images."""
        faults.trip("evaluate", self.topology.world.rank, t)
        self.result = self.evaluated.evaluate(t)
        self._note_time("evaluate", self.result.seconds)
        return self.result

    def end_round(self, t: int, result: EvalResult) -> Outcome:
        """What the method does between two rounds."""
        return self.end.end_round(t, result)

    def close(self, t: int, outcome: Outcome) -> None:
        """Record round t, save a checkpoint, go on to the next learning rate. Raises Diverged where the run cannot go on."""
        faults.trip("record", self.topology.world.rank, t)
        rows = self.record.add_round(t, self._row(t, outcome))
        self.reporter.round(t, rows)
        if outcome.diverged:
            raise Diverged(outcome.diverged)
        self.worker.rate = outcome.rate
        self.last_round, self.final_population = t, outcome.population
        self._save(t)

    def _row(self, t: int, outcome: Outcome) -> dict[str, Any]:
        """This rank's line of a round, without round and rank; what it sent is counted in the totals."""
        traffic, spec, trained, result = self.topology.traffic, self.topology.spec, self.trained, self.result
        exchange = outcome.seconds + self.coupling_seconds
        self._note_time("exchange", exchange)
        seconds = {"train": trained.seconds, "evaluate": result.seconds, "exchange": exchange}
        row = {
            "population": self.topology.index,
            "species": spec.species,
            "optimizer": spec.optimizer,
            "lr": self.worker.optimizer.effective_lr(self.worker.rate),
            "fitness": outcome.fitness,
            "train_loss": trained.loss,
            "train_accuracy": trained.accuracy,
            "val_loss": result.loss,
            "val_accuracy": result.accuracy,
            "forward_evaluations": trained.forward_evaluations,
            "searches": trained.searches,
            "trials": trained.trials,
            **{f"seconds_{phase}": round(value, 4) for phase, value in seconds.items()},
            "bytes_inside": traffic.inside,
            "bytes_across": traffic.across,
            **self.end.columns(),
        }
        self.totals.bytes_inside += traffic.inside
        self.totals.bytes_across += traffic.across
        traffic.inside = traffic.across = 0
        return row

    def _save(self, t: int) -> None:
        checkpoint.save(self.directory / "checkpoints", t, self.topology.world, *self._state())

    def _state(self) -> checkpoint.State:
        """What this rank has to keep of the run, after a round."""
        self._note_total()
        worker, (tensors, numbers) = self.worker, self.end.state()
        tensors = {f"end.{n}": v for n, v in tensors.items()} | {"state": worker.model.state}
        tensors |= {f"optimizer.{n}": v for n, v in worker.optimizer.state_tensors().items()}
        tensors |= {f"coupling.{n}": v for n, v in self._coupled().items()}
        tensors |= {f"counter.{n}": v for n, v in worker.model.counters().items()}
        kept = {
            "rate": worker.rate,
            "rule": worker.rates.state(),
            "clock": worker.optimizer.clock,
            "end": numbers,
            "final_population": self.final_population,
            "totals": self.totals.as_dict(),
        }
        return tensors, kept

    def _resume(self) -> int:
        """Load the newest complete checkpoint; returns the round to go on with."""
        found = checkpoint.load_latest(self.directory / "checkpoints", self.topology.world)
        if found is None:
            return 0
        t, (tensors, numbers) = found
        self._restore(t, tensors, numbers)
        return t + 1

    def _restore(self, t: int, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go back to what `_state` gave after round t."""
        worker = self.worker
        for prefix, kept in (
            ("end", self.end.state()[0]),
            ("coupling", self._coupled()),
            ("counter", worker.model.counters()),
            ("", {"state": worker.model.state.detach()}),
        ):
            for name, value in kept.items():
                value.copy_(tensors.pop(f"{prefix}.{name}" if prefix else name))
        worker.rate = numbers["rate"]
        worker.rates.load_state(numbers["rule"])
        worker.optimizer.load_state_tensors({n.removeprefix("optimizer."): v for n, v in tensors.items()})
        worker.optimizer.clock = numbers["clock"]
        self.end.restore(numbers["end"])
        self.totals = Totals(**numbers["totals"])
        self.topology.traffic.inside = self.topology.traffic.across = 0  # the start was counted the first time
        self.last_round, self.final_population = t, numbers["final_population"]

    def _coupled(self) -> dict[str, Tensor]:
        """State of the coupling, if there is one."""
        coupling = self.worker.optimizer.coupling
        return coupling.tensors() if coupling else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Finish the run; also where it diverged. Any other error is left alone: there is nothing more to agree on."""
        if kind is None or kind is Diverged:
            self._finish(diverged=kind is Diverged)

    def _finish(self, diverged: bool) -> None:
        """The run's model on all validation images and, for the only time, on the test images; then the summary."""
        world, model = self.topology.world, self.worker.model
        self._take_final_weights(diverged)
        validation = evaluate(model.module, self.data.validation, self.plan.precision, world)
        test = evaluate(model.module, self.data.test, self.plan.precision, world)
        self._note_time("evaluate", validation.seconds + test.seconds)
        self.record.write_weights(model.module)
        self._note_total()
        summary = self._summary(validation, test, diverged)
        self.record.write_json("summary.json", summary)
        scales = {s.optimizer: self._lr_scale(s.optimizer) for s in self.topology.specs}
        self.record.write_rates(scales, self.worker.rates.lineage(self.final_population))
        self.record.close()
        self.reporter.close()
        seconds = summary["seconds"]
        launch.say(
            f"validation accuracy {100 * validation.accuracy:.2f} %, test accuracy {100 * test.accuracy:.2f} %; "
            f"{seconds['total']:.0f} s ({seconds['train']:.0f} s training at {summary['images_per_second']:.0f} images/s); "
            f"record in {self.directory}"
        )

    def _take_final_weights(self, diverged: bool) -> None:
        """The run's model onto all ranks, and batch-norm statistics of weights that no rank has trained with."""
        self.end.take_final_weights(self.final_population, diverged)
        if self.end.measured_at_end or self.worker.optimizer.averaging:
            module, world = self.worker.model.module, self.topology.world
            self._note_time("evaluate", self.evaluator.measure_statistics(module, world, REPORTED, len(self.lengths)))

    def _summary(self, validation: EvalResult, test: EvalResult, diverged: bool) -> dict[str, Any]:
        """The content of summary.json."""
        model = self.worker.model
        return {
            "experiment": self.experiment,
            "method": self.method,
            "dataset": self.args.dataset,
            "model": model_title(self.args.model, self.args.depth, self.args.width),
            "parameters": model.parameters.numel(),
            "buffers": model.buffers.numel(),
            "classes": self.data.source.classes,
            "seed": self.args.seed,
            "ranks": self.topology.world.size,
            "lines_per_round": self.workers,
            "populations": [s.as_dict() for s in self.topology.specs],
            "exchange": self.end.exchange,
            "rounds": 0 if self.last_round is None else self.last_round + 1,
            "batch_size": self.plan.batch_size,
            "precision": self.plan.precision,
            **self.totals.over_ranks(self.topology.world),
            "validation_accuracy": validation.accuracy,
            "validation_loss": validation.loss,
            "test_accuracy": test.accuracy,
            "test_loss": test.loss,
            "diverged": diverged,
            "weights_sha256": model.sha256(),
            "commit": commit(),
            **self.end.summary(),
        }

    def _note_time(self, phase: str, seconds: float) -> None:
        self.totals.seconds[phase] += seconds

    def _note_total(self) -> None:
        """Wall time of this process so far, added to that of the sessions before it."""
        self.totals.seconds["total"] = self._total_before + machine.seconds_since_start()


def over_wrong_classes(smoothing: float, classes: int) -> float:
    """torch's label smoothing that gives the share s = `smoothing` of a label to its wrong classes alone.

    torch shares e out over all K classes, e/K to each; so e = s K/(K - 1) leaves 1 - s to the right one and gives s/(K - 1) to
    each wrong one.
    """
    return smoothing * classes / (classes - 1) if classes > 1 else smoothing
