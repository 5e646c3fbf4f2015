"""What surrounds the round loop of a script: data and batch, resumption, the record of each round, and the end.

run = Run("eoa-sam", "eoa", args, given, topology, ["what this is, and how long it takes"])
run.start(ecosphere, optimizer, {})
with run:
    for t in run.rounds():
        rate = ecosphere.rate
        trained = run.train(t)
        judged = run.judge(t)
        turn = ecosphere.turn(t, judged.fitness)
        run.close_round(t, rate, trained, judged, turn)
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from common.data.dataset import open_data
from common.ecosphere.membership import Ecosphere, Turn
from common.ecosphere.smoothing import Smoother
from common.errors import Diverged, UsageError
from common.evaluate import REPORTED, Evaluator, Judged, evaluate
from common.models import build_model, load_published, model_title
from common.optim.armijo import PAPER, Rules
from common.optim.weight_optimizer import OptimizerSettings, WeightOptimizer, unit
from common.parallel import faults, launch, machine
from common.parallel.comm import Group
from common.parallel.topology import Topology
from common.paths import data_directory
from common.seeding import Purpose, torch_seed
from common.training import checkpoint
from common.training.loop import Plan, Trained, train_round
from common.training.options import CommonArgs, refuse_clipping, settle_batch, settle_precision
from common.training.progress import Reporter, span
from common.training.record import Record, Totals, check_same_config, choose_directory, commit


class Run:
    """One run of one script on all ranks. Everything here is collective over the world.

    Attributes:
        workers: ranks that train; others, if there are any, come first. lines_per_round: of metrics.csv.
        shards: which training images a worker sees, see `batches`.
        plan: batch size and steps of a round. data: all splits. epoch_steps: steps of one pass over the training images.
        evaluator: of weights that no rank trained with.
        peers: the ranks whose weights are the same as this one's while a round is trained, None for this rank alone; by default
            the gradient scope.
        merged: whether the run's model is a mean of weights that differed, so that its batch-norm statistics are measured.
    """

    def __init__(
        self,
        experiment: str,
        method: str,
        args: CommonArgs,
        given: set[str],
        topology: Topology,
        headlines: list[str],
        workers: int = 0,
        shards: str = "drawn",
    ) -> None:
        self.workers, self.shards = workers or topology.world.size, shards
        self.lines_per_round = self.workers
        self.experiment, self.method, self.args, self.topology = experiment, method, args, topology
        self.headlines = headlines  # printed once everything is known to be in order: an error is then the only line
        faults.trip("setup", topology.world.rank)
        self.directory = choose_directory(args.out, experiment, args.dataset, args.seed, args.resume, topology)
        batch_size = settle_batch(args, given, self.workers)
        if batch_size != args.batch_size:
            rounded = f"batch size {args.batch_size} of preset {args.preset} rounded to {batch_size}, a multiple of the workers"
            self.headlines.append(rounded)
        directory = str(data_directory(args.data_dir))
        faults.trip("data", topology.world.rank)
        shares = (args.val_fraction, args.fitness_images, args.train_images)
        sizes = (args.image_size, args.crop_scale, args.crop)
        looks: dict[str, Any] = {"flip": args.flip, "pixels": args.pixels}
        self.data = open_data(args.dataset, directory, topology, args.seed, *shares, *sizes, **looks)
        self.headlines.extend(self.data.source.notes)
        self.epoch_steps = len(self.data.train) // batch_size
        if not self.epoch_steps:
            raise UsageError(
                f"--batch-size {batch_size} is more than the {len(self.data.train)} training images (a shard of "
                f"{len(self.data.train) // self.workers} for each of {self.workers} workers): choose a smaller one"
            )
        if args.round_steps > self.epoch_steps:
            raise UsageError(
                f"--round-steps {args.round_steps} is more than one epoch, {self.epoch_steps} steps of {batch_size} images"
            )
        precision = topology.world.share(settle_precision(args.precision, topology.device.type))
        self.plan = Plan(batch_size, args.round_steps or self.epoch_steps, args.label_smoothing, precision, args.accumulate)
        self.evaluator = Evaluator(self.data.train, precision, args.seed)
        self.peers: Group | None = topology.gradients
        self.merged = False
        self.lengths = [self.plan.steps] * args.rounds
        self.smoother: Smoother | None = None
        self.totals = Totals()
        self._unclosed: tuple[int, float, Trained, Judged] | None = None
        self.last_round: int | None = None
        self.final_population = 0

    def images_per_gradient(self, workers: int) -> float:
        """Images behind one gradient that is averaged over so many workers."""
        return self.plan.batch_size * workers / self.workers

    def build_model(self) -> torch.nn.Module:
        """The network the arguments name, on this rank's device, its initial weights drawn by the seed."""
        source, args = self.data.source, self.args
        seed = torch_seed(args.seed, Purpose.INITIAL)
        sizes = (args.depth, args.width, args.dropout, seed, self.data.train.size)
        module = build_model(args.model, source.channels, source.classes, *sizes, args.initialisation)
        if args.pretrained:
            with self.topology.world.agreed():
                load_published(module, args.model, args.pretrained)
        return module.to(self.topology.device)

    def build_optimizer(
        self, ecosphere: Ecosphere, sam_scope: str = "local", reset_momentum: bool = False, search: Rules = PAPER
    ) -> WeightOptimizer:
        """The weight optimizer of this rank's population, as the arguments set it up. Raises UsageError, on all ranks alike.

        search: the rules of a line search, where there is one.
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
            search=search,
            seed=args.seed,
        )
        return WeightOptimizer(ecosphere, settings, self._unit(name))

    def _unit(self, optimizer: str) -> float:
        """Eta0 of a weight optimizer over --learning-rate, which rates are quoted for."""
        return unit(optimizer, self.args.learning_rate, self.args.adam_rate, self.args.momentum_factor)

    def start(self, ecosphere: Ecosphere, optimizer: WeightOptimizer, config: Mapping[str, Any]) -> None:
        """Open the record and, with --resume, go back to the last complete round. Before this, nothing is written."""
        self.ecosphere, self.optimizer = ecosphere, optimizer
        alike = len(set(self.lengths)) == 1
        round_steps = self.lengths[0] if alike else self.lengths
        settled = {"batch_size": self.plan.batch_size, "precision": self.plan.precision, "round_steps": round_steps}
        config = {
            **asdict(self.args),
            "experiment": self.experiment,
            "method": self.method,
            "ranks": self.topology.world.size,
            "population_list": [s.as_dict() for s in self.topology.specs],
            "title": model_title(self.args.model, self.args.depth, self.args.width),
            **settled,
            "statistics_images": REPORTED,
            **({"data_sha256": self.data.source.digest} if self.data.source.digest else {}),
            "rounds": len(self.lengths),
            **config,
        }
        check_same_config(self.directory, config, self.topology)
        first = self._resume() if self.args.resume else 0
        self.first_round = first
        self.record = Record(self.directory, self.topology, first)
        self.record.start(config)
        self.reporter = Reporter(self.lengths, first)
        self._describe(first)
        self._note_time("setup", machine.seconds_since_start())
        self._total_before = self.totals.seconds["total"]

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
        coupled = self.optimizer.synchroniser
        group = self.topology.population if coupled else self.topology.gradients
        engine = "Horovod" if group.horovod else "MPI" if group.size > 1 else "its own"
        return f"{coupled.shares if coupled else 'gradients'}: {engine}"

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
        """Round t of training; the last one is cut short by --max-steps."""
        plan = replace(self.plan, steps=self.lengths[t])
        if self.smoother:
            self.smoother.restart()

        def after_step(step: int) -> None:
            self.reporter.step(t, step)
            if self.smoother:
                self.smoother.add()

        batches = self.batches(t, self._steps_left(t))
        trained = train_round(self.ecosphere, self.optimizer, batches, self.args.seed, t, plan, after_step)
        if self.optimizer.rest():
            seconds = self.evaluator.measure_statistics(self.ecosphere.model.module, self.peers, t=t)
            trained = replace(trained, seconds=trained.seconds + seconds)
        self._note_time("train", trained.seconds)
        self.totals.add(trained)
        self._trained = trained
        return trained

    def judge(self, t: int) -> Judged:
        """This worker's own weights on the fitness images; under foraging its population's smoothed ones."""
        faults.trip("evaluate", self.topology.world.rank, t)
        if self.smoother:
            judged = self.smoother.judge(self.topology.population, t)
        else:
            judged = evaluate(self.ecosphere.model.module, self.data.fitness, self.plan.precision)
        self._note_time("evaluate", judged.seconds)
        self._unclosed = (t, self.ecosphere.rate, self._trained, judged)
        return judged

    def close_round(self, t: int, rate: float, trained: Trained, judged: Judged, turn: Turn) -> None:
        """Record round t, in which this worker's rate was `rate`, and save a checkpoint."""
        faults.trip("record", self.topology.world.rank, t)
        self.optimizer.end_round(turn.finite)
        self._add_line(t, rate, trained, judged, turn)
        self.last_round, self.final_population = t, self.ecosphere.final_population(turn.standings)
        self._save(t)

    def _add_line(self, t: int, rate: float, trained: Trained, judged: Judged, turn: Turn) -> None:
        fitness = float(turn.standings.fitness[self.topology.world.rank])
        row = self._row(rate, fitness, trained, judged, turn.seconds)
        self.reporter.round(t, self.record.add_round(t, row))

    def _row(self, rate: float, fitness: float, trained: Trained, judged: Judged, exchange: float) -> dict[str, Any]:
        """This rank's line of a round, without round and rank; what it sent is counted in the totals."""
        traffic, spec = self.topology.traffic, self.topology.spec
        seconds = {"train": trained.seconds, "evaluate": judged.seconds, "exchange": exchange}
        self._note_time("exchange", exchange)
        row = {
            "population": self.topology.index,
            "species": spec.species,
            "optimizer": spec.optimizer,
            "lr": self.optimizer.step_size(rate),
            "fitness": fitness,
            "train_loss": trained.loss,
            "train_accuracy": trained.accuracy,
            "val_loss": judged.loss,
            "val_accuracy": judged.accuracy,
            "forward_evaluations": trained.forward_evaluations,
            "searches": trained.searches,
            "trials": trained.trials,
            **{f"seconds_{phase}": round(value, 4) for phase, value in seconds.items()},
            "bytes_inside": traffic.inside,
            "bytes_across": traffic.across,
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
        ecosphere = self.ecosphere
        tensors = {"state": ecosphere.model.state}
        tensors |= {f"optimizer.{n}": v for n, v in self.optimizer.state_tensors().items()}
        tensors |= {f"synchroniser.{n}": v for n, v in self._coupled().items()}
        tensors |= {f"counter.{n}": v for n, v in ecosphere.model.counters().items()}
        numbers = {
            "rate": ecosphere.rate,
            "rule": ecosphere.rates.state(),
            "clock": self.optimizer.clock,
            "final_population": self.final_population,
            "totals": self.totals.as_dict(),
        }
        return tensors, numbers

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
        for name, value in self._coupled().items():
            value.copy_(tensors.pop(f"synchroniser.{name}"))
        for name, value in self.ecosphere.model.counters().items():
            value.copy_(tensors.pop(f"counter.{name}"))
        self.ecosphere.restore(tensors.pop("state"), numbers["rate"], numbers["rule"])
        self.optimizer.load_state_tensors({n.removeprefix("optimizer."): v for n, v in tensors.items()})
        self.totals = Totals(**numbers["totals"])
        self.topology.traffic.inside = self.topology.traffic.across = 0  # the start was counted the first time
        self.last_round, self.final_population = t, numbers["final_population"]
        self.optimizer.clock = numbers["clock"]

    def _coupled(self) -> dict[str, Tensor]:
        """What the synchroniser remembers, if there is one."""
        return self.optimizer.synchroniser.tensors() if self.optimizer.synchroniser else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Finish the run; also where it diverged. Any other error is left alone: there is nothing more to agree on."""
        if isinstance(error, Diverged) and self._unclosed is not None:
            self._add_line(*self._unclosed, error.turn)  # the round that lost everybody is in the record too
        if kind is None or kind is Diverged:
            self._finish(diverged=kind is Diverged)

    def _finish(self, diverged: bool) -> None:
        """The run's model on all validation images and, for the only time, on the test images; then the summary."""
        world, model = self.topology.world, self.ecosphere.model
        self._take_final_weights(diverged)
        validation = evaluate(model.module, self.data.validation, self.plan.precision, world)
        test = evaluate(model.module, self.data.test, self.plan.precision, world)
        self._note_time("evaluate", validation.seconds + test.seconds)
        self.record.write_weights(model.module)
        self._note_total()
        summary = self._summary(validation, test, diverged)
        self.record.write_json("summary.json", summary)
        units = {s.optimizer: self._unit(s.optimizer) for s in self.topology.specs}
        self.record.write_rates(units, self.ecosphere.rates.lineage(self.final_population))
        self.record.close()
        self.reporter.close()
        seconds = summary["seconds"]
        launch.say(
            f"validation accuracy {100 * validation.accuracy:.2f} %, test accuracy {100 * test.accuracy:.2f} %; "
            f"{seconds['total']:.0f} s ({seconds['train']:.0f} s training at {summary['images_per_second']:.0f} images/s); "
            f"record in {self.directory}"
        )

    def _take_final_weights(self, diverged: bool) -> None:
        """The run's model onto all ranks: where it diverged, of the last finite weights those of the population then best."""
        if self.ecosphere.exchange.keeps_populations_apart:
            root = self.topology.offsets[self.final_population]
            self.topology.world.broadcast_(self.ecosphere.model.state.detach(), root)
        if self.merged or self.optimizer.averaging:
            self._measure_final_statistics()

    def _measure_final_statistics(self) -> None:
        """Batch-norm statistics of the run's model, which all ranks hold by now and no rank has trained with."""
        module, world = self.ecosphere.model.module, self.topology.world
        self._note_time("evaluate", self.evaluator.measure_statistics(module, world, REPORTED, len(self.lengths)))

    def _summary(self, validation: Judged, test: Judged, diverged: bool) -> dict[str, Any]:
        """The content of summary.json."""
        return {
            "experiment": self.experiment,
            "method": self.method,
            "dataset": self.args.dataset,
            "model": model_title(self.args.model, self.args.depth, self.args.width),
            "parameters": self.ecosphere.model.parameters.numel(),
            "buffers": self.ecosphere.model.buffers.numel(),
            "classes": self.data.source.classes,
            "seed": self.args.seed,
            "ranks": self.topology.world.size,
            "lines_per_round": self.lines_per_round,
            "populations": [s.as_dict() for s in self.topology.specs],
            "exchange": self.ecosphere.exchange.policy,
            "rounds": 0 if self.last_round is None else self.last_round + 1,
            "batch_size": self.plan.batch_size,
            "precision": self.plan.precision,
            **self.totals.over_ranks(self.topology.world),
            "validation_accuracy": validation.accuracy,
            "validation_loss": validation.loss,
            "test_accuracy": test.accuracy,
            "test_loss": test.loss,
            "diverged": diverged,
            "weights_sha256": self.ecosphere.model.sha256(),
            "commit": commit(),
        }

    def _note_time(self, phase: str, seconds: float) -> None:
        self.totals.seconds[phase] += seconds

    def _note_total(self) -> None:
        """Wall time of this process so far, added to that of the sessions before it."""
        self.totals.seconds["total"] = self._total_before + machine.seconds_since_start()
