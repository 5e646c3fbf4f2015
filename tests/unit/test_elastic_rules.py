"""The rules of elastic averaging against the paper's equations: played in turn in one process, on quadratics, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import elastic_theory as stability
from common.coupling.elastic import Admm, CenterVariable, Downpour, Elastic, MomentumCenter, MomentumDownpour, NoSync
from common.coupling.synchronous import SynchronousElastic

sizes = st.integers(1, 6)
rates = st.floats(0.01, 0.9)


def tensor(values):
    return torch.tensor(np.asarray(values, dtype=float), dtype=torch.float64)


def draw(seed, *shape):
    return tensor(np.random.default_rng(seed).normal(size=shape))


class Worker:
    """One worker on F(x) = h x^2 / 2, with plain steps or look-ahead momentum (M1)-(M2)."""

    def __init__(self, x, coupling, eta, h=1.0, delta=0.0):
        self.x, self.coupling, self.eta, self.h, self.delta = x, coupling, eta, h, delta
        self.v, self.t = torch.zeros_like(x), 0

    def turn(self):
        """One gradient step with everything around it."""
        self.coupling.begin(self.t, self.x)
        gradient = self.h * (self.x + self.delta * self.v)
        if self.coupling.take(self.t, gradient, True):
            self.v = self.delta * self.v - self.eta * gradient
            self.x += self.v
        self.coupling.end(self.t, self.x, gradient)
        self.t += 1


class Group1:
    """A group of one, in float64."""

    size = 1

    def start_sum_(self, buffer, name):
        return lambda: None


COUPLINGS = {
    "elastic": lambda x, centre, period: Elastic(x, centre, 0.3, period),
    "downpour": Downpour,
    "mdownpour": lambda x, centre, period: MomentumDownpour(centre),
    "admm": lambda x, centre, period: Admm(x, centre, 0.3, 1, period),
    "alone": lambda x, centre, period: NoSync(x, centre),
    "together": lambda x, centre, period: SynchronousElastic(x, Group1(), 0.3, period),
}


def elastic_world(start, alpha, tau=1, eta=0.0, **kind):
    """A centre, the last row of `start`, and workers at the others."""
    *places, centre = start.clone()
    master = CenterVariable(centre)
    return master, [Worker(x, Elastic(x, master, alpha, tau), eta, **kind) for x in places]


@settings(max_examples=20)
@given(st.integers(1, 4), st.floats(0.1, 0.8), st.integers(1, 3))
def test_i1_each_exchange_conserves_the_sum_and_repeated_ones_find_the_mean(p, alpha, tau):
    start = draw(0, p + 1, 3)
    master, workers = elastic_world(start, alpha, tau)
    for turn in range(tau * int(40 / min(alpha, 1 - alpha))):
        for worker in workers:
            worker.turn()
            if turn < 20:
                torch.testing.assert_close(sum(w.x for w in workers) + master.centre, start.sum(0))
    for x in [*(w.x for w in workers), master.centre]:
        torch.testing.assert_close(x, start.mean(0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("p", [1, 2, 3, 5])
@given(eta=st.floats(0.01, 1.5), alpha=st.just(0.0) | rates)
def test_s1_playing_in_turn_is_the_round_robin_map_and_i2_without_a_moving_rate_it_is_sgd(p, eta, alpha):
    start = draw(0, p + 1, 1)
    master, workers = elastic_world(start, alpha, eta=eta)
    state = start[:, 0].numpy()
    for _ in range(5):
        for worker in workers:
            worker.turn()
        state = stability.round_robin_easgd(eta, alpha, p) @ state
    played = [*(float(w.x) for w in workers), float(master.centre)]
    np.testing.assert_allclose(played, state, rtol=1e-12, atol=1e-12)
    if alpha == 0:
        assert torch.equal(master.centre, start[p])
        np.testing.assert_allclose(played[:p], start[:p, 0] * (1 - eta) ** 5, rtol=1e-12, atol=1e-12)


@given(rates, rates, st.floats(0.1, 0.99))
def test_eamsgd_follows_algorithm_2(eta, alpha, delta):
    """One worker in turn: x_{t+1} = x + v' - alpha (x - x~), v' = delta v - eta g(x + delta v); the pull never enters v."""
    start, v = draw(0, 2, 3), torch.zeros(3, dtype=torch.float64)
    x, centre = start
    master, (worker,) = elastic_world(start, alpha, eta=eta, delta=delta)
    for _ in range(6):
        v = delta * v - eta * (x + delta * v)
        x, centre = x + v - alpha * (x - centre), centre + alpha * (x - centre)
        worker.turn()
    torch.testing.assert_close(worker.x, x)
    torch.testing.assert_close(master.centre, centre)
    torch.testing.assert_close(worker.v, v)


@pytest.mark.parametrize("p", [1, 2, 3, 4])
@given(eta=st.floats(1e-4, 0.5), rho=st.floats(0.01, 10))
def test_s2_admm_in_turn_is_the_round_robin_map(p, eta, rho):
    start = torch.full((p, 1), 1000.0, dtype=torch.float64)
    master = CenterVariable(start[0].clone())
    workers = [Worker(x := start[i].clone(), Admm(x, master, eta * rho, p), eta) for i in range(p)]
    state = np.array([0.0, 1000.0] * p + [1000.0])
    for _ in range(4):
        for worker in workers:
            worker.turn()
        state = stability.round_robin_admm(eta, rho, p) @ state
    played = np.array([v for w in workers for v in (float(w.coupling.multiplier), float(w.x))] + [float(master.centre)])
    np.testing.assert_allclose(played, state, rtol=1e-9, atol=1e-6)


@given(st.integers(1, 4), rates, st.integers(1, 7))
def test_downpour_adds_everybodys_steps_to_the_centre_and_i8_of_one_worker_is_sgd(p, eta, tau):
    """Algorithm 3 written out: v accumulates -eta g; every tau steps x~ += v, x = x~, v = 0."""
    first = draw(1, 3)
    master = CenterVariable(first.clone())
    workers = [Worker(x := first.clone(), Downpour(x, master, tau), eta, h=1 + i) for i in range(p)]
    centre, xs, vs = first.clone(), [first] * p, [torch.zeros_like(first)] * p
    for t in range(15):
        for i, worker in enumerate(workers):
            if t % tau == 0:
                centre = centre + vs[i]
                xs[i], vs[i] = centre, torch.zeros_like(centre)
            step = -eta * (1 + i) * xs[i]
            xs[i], vs[i] = xs[i] + step, vs[i] + step
            worker.turn()
    torch.testing.assert_close(master.centre, centre)
    for worker, x in zip(workers, xs, strict=True):
        torch.testing.assert_close(worker.x, x)
    if p == 1:
        torch.testing.assert_close(worker.x, first * (1 - eta) ** 15)


@pytest.mark.parametrize(("variant", "gain"), [("printed", 0.9 / 0.1), ("nesterov", 1 / 0.1)])
def test_mdownpour_has_the_gain_of_its_variant(variant, gain):
    """With a constant gradient the centre ends up moving by eta times the gain per gradient; L2 is part of what is sent."""
    x, eta = draw(2, 4), 0.01
    master = MomentumCenter(x.clone(), eta, 0.9, variant == "nesterov")
    coupling = MomentumDownpour(master, weight_decay=0.0)
    for t in range(400):
        before = master.centre.clone()
        coupling.begin(t, x)
        assert torch.equal(x, before)
        coupling.end(t, x, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(before - master.centre, torch.full((4,), eta * gain, dtype=torch.float64))
    adding = CenterVariable(x.clone())
    decaying = MomentumDownpour(adding, weight_decay=0.5)
    decaying.begin(0, x)
    decaying.end(0, x, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(adding.centre - x, 1 + 0.5 * x)


def test_the_printed_mdownpour_freezes_without_momentum():
    printed, nesterov = (MomentumCenter(torch.ones(2), 0.1, 0.0, nesterov) for nesterov in (False, True))
    for master in (printed, nesterov):
        master.receive(torch.ones(2))
    assert printed.centre.tolist() == [1, 1]
    assert nesterov.centre.tolist() == pytest.approx([0.9, 0.9])


@given(st.integers(1, 30), st.floats(0.001, 0.5))
def test_i7_averages_of_the_centres_past(steps, a):
    start, updates = draw(3, 2), draw(4, steps, 2)
    mean, moving, none = (CenterVariable(start.clone(), averaging=kind) for kind in (0.0, a, None))
    past = [start + updates[:k].sum(0) for k in range(steps)]
    for master in (mean, moving, none):
        for update in updates:
            master.receive(update)
        torch.testing.assert_close(master.centre, start + updates.sum(0))
    torch.testing.assert_close(mean.evaluated, sum(past) / steps)
    slow = (1 - a) ** steps * start + a * sum((1 - a) ** (steps - 1 - k) * x for k, x in enumerate(past))
    torch.testing.assert_close(moving.evaluated, slow)
    assert none.evaluated is none.centre


@given(st.integers(1, 20), rates)
def test_alone_the_centre_is_where_the_worker_is(steps, eta):
    x = draw(5, 3)
    master = CenterVariable(x.clone(), averaging=0.0)
    path = []
    worker = Worker(x, NoSync(x, master), eta)
    for _ in range(steps):
        path.append(worker.x.clone())
        worker.turn()
    torch.testing.assert_close(master.centre, worker.x)
    torch.testing.assert_close(master.evaluated, sum(path) / steps)


@given(sizes, rates, st.floats(0.01, 1.5))
def test_i6_with_one_worker_all_forms_coincide(n, alpha, eta):
    x, other, centre = draw(6, n), draw(6, n), draw(7, n)
    master = CenterVariable(centre.clone())
    asynchronous = Worker(x, Elastic(x, master, alpha, 1), eta)
    together = SynchronousElastic(other, Group1(), alpha, 1)
    together.centre.copy_(centre)
    synchronous = Worker(other, together, eta)
    for _ in range(5):
        asynchronous.turn()
        synchronous.turn()
    torch.testing.assert_close(x, other)
    torch.testing.assert_close(master.centre, together.centre)


@pytest.mark.parametrize("p", [1, 3])
def test_i9_the_first_exchange_does_nothing_from_a_common_start(p):
    start = draw(10, 1, 5).repeat(p + 1, 1)
    master, workers = elastic_world(start, 0.3, 4, 0.1)
    for worker in workers:  # the others too, since the centre has not moved
        worker.turn()
        assert torch.equal(master.centre, start[0])
        torch.testing.assert_close(worker.x, 0.9 * start[0])


@pytest.mark.parametrize("kind", COUPLINGS)
def test_what_a_checkpoint_keeps_is_enough_to_go_on_bit_for_bit(kind):
    """Nine steps of a worker, and the same with everything put into new objects after the fifth."""

    def begin(x, centre):
        master = CenterVariable(centre, averaging=0.1)
        return master, Worker(x, COUPLINGS[kind](x, master, 2), 0.1)

    master, worker = begin(draw(3, 4), draw(4, 4))
    other, again = begin(*torch.zeros(2, 4, dtype=torch.float64))
    for _ in range(5):
        worker.turn()
    for kept, tensors in ((worker.coupling.tensors(), again.coupling.tensors()), (master.tensors(), other.tensors())):
        assert tensors.keys() == kept.keys()
        for name, value in kept.items():
            tensors[name].copy_(value)
    again.x.copy_(worker.x)
    other.clock, again.t = master.clock, worker.t
    for _ in range(4):
        worker.turn()
        again.turn()
    assert torch.equal(worker.x, again.x)
    assert torch.equal(master.centre, other.centre)
    assert torch.equal(master.evaluated, other.evaluated)


@pytest.mark.parametrize("kind", ["elastic", "downpour", "admm", "mdownpour"])
def test_a_worker_that_is_lost_leaves_the_centre_alone_and_can_begin_anew(kind):
    master, x = CenterVariable(draw(1, 3)), draw(2, 3)
    coupling = COUPLINGS[kind](x, master, 1)
    worker = Worker(x, coupling, 0.1)
    worker.turn()
    before = master.centre.clone()
    worker.x.fill_(torch.nan)
    worker.h = torch.nan  # and so is its gradient
    worker.turn()
    assert torch.equal(master.centre, before)
    worker.h, worker.v = 1.0, torch.zeros_like(worker.x)
    worker.x.copy_(master.centre)
    coupling.restart(worker.x)
    for _ in range(3):
        worker.turn()
    assert torch.isfinite(worker.x).all()
    assert torch.isfinite(master.centre).all()
    assert not torch.equal(master.centre, before)
    if kind == "admm":  # (A3): the centre still moves with this worker's term, from where both began
        torch.testing.assert_close(master.centre - coupling.term, draw(1, 3) - draw(2, 3))
        torch.testing.assert_close(coupling.term, worker.x - coupling.multiplier)
