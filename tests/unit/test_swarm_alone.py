"""A swarm of one, and the fitness that positions are compared by."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.coupling.swarm import Fitness, PhaseLoss, Probe, Swarm, SwarmSettings
from common.coupling.swarm_rules import MOTIONS, RANDS, Motion
from common.data.augment import Augmenter
from common.data.dataset import ImageDataset, Texts
from common.data.registry import SOURCES
from common.evaluate import Evaluator
from common.models import build_model
from common.models.flat import FlatModel
from common.parallel.comm import Group, Traffic
from common.parallel.mpi import MPI


class Measured(Fitness):
    """What a function of the round tells."""

    def __init__(self, measure):
        self.measure = measure


def height(state):
    """|x|^2 of the swarm's own weights: every step of a plain descent improves it."""
    return Measured(lambda k: state.square().sum().item())


def descend(state, steps, coupling=None, eta=0.1):
    """Plain steps on |x|^2 / 2, coupled or not."""
    for t in range(steps):
        gradient = state.clone()
        if coupling:
            coupling.begin(t, state)
        state.sub_(gradient, alpha=eta)
        if coupling:
            coupling.end(t, state, gradient)
    return state


def swarm_of_one(state, fitness=None, motion=MOTIONS["hull"], **settings):
    group = Group(MPI.COMM_SELF, Traffic())
    return Swarm(state, [len(state)], group, SwarmSettings(motion, 2, 5, **settings), fitness or height(state))


@given(st.integers(1, 9), st.sampled_from(list(MOTIONS)), st.sampled_from(RANDS), st.integers(0, 11))
def test_a_single_particle_that_always_improves_is_plain_descent(n, preset, rand, steps):
    """T2: P = G = x at every meeting, so v stays 0."""
    start = torch.linspace(1, 2, n)
    plain, state = descend(start.clone(), steps), start.clone()
    swarm = swarm_of_one(state, motion=replace(MOTIONS[preset], rand=rand))
    assert torch.equal(descend(state, steps, swarm), plain)
    assert swarm.counts.tolist() == [steps // 2, steps // 2, 0, 0]


def test_a_single_particle_with_a_fresh_memory_is_plain_descent_even_if_it_gets_worse():
    """T2."""
    start = torch.linspace(1, 2, 4)
    plain, state = descend(start.clone(), 10, eta=-0.1), start.clone()
    assert torch.equal(descend(state, 10, swarm_of_one(state, memory="fresh"), eta=-0.1), plain)
    state = start.clone()
    assert not torch.equal(descend(state, 10, swarm_of_one(state), eta=-0.1), plain)


def test_a_particle_keeps_its_velocity_between_meetings():
    """T7: without pulls what is left of v after three moves is w^3 of it; training in between does not touch it."""
    state = torch.linspace(1, 2, 4)
    swarm = swarm_of_one(state, motion=Motion(0.9, 0.9, 0.0, 0.0))
    swarm.velocity.copy_(torch.tensor([0.1, -0.2, 0.0, 0.3]))
    before = swarm.velocity.clone()
    descend(state, 6, swarm)
    torch.testing.assert_close(swarm.velocity, 0.9**3 * before)


def test_nothing_moves_before_anything_is_known():
    for memory in ("standard", "fresh"):
        state = torch.ones(3)
        swarm = swarm_of_one(state, Measured(lambda k: math.nan), memory=memory)
        descend(state, 4, swarm)
        assert torch.equal(state, descend(torch.ones(3), 4))
        assert swarm.best.fitness == math.inf
        assert swarm.counts.tolist() == [2, 0, 0, 0]


def test_what_is_left_of_a_phase_is_measured_at_the_end():
    state = torch.ones(3)
    swarm = swarm_of_one(state)
    descend(state, 5, swarm)
    assert swarm.best.fitness == pytest.approx(3 * 0.9**8)
    swarm.close(5)
    assert torch.equal(swarm.best.place, state)
    swarm.close(6)
    assert swarm.counts.tolist() == [3, 3, 0, 0], "at 6 the phase was whole: it has met already"


def test_the_loss_of_a_phase():
    mean, last = PhaseLoss(), PhaseLoss(last=True)
    assert mean.measure(1) == last.measure(1) == math.inf
    for loss in (8.0, 4.0, 6.0):
        for fitness in (mean, last):
            fitness.observe(torch.tensor([loss, 1.0, 4.0]))
    other = PhaseLoss()
    other.tensors()["phase"].copy_(mean.tensors()["phase"])
    assert (mean.measure(1), last.measure(1), other.measure(1)) == (1.5, 1.5, 1.5)
    for loss, answers in ((2.0, 4.0), (8.0, 8.0)):
        for fitness in (mean, last):
            fitness.observe(torch.tensor([loss, 1.0, answers], dtype=torch.float64))
    assert (mean.measure(2), last.measure(2)) == (0.75, 1.0)
    mean.observe(torch.tensor([2.0, 1.0, 4.0]))
    mean.restart()
    assert mean.measure(3) == math.inf


@pytest.fixture
def pictures():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (40, 4, 4, 1), dtype=torch.uint8)
    return ImageDataset(Augmenter(images, SOURCES["digits"]), torch.arange(40) % 10)


@pytest.fixture
def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 10), nn.BatchNorm1d(10), nn.Dropout(0.5)).train()


def test_a_probe_is_the_mean_loss_in_evaluation_mode_on_images_as_they_are(pictures, network):
    model = FlatModel(network)
    probe = Probe(model, Evaluator(pictures, "float32", seed=3), 25)
    before = model.state.detach().clone()
    found = probe.measure(1)
    assert network.training
    assert torch.equal(model.state.detach(), before)
    taken = probe.pictures
    with torch.no_grad():
        model.buffers.fill_(torch.nan)
    assert probe.measure(1) == found, "whatever statistics are carried"
    probe.evaluator.measure_statistics(network, None)
    network.eval()
    inputs = taken.augmenter.plain(torch.arange(25))
    assert found == pytest.approx(F.cross_entropy(network(inputs), taken.labels).item(), rel=1e-5)
    matches = (taken.augmenter.images[:, None] == pictures.augmenter.images[None]).flatten(2).all(2)
    assert matches.any(1).all(), "training images"
    assert len({tuple(i.flatten().tolist()) for i in taken.augmenter.images}) == 25, "different ones"
    assert len(Probe(model, Evaluator(pictures, "float32", seed=3), 1000).pictures) == 40


def test_a_probe_of_texts_is_the_mean_loss_over_all_their_places():
    torch.manual_seed(0)
    texts = Texts(torch.randint(97, (12, 6)), torch.randint(97, (12, 6)))
    module = build_model("transformer", 0, 97, depth=1, width=1, image_size=6)
    probe = Probe(FlatModel(module), Evaluator(texts, "float32", seed=3), 5)
    found, taken = probe.measure(1), probe.pictures
    assert len(taken) == 5
    expected = F.cross_entropy(module.eval()(taken.symbols).flatten(0, 1), taken.labels.flatten())
    assert found == pytest.approx(expected.item(), rel=1e-5)
    every, found = ({tuple(row) for row in torch.hstack([t.symbols, t.labels]).tolist()} for t in (texts, taken))
    assert len(every & found) == 5


def test_a_probe_is_the_same_everywhere_and_lasts_unless_it_is_to_be_new(pictures, network):
    model = FlatModel(network)

    def labels(anew, rounds, seed=3):
        probe = Probe(model, Evaluator(pictures, "float32", seed), 10, anew)
        found = []
        for k in rounds:
            probe.measure(k)
            found.append(tuple(probe.pictures.labels.tolist()))
        return found

    assert len(set(labels(False, [1, 2, 3]))) == 1
    assert labels(False, [1]) == labels(False, [2])
    assert labels(False, [1]) != labels(False, [1], seed=4)
    assert len(set(labels(True, [1, 2, 3]))) == 3
    assert labels(True, [1, 1, 2]) == [*labels(True, [1]) * 2, *labels(True, [2])], "by the round, not by how often"


def test_measuring_again_leaves_the_weights_alone_and_changes_what_p_is_worth():
    """memory reeval: f_i is what P is worth on this round's probe."""
    state = torch.ones(2)
    swarm = swarm_of_one(state, Measured(lambda k: state.sum().item() + 10 * k), memory="reeval")
    swarm.elect(1)
    assert (swarm.personal.fitness, swarm.best.fitness) == (12.0, 12.0)
    state.fill_(3.0)
    swarm.elect(2)
    assert state.tolist() == [3.0, 3.0]
    assert (swarm.fitness, swarm.personal.fitness, swarm.best.fitness) == (26.0, 22.0, 22.0)
    assert swarm.best.place.tolist() == [1.0, 1.0]
    state.fill_(0.0)
    swarm.elect(3)
    assert (swarm.personal.fitness, swarm.personal.place.tolist()) == (30.0, [0.0, 0.0])


def test_a_particle_can_be_copied_from_its_tensors():
    whole = torch.linspace(1, 2, 5)
    swarm = swarm_of_one(whole, motion=MOTIONS["clerc"])
    descend(whole, 4, swarm, eta=-0.1)
    half = whole.clone()
    copied = swarm_of_one(half, motion=MOTIONS["clerc"])
    for name, tensor in copied.tensors().items():
        tensor.copy_(swarm.tensors()[name])
    for t in range(4, 8):
        for state, each in ((whole, swarm), (half, copied)):
            each.begin(t, state)
            state.mul_(1.05)
            each.end(t, state, state)
    assert torch.equal(whole, half)
    assert all(torch.equal(a, b) for a, b in zip(swarm.tensors().values(), copied.tensors().values(), strict=True))
    assert swarm.velocity.any()
