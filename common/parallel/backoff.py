"""Waiting for messages without keeping a core: MPI's own waits spin, and on few cores others need it."""

import time


class Nap:
    """How long a loop sleeps that waits for messages: a small part of the usual time between two of them.

    So a message waits for half of that part, and looking for it costs 1 / part naps a message, whatever the pace. Where nothing
    comes for long, naps grow with the time since the last one.

    shortest, longest: bounds of a nap, in seconds. part: of the usual time. looks: before each nap; MPI moves a message on by a
    little in each of its calls, and needs several to deliver a large one.
    """

    def __init__(self, shortest: float = 2e-5, longest: float = 1e-3, part: float = 0.02, looks: int = 3) -> None:
        self.shortest, self.longest, self.part, self.looks = shortest, longest, part, looks
        self.usual = 0.0  # seconds between two events, exponential mean
        self.last = time.perf_counter()
        self.looked = 0

    def awake(self) -> None:
        """Something happened."""
        now = time.perf_counter()
        self.usual += 0.1 * (now - self.last - self.usual)
        self.last, self.looked = now, 0

    def sleep(self) -> None:
        """Nothing was there: give the core away, after a few looks."""
        self.looked += 1
        if self.looked % self.looks == 0:
            time.sleep(self.seconds(time.perf_counter() - self.last))

    def seconds(self, waited: float | None = None) -> float:
        """The length of the next nap after so many seconds without an event; None: those that went by."""
        waited = time.perf_counter() - self.last if waited is None else waited
        return min(max(self.part * max(self.usual, waited), self.shortest), self.longest)
