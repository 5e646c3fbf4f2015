"""Run of parameter servers and asynchronous workers (asynchronous elastic averaging).

Every worker counts its own rounds: rank 0 writes the lines of round t when all workers have sent them, and worker t mod p
evaluates the center after its own round t. A resumed run continues from the newest round that every rank has ended. Ranks save
at different times, so it is not bitwise reproducible; no asynchronous run is.

A worker whose weights are not finite pushes nothing; at the end of its round it restarts from the center.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from common.coupling.server import RemoteCenter, Server, slices_of
from common.errors import Diverged
from common.parallel import faults
from common.training import checkpoint, resumption
from common.training.round_ends import NOT_EVALUATED, WAY_OUT, CenterEnd, Outcome
from common.training.run import Run


class ServedEnd(CenterEnd):
    """End of a served run: every server holds a slice of the center; `ServedRun.bring_center` broadcasts the slices."""

    def begin(self) -> None:
        """Keep the current slice as the last finite one; workers have none."""
        if self.center:
            self.keep_finite()

    def take_final_weights(self, population: int, diverged: bool) -> None:
        """No-op: `bring_center` has broadcast them."""


class ServedRun(Run):
    """A run whose center is on servers or in an MPI window; the first ranks are the servers, the others the workers.

    Attributes:
        lost: whether this worker's weights were not finite at the end of its last round.
    """

    end: ServedEnd
    lost = False

    @property
    def servers(self) -> int:
        """Number of servers."""
        return self.topology.world.size - self.workers

    def _resume(self) -> int:
        first, world = super()._resume(), self.topology.world
        world.barrier()
        if world.rank == 0:
            checkpoint.forget_from(self.directory / "checkpoints", first)
        world.barrier()
        return first

    def work(self, center: RemoteCenter) -> None:
        """Run all rounds of a worker, asynchronously."""
        world, model = self.topology.world, self.worker.model
        hooks = progress_hooks(model.module, center.progress)
        for t in self.rounds():
            self.train(t)
            self.lost = not model.is_finite()
            mine = world.rank - self.servers == t % self.workers
            if mine:
                faults.trip("evaluate", world.rank, t)
            self.result = self.end.evaluate_center(t, self.topology.gradients) if mine else NOT_EVALUATED
            self._note_time("evaluate", self.result.seconds)
            outcome = Outcome(-np.inf if self.lost else self.result.fitness, self.worker.rate_at(t + 1))
            faults.trip("record", world.rank, t)
            row = self._row(t, outcome)
            if self.lost:
                present = torch.empty_like(model.parameters)
                center.pull(present)
                self.end.begin_anew(present)
            self.worker.rate, self.last_round = outcome.rate, t
            center.flush()  # the server has applied all pushes of this worker before it saves
            self._save_own(t)
            center.report((t, {"round": t, "rank": world.rank, **row}))
        for hook in hooks:
            hook.remove()
        center.close()

    def serve(self, reports_only: bool = False) -> None:
        """Serve until all workers have stopped. reports_only: the center is in an MPI window, only reports arrive."""
        began, world = time.perf_counter(), self.topology.world
        workers = list(range(self.servers, world.size))
        Server(world, None if reports_only else self.end.center, workers, self._collector()).serve()
        self._note_time("exchange", time.perf_counter() - began)
        self._count_bytes()

    def _count_bytes(self) -> None:
        """Add the bytes sent to the totals directly: servers have no lines in metrics.csv."""
        traffic = self.topology.traffic
        self.totals.bytes_inside += traffic.inside
        traffic.inside = 0

    def _collector(self) -> Callable[[int, Any], None]:
        """Callback that collects the workers' lines, and ends a round when all have arrived."""
        lines: dict[int, list[dict[str, Any]]] = {}

        def on_report(rank: int, report: tuple[int, dict[str, Any]]) -> None:
            """Collect a worker's line of a round."""
            t, row = report
            lines.setdefault(t, []).append(row)
            if len(lines[t]) == self.workers:
                self._end_served_round(t, sorted(lines.pop(t), key=lambda line: line["rank"]))

        return on_report

    def _end_served_round(self, t: int, rows: list[dict[str, Any]]) -> None:
        """Record round t, which all workers have ended, and save the current center."""
        rank, checkpoints = self.topology.world.rank, self.directory / "checkpoints"
        faults.trip("record", rank, t)
        self.last_round = t
        self._count_bytes()
        self.end.keep_finite()
        if rank == 0:  # before the checkpoint: a complete round has its lines
            self.record.write_round(t, rows)
            self.reporter.round(t, rows)
        self._save_own(t)
        if rank == 0:
            checkpoint.forget(checkpoints, self.topology.world.size)

    def _save_own(self, t: int) -> None:
        """A checkpoint of this rank alone."""
        self.note_total()
        rank = self.topology.world.rank
        checkpoint.save_own(self.directory / "checkpoints", t, rank, *resumption.state_of(self))

    def bring_center(self) -> None:
        """Broadcast the center, or the last finite one, to all ranks after training. Collective over the world."""
        world = self.topology.world
        world.sleeping_barrier()
        parameters = self.worker.model.parameters.data
        slices = slices_of(len(parameters), self.servers)
        serving = world.rank < len(slices)
        finite = self.end.keep_finite() if serving else not self.lost
        self.sound = world.gather_rows(np.array([float(finite)]))[:, 0] > 0
        if serving:
            parameters[slices[world.rank]] = self.end.last_finite
        for k, part in enumerate(slices):
            world.broadcast_(parameters[part], root=k)

    def check(self) -> None:
        """Raise Diverged if the center is not finite at the end, or no worker has finite weights after its last round."""
        if not self.sound[: self.servers].all():
            raise Diverged(f"the centre is not finite; the last finite one is kept. {WAY_OUT}")
        if not self.sound[self.servers :].any():
            raise Diverged(f"all workers lost their weights in the last round. {WAY_OUT}")

    def engine(self) -> str:
        """Number of servers, as text."""
        return f"weights: {self.servers} server{'s'[: self.servers > 1]}"


def progress_hooks(module: nn.Module, progress: Callable[[], None]) -> list[RemovableHandle]:
    """Register hooks that call `progress` after every layer of the forward and backward passes."""
    forward = [layer.register_forward_hook(lambda *_: progress()) for layer in module.modules()]
    return forward + [p.register_hook(lambda _: progress()) for p in module.parameters()]
