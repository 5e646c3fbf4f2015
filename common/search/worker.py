"""Trials on this rank, one after the other, as `common.search.coordinator` hands them out; alone or with other ranks.

A trial whose ranks do not come to the same end cannot go on, and its ranks are of no use any more: one that has made an error
and waited in vain for the others to make it too says so (`Broken`), for the journal, and ends the job.
"""

import math
import time
import traceback
import zlib
from collections.abc import Callable
from typing import TypeAlias

from common.errors import Diverged, UsageError
from common.parallel.comm import Group, Traffic
from common.parallel.mpi import MPI
from common.search.coordinator import (
    Answer,
    Broken,
    Coordinator,
    Direct,
    Distant,
    Line,
    Message,
    Ready,
    Report,
    Result,
    Server,
    Task,
)
from common.search.search import Search
from common.search.trial import State

PATIENCE = 10.0  # seconds that a rank which made an error waits for the others of its trial to make it too
FAREWELL = 3.0  # seconds that the coordinator is given to write down what a rank says that is about to end the job

Reporter: TypeAlias = Callable[[int, float], None]
Objective: TypeAlias = Callable[[Task, Reporter], float]


class Stopped(Exception):
    """A trial is not to go on; raised by what an objective reports to, and not to be caught by it. value: its last one."""

    def __init__(self, value: float) -> None:
        super().__init__(f"stopped at {value}")
        self.value = value


class NotFinite(ArithmeticError):
    """A trial has reported a value that is not finite; not to be caught by an objective."""


def run(
    objective: Objective,
    make_coordinator: Callable[[], Coordinator],
    comm: MPI.Comm = MPI.COMM_WORLD,
    group: Group | None = None,
) -> Search | None:
    """Evaluate trials until the search is over. Collective over `comm`; returns the search on its rank 0, None elsewhere.

    objective: called as `objective(task, report)` on all ranks of a group together; returns the value of the trial, the larger
    the better, and may call `report(step, value so far)` after each step but the last, steps being 1, 2, 3, ...; this raises
    Stopped where the trial is not to go on. On rank 0 a thread serves the others meanwhile: an objective should not hold
    Python's lock for long, as mpi4py's lower-case `reduce` and `allreduce` do while they wait. make_coordinator: called on rank
    0 only. group: the ranks that this one evaluates trials with, by default itself alone; all groups are of one size, and
    consecutive. Raises UsageError where MPI cannot be called from two threads, and an objective's error that not all ranks of
    a group make.
    """
    group = group or Group(MPI.COMM_SELF, Traffic())
    with Group(comm, Traffic()).raise_together():  # a journal that cannot be used is the first rank's to find out
        coordinator = make_coordinator() if comm.Get_rank() == 0 else None
    if comm.Get_size() == 1:
        assert coordinator is not None
        Worker(objective, Direct(coordinator), group).work()
        return coordinator.search
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise UsageError("rank 0 serves from a thread, and this MPI was built without MPI_THREAD_MULTIPLE: use another build")
    own = comm.Dup()  # what objectives send cannot be mistaken for ours
    server: Server | None = None
    if coordinator:
        server = Server(coordinator, own, group.size)
        server.start()
    Worker(objective, server or Distant(own), group).work()
    if server:
        server.join()
    Group(own, Traffic()).sleeping_barrier()
    own.Free()
    return coordinator.search if coordinator else None


class Worker:
    """One of the ranks that evaluate a trial together; its methods are collective over them."""

    def __init__(self, objective: Objective, line: Line, group: Group) -> None:
        self.objective, self.line, self.group = objective, line, group
        self.steps = 0  # that the running trial has reported

    def work(self) -> None:
        """Evaluate one task after the other, until there are no more."""
        ends = Group(self.group.comm.Dup(), Traffic()) if self.group.size > 1 else None
        message: Message = Ready()
        while (task := self._ask(message)) is not None:
            assert isinstance(task, Task)
            result, problem = self._attempt(task)
            if ends:
                self._compare(ends, result, problem)
            message = result
        if ends:
            ends.comm.Free()

    def _ask(self, message: Message) -> Answer:
        """The coordinator's answer, on all ranks of the group."""
        answer = self.line.ask(message) if self.group.rank == 0 else None
        if self.group.size > 1:
            self.group.sleeping_barrier()  # the answer may be long in coming
            answer = self.group.bcast_object(answer)
        return answer

    def _attempt(self, task: Task) -> tuple[Result, Exception | None]:
        """One trial to its end, whatever that is, and the error that it ended with."""
        began, self.steps = time.perf_counter(), 0
        state, error = State.COMPLETE, ""
        value: float | None = None
        problem: Exception | None = None
        try:
            value = float(self.objective(task, lambda step, value: self._report(task, step, value)))
        except Stopped as stop:
            state, value = State.PRUNED, stop.value
        except (NotFinite, Diverged, UsageError) as failure:  # another attempt would only repeat it
            state, error, problem = State.FAILED, str(failure), failure
        except Exception as failure:
            state, error, problem = State.WAITING, f"{type(failure).__name__}: {failure}", failure
        return Result(task.id, state, value, time.perf_counter() - began, error), problem

    def _report(self, task: Task, step: int, value: float) -> None:
        if not math.isfinite(value):  # nothing will come of it, and nobody may be compared with it
            raise NotFinite(f"value {value} at step {step}")
        if step != self.steps + 1:
            raise UsageError(f"step {step} of a trial was reported after {self.steps} others: steps are 1, 2, 3, ...")
        self.steps = step
        message = Report(task.id, step, value)
        if not task.judged:
            if self.group.rank == 0:
                self.line.tell(message)
        elif not self._ask(message):
            raise Stopped(value)

    def _compare(self, ends: Group, result: Result, problem: Exception | None) -> None:
        """Return where the trial has ended alike on all ranks, with an error at the same place if with one.

        After an error that they do not share, the others would wait in some collective for ever: the rank that made it says so,
        and raises it. ends: for nothing else than this.
        """
        codes = ends.meet(_place(problem), PATIENCE if problem else math.inf)
        if codes is not None and len(set(codes)) == 1:
            return
        if problem is None:
            time.sleep(2 * FAREWELL)  # those with the error end the job
            raise RuntimeError(f"trial {result.id} came to its end on this rank, and to an error on another one")
        self.line.tell(Broken(result))
        time.sleep(FAREWELL)
        problem.add_note(f"not all ranks of trial {result.id} made this error, so it ends the job; a journal has it")
        raise problem


def _place(error: Exception | None) -> int:
    """What makes two errors the same, as a number: their kind, and the line that raised them; 0 for none."""
    if error is None:
        return 0
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return zlib.crc32(f"{type(error).__name__} {frame.filename}:{frame.lineno}".encode())
