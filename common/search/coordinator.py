"""Who is told what: rank 0 hands out trials, and everybody, rank 0 included, evaluates them (`common.search.worker`).

    worker -> coordinator    Ready | Report(id, step, value) | Result(id, state, value, cost, error) | Broken(result)
    coordinator -> worker    Task(id, setting, judged) or None, the end | True or False, whether the trial goes on

A worker is a rank, or some consecutive ones; the first of them talks, and tells the others. It asks and is answered, one
message each, a pickle of a few hundred bytes; it is answered late where it has to wait. Reports of a trial that nobody judges
are not answered, so that training goes on meanwhile. Workers never meet.

On rank 0 a thread serves, on a communicator of its own, and the main thread works like everybody else, and talks to it by a
queue; so an objective need not be interrupted for others. With one rank there is neither thread nor message. All wait asleep,
the thread for a twentieth of the usual time between two questions, 10 ms at most: each time it wakes, rank 0's own training has
to stop, which soon costs more than the others wait (benchmarks/search_scaling.py).
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from common.parallel.backoff import PollingBackoff
from common.parallel.comm import Tag
from common.parallel.mpi import MPI
from common.search.journal import Journal
from common.search.search import Search
from common.search.space import Setting
from common.search.trial import State

SHORTEST_SLEEP, LONGEST_SLEEP = 0.001, 0.01  # seconds between two looks for messages


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
    """A trial is over, and its worker ready for another.

    state: WAITING after an error, which another attempt may not make. cost: seconds by the worker's own clock.
    """

    id: int
    state: State
    value: float | None
    cost: float
    error: str = ""


@dataclass(frozen=True)
class Broken:
    """One rank of a trial made an error and the others did not; the job will not outlive it."""

    result: Result


Message: TypeAlias = Ready | Report | Result | Broken
Answer: TypeAlias = Task | bool | None


class Coordinator:
    """The search, its clock and its journal, on rank 0; answers messages, wherever they come from.

    progress: called with the number of a trial when it has ended, or is to be repeated.
    """

    def __init__(
        self, search: Search, journal: Journal | None = None, progress: Callable[[int], None] = lambda number: None
    ) -> None:
        self.search, self.journal, self.progress = search, journal, progress
        self.told = 0  # workers that know that the search is over
        self.broken = False  # the job is about to end: nobody is given anything any more
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
                    self._end(message)
                    self.search.ready(worker)
                case Broken():
                    if self.search.trials[message.result.id].state is State.RUNNING:  # several ranks may say so
                        self._end(message.result)
                    self.broken = True
                case Ready():
                    self.search.ready(worker)
        if self.broken:
            return answers
        for worker, trial in self.search.assign(self.now):
            answers.append((worker, Task(trial.id, trial.setting, self.search.judges)))
        if self.search.is_over:
            answers += [(worker, None) for worker in self.search.dismiss()]
            self.told += sum(answer is None for _, answer in answers)
        if self.journal is not None:
            self.journal.snapshot_if_due(self.search)
        return answers

    def _end(self, result: Result) -> None:
        self.search.end(result.id, result.state, result.value, self.now, result.cost, result.error)
        self.progress(result.id)


class Line(Protocol):
    """A rank's way to the coordinator."""

    def tell(self, message: Message) -> None:
        """Send a message that nobody answers."""
        ...

    def ask(self, message: Message) -> Answer:
        """Send a message and wait for the answer."""
        ...


class Direct:
    """The only rank calls the coordinator."""

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
    """Another rank."""

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm = comm

    def tell(self, message: Message) -> None:
        """By MPI, which keeps messages of a few hundred bytes until they are taken."""
        self.comm.send(message, dest=0, tag=Tag.ASK)

    def ask(self, message: Message) -> Answer:
        """By MPI, asleep until the answer is there."""
        self.comm.send(message, dest=0, tag=Tag.ASK)
        while not self.comm.Iprobe(source=0, tag=Tag.ANSWER):
            time.sleep(SHORTEST_SLEEP)
        return self.comm.recv(source=0, tag=Tag.ANSWER)


class Server(threading.Thread):
    """Serves all workers from rank 0, whose main thread, of the same process, asks through `ask`.

    size: ranks of a worker. What goes wrong here is raised in the main thread when it asks next.
    """

    def __init__(self, coordinator: Coordinator, comm: MPI.Comm, size: int) -> None:
        super().__init__(name="coordinator", daemon=True)
        self.coordinator, self.comm, self.size = coordinator, comm, size
        self.asked: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.backoff = PollingBackoff(SHORTEST_SLEEP, LONGEST_SLEEP, part=0.05)

    def tell(self, message: Message) -> None:
        """Of rank 0."""
        self.asked.put(message)

    def ask(self, message: Message) -> Answer:
        """Of rank 0."""
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
                    self.backoff.note_event()
        except BaseException as error:
            self.answers.put(error)

    def _waiting(self) -> list[tuple[int, Message]]:
        """All messages that are there, after a sleep that a message of worker 0 ends at once."""
        messages: list[tuple[int, Message]] = []
        with contextlib.suppress(queue.Empty):
            messages.append((0, self.asked.get(timeout=self.backoff.seconds())))
        status = MPI.Status()
        while self.comm.Iprobe(source=MPI.ANY_SOURCE, tag=Tag.ASK, status=status):
            rank = status.Get_source()
            messages.append((rank // self.size, self.comm.recv(source=rank, tag=Tag.ASK)))
        return messages

    def _tell(self, worker: int, answer: Answer) -> None:
        if worker == 0:
            self.answers.put(answer)
        else:
            self.comm.send(answer, dest=worker * self.size, tag=Tag.ANSWER)  # it is waiting for nothing else
