"""EASGD on a tree of ranks. Unverified: of the thesis (arXiv 1605.02216) only the abstract was at hand; this is a proposal in
its spirit, not a reproduction.

Ranks form a tree of degree d, numbered level by level: rank r's parent is (r - 1) // d. Leaves train; inner nodes hold weights
and no data. Whoever receives a neighbour's weights moves towards them, x <- x + a (x' - x) with a = 0.9 / (d + 1), so that a
whole neighbourhood pulls by 0.9 at most. Sending is one-sided and waits for nobody: where the last message to a neighbour is
not through yet, the next one is left out. Exchanges are not paired, so nothing is conserved; the root is what is judged.

    leaf    sends up every tau of its steps
    inner   up and down after every d messages from below (schedule `equal`), or up after each and down after 10 d (`fast-up`)

A leaf that is lost asks for its parent's weights, by sending some that are not finite, and goes on from there. A node that
has ended tells its parent, and goes on receiving until the parent has said so in turn.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.coupling.elastic import Synchroniser, is_finite
from common.coupling.server import NOTHING, Reporting, hear_reports
from common.parallel.backoff import Nap
from common.parallel.comm import Group, Tag
from common.parallel.mpi import MPI

PULL = 0.9  # of all neighbours together
SCHEDULES = ("equal", "fast-up")


def children_of(node: int, degree: int, nodes: int) -> range:
    """Ranks below a node."""
    return range(degree * node + 1, min(degree * (node + 1) + 1, nodes))


def inner_nodes(degree: int, nodes: int) -> int:
    """How many of the first ranks have somebody below them."""
    return -(-(nodes - 1) // degree)


def rhythm(schedule: str, degree: int) -> tuple[int, int]:
    """(messages from below between two messages up, the same for down) of an inner node. Raises ValueError."""
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule '{schedule}': choose from {', '.join(SCHEDULES)}")
    return (degree, degree) if schedule == "equal" else (1, 10 * degree)


class Link:
    """One neighbour: weights to it and from it. A receive is always posted, so that nobody's sending waits for this rank.

    Attributes:
        open: until the neighbour has ended. asks: whether it has sent weights that are not finite, and wants some.
    """

    def __init__(self, world: Group, neighbour: int, length: int) -> None:
        self.world, self.neighbour, self.open, self.asks = world, neighbour, True, False
        self.out, self.incoming = np.empty(length, dtype=np.float32), np.empty(length, dtype=np.float32)
        self.sending = MPI.REQUEST_NULL
        self.receiving = self._listen()

    def _listen(self) -> MPI.Request:
        return self.world.comm.Irecv([self.incoming, MPI.FLOAT], source=self.neighbour, tag=Tag.WEIGHTS)

    def send(self, x: Tensor) -> None:
        """Send x off, unless the message before is still on its way, the neighbour has ended, or x is not finite."""
        if self.open and self.sending.Test() and is_finite(x):
            self._send(x)

    def ask(self) -> None:
        """Let the neighbour know that this rank has no weights of its own."""
        self.sending.Wait()
        self._send(torch.full((len(self.out),), torch.nan))

    def _send(self, x: Tensor) -> None:
        torch.from_numpy(self.out).copy_(x)
        self.sending = self.world.comm.Isend([self.out, MPI.FLOAT], dest=self.neighbour, tag=Tag.WEIGHTS)
        self.world.traffic.inside += self.out.nbytes

    def receive(self, x: Tensor, pull: float) -> int:
        """Move x towards all weights that have come, or there where x is lost; returns how many those were.

        Notices that a neighbour asks for weights, and its end: it says so when all that it has sent is through.
        """
        if not self.open:
            return 0
        came, comm = 0, self.world.comm
        ended = comm.Iprobe(source=self.neighbour, tag=Tag.STOP)  # asked first: what was sent before it is here
        while self.receiving.Test():
            theirs = torch.from_numpy(self.incoming).to(x.device)
            if is_finite(theirs):
                x.lerp_(theirs, pull) if is_finite(x) else x.copy_(theirs)
                came += 1
            else:
                self.asks = True
            self.receiving = self._listen()
        if ended:
            comm.Recv([NOTHING, MPI.FLOAT], source=self.neighbour, tag=Tag.STOP)
            self.receiving.Cancel()
            self.receiving.Wait()
            self.open = False
        return came

    @property
    def sent(self) -> bool:
        """Whether the last message is through."""
        return self.sending.Test()

    def say_stop(self) -> None:
        """Nothing more from here; comes when all is `sent`."""
        self.world.comm.Send([NOTHING, MPI.FLOAT], dest=self.neighbour, tag=Tag.STOP)


class Node(Reporting, Synchroniser):
    """A rank of the tree: as a leaf a synchroniser of its own steps, as an inner node a loop (`serve`).

    x: this node's flat weights, changed in place. period: steps of a leaf between two messages up.
    """

    steps = True

    def __init__(self, world: Group, x: Tensor, degree: int, period: int, schedule: str = "equal") -> None:
        super().__init__(world, inner_nodes(degree, world.size))
        self.leaves = world.size - inner_nodes(degree, world.size)
        self.x, self.period, self.rhythm = x, period, rhythm(schedule, degree)
        self.pull_rate = PULL / (degree + 1)
        self.parent = Link(world, (world.rank - 1) // degree, len(x)) if world.rank else None
        self.children = [Link(world, child, len(x)) for child in children_of(world.rank, degree, world.size)]

    def begin(self, t: int, x: Tensor) -> None:
        """A leaf takes in what has come from above, and sends itself up when it is time."""
        assert self.parent is not None, "a leaf has a parent"
        self.parent.receive(x, self.pull_rate)
        if t % self.period == 0:
            self.parent.send(x)

    def end(self, t: int, x: Tensor, gradient: Tensor) -> None:
        """Nothing: a move is made when its message arrives."""

    def recover(self) -> None:
        """A leaf that is lost takes its parent's weights; waits for them."""
        assert self.parent is not None, "a leaf has a parent"
        self.parent.ask()
        self._listen_while(lambda parent: not is_finite(self.x))

    def progress(self) -> None:
        """Let MPI go on with what is on its way up."""
        if self.parent:
            self.parent.sending.Test()
            self.parent.receiving.Test()

    def close(self) -> None:
        """Say that this node has ended, and receive until the parent has said so too."""
        if not self.children:
            self.report(None)  # every inner node hears every leaf's reports, and goes on until this last one of each
        if self.parent is None:
            return
        self._listen_while(lambda parent: not parent.sent)
        self.parent.say_stop()
        self._listen_while(lambda parent: parent.open)

    def _listen_while(self, condition: Callable[[Link], bool]) -> None:
        assert self.parent is not None
        nap = Nap()
        while condition(self.parent):
            self.parent.receive(self.x, self.pull_rate)
            nap.sleep()

    def serve(self, on_report: Callable[[int, Any], None]) -> None:
        """An inner node's part, until everybody below, and every leaf, has ended. on_report: called with (rank, report)."""
        came, ended, nap, (up, down) = 0, 0, Nap(), self.rhythm

        def take(rank: int, report: Any) -> None:
            nonlocal ended
            if report is None:
                ended += 1
            else:
                on_report(rank, report)

        while ended < self.leaves or any(child.open for child in self.children):
            news = sum(self._from_below(child) for child in self.children)
            if self.parent:
                self.parent.receive(self.x, self.pull_rate)
            before, came = came, came + news
            if self.parent and came // up > before // up:
                self.parent.send(self.x)
            if came // down > before // down:
                for child in self.children:
                    child.send(self.x)
            if hear_reports(self.world, take) or news:
                nap.awake()
            else:
                nap.sleep()
        self.close()

    def _from_below(self, child: Link) -> int:
        was_open = child.open
        came = child.receive(self.x, self.pull_rate)
        if child.asks:
            child.send(self.x)  # unless some are on their way already
            child.asks = False
        if was_open and not child.open:
            child.sending.Wait()  # it is listening
            child.say_stop()
        return came
