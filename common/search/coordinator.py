"""Assignment of trials: rank 0 coordinates, and all ranks, rank 0 included, evaluate trials (`common.search.worker`).

    worker -> coordinator    Ready | Report(id, step, value) | Result(id, state, value, cost, error) | Broken(result)
    coordinator -> worker    Task(id, setting, judged), or None at the end | True or False, whether the trial continues

A worker is a rank or several consecutive ranks; the first of them communicates and broadcasts to the others. Request and reply
are one message each, a pickle of a few hundred bytes; the reply is delayed until there is a trial. Without pruning, reports get
no reply, so training continues meanwhile. Workers do not communicate with each other.

On rank 0 a thread serves the workers on a communicator of its own; the main thread evaluates trials and communicates with the
thread by a queue, so objectives are not interrupted. With one rank there is neither thread nor message. All waits sleep between
polls, in the thread for a twentieth of the usual time between two requests, 10 ms at most: whenever it wakes, training on
rank 0 stops, which soon costs more than the waiting of the other ranks (benchmarks/search_scaling.py).
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from common.parallel.backoff import PollingBackoff
from common.parallel.comm import Tag
from common.parallel.mpi import MPI
from common.search.search import Search
from common.search.space import Setting
from common.search.trial import State

SHORTEST_SLEEP, LONGEST_SLEEP = 0.001, 0.01  # seconds between polls for messages


@dataclass(frozen=True)
class Task:
    """A trial to evaluate. judged: whether its reports get a reply, since it may be pruned."""

    id: int
    setting: Setting
    judged: bool = False


@dataclass(frozen=True)
class Ready:
    """A worker is ready for its first trial."""


@dataclass(frozen=True)
class Report:
    """Intermediate value of a running trial."""

    id: int
    step: int
    value: float


@dataclass(frozen=True)
class Result:
    """A trial has ended, and its worker is ready for the next.

    state: WAITING after an error that a retry may avoid. cost: seconds by the worker's clock.
    """

    id: int
    state: State
    value: float | None
    cost: float
    error: str = ""


@dataclass(frozen=True)
class Broken:
    """One rank of a trial failed and the others did not; the job is about to abort."""

    result: Result


Message: TypeAlias = Ready | Report | Result | Broken
Answer: TypeAlias = Task | bool | None


class Coordinator:
    """The search and its clock, on rank 0; replies to messages.

    progress: called with the id of a trial when it has ended, or will be retried.
    """

    def __init__(self, search: Search, progress: Callable[[int], None] = lambda number: None) -> None:
        self.search, self.progress = search, progress
        self.told = 0  # workers informed that the search is over
        self.broken = False  # the job is about to abort: no more trials are assigned
        self._began = time.monotonic() - search.now  # the clock continues from the journal
        search.begin(search.now)

    @property
    def now(self) -> float:
        """Seconds since the search began, pauses between sessions left out."""
        return time.monotonic() - self._began

    @property
    def is_over(self) -> bool:
        """Whether all workers are informed that the search is over."""
        return self.told == self.search.workers

    def answer(self, messages: Iterable[tuple[int, Message]]) -> list[tuple[int, Answer]]:
        """Process (worker, message) pairs, all before new trials are proposed; returns (worker, reply) pairs."""
        answers: list[tuple[int, Answer]] = []
        for worker, message in messages:
            match message:
                case Report():
                    goes_on = self.search.report(message.id, message.step, message.value)
                    if self.search.pruner:
                        answers.append((worker, goes_on))
                case Result():
                    self._end(message)
                    self.search.ready(worker)
                case Broken():
                    if self.search.trials[message.result.id].state is State.RUNNING:  # several ranks may report it
                        self._end(message.result)
                    self.broken = True
                case Ready():
                    self.search.ready(worker)
        if self.broken:
            return answers
        for worker, trial in self.search.assign(self.now):
            answers.append((worker, Task(trial.id, trial.setting, self.search.pruner is not None)))
        if self.search.is_over:
            dismissed = self.search.dismiss()
            answers += [(worker, None) for worker in dismissed]
            self.told += len(dismissed)
        return answers

    def _end(self, result: Result) -> None:
        self.search.end(result.id, result.state, result.value, self.now, result.cost, result.error)
        self.progress(result.id)


class Direct:
    """Connection of a single rank: direct calls."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator

    def tell(self, message: Message) -> None:
        """Call the coordinator."""
        self.coordinator.answer([(0, message)])

    def ask(self, message: Message) -> Answer:
        """Call the coordinator; a single worker always gets a reply at once."""
        ((_, answer),) = self.coordinator.answer([(0, message)])
        return answer


class Distant:
    """Connection of the ranks other than 0, by MPI."""

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm = comm

    def tell(self, message: Message) -> None:
        """Send eagerly: MPI buffers messages of a few hundred bytes."""
        self.comm.send(message, dest=0, tag=Tag.ASK)

    def ask(self, message: Message) -> Answer:
        """Send, and sleep between polls until the reply arrives."""
        self.comm.send(message, dest=0, tag=Tag.ASK)
        while not self.comm.Iprobe(source=0, tag=Tag.ANSWER):
            time.sleep(SHORTEST_SLEEP)
        return self.comm.recv(source=0, tag=Tag.ANSWER)


class Server(threading.Thread):
    """Thread of rank 0 that serves all workers; the main thread communicates by `tell` and `ask`.

    size: ranks per worker. Errors of the thread are raised in the main thread by its next `ask`.
    """

    def __init__(self, coordinator: Coordinator, comm: MPI.Comm, size: int) -> None:
        super().__init__(name="coordinator", daemon=True)
        self.coordinator, self.comm, self.size = coordinator, comm, size
        self.asked: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.backoff = PollingBackoff(SHORTEST_SLEEP, LONGEST_SLEEP, part=0.05)

    def tell(self, message: Message) -> None:
        """Called by the main thread."""
        self.asked.put(message)

    def ask(self, message: Message) -> Answer:
        """Called by the main thread."""
        self.asked.put(message)
        answer = self.answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def run(self) -> None:
        """Serve until all workers are informed that the search is over."""
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
        """All pending messages, after a sleep that a message of worker 0 interrupts."""
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
            self.comm.send(answer, dest=worker * self.size, tag=Tag.ANSWER)  # it is blocked in `ask`


Line: TypeAlias = Direct | Distant | Server  # `tell` sends a message without a reply, `ask` one and waits for the reply
