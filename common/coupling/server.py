"""Asynchronous center variable: the message protocol between workers and parameter servers.

    worker                              server (one of S, each with its own slice of x~)
    REQUEST            ------------->
                       <-------------   CENTRE: its slice
    PUSH: update       ------------->   adds it; the worker computes its gradient meanwhile
                       <-------------   ACKNOWLEDGE, waited for before the next PUSH or REQUEST
    REPORT             ------------->   end of a round: every server saves, the first one records the line
    STOP               ------------->   a server ends after the STOP of every worker

A server handles one message at a time, so an update of its slice is atomic. It never waits for a particular worker. An idle
server sleeps between polls, because it often shares its core with a worker; not while a reply is pending, because a worker
waits for it and MPI progresses only inside its own calls. `WindowCenter` needs no server: x~ lies in an RMA window of the first
rank, and workers read and accumulate one-sidedly.
"""

import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from common.coupling.elastic import CenterVariable, Centre
from common.parallel.backoff import PollingBackoff
from common.parallel.comm import Group, Tag, host_array
from common.parallel.mpi import MPI

NOTHING = np.empty(0, dtype=np.float32)


def slices_of(length: int, servers: int) -> list[slice]:
    """floor(length / servers) floats for each server, the rest for the last one."""
    cuts = [k * (length // servers) for k in range(servers)]
    return [slice(start, stop) for start, stop in pairwise([*cuts, length])]


class Server:
    """One server's slice of the centre, and the loop that serves it.

    master: the slice, on the CPU; None with a window, where this rank receives only reports. workers: their world ranks.
    on_report: called with (rank, report).
    """

    def __init__(
        self, world: Group, master: CenterVariable | None, workers: list[int], on_report: Callable[[int, Any], None]
    ) -> None:
        self.world, self.master, self.workers, self.on_report = world, master, workers, on_report
        self.updates = {w: np.empty(len(master.centre) if master else 0, dtype=np.float32) for w in workers}
        self.replies = {w: np.empty_like(self.updates[w]) for w in workers}
        self.sent: dict[int, list[MPI.Request]] = {w: [] for w in workers}

    def serve(self) -> None:
        """Serve until every worker has sent STOP; all reports sent before are passed to `on_report` by then."""
        kinds = (Tag.REQUEST, Tag.REQUEST_EVALUATED, Tag.PUSH, Tag.STOP) if self.master else (Tag.STOP,)
        expected = [(worker, tag) for worker in self.workers for tag in kinds]
        requests = [self._listen(worker, tag) for worker, tag in expected]
        left, backoff = len(self.workers), PollingBackoff()
        while left:
            done = MPI.Request.Testsome(requests) or []
            if not self._hear_report() and not done:
                os.sched_yield() if self._is_replying() else backoff.sleep()
                continue
            backoff.note_event()
            for index in done:
                worker, tag = expected[index]
                if tag is Tag.STOP:
                    left -= 1
                    continue
                self._answer(worker, tag)
                requests[index] = self._listen(worker, tag)
        for request, (_, tag) in zip(requests, expected, strict=True):
            if tag is not Tag.STOP:
                request.Cancel()
                request.Wait()
        for sent in self.sent.values():
            MPI.Request.Waitall(sent)
        while self._hear_report():
            pass

    def _hear_report(self) -> bool:
        """Receive one report if one is pending; returns whether one was."""
        comm, status = self.world.comm, MPI.Status()
        if not comm.Iprobe(source=MPI.ANY_SOURCE, tag=Tag.REPORT, status=status):
            return False
        worker = status.Get_source()
        self.on_report(worker, comm.recv(source=worker, tag=Tag.REPORT))
        return True

    def _is_replying(self) -> bool:
        """Whether a reply is pending; the test lets MPI progress."""
        return not all(MPI.Request.Testall(sent) for sent in self.sent.values())

    def _listen(self, worker: int, tag: Tag) -> MPI.Request:
        buffer = self.updates[worker] if tag is Tag.PUSH else NOTHING
        return self.world.comm.Irecv([buffer, MPI.FLOAT], source=worker, tag=tag)

    def _answer(self, worker: int, tag: Tag) -> None:
        assert self.master is not None, "no requests are served with a window"
        MPI.Request.Waitall(self.sent[worker])  # at most one message of each kind per worker: long since complete
        if tag is Tag.PUSH:
            self.master.receive(torch.from_numpy(self.updates[worker]))
            reply, answer = NOTHING, Tag.ACKNOWLEDGE
        else:
            wanted = self.master.centre if tag is Tag.REQUEST else self.master.evaluated
            reply, answer = self.replies[worker], Tag.CENTRE
            reply[:] = wanted.numpy()
            self.world.traffic.inside += reply.nbytes
        self.sent[worker] = [self.world.comm.Isend([reply, MPI.FLOAT], dest=worker, tag=answer)]


class RemoteCenter(Centre):
    """A worker's access to a center variable on the first `servers` ranks."""

    def __init__(self, world: Group, servers: int) -> None:
        self.world, self.servers = world, range(servers)

    def progress(self) -> None:
        """Let MPI progress pending messages, which it does only inside its own calls."""
        ...

    def report(self, line: Any) -> None:
        """Send a small picklable line to every server."""
        for k in self.servers:
            self.world.comm.send(line, dest=k, tag=Tag.REPORT)

    def close(self) -> None:
        """Flush, then send STOP to every server."""
        self.flush()
        for k in self.servers:
            self.world.comm.Send([NOTHING, MPI.FLOAT], dest=k, tag=Tag.STOP)


class ServedCenter(RemoteCenter):
    """A worker's side of the protocol with all servers. length: floats of the whole centre."""

    def __init__(self, world: Group, length: int, servers: int) -> None:
        super().__init__(world, servers)
        self.slices = slices_of(length, servers)
        self.fetched = np.empty(length, dtype=np.float32)
        self.pushed = NOTHING
        self.pending: list[MPI.Request] = []

    def pull(self, into: Tensor, evaluated: bool = False) -> None:
        """Fetch the current centre (or its average) from all servers; blocking."""
        comm, tag = self.world.comm, Tag.REQUEST_EVALUATED if evaluated else Tag.REQUEST
        array = into.detach().numpy() if into.device.type == "cpu" else self.fetched  # without a copy if possible
        waiting = [comm.Irecv([array[self.slices[k]], MPI.FLOAT], source=k, tag=Tag.CENTRE) for k in self.servers]
        waiting += [comm.Isend([NOTHING, MPI.FLOAT], dest=k, tag=tag) for k in self.servers]
        MPI.Request.Waitall(waiting)
        if array is self.fetched:
            into.copy_(torch.from_numpy(array))

    def receive(self, update: Tensor) -> None:
        """Send every server its slice of the update, non-blocking."""
        self.pushed = host_array(update)  # on the CPU the update itself: unchanged until `flush`
        comm = self.world.comm
        self.pending = [comm.Irecv([NOTHING, MPI.FLOAT], source=k, tag=Tag.ACKNOWLEDGE) for k in self.servers]
        self.pending += [comm.Isend([self.pushed[self.slices[k]], MPI.FLOAT], dest=k, tag=Tag.PUSH) for k in self.servers]
        self.world.traffic.inside += self.pushed.nbytes

    def progress(self) -> None:
        """Let MPI progress pending messages."""
        if self.pending and MPI.Request.Testall(self.pending):
            self.pending = []

    def flush(self) -> None:
        """Wait for all acknowledgements."""
        MPI.Request.Waitall(self.pending)
        self.pending = []


class WindowCenter(RemoteCenter):
    """The centre in an RMA window of the first rank; reads and additions are atomic per element. No average, no momentum.

    start: x~_0 (the first rank's is used). Construction is collective over the world.
    """

    def __init__(self, world: Group, start: Tensor) -> None:
        super().__init__(world, 1)
        length = start.numel()
        self.window = MPI.Win.Allocate(4 * length if world.rank == 0 else 0, 4, comm=cast(MPI.Intracomm, world.comm))
        self.fetched, self.pushed = (np.empty(length, dtype=np.float32) for _ in range(2))
        if world.rank == 0:
            self.memory[:] = start.detach().cpu().numpy()
        world.barrier()
        self.window.Lock_all()

    @property
    def memory(self) -> np.ndarray:
        """The centre itself, on the first rank."""
        return np.asarray(self.window.tomemory()).view(np.float32)

    def pull(self, into: Tensor, evaluated: bool = False) -> None:
        """Fetch the current centre; blocking."""
        self.flush()
        # Nothing is sent, but Open MPI needs an origin of full length: with an empty one it fetches wrong numbers.
        self.window.Get_accumulate([self.pushed, MPI.FLOAT], [self.fetched, MPI.FLOAT], 0, op=MPI.NO_OP)
        self.window.Flush(0)
        self.world.traffic.inside += self.fetched.nbytes
        into.copy_(torch.from_numpy(self.fetched))

    def receive(self, update: Tensor) -> None:
        """Accumulate the update, non-blocking."""
        torch.from_numpy(self.pushed).copy_(update)
        self.window.Accumulate([self.pushed, MPI.FLOAT], 0, op=MPI.SUM)
        self.world.traffic.inside += self.pushed.nbytes

    def progress(self) -> None:
        """Let MPI progress."""
        self.world.comm.Iprobe(tag=Tag.CENTRE)

    def flush(self) -> None:
        """Wait until all pushed updates are added."""
        self.window.Flush(0)

    def free(self) -> None:
        """Free the window; collective."""
        self.window.Unlock_all()
        self.window.Free()
