"""Polling for messages without occupying a core: MPI's own waits spin, and on few cores the other ranks need it."""

import time


class PollingBackoff:
    """How long a polling loop sleeps: a small part of the usual time between two messages.

    A message waits half of that part on average, and polling costs 1 / part sleeps per message, whatever the pace. While
    nothing arrives, sleeps grow with the time since the last message.

    shortest, longest: bounds of a sleep in seconds. part: of the usual time. polls: before each sleep; MPI moves a message on
    by a little in each of its calls, and needs several to deliver a large one.
    """

    def __init__(self, shortest: float = 2e-5, longest: float = 1e-3, part: float = 0.02, polls: int = 3) -> None:
        self.shortest, self.longest, self.part, self.polls = shortest, longest, part, polls
        self.usual = 0.0  # seconds between two messages, exponential mean
        self.last = time.perf_counter()
        self.polled = 0

    def note_event(self) -> None:
        """A message arrived."""
        now = time.perf_counter()
        self.usual += 0.1 * (now - self.last - self.usual)
        self.last, self.polled = now, 0

    def sleep(self) -> None:
        """No message was there: release the core, after a few polls."""
        self.polled += 1
        if self.polled % self.polls == 0:
            time.sleep(self.seconds(time.perf_counter() - self.last))

    def seconds(self, waited: float | None = None) -> float:
        """Length of the next sleep, `waited` seconds after the last message (None: those that went by)."""
        waited = time.perf_counter() - self.last if waited is None else waited
        return min(max(self.part * max(self.usual, waited), self.shortest), self.longest)
