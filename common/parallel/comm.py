"""Collective operations over one communicator. All weights, gradients and election results are sent here; point-to-point
protocols are in `common.coupling.server` (parameter servers) and `common.search` (coordinator and workers).

Tensors are sent as flat float32 buffers; only small start-up data, records and error messages are pickled. Buffers on an
accelerator go through host memory, which also works where several ranks share one GPU (NCCL refuses that). A group of one
sends nothing.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from common.errors import UsageError
from common.parallel.mpi import MPI


class Tag(IntEnum):
    """Tags of point-to-point messages."""

    WEIGHTS = 1
    REQUEST = 2  # worker to server: send the centre
    REQUEST_EVALUATED = 3  # worker to server: send the weights to evaluate, the average of the centre if there is one
    CENTRE = 4  # server to worker
    PUSH = 5  # worker to server: an update of the centre
    ACKNOWLEDGE = 6  # server to worker: the update has been applied
    REPORT = 7  # worker to every server: end of a round, with the worker's record of it
    STOP = 8  # worker to server: this worker sends no more messages
    ASK = 9  # worker to the coordinator of a search
    ANSWER = 10  # coordinator to worker


@dataclass
class Traffic:
    """Payload passed to MPI by this rank, in bytes.

    inside: buffers given to all-reduces, broadcasts and all-gathers of one communicator, counted once per call and rank,
    whatever the underlying algorithm sends. across: sent to other populations by `Sendrecv`.
    """

    inside: int = 0
    across: int = 0


VALUE_AND_RANK = np.dtype([("value", "f8"), ("rank", "i4")], align=True)  # MPI's DOUBLE_INT
# Blocks until the buffer of a non-blocking operation holds the result; do not touch the buffer before.
Wait: TypeAlias = Callable[[], None]


class Group:
    """One communicator and its operations.

    horovod: the `horovod.torch` module if Horovod was initialised on this communicator; its all-reduce then replaces MPI's.
    """

    def __init__(self, comm: MPI.Comm, traffic: Traffic, horovod: ModuleType | None = None) -> None:
        self.comm = comm
        self.traffic = traffic
        self.horovod = horovod
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

    def sum_(self, buffer: Tensor, name: str) -> Tensor:
        """In-place sum of one contiguous float32 buffer over the group; bit-identical on every rank.

        All ranks pass the same `name` (Horovod matches calls by it) and equal sizes.
        """
        if self.size == 1:
            return buffer
        array = host_array(buffer)
        self.traffic.inside += array.nbytes
        if self.horovod is None:
            self.comm.Allreduce(MPI.IN_PLACE, array)
        else:
            self.horovod.allreduce_(torch.from_numpy(array), op=self.horovod.Sum, name=name)
        return _put_back(buffer, array)

    def start_sum_(self, buffer: Tensor, name: str) -> Wait:
        """Non-blocking `sum_`."""
        if self.size == 1:
            return lambda: None
        array = host_array(buffer)
        self.traffic.inside += array.nbytes
        if self.horovod is None:
            return partial(_wait, self.comm.Iallreduce(MPI.IN_PLACE, array).Wait, buffer, array)
        handle = self.horovod.allreduce_async_(torch.from_numpy(array), op=self.horovod.Sum, name=name)
        return partial(_wait, partial(self.horovod.synchronize, handle), buffer, array)

    def broadcast_(self, buffer: Tensor, root: int) -> Tensor:
        """Broadcast the root's contiguous buffer to all ranks of the group, in place."""
        if self.size == 1:
            return buffer
        array = host_array(buffer)
        if self.rank == root:
            self.traffic.inside += array.nbytes
        self.comm.Bcast(array, root=root)
        return _put_back(buffer, array)

    def start_broadcast_(self, buffer: Tensor, root: int) -> Wait:
        """Non-blocking `broadcast_`."""
        if self.size == 1:
            return lambda: None
        array = host_array(buffer)
        if self.rank == root:
            self.traffic.inside += array.nbytes
        return partial(_wait, self.comm.Ibcast(array, root=root).Wait, buffer, array)

    def minloc(self, value: float) -> tuple[float, int]:
        """Minimum over the group and the lowest rank that has it (one MINLOC, 16 bytes); the same on every rank.

        NaN counts as +inf: otherwise the result would depend on the order of the comparisons.
        """
        best = np.array((np.inf if np.isnan(value) else value, self.rank), dtype=VALUE_AND_RANK)
        self.comm.Allreduce(MPI.IN_PLACE, [best, 1, MPI.DOUBLE_INT], op=MPI.MINLOC)
        return float(best["value"]), int(best["rank"])

    def gather_flat(self, buffer: Tensor) -> Tensor:
        """All-gather contiguous float32 buffers of n elements; shape (size, n), in rank order."""
        gathered = buffer.new_empty((self.size, buffer.numel()))
        if self.size == 1:
            return gathered.copy_(buffer)
        mine, table = host_array(buffer), host_array(gathered)
        self.traffic.inside += mine.nbytes
        self.comm.Allgather(mine, table)
        return _put_back(gathered, table)

    def gather_rows(self, row: np.ndarray) -> np.ndarray:
        """All-gather one float64 row per rank; shape (size, len(row)), in rank order."""
        table = np.empty((self.size, len(row)))
        self.comm.Allgather(np.ascontiguousarray(row, dtype=np.float64), table)
        return table

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """Block after which all ranks raise UsageError if any rank did in it, with the message of the lowest such rank.

        Collective, at the end of the block.
        """
        mine: str | None = None
        try:
            yield
        except UsageError as error:
            mine = str(error)
        for message in self.comm.allgather(mine):
            if message is not None:
                raise UsageError(message) from None

    def gather_slices_(self, array: np.ndarray, bounds: list[tuple[int, int]]) -> None:
        """All-gather slices of a float32 array in place: slice i from rank i; ranks beyond the last slice only receive."""
        if self.size == 1:
            return
        counts = [stop - start for start, stop in bounds] + [0] * (self.size - len(bounds))
        places = [start for start, _ in bounds] + [0] * (self.size - len(bounds))
        self.traffic.inside += counts[self.rank] * array.itemsize
        self.comm.Allgatherv(MPI.IN_PLACE, [array, counts, places, MPI.FLOAT])

    def gather_records(self, record: Any) -> list[Any] | None:
        """Gather small picklable records on rank 0; None elsewhere."""
        return self.comm.gather(record, root=0)

    def bcast_object(self, value: Any) -> Any:
        """Broadcast rank 0's small picklable value."""
        return self.comm.bcast(value, root=0)

    def bcast_array(self, array: np.ndarray | None) -> np.ndarray:
        """Broadcast rank 0's array, returned contiguous; the argument of the other ranks is ignored."""
        mine = np.ascontiguousarray(array) if self.rank == 0 else None
        shape, kind = self.bcast_object((mine.shape, mine.dtype.str) if mine is not None else None)
        buffer = np.empty(shape, kind) if mine is None else mine
        if self.size > 1:
            self.comm.Bcast(buffer, root=0)
        return buffer

    def barrier(self) -> None:
        """Wait for all ranks of the group."""
        self.comm.Barrier()

    def sleeping_barrier(self, interval: float = 0.01) -> None:
        """Barrier that sleeps `interval` seconds between polls, leaving the core to the slower ranks."""
        meeting = self.comm.Ibarrier()
        while not meeting.Test():
            time.sleep(interval)

    def meet(self, code: int, patience: float = math.inf) -> list[int] | None:
        """All-gather one integer per rank, sleeping between polls; None unless all ranks call it within `patience` seconds.

        Use a dedicated communicator: other ranks may be waiting in another collective.
        """
        own, codes = np.array([code], dtype=np.int64), np.empty(self.size, dtype=np.int64)
        meeting = self.comm.Iallgather(own, codes)
        deadline = time.monotonic() + patience
        while not meeting.Test():
            if time.monotonic() > deadline:
                return None
            time.sleep(0.001)
        return codes.tolist()

    def swap(self, mine: np.ndarray, theirs: np.ndarray, to: int | None, source: int | None) -> None:
        """`Sendrecv`: send `mine` to rank `to`, receive `theirs` from rank `source`; None leaves that side out.

        Both buffers are contiguous float32, of the partner's size, and do not overlap.
        """
        self.comm.Sendrecv(
            mine,
            dest=MPI.PROC_NULL if to is None else to,
            sendtag=Tag.WEIGHTS,
            recvbuf=theirs,
            source=MPI.PROC_NULL if source is None else source,
            recvtag=Tag.WEIGHTS,
        )
        if to is not None:
            self.traffic.across += mine.nbytes


def finite_mean_(group: Group, values_and_flag: Tensor, name: str, weight: int = 1) -> int:
    """Weighted mean, in place, over the ranks of the group whose values are all finite.

    values_and_flag: shape (n + 1,); the last element is overwritten. weight: of this rank, 0 or more. A rank with a non-finite
    value contributes zeros and flag 0, the others weight times their values and flag = weight; the sum is divided by the sum of
    the flags (docs/algorithms.md), which is returned, the same on every rank. If it is 0, all values are zero.
    """
    values = values_and_flag[:-1]
    finite = bool(torch.isfinite(values).all())
    if not finite or not weight:
        values.zero_()
    elif weight != 1:
        values.mul_(weight)
    values_and_flag[-1] = float(weight if finite else 0)
    group.sum_(values_and_flag, name)
    total = int(values_and_flag[-1])
    if total > 1:
        values.div_(total)
    return total


def host_array(tensor: Tensor) -> np.ndarray:
    """The tensor as a NumPy array for MPI: a view on CPU, a copy from an accelerator."""
    return tensor.detach().cpu().numpy()


def _wait(finish: Callable[[], object], buffer: Tensor, array: np.ndarray) -> None:
    """Finish a non-blocking operation on a buffer's host array, and copy the array back."""
    finish()
    _put_back(buffer, array)


def _put_back(buffer: Tensor, array: np.ndarray) -> Tensor:
    """Copy a host array back into the buffer it came from, unless it is a view of it."""
    if buffer.device.type != "cpu":
        buffer.copy_(torch.from_numpy(array))
    return buffer
