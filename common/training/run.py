"""One run of a training script on all ranks: data and batch, the rounds, resumption, the record, the end.

    run = Run("eoa-sam", "eoa", args, given, topology, ["title and expected time"])
    worker = run.build_worker(rates)
    run.start(worker, end, evaluated)
    with run:
        for t in run.rounds():
            run.train(t)
            result = run.evaluate(t)
            run.close(t, run.end_round(t, result))

Methods differ in two objects (`common.training.round_ends`): the end of a round, and the evaluated weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from common.errors import Diverged
from common.evaluate import REPORTED, EvalResult, evaluate
from common.parallel import faults, launch, machine
from common.training import checkpoint, resumption
from common.training.description import config_of, headlines_of, summary_of
from common.training.loop import Trained, train_round
from common.training.progress import Reporter
from common.training.record import Record, Totals, check_same_config
from common.training.round_ends import EndOfRound, Evaluated, Outcome, OwnWeights
from common.training.setup import Setup
from common.training.worker import Worker


class Run(Setup):
    """One run of one script on all ranks. Everything here is collective over the world.

    Attributes:
        worker, end, evaluated: arguments of `start`. lengths: steps of every round. totals: counters of this rank so far.
        last_round: last complete round, or None. final_population: index of the population whose weights are the run's model.
    """

    last_round: int | None = None
    final_population = 0

    def start(
        self,
        worker: Worker,
        end: EndOfRound,
        evaluated: Evaluated | None = None,
        lengths: Sequence[int] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the record and, with --resume, restore the last complete round. Nothing is written before this.

        end, evaluated: the two objects of the method (None: the worker's own weights). lengths: steps of every round
        (default: those of the plan). config: additional keys of config.json.
        """
        self.worker, self.end = worker, end
        self.evaluated = evaluated or OwnWeights(worker, self.data.fitness, self.plan.precision)
        self.lengths = list(lengths) or [self.plan.steps] * self.args.rounds
        self.totals = Totals()
        config = {**config_of(self), **(config or {})}
        check_same_config(self.directory, config, self.topology)
        first = self._resume() if self.args.resume else 0
        self.end.begin()
        self.first_round = first
        self.record = Record(self.directory, self.topology, first)
        self.record.start(config)
        self.reporter = Reporter([n for t in range(len(self.lengths)) if (n := self._steps_left(t)) > 0], first)
        for line in headlines_of(self):
            self.reporter.line(line)
        self._note_time("setup", machine.seconds_since_start())
        self._total_before = self.totals.seconds["total"]

    def engine(self) -> str:
        """What is averaged, and the library that does it, as text."""
        coupling = self.worker.optimizer.coupling
        group = self.topology.population if coupling else self.topology.gradients
        engine = "Horovod" if group.horovod else "MPI" if group.size > 1 else "not averaged"
        return f"{coupling.shares if coupling else 'gradients'}: {engine}"

    def rounds(self) -> Iterator[int]:
        """Indices of the rounds still to run; ends early if --max-steps is reached."""
        for t in range(self.first_round, len(self.lengths)):
            if self._steps_left(t) < 1:
                return
            yield t

    def _steps_left(self, t: int) -> int:
        """Steps of round t; fewer than its length if --max-steps is reached in it, less than 1 after that."""
        length = self.lengths[t]
        return min(length, self.args.max_steps - sum(self.lengths[:t])) if self.args.max_steps else length

    def train(self, t: int) -> Trained:
        """Train round t, shortened if --max-steps is reached in it. Seconds in a coupling count as exchange."""
        plan, optimizer = replace(self.plan, steps=self.lengths[t]), self.worker.optimizer
        self.evaluated.begin_round()

        def after_step(step: int) -> None:
            """Report progress and update the evaluated weights."""
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
        """Evaluate the weights that the method defines on the fitness images."""
        faults.trip("evaluate", self.topology.world.rank, t)
        self.result = self.evaluated.evaluate(t)
        self._note_time("evaluate", self.result.seconds)
        return self.result

    def end_round(self, t: int, result: EvalResult) -> Outcome:
        """Call the method's end of round."""
        return self.end.end_round(t, result)

    def close(self, t: int, outcome: Outcome) -> None:
        """Record round t, set the next learning rate, save a checkpoint. Raises Diverged if the run cannot continue."""
        faults.trip("record", self.topology.world.rank, t)
        rows = self.record.add_round(t, self._row(t, outcome))
        self.reporter.round(t, rows)
        if outcome.diverged:
            raise Diverged(outcome.diverged)
        self.worker.rate = outcome.rate
        self.last_round, self.final_population = t, outcome.population
        self._save(t)

    def _row(self, t: int, outcome: Outcome) -> dict[str, Any]:
        """This rank's line of a round, without round and rank; adds the bytes sent to the totals."""
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
        self.note_total()
        checkpoint.save(self.directory / "checkpoints", t, self.topology.world, *resumption.state_of(self))

    def _resume(self) -> int:
        """Load the newest complete checkpoint; returns the next round."""
        found = checkpoint.load_latest(self.directory / "checkpoints", self.topology.world)
        if found is None:
            return 0
        t, (tensors, numbers) = found
        resumption.restore(self, t, tensors, numbers)
        return t + 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Finish the run, also if it diverged. After other errors no collective call is possible: they propagate."""
        if kind is None or kind is Diverged:
            self._finish(diverged=kind is Diverged)

    def _finish(self, diverged: bool) -> None:
        """Evaluate the run's model on all validation images and, only here, on the test images; write the summary."""
        world, model = self.topology.world, self.worker.model
        self._take_final_weights(diverged)
        validation = evaluate(model.module, self.data.validation, self.plan.precision, world)
        test = evaluate(model.module, self.data.test, self.plan.precision, world)
        self._note_time("evaluate", validation.seconds + test.seconds)
        self.record.write_weights(model.module)
        self.note_total()
        lineage = self.worker.rates.lineage(self.final_population)
        summary = {**summary_of(self, validation, test, diverged), **self.end.summary()}
        summary |= {} if lineage is None else {"lineage": lineage}
        self.record.write_json("summary.json", summary)
        self.record.close()
        self.reporter.close()
        seconds = summary["seconds"]
        launch.say(
            f"validation accuracy {100 * validation.accuracy:.2f} %, test accuracy {100 * test.accuracy:.2f} %; "
            f"{seconds['total']:.0f} s ({seconds['train']:.0f} s training at {summary['images_per_second']:.0f} images/s); "
            f"record in {self.directory}"
        )

    def _take_final_weights(self, diverged: bool) -> None:
        """Put the run's model on all ranks, and measure its batch-norm statistics.

        Also those of weights that were trained: at a constant rate running statistics lag behind the weights.
        """
        self.end.take_final_weights(self.final_population, diverged)
        module, world = self.worker.model.module, self.topology.world
        self._note_time("evaluate", self.evaluator.measure_statistics(module, world, REPORTED, len(self.lengths)))

    def _note_time(self, phase: str, seconds: float) -> None:
        self.totals.seconds[phase] += seconds

    def note_total(self) -> None:
        """Set the total wall time: this process so far, plus the sessions before it."""
        self.totals.seconds["total"] = self._total_before + machine.seconds_since_start()
