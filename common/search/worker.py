"""Evaluation of the trials that `common.search.coordinator` assigns, on this rank alone or with other ranks.

If a rank of a trial fails and the others do not fail within `PATIENCE` seconds, these may be blocked in a collective: the rank
reports `Broken`, for the journal, and aborts the job.
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

PATIENCE = 10.0  # seconds that a failed rank waits for the others of its trial to fail too
FAREWELL = 3.0  # seconds for the coordinator to journal `Broken` before the job aborts

Reporter: TypeAlias = Callable[[int, float], None]
Objective: TypeAlias = Callable[[Task, Reporter], float]


class Stopped(Exception):
    """A trial is pruned; raised by `report`, not to be caught by an objective. value: last value of the trial."""

    def __init__(self, value: float) -> None:
        super().__init__(f"stopped at {value}")
        self.value = value


def run(
    objective: Objective,
    make_coordinator: Callable[[], Coordinator],
    comm: MPI.Comm = MPI.COMM_WORLD,
    group: Group | None = None,
) -> Search | None:
    """Evaluate trials until the search is over. Collective over `comm`; returns the search on its rank 0, None elsewhere.

    objective: called as `objective(task, report)` on all ranks of a group; returns the value of the trial (larger is better).
    It may call `report(step, value so far)` after each step but the last, with steps 1, 2, 3, ...; this raises Stopped if the
    trial is pruned, Diverged if the value is not finite. On rank 0 a thread serves the others meanwhile: an objective should
    not hold the GIL for long, as mpi4py's lower-case `reduce` and `allreduce` do while they wait. make_coordinator: called on
    rank 0 only. group: ranks that evaluate trials together, by default this rank alone; all groups have the same size and
    consecutive ranks. Raises UsageError if MPI lacks MPI_THREAD_MULTIPLE, and an objective's error that not all ranks of a
    group raise.
    """
    group = group or Group(MPI.COMM_SELF, Traffic())
    with Group(comm, Traffic()).raise_together():  # only rank 0 detects an unusable journal
        coordinator = make_coordinator() if comm.Get_rank() == 0 else None
    if comm.Get_size() == 1:
        assert coordinator is not None
        Worker(objective, Direct(coordinator), group).work()
        return coordinator.search
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise UsageError("rank 0 serves from a thread, and this MPI was built without MPI_THREAD_MULTIPLE: use another build")
    own = comm.Dup()  # separate from the messages of objectives
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
    """One of the ranks of a group that evaluates trials together; its methods are collective over the group."""

    def __init__(self, objective: Objective, line: Line, group: Group) -> None:
        self.objective, self.line, self.group = objective, line, group
        self.steps = 0  # reported by the running trial

    def work(self) -> None:
        """Evaluate tasks until there are no more."""
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
        """The coordinator's reply, on all ranks of the group."""
        answer = self.line.ask(message) if self.group.rank == 0 else None
        if self.group.size > 1:
            self.group.sleeping_barrier()  # the reply may take long
            answer = self.group.bcast_object(answer)
        return answer

    def _attempt(self, task: Task) -> tuple[Result, Exception | None]:
        """Evaluate one trial; returns its result, and the error that it ended with, if any."""
        began, self.steps = time.perf_counter(), 0
        state, error = State.COMPLETE, ""
        value: float | None = None
        problem: Exception | None = None
        try:
            value = float(self.objective(task, lambda step, value: self._report(task, step, value)))
        except Stopped as stop:
            state, value = State.PRUNED, stop.value
        except (Diverged, UsageError) as failure:  # a retry would fail again
            state, error, problem = State.FAILED, str(failure), failure
        except Exception as failure:
            state, error, problem = State.WAITING, f"{type(failure).__name__}: {failure}", failure
        return Result(task.id, state, value, time.perf_counter() - began, error), problem

    def _report(self, task: Task, step: int, value: float) -> None:
        if not math.isfinite(value):  # keep it out of comparisons
            raise Diverged(f"value {value} at step {step}")
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
        """Return if the trial has ended alike on all ranks: without an error, or with the same error at the same line.

        Otherwise other ranks may be blocked in a collective: the failed rank reports `Broken` and raises its error. ends:
        communicator for this comparison alone.
        """
        codes = ends.meet(_place(problem), PATIENCE if problem else math.inf)
        if codes is not None and len(set(codes)) == 1:
            return
        if problem is None:
            time.sleep(2 * FAREWELL)  # the failed ranks abort the job
            raise RuntimeError(f"trial {result.id} ended without an error on this rank, and with one on another rank")
        self.line.tell(Broken(result))
        time.sleep(FAREWELL)
        problem.add_note(f"not all ranks of trial {result.id} made this error, so it ends the job; a journal has it")
        raise problem


def _place(error: Exception | None) -> int:
    """Hash of an error's type and of the line that raised it, 0 for none; equal for equal errors."""
    if error is None:
        return 0
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return zlib.crc32(f"{type(error).__name__} {frame.filename}:{frame.lineno}".encode())
