"""Trials over ranks: rank 0 hands them out, and everybody, rank 0 included, evaluates. The only room of a search with messages.

    worker -> coordinator    Ready | Report(id, step, value) | Result(id, state, value, cost, error)
    coordinator -> worker    Task(id, setting, judged) or None, the end | True or False, whether the trial goes on

A worker is `ranks_per_trial` consecutive ranks; the first of them talks, and tells the others. It asks and is answered, one
message each, a pickle of a few hundred bytes; it is answered late where it has to wait. Reports of a trial that nobody judges
are not answered, so that training goes on meanwhile. Workers never meet.

On rank 0 a thread serves, on a communicator of its own, and the main thread works like everybody else, and talks to it by a
queue; so an objective need not be interrupted for others. With one worker there is neither thread nor message. All wait asleep,
the thread for a fiftieth of the usual time between two questions, 10 ms at most: each time it wakes, rank 0's own training stops
for it, which at 10 ms costs it 0.2 %, and at 2 ms 7 %.
"""

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from common.comm import Group, Tag, Traffic
from common.errors import Diverged, UsageError
from common.mpi import MPI
from common.nap import Nap
from common.search.journal import Journal
from common.search.search import Search
from common.search.space import Setting
from common.search.trial import State

NAP, LONGEST_NAP = 0.001, 0.01  # seconds between two looks for messages


@dataclass(frozen=True)
class Task:
    """A trial to evaluate; judged: whether its reports are answered, since it may be stopped."""

    id: int
    setting: Setting
    judged: bool = False


@dataclass(frozen=True)
class Ready:
    """A worker begins."""


@dataclass(frozen=True)
class Report:
    """What a running trial has come to."""

    id: int
    step: int
    value: float


@dataclass(frozen=True)
class Result:
    """A trial is over, and its worker ready for another; cost: seconds by its own clock."""

    id: int
    state: State
    value: float | None
    cost: float
    error: str = ""


Message: TypeAlias = Ready | Report | Result
Answer: TypeAlias = Task | bool | None
Reporter: TypeAlias = Callable[[int, float], None]
Objective: TypeAlias = Callable[[Task, Reporter], float]


class Stopped(Exception):
    """A trial is not to go on; raised by what an objective reports to, and not to be caught by it. value: its last one."""

    def __init__(self, value: float) -> None:
        super().__init__(f"stopped at {value}")
        self.value = value


class _NotFinite(ArithmeticError):
    """A trial has reported a value that is not finite."""


class Coordinator:
    """The search, its clock and its journal, on rank 0; answers messages, wherever they come from.

    progress: called with the number of a trial when it has ended, or is to be repeated.
    """

    def __init__(
        self, search: Search, journal: Journal | None = None, progress: Callable[[int], None] = lambda number: None
    ) -> None:
        self.search, self.journal, self.progress = search, journal, progress
        self.told = 0  # workers that know that the search is over
        self._began = time.monotonic() - search.now  # the clock goes on where the journal ends
        search.begin(search.now)

    @property
    def now(self) -> float:
        """Seconds since the search began, pauses between sessions left out."""
        return time.monotonic() - self._began

    @property
    def is_over(self) -> bool:
        """Whether all workers have been told that it is over."""
        return self.told == self.search.workers

    def answer(self, messages: Iterable[tuple[int, Message]]) -> list[tuple[int, Answer]]:
        """Take in (worker, message) pairs, all of them before anything new is proposed; returns who is told what."""
        answers: list[tuple[int, Answer]] = []
        for worker, message in messages:
            match message:
                case Report():
                    goes_on = self.search.report(message.id, message.step, message.value)
                    if self.search.judges:
                        answers.append((worker, goes_on))
                case Result():
                    self.search.end(message.id, message.state, message.value, self.now, message.cost, message.error)
                    self.progress(message.id)
                    self.search.ready(worker)
                case Ready():
                    self.search.ready(worker)
        for worker, trial in self.search.assign(self.now):
            answers.append((worker, Task(trial.id, trial.setting, self.search.judges)))
        if self.search.is_over:
            answers += [(worker, None) for worker in self.search.dismiss()]
            self.told += sum(answer is None for _, answer in answers)
        if self.journal is not None:
            self.journal.snapshot_if_due(self.search)
        return answers


class Line(Protocol):
    """A worker's way to the coordinator."""

    def tell(self, message: Message) -> None:
        """Send a message that nobody answers."""
        ...

    def ask(self, message: Message) -> Answer:
        """Send a message and wait for the answer."""
        ...


class Direct:
    """The only worker calls the coordinator."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator

    def tell(self, message: Message) -> None:
        """At once."""
        self.coordinator.answer([(0, message)])

    def ask(self, message: Message) -> Answer:
        """At once: a single worker has nobody to wait for."""
        ((_, answer),) = self.coordinator.answer([(0, message)])
        return answer


class Distant:
    """A worker on another rank."""

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm = comm

    def tell(self, message: Message) -> None:
        """By MPI, which keeps messages of a few hundred bytes until they are taken."""
        self.comm.send(message, dest=0, tag=Tag.ASK)

    def ask(self, message: Message) -> Answer:
        """By MPI, asleep until the answer is there."""
        self.comm.send(message, dest=0, tag=Tag.ASK)
        while not self.comm.Iprobe(source=0, tag=Tag.ANSWER):
            time.sleep(NAP)
        return self.comm.recv(source=0, tag=Tag.ANSWER)


class Server(threading.Thread):
    """Serves all workers from rank 0; worker 0, the main thread of the same process, asks through `ask`.

    leaders: rank of each worker's first rank. What goes wrong here is raised in the main thread when it asks next.
    """

    def __init__(self, coordinator: Coordinator, comm: MPI.Comm, leaders: list[int]) -> None:
        super().__init__(name="coordinator", daemon=True)
        self.coordinator, self.comm, self.leaders = coordinator, comm, leaders
        self.worker_of = {rank: worker for worker, rank in enumerate(leaders)}
        self.asked: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.nap = Nap(NAP, LONGEST_NAP)

    def tell(self, message: Message) -> None:
        """Of worker 0."""
        self.asked.put(message)

    def ask(self, message: Message) -> Answer:
        """Of worker 0."""
        self.asked.put(message)
        answer = self.answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def run(self) -> None:
        """Until everybody knows that it is over."""
        try:
            while not self.coordinator.is_over:
                messages = self._waiting()
                answers = self.coordinator.answer(messages) if messages else []
                for worker, answer in answers:
                    self._tell(worker, answer)
                if answers:
                    self.nap.awake()
        except BaseException as error:
            self.answers.put(error)

    def _waiting(self) -> list[tuple[int, Message]]:
        """All messages that are there, after a nap that worker 0 may end: it is heard at once, others within a nap."""
        messages: list[tuple[int, Message]] = []
        with contextlib.suppress(queue.Empty):
            messages.append((0, self.asked.get(timeout=self.nap.seconds())))
        status = MPI.Status()
        while self.comm.Iprobe(source=MPI.ANY_SOURCE, tag=Tag.ASK, status=status):
            rank = status.Get_source()
            messages.append((self.worker_of[rank], self.comm.recv(source=rank, tag=Tag.ASK)))
        return messages

    def _tell(self, worker: int, answer: Answer) -> None:
        if worker == 0:
            self.answers.put(answer)
        else:
            self.comm.send(answer, dest=self.leaders[worker], tag=Tag.ANSWER)  # it is waiting for nothing else


def run(
    objective: Objective,
    make_coordinator: Callable[[], Coordinator],
    comm: MPI.Comm = MPI.COMM_WORLD,
    group: Group | None = None,
) -> Search | None:
    """Evaluate trials until the search is over. Collective over `comm`; returns the search on its rank 0, None elsewhere.

    objective: called as `objective(task, report)` on all ranks of a group together; returns the value of the trial, the larger
    the better, and may call `report(step, value so far)` after each step but the last, which raises Stopped where the trial is
    not to go on. make_coordinator: called on rank 0 only. group: the ranks that this one evaluates trials with, by default
    itself alone; all groups are of one size, and consecutive. Raises UsageError where MPI cannot be called from two threads.
    """
    group = group or Group(MPI.COMM_SELF, Traffic())
    workers = comm.Get_size() // group.size
    with Group(comm, Traffic()).agreed():  # a journal that cannot be used is the first rank's to find out
        coordinator = make_coordinator() if comm.Get_rank() == 0 else None
    if workers == 1:
        _work(objective, Direct(coordinator) if coordinator else None, group)
        return coordinator.search if coordinator else None
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise UsageError("rank 0 serves from a thread, and this MPI was built without MPI_THREAD_MULTIPLE: use another build")
    own = comm.Dup()  # what objectives send cannot be mistaken for ours
    server: Server | None = None
    if coordinator:
        server = Server(coordinator, own, [w * group.size for w in range(workers)])
        server.start()
    line = (server or Distant(own)) if group.rank == 0 else None
    _work(objective, line, group)
    if server:
        server.join()
    Group(own, Traffic()).rest()
    own.Free()
    return coordinator.search if coordinator else None


def _work(objective: Objective, line: Line | None, group: Group) -> None:
    """Evaluate one task after the other. Collective over the group; line: of its first rank."""
    message: Message = Ready()
    while (task := _ask(line, message, group)) is not None:
        assert isinstance(task, Task)
        message = _attempt(objective, task, line, group)


def _ask(line: Line | None, message: Message, group: Group) -> Answer:
    """The coordinator's answer, on all ranks of the group."""
    answer = line.ask(message) if line else None
    if group.size > 1:
        group.rest()  # the answer may be long in coming
        answer = group.share(answer)
    return answer


def _attempt(objective: Objective, task: Task, line: Line | None, group: Group) -> Result:
    """One trial to its end, whatever that is.

    In a group only errors that all of its ranks make alike are taken for the trial's, those of usage. After another one the
    ranks that did not make it would wait in some collective for ever, so it ends the job; the journal outlives that.
    """
    began = time.perf_counter()

    def report(step: int, value: float) -> None:
        if not math.isfinite(value):  # nothing will come of it, and nobody may be compared with it
            raise _NotFinite
        message = Report(task.id, step, value)
        if not task.judged:
            if line:
                line.tell(message)
        elif not _ask(line, message, group):
            raise Stopped(value)

    state, error = State.COMPLETE, ""
    value: float | None = None
    try:
        value = float(objective(task, report))
    except Stopped as stop:
        state, value = State.PRUNED, stop.value
    except (_NotFinite, Diverged):
        value = math.nan  # a failure that another attempt would only repeat
    except Exception as problem:
        if group.size > 1 and not isinstance(problem, UsageError):
            raise
        state, error = State.FAILED, f"{type(problem).__name__}: {problem}"
    return Result(task.id, state, value, time.perf_counter() - began, error)
