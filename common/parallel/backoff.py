"""Polling for messages with sleeps: MPI's own waits spin, and occupy cores that other ranks need."""

import time


class PollingBackoff:
    """Sleep length of a polling loop: a fraction (`part`) of the mean time between two messages.

    A message waits half a sleep on average; polling costs 1 / part sleeps per message at any message rate. While no message
    arrives, sleeps grow with the time since the last one. shortest, longest: bounds of a sleep in seconds. polls: polls before
    each sleep; MPI progresses only inside its calls, and needs several to deliver a large message.
    """

    def __init__(self, shortest: float = 2e-5, longest: float = 1e-3, part: float = 0.02, polls: int = 3) -> None:
        self.shortest, self.longest, self.part, self.polls = shortest, longest, part, polls
        self.usual = 0.0  # seconds between two messages, exponential moving average
        self.last = time.perf_counter()
        self.polled = 0

    def note_event(self) -> None:
        """Record that a message arrived."""
        now = time.perf_counter()
        self.usual += 0.1 * (now - self.last - self.usual)
        self.last, self.polled = now, 0

    def sleep(self) -> None:
        """Call after a poll without a message: every `polls`-th call sleeps."""
        self.polled += 1
        if self.polled % self.polls == 0:
            time.sleep(self.seconds())

    def seconds(self) -> float:
        """Length of the next sleep."""
        waited = time.perf_counter() - self.last
        return min(max(self.part * max(self.usual, waited), self.shortest), self.longest)
