"""The state of a search, and all that is decided about it: who evaluates what, what goes on, when it ends. No MPI, no clock.

    propose -> start -> report ... report -> end       (or, after an error, back to waiting)

Whatever happens to a trial is an event, a dictionary that JSON can hold. `apply` is the only place that changes trials, and
events are handed to `log` first: a search is rebuilt by applying the events of its journal.
"""

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from typing import Any

from common.search.pruning import Pruner
from common.search.space import Key, key_of
from common.search.strategies import Known, Strategy
from common.search.trial import State, Trial, best_first
from common.seeding import Purpose, stream

Event = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """When no more trials are started: after so many, after so many seconds, once a value is reached. retries: of a trial
    that raised an error.
    """

    trials: int
    seconds: float = math.inf
    target: float = math.inf
    retries: int = 1


def split_evenly(n: int, parts: int) -> list[range]:
    """0 .. n-1 in contiguous slices, part r from floor(r n / parts) on; sizes differ by one at most."""
    return [range(r * n // parts, (r + 1) * n // parts) for r in range(parts)]


class Search:
    """One search.

    Attributes:
        trials: all that have been proposed, by id.
        free: whether trials are stopped by what is known of all others just then, not by what their proposals may know.
        log: is given every event before it takes effect.
        events: so many there have been.
        sessions: when the search was begun and gone on with, in seconds, and with how many workers.
    """

    def __init__(
        self,
        strategy: Strategy,
        limits: Limits,
        workers: int,
        seed: int = 0,
        pruner: Pruner | None = None,
        free: bool = False,
        log: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self.strategy, self.limits, self.workers, self.seed = strategy, limits, workers, seed
        self.pruner, self.free, self.log = pruner, free, log
        self.trials: list[Trial] = []
        self.sessions: list[tuple[float, int]] = []
        self.events = 0
        self.now = 0.0
        self.keys: set[Key] = set()
        self.exhausted = False
        self._asking: deque[int] = deque()  # workers without a trial, for whom there may be one
        self._idle: dict[int, None] = {}  # those for whom there was none, in the order they came
        self._waiting: deque[Trial] = deque()  # trials for whoever is free
        self._dealt: list[deque[Trial]] = [deque() for _ in range(workers)]  # trials of one worker, of a static strategy
        self._queued = 0  # trials in the last two
        self._ended = 0  # trials before the first that has not ended
        self._running = 0
        self._best = -math.inf

    # ---- what happens ----

    def begin(self, now: float) -> None:
        """A session begins; trials that the one before left unfinished wait again, with the same ids and settings."""
        self._happen({"event": "session", "time": now, "workers": self.workers, "search": self.identity})
        self._queue([t for t in self.trials if not t.has_ended])

    def ready(self, worker: int) -> None:
        """A worker has nothing to do."""
        self._asking.append(worker)

    def assign(self, now: float) -> Iterator[tuple[int, Trial]]:
        """What idle workers are to do; those for whom there is nothing yet go on being idle."""
        self.now = max(self.now, now)
        if not self.strategy.static:  # what has ended since may have made more trials possible, for all
            self._asking.extendleft(reversed(self._idle))
            self._idle.clear()
        while self._asking:
            worker = self._asking.popleft()
            trial = self._next_of(worker)
            if trial is not None:
                self._happen({"event": "start", "id": trial.id, "worker": worker, "time": now})
                yield worker, trial
                continue
            self._idle[worker] = None
            if not self.strategy.static:  # there is nothing for the others either
                self._idle |= dict.fromkeys(self._asking)
                self._asking.clear()

    def dismiss(self) -> list[int]:
        """The idle workers; nothing more is expected of them."""
        workers = [*self._idle, *self._asking]
        self._idle.clear()
        self._asking.clear()
        return workers

    def report(self, number: int, step: int, value: float) -> bool:
        """A running trial has come to a value after `step` steps; whether it goes on."""
        self._happen({"event": "report", "id": number, "step": step, "value": value})
        trial = self.trials[number]
        if self.pruner is None:
            return True
        bound = None if self.free else self.strategy.needs(number)
        others = [t for t in self.trials[:bound] if t.id != number]
        return self.pruner.keeps(trial.curve, others)

    def end(self, number: int, state: State, value: float | None, now: float, cost: float = 0.0, error: str = "") -> None:
        """A trial is over. A value that is not finite is a failure.

        state: WAITING after an error that another attempt may not make; there are `retries` of these, then it has FAILED.
        """
        trial = self.trials[number]
        worker = trial.worker
        if value is not None and not math.isfinite(value):
            state, value, error = State.FAILED, None, f"value {value} after {len(trial.curve)} steps"
        elif state is State.WAITING and trial.attempts >= self.limits.retries:
            state = State.FAILED
        event = {"event": "end", "id": number, "state": str(state), "value": value}
        self._happen({**event, "time": now, "cost": cost, "error": error})
        if state is State.WAITING:  # the same worker's again, where each has its own
            assert worker is not None
            self._queued += 1
            (self._dealt[worker] if self.strategy.static else self._waiting).append(trial)

    # ---- what is known ----

    @property
    def identity(self) -> dict[str, Any]:
        """What a search has to share with the one whose journal it goes on with, as JSON has it; not its limits."""
        parts = {"strategy": self.strategy, "pruner": self.pruner}
        named = {name: {"kind": type(x).__name__, **(asdict(x) if is_dataclass(x) else {})} for name, x in parts.items()}
        return json.loads(json.dumps({**named, "seed": self.seed, "free": self.free}, default=repr))

    @property
    def is_over(self) -> bool:
        """Whether nothing is running and nothing more will be started."""
        return self._running == 0 and (self._stopped or (not self._queued and not self._may_propose))

    @property
    def judges(self) -> bool:
        """Whether a trial may be stopped at one of its reports."""
        return self.pruner is not None

    @property
    def best(self) -> Trial | None:
        """The complete trial with the highest value, the earliest of equal ones; None before there is one."""
        complete = [t for t in self.trials if t.state is State.COMPLETE]
        return best_first(complete)[0] if complete else None

    def count(self, *states: State) -> int:
        """Trials in one of these states."""
        return sum(t.state in states for t in self.trials)

    # ---- how it works ----

    @property
    def _stopped(self) -> bool:
        return self.now >= self.limits.seconds or self._best >= self.limits.target

    @property
    def _may_propose(self) -> bool:
        return len(self.trials) < self.limits.trials and not self.exhausted

    def _next_of(self, worker: int) -> Trial | None:
        if self._stopped:
            return None
        if not self._queued and (self._running == 0 or not self.strategy.static):
            self._queue(self._propose_batch() if self.strategy.static else self._propose())
        source = self._dealt[worker] if self.strategy.static else self._waiting
        if not source:
            return None
        self._queued -= 1
        return source.popleft()

    def _propose(self) -> list[Trial]:
        """The next trials, [] where they have to wait for others or there are none."""
        i = len(self.trials)
        bound = self.strategy.needs(i)
        if not self._may_propose or (bound is not None and self._ended < bound):
            return []
        known = Known(self.trials, bound, self.keys)
        proposals = self.strategy.propose(i, known, partial(stream, self.seed, Purpose.PROPOSE))
        self.exhausted = not proposals
        for proposal in proposals[: self.limits.trials - i]:
            event = {"event": "propose", "id": len(self.trials), "setting": proposal.setting}
            self._happen({**event, "parents": list(proposal.parents)})
        return self.trials[i:]

    def _propose_batch(self) -> list[Trial]:
        """Everything that can be proposed before anything of it has ended."""
        batch: list[Trial] = []
        while more := self._propose():
            batch += more
        return batch

    def _queue(self, batch: list[Trial]) -> None:
        """For whoever is free; of a static strategy a slice to each worker, behind what it has already."""
        self._queued += len(batch)
        if not self.strategy.static:
            self._waiting.extend(batch)
            return
        for worker, part in enumerate(split_evenly(len(batch), self.workers)):
            self._dealt[worker].extend(batch[k] for k in part)
            if part and worker in self._idle:
                del self._idle[worker]
                self._asking.append(worker)

    def _happen(self, event: Event) -> None:
        self.log(event)
        self.apply(event)

    def apply(self, event: Event) -> None:
        """Let one event take effect; those of a journal, in order, rebuild the search.

        Raises ValueError, KeyError or IndexError for an event that cannot come next.
        """
        self.events += 1
        self.now = max(self.now, event.get("time", 0.0))
        match event["event"]:
            case "session":
                self.sessions.append((event["time"], event["workers"]))
                for trial in self.trials:
                    if trial.state is State.RUNNING:
                        trial.state, trial.curve, trial.worker, trial.start = State.WAITING, [], None, None
                self._running = 0
            case "propose":
                if event["id"] != len(self.trials):
                    raise ValueError(f"trial {event['id']} is proposed after {len(self.trials)} others")
                trial = Trial(event["id"], event["setting"], tuple(event["parents"]))
                self.trials.append(trial)
                self.keys.add(key_of(trial.setting))
            case "start":
                trial = self._trial(event, State.WAITING)
                trial.state, trial.worker, trial.start = State.RUNNING, event["worker"], event["time"]
                self._running += 1
            case "report":
                self._trial(event, State.RUNNING).curve.append(event["value"])
            case "end":
                self._apply_end(self._trial(event, State.RUNNING), event)
            case other:
                raise ValueError(f"there is no event '{other}'")

    def _trial(self, event: Event, state: State) -> Trial:
        """The trial of an event, which has to be in this state."""
        trial = self.trials[event["id"]]
        if trial.id != event["id"] or trial.state is not state:  # -1 is the last one's index
            raise ValueError(f"trial {event['id']} is not {state}")
        return trial

    def _apply_end(self, trial: Trial, event: Event) -> None:
        trial.state, trial.value, trial.error = State(event["state"]), event["value"], event["error"]
        trial.cost += event["cost"]
        self._running -= 1
        if trial.state is State.WAITING:
            trial.attempts, trial.curve, trial.worker, trial.start = trial.attempts + 1, [], None, None
            return
        trial.end = event["time"]
        if trial.state is State.COMPLETE and trial.value is not None:
            trial.curve.append(trial.value)  # of its last step
            self._best = max(self._best, trial.value)
        while self._ended < len(self.trials) and self.trials[self._ended].has_ended:
            self._ended += 1

    def restore(self, trials: Iterable[Trial], sessions: list[tuple[float, int]], events: int, now: float) -> None:
        """Go on from a snapshot instead of from nothing; events after it are applied afterwards."""
        self.trials, self.sessions, self.events, self.now = list(trials), sessions, events, now
        self.keys = {key_of(t.setting) for t in self.trials}
        self._running = self.count(State.RUNNING)
        self._best = max((t.value for t in self.trials if t.state is State.COMPLETE and t.value is not None), default=-math.inf)
        self._ended = next((t.id for t in self.trials if not t.has_ended), len(self.trials))
