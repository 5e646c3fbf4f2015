"""A run whose workers each train their own weights, coupled to a centre that is judged in their place.

`CentredRun`: workers that meet, and runs of one worker. `ServedRun`: workers and servers that never wait for each other; a
round is a worker's own, rank 0 writes its lines down when all workers have sent theirs, and worker t mod p judges the centre
after its own round t. A served run that is resumed goes on from the newest round that every rank had ended; since workers and
servers save at moments of their own, it is not the same run bit by bit, as no two asynchronous runs are.

A worker whose weights are not finite pushes nothing; at the end of its round it begins anew at the centre.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from common.coupling.elastic import Master, Synchroniser
from common.coupling.server import RemoteCentre, Reporting, Server, slices_of
from common.coupling.tree import Node
from common.ecosphere.membership import Ecosphere
from common.errors import Diverged
from common.evaluate import Judged
from common.optim.weight_optimizer import WeightOptimizer
from common.parallel import faults
from common.parallel.comm import Group
from common.training import checkpoint
from common.training.loop import Trained
from common.training.run import Run

NOT_JUDGED = Judged(math.nan, math.nan, 0.0, math.nan)
WAY_OUT = "Try a lower --learning-rate or a shorter --period"


class Stopwatch(Synchroniser):
    """A synchroniser, and the seconds spent in it since they were last asked for."""

    def __init__(self, synchroniser: Synchroniser) -> None:
        self.synchroniser = synchroniser
        self.steps, self.shares = synchroniser.steps, synchroniser.shares
        self.seconds = 0.0

    def begin(self, t: int, x: Tensor) -> None:
        """The synchroniser's."""
        began = time.perf_counter()
        self.synchroniser.begin(t, x)
        self.seconds += time.perf_counter() - began

    def take(self, t: int, gradient: Tensor, finite: bool) -> bool:
        """The synchroniser's."""
        return self.synchroniser.take(t, gradient, finite)

    def observe(self, report: Tensor) -> None:
        """The synchroniser's."""
        self.synchroniser.observe(report)

    def end(self, t: int, x: Tensor, gradient: Tensor) -> None:
        """The synchroniser's."""
        began = time.perf_counter()
        self.synchroniser.end(t, x, gradient)
        self.seconds += time.perf_counter() - began

    def restart(self, x: Tensor) -> None:
        """The synchroniser's."""
        self.synchroniser.restart(x)

    def tensors(self) -> dict[str, Tensor]:
        """The synchroniser's."""
        return self.synchroniser.tensors()

    def lap(self) -> float:
        """Seconds since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class CentredRun(Run):
    """Workers that meet: all hold the same centre, and judge it together after every round.

    couple(synchroniser, evaluated) comes after `build_optimizer` and before `start`; evaluated() gives the flat parameters
    that a run is judged by.
    """

    def couple(self, synchroniser: Synchroniser, evaluated: Callable[[], Tensor], master: Master | None = None) -> Stopwatch:
        """Tell the run what its workers are coupled by; returns what the weight optimizer is to be given."""
        self.watch, self.evaluated, self.master = Stopwatch(synchroniser), evaluated, master
        return self.watch

    def start(self, ecosphere: Ecosphere, optimizer: WeightOptimizer, config: Mapping[str, Any]) -> None:
        """As of every run; what is judged is finite to begin with."""
        super().start(ecosphere, optimizer, config)
        if self._holds_centre:
            self._keep_finite()

    @property
    def _holds_centre(self) -> bool:
        """Whether this rank has what is judged, or its slice of it, and need not ask for it."""
        return True

    def end_round(self, t: int, trained: Trained) -> None:
        """Judge, record and save. Raises Diverged where the centre, or every worker, is no longer finite."""
        model, world = self.ecosphere.model, self.topology.world
        lost = not model.is_finite()
        alive = int(world.gather_rows(np.array([float(not lost)])).sum())
        sound = alive > 0 and self._keep_finite()
        judged = self.judge_centre(t, world) if sound else NOT_JUDGED
        self._note_time("evaluate", judged.seconds)
        self.reporter.round(t, self.record.add_round(t, self._line(t, trained, judged, lost)))
        if not sound:
            what = "the centre is not finite" if alive else "no worker has finite weights"
            raise Diverged(f"{what} after round {t + 1}; the last finite centre is kept. {WAY_OUT}", None)
        if lost:
            self._begin_anew(self.last_finite)
        self.last_round = t
        self._save(t)

    def _keep_finite(self) -> bool:
        """Whether what is judged is finite; it is kept then, in case that it will not be any more."""
        present = self.evaluated()
        finite = bool(torch.isfinite(present).all())
        if finite:
            self.last_finite = present.clone()
        return finite

    def _begin_anew(self, weights: Tensor) -> None:
        """Give a worker that is lost other weights; what it remembered is forgotten."""
        self.ecosphere.model.parameters.data.copy_(weights)
        self.evaluator.measure_statistics(self.ecosphere.model.module, self.peers)
        self.optimizer.end_round(finite=False)

    def judge_centre(self, t: int, group: Group) -> Judged:
        """The centre on the fitness images, which the group shares out; the worker's own weights are left as they were."""
        faults.trip("evaluate", self.topology.world.rank, t)
        weights = self.evaluated().clone()
        (judged,) = self.evaluator.of_weights(self.ecosphere.model, weights, [self.data.fitness], group, t=t)
        return judged

    def _line(self, t: int, trained: Trained, judged: Judged, lost: bool) -> dict[str, Any]:
        exchange = self.watch.lap()
        training = replace(trained, seconds=trained.seconds - exchange)
        self._note_time("train", -exchange)  # it was counted there
        faults.trip("record", self.topology.world.rank, t)
        return self._row(self.ecosphere.rate_at(t), -math.inf if lost else judged.fitness, training, judged, exchange)

    def _engine(self) -> str:
        return f"weights: {'Horovod' if self.topology.population.horovod else 'MPI'}" if self.workers > 1 else "one worker"

    def _take_final_weights(self, diverged: bool) -> None:
        self.ecosphere.model.parameters.data.copy_(self.last_finite if diverged else self.evaluated())
        self._measure_final_statistics()

    def _state(self) -> checkpoint.State:
        tensors, numbers = super()._state()
        if self.master:
            tensors |= {f"master.{name}": value for name, value in self.master.tensors().items()}
            numbers["updates"] = self.master.clock
        return tensors, numbers

    def _restore(self, t: int, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        if self.master:
            for name, value in self.master.tensors().items():
                value.copy_(tensors.pop(f"master.{name}"))
            self.master.clock = numbers["updates"]
        super()._restore(t, tensors, numbers)


class ServedRun(CentredRun):
    """A run whose centre lives on servers, or in a window; the first ranks serve, the others work.

    Attributes:
        lost: whether this worker had lost its weights at the end of its last round.
    """

    lost = False

    @property
    def servers(self) -> int:
        """How many of the first ranks serve."""
        return self.topology.world.size - self.workers

    @property
    def _holds_centre(self) -> bool:
        return self.topology.world.rank < self.servers

    def _resume(self) -> int:
        first, world = super()._resume(), self.topology.world
        world.barrier()
        if world.rank == 0:
            checkpoint.forget_from(self.directory / "checkpoints", first)
        world.barrier()
        return first

    def work(self, centre: Reporting) -> None:
        """A worker's part of the run: its rounds, at its own pace."""
        rank, model = self.topology.world.rank, self.ecosphere.model
        hooks = progress_hooks(model.module, centre.progress)
        for t in self.rounds():
            trained = self.train(t)
            self.lost = not model.is_finite()
            judged = self.judge_centre(t, self.topology.gradients) if self._is_my_turn(t) else NOT_JUDGED
            self._note_time("evaluate", judged.seconds)
            row = self._line(t, trained, judged, self.lost)
            if self.lost:
                self._recover(centre)
            self.last_round = t
            centre.settle()  # what this worker remembers as sent has been taken in before the server saves
            checkpoint.save_own(self.directory / "checkpoints", t, rank, *self._state())
            centre.report((t, {"round": t, "rank": rank, **row}))
        for hook in hooks:
            hook.remove()
        centre.close()

    def _recover(self, centre: Reporting) -> None:
        """A worker that lost its weights goes on from the centre."""
        assert isinstance(centre, RemoteCentre), "a tree has its own way"
        present = torch.empty_like(self.ecosphere.model.parameters)
        centre.pull(present)
        self._begin_anew(present)

    def _is_my_turn(self, t: int) -> bool:
        """Whether this worker judges the centre after its round t."""
        return self.topology.world.rank - self.servers == t % self.workers

    def serve(self, reports_only: bool = False) -> None:
        """A server's part: until all workers have stopped. reports_only: where the centre lies in a window."""
        began = time.perf_counter()
        self._loop(None if reports_only else self.master)
        self._note_time("exchange", time.perf_counter() - began)
        self._count_bytes()

    def _count_bytes(self) -> None:
        """A server writes no lines of its own: what it has sent goes straight into the totals."""
        traffic = self.topology.traffic
        self.totals.bytes_inside += traffic.inside
        traffic.inside = 0

    def _loop(self, master: Master | None) -> None:
        world = self.topology.world
        Server(world, master, list(range(self.servers, world.size)), self._collector()).serve()

    def _collector(self) -> Callable[[int, Any], None]:
        """What takes the workers' lines in, and ends a round when all of them are there."""
        lines: dict[int, list[dict[str, Any]]] = {}

        def on_report(rank: int, report: tuple[int, dict[str, Any]]) -> None:
            t, row = report
            lines.setdefault(t, []).append(row)
            if len(lines[t]) == self.workers:
                self._end_served_round(t, sorted(lines.pop(t), key=lambda line: line["rank"]))

        return on_report

    def _end_served_round(self, t: int, rows: list[dict[str, Any]]) -> None:
        """All workers have ended their round t: write it down, keep the centre as it is now."""
        rank, checkpoints = self.topology.world.rank, self.directory / "checkpoints"
        faults.trip("record", rank, t)
        self.last_round = t
        self._count_bytes()
        self._keep_finite()
        if rank == 0:  # before it is saved: a round that is complete has its lines
            self.record.write_round(t, rows)
            self.reporter.round(t, rows)
        checkpoint.save_own(checkpoints, t, rank, *self._state())
        if rank == 0:
            checkpoint.forget(checkpoints, self.topology.world.size)

    def bring_centre(self) -> None:
        """After their parts all ranks wait for each other and take over the centre; the last finite one where it is not."""
        world = self.topology.world
        world.rest()
        parameters = self.ecosphere.model.parameters.data
        slices = self._slices(len(parameters))
        serving = world.rank < len(slices)
        self.sound = world.gather_rows(np.array([float(self._keep_finite() if serving else not self.lost)]))[:, 0] > 0
        if serving:
            start, stop = slices[world.rank]
            parameters[start:stop] = self.last_finite
        for k, (start, stop) in enumerate(slices):
            world.broadcast_(parameters[start:stop], root=k)

    def check(self) -> None:
        """Raises Diverged where the centre is not finite at the end, or every worker lost its weights in its last round."""
        if not self.sound[: self.servers].all():
            raise Diverged(f"the centre is not finite; the last finite one is kept. {WAY_OUT}", None)
        if not self.sound[self.servers :].any():
            raise Diverged(f"all workers lost their weights in the last round. {WAY_OUT}", None)

    def _slices(self, length: int) -> list[tuple[int, int]]:
        """Which part of the centre each of the first ranks holds."""
        return slices_of(length, self.servers)

    def _engine(self) -> str:
        return f"weights: {self.servers} server(s)"

    def _take_final_weights(self, diverged: bool) -> None:
        self._measure_final_statistics()  # `bring_centre` brought the weights


def progress_hooks(module: nn.Module, progress: Callable[[], None]) -> list[RemovableHandle]:
    """Have `progress` called again and again during forward and backward passes: after every layer."""
    forward = [layer.register_forward_hook(lambda *_: progress()) for layer in module.modules()]
    return forward + [p.register_hook(lambda _: progress()) for p in module.parameters()]


class TreeRun(ServedRun):
    """A run on a tree of ranks (`common.coupling.tree`): the first ranks are its inner nodes, and the root judges itself."""

    node: Node

    def _is_my_turn(self, t: int) -> bool:
        return False

    def _recover(self, centre: Reporting) -> None:
        """A leaf that lost its weights goes on from its parent's."""
        self.node.recover()
        self._begin_anew(self.ecosphere.model.parameters.data)

    def _loop(self, master: Master | None) -> None:
        self.node.serve(self._collector())

    def _end_served_round(self, t: int, rows: list[dict[str, Any]]) -> None:
        """The root's line comes first: it trains nothing and is judged."""
        if self.topology.world.rank == 0:
            judged = self.judge_centre(t, self.topology.gradients)
            self._note_time("evaluate", judged.seconds)
            row = self._row(self.ecosphere.rate_at(t), judged.fitness, Trained(math.nan, math.nan, 0, 0, 0.0), judged, 0.0)
            rows = [{"round": t, "rank": 0, **row}, *rows]
        super()._end_served_round(t, rows)

    def _slices(self, length: int) -> list[tuple[int, int]]:
        return [(0, length)]

    def _engine(self) -> str:
        return f"weights: a tree with {self.servers} inner node(s)"
