"""State and decisions of a search: assignment of trials, pruning, retries, end. No MPI, no clock.

    propose -> start -> report ... report -> end       (or, after an error, back to waiting)

Every change of a trial is an event, a JSON-serialisable dictionary. Events are passed to `log` and then to `apply`, the only
place that changes trials: a search is rebuilt by applying the events of its journal.
"""

import json
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from itertools import islice
from typing import Any

from common.search.pruning import Pruner
from common.search.space import Key, key_of
from common.search.strategies import Known, Strategy
from common.search.trial import State, Trial
from common.seeding import Purpose, stream

Event = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """Limits after which no trial is started: number of trials, seconds, target value. retries: of a trial after errors."""

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
        trials: all proposed trials, by id.
        free: whether pruning uses all other trials as known at that time, instead of those their proposals may use.
        log: called with every event before it takes effect.
        sessions: start in seconds, and number of workers, of the first session and of every resumption.
        best: the complete trial with the highest value, the earliest of equal ones; None before there is one.
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
        self.now = 0.0
        self.keys: set[Key] = set()
        self.exhausted = False
        self.best: Trial | None = None
        self._asking: deque[int] = deque()  # workers without a trial, to be assigned one
        self._idle: dict[int, None] = {}  # workers for which there was no trial, in order of arrival
        # Trials that wait for a worker: for each its own with a static strategy, else for all the same.
        self._queues: list[deque[Trial]] = [deque() for _ in range(workers if strategy.static else 1)]
        self._ended = 0  # number of trials before the first that has not ended
        self._running = 0

    # ---- events ----

    def begin(self, now: float) -> None:
        """Begin a session; trials that the previous one left unfinished are queued again, with the same ids and settings."""
        self._happen({"event": "session", "time": now, "workers": self.workers, "search": self.identity})
        self._queue([t for t in self.trials if not t.has_ended])

    def ready(self, worker: int) -> None:
        """A worker is free."""
        self._asking.append(worker)

    def assign(self, now: float) -> Iterator[tuple[int, Trial]]:
        """Assign trials to idle workers, as (worker, trial); workers for which there is none yet stay idle."""
        self.now = max(self.now, now)
        if not self.strategy.static:  # trials that have ended since may allow new proposals
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
            if not self.strategy.static:  # there is no trial for the others either
                self._idle |= dict.fromkeys(self._asking)
                self._asking.clear()

    def dismiss(self) -> list[int]:
        """Remove and return the idle workers."""
        workers = list(self._idle)
        self._idle.clear()
        return workers

    def report(self, number: int, step: int, value: float) -> bool:
        """Record the value of a running trial after `step` steps; returns whether it continues."""
        self._happen({"event": "report", "id": number, "step": step, "value": value})
        trial = self.trials[number]
        if self.pruner is None:
            return True
        bound = None if self.free else self.strategy.needs(number)
        others = [t for t in self.trials[:bound] if t.id != number]
        return self.pruner.keeps(trial.curve, others)

    def end(self, number: int, state: State, value: float | None, now: float, cost: float = 0.0, error: str = "") -> None:
        """End a trial. A value that is not finite is a failure.

        state: WAITING after an error, to retry; after `retries` of these the trial is FAILED.
        """
        trial = self.trials[number]
        worker = trial.worker
        if value is not None and not math.isfinite(value):
            state, value, error = State.FAILED, None, f"value {value} after {len(trial.curve)} steps"
        elif state is State.WAITING and trial.attempts >= self.limits.retries:
            state = State.FAILED
        event = {"event": "end", "id": number, "state": str(state), "value": value}
        self._happen({**event, "time": now, "cost": cost, "error": error})
        if state is State.WAITING:
            assert worker is not None
            self._queue_of(worker).append(trial)

    # ---- state ----

    @property
    def identity(self) -> dict[str, Any]:
        """What has to equal the journal's on resuming, as JSON values; limits may change."""
        parts = {"strategy": self.strategy, "pruner": self.pruner}
        named = {name: {"kind": type(x).__name__, **(asdict(x) if is_dataclass(x) else {})} for name, x in parts.items()}
        return json.loads(json.dumps({**named, "seed": self.seed, "free": self.free}, default=repr))

    @property
    def is_over(self) -> bool:
        """Whether nothing is running and nothing more will be started."""
        return self._running == 0 and (self._stopped or not (any(self._queues) or self._may_propose))

    @property
    def has_reached_target(self) -> bool:
        """Whether a complete trial has reached the target value."""
        return self.best is not None and self.best.value is not None and self.best.value >= self.limits.target

    def count(self, *states: State) -> int:
        """Trials in one of these states."""
        return sum(t.state in states for t in self.trials)

    # ---- internals ----

    @property
    def _stopped(self) -> bool:
        return self.now >= self.limits.seconds or self.has_reached_target

    @property
    def _may_propose(self) -> bool:
        return len(self.trials) < self.limits.trials and not self.exhausted

    def _next_of(self, worker: int) -> Trial | None:
        if self._stopped:
            return None
        if not any(self._queues) and (self._running == 0 or not self.strategy.static):
            self._queue(self._propose_batch() if self.strategy.static else self._propose())
        queue = self._queue_of(worker)
        return queue.popleft() if queue else None

    def _queue_of(self, worker: int) -> deque[Trial]:
        """The queue of a worker: its own with a static strategy, else the one of all workers."""
        return self._queues[worker if self.strategy.static else 0]

    def _propose(self) -> list[Trial]:
        """The next trials; [] if they have to wait for others, or there are none."""
        i = len(self.trials)
        bound = self.strategy.needs(i)
        if not self._may_propose or (bound is not None and self._ended < bound):
            return []
        known = Known(self.trials, bound, self.keys)
        proposed = self.strategy.propose(i, known, partial(stream, self.seed, Purpose.PROPOSE))
        proposals = list(islice(proposed, self.limits.trials - i))
        self.exhausted = not proposals
        for proposal in proposals:
            event = {"event": "propose", "id": len(self.trials), "setting": proposal.setting}
            self._happen({**event, "parents": list(proposal.parents)})
        return self.trials[i:]

    def _propose_batch(self) -> list[Trial]:
        """All trials that can be proposed before any of them has ended."""
        batch: list[Trial] = []
        while more := self._propose():
            batch += more
        return batch

    def _queue(self, batch: list[Trial]) -> None:
        """Append a slice of the trials to each queue; of a static strategy, workers that get one are idle no longer."""
        for worker, part in enumerate(split_evenly(len(batch), len(self._queues))):
            self._queues[worker].extend(batch[k] for k in part)
            if part and worker in self._idle:
                del self._idle[worker]
                self._asking.append(worker)

    def _happen(self, event: Event) -> None:
        self.log(event)
        self.apply(event)

    def apply(self, event: Event) -> None:
        """Apply one event; the events of a journal, in order, rebuild the search.

        Raises ValueError, KeyError or IndexError for an event that cannot come next.
        """
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
            if self.best is None or (trial.merit, -trial.id) > (self.best.merit, -self.best.id):
                self.best = trial
        while self._ended < len(self.trials) and self.trials[self._ended].has_ended:
            self._ended += 1
