"""Schedule-free optimizers and Prodigy on the harness: two places for the weights, and what is measured, moved and kept."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from prodigyopt import Prodigy
from schedulefree import AdamWScheduleFree, SGDScheduleFree
from test_weight_optimizer import adopt, assert_close, batches, closure_of, network, train

from common.errors import UsageError
from common.optim.options import refuse_averages
from common.optim.registry import OPTIMIZERS, is_schedule_free, lr_option, lr_scale, split_name
from common.parallel.populations import PopulationSpec
from common.training.eoa import EoaArgs, check_search

BETA, RATE = 0.9, 0.05
AVERAGING = ("schedulefree-sgd", "schedulefree-adamw")


def rounds_of(optimizer, model, rounds=((0, 2), (2, 5)), rate=RATE):
    """Two rounds of training, each ending where weights are evaluated; nothing is exchanged."""
    for first, last in rounds:
        optimizer.begin_round(rate)
        train(model, optimizer, batches()[first:last], rate)
        optimizer.end_training()
        optimizer.after_exchange(True)


@pytest.mark.parametrize("name", [*AVERAGING, "prodigy"])
@settings(max_examples=8)
@given(hidden=st.integers(1, 30), seed=st.integers(0, 99))
def test_on_the_flat_buffer_it_is_the_library_on_single_tensors(alone, name, hidden, seed):
    """Prodigy's estimate is one number for all tensors, so a flat buffer is no other problem to it either."""
    plain = network(seed, hidden)
    model, optimizer = adopt(alone, copy.deepcopy(plain), name, adam_decay=0.1)
    rate, rounds = (1.0, ((0, 5),) * 5) if name == "prodigy" else (RATE, ((0, 2), (2, 5)))  # its estimate takes time to grow
    rounds_of(optimizer, model, rounds, rate)
    reference = {
        "schedulefree-sgd": lambda p: SGDScheduleFree(p, rate, BETA, weight_decay=optimizer.settings.weight_decay),
        "schedulefree-adamw": lambda p: AdamWScheduleFree(p, rate, weight_decay=0.1),
        "prodigy": lambda p: Prodigy(p, rate, weight_decay=0.1),
    }[name](plain.parameters())
    before = copy.deepcopy(plain)
    for first, last in rounds:
        if name != "prodigy":
            reference.train()
        for images, labels in batches()[first:last]:
            reference.zero_grad()
            F.cross_entropy(plain(images), labels).backward()
            reference.step()
        if name != "prodigy":
            reference.eval()
    assert not any(torch.allclose(plain[k].weight, before[k].weight, atol=1e-4) for k in (0, 3))
    assert_close(model, plain, rtol=1e-4, atol=1e-5)  # sums over one long tensor instead of several


def test_what_is_judged_is_the_mean_of_the_points_that_gradients_move(alone):
    """At a constant rate x_t is the mean of z_1 .. z_t, gradients are taken at y = (1 - beta) z + beta x: recomputed here."""
    model, optimizer = adopt(alone, network(), "schedulefree-sgd", weight_decay=0.0)
    plain = copy.deepcopy(model.module)
    z = [p.detach().clone() for p in plain.parameters()]
    x, points = [p.clone() for p in z], []
    for batch in batches():
        for p, at_z, at_x in zip(plain.parameters(), z, x, strict=True):
            p.data = (1 - BETA) * at_z + BETA * at_x
        gradients = torch.autograd.grad(F.cross_entropy(plain(batch[0]), batch[1]), list(plain.parameters()))
        z = [at - RATE * g for at, g in zip(z, gradients, strict=True)]
        points.append(z)
        x = [torch.stack(seen).mean(0) for seen in zip(*points, strict=True)]
    rounds_of(optimizer, model)
    for ours, theirs in zip(model.module.parameters(), x, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", AVERAGING)
def test_gradients_are_taken_elsewhere_than_where_weights_rest(alone, name):
    model, optimizer = adopt(alone, network(), name)
    rounds_of(optimizer, model, rounds=((0, 3),))
    resting, seen = model.parameters.detach().clone(), []
    optimizer.begin_round(RATE)
    optimizer.step(closure_of(model, batches()[3], seen), RATE)
    assert not torch.allclose(seen[0], resting)
    assert optimizer.end_training()


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n not in AVERAGING])
def test_all_others_rest_where_they_are(alone, name):
    model, optimizer = adopt(alone, network(), name)
    optimizer.begin_round(0.01)
    train(model, optimizer, batches()[:1], 0.01)
    before = model.parameters.detach().clone()
    assert not optimizer.end_training()
    assert torch.equal(model.parameters.detach(), before)


@pytest.mark.parametrize("name", AVERAGING)
def test_weights_that_are_exchanged_take_the_point_along_that_gradients_move(alone, name):
    model, optimizer = adopt(alone, network(), name)
    optimizer.begin_round(RATE)
    train(model, optimizer, batches()[:3], RATE)
    optimizer.end_training()
    (before,) = (state["z"].clone() for state in optimizer.inner[0].state.values())
    moved = torch.linspace(-1, 1, len(before))
    model.parameters.data += moved
    optimizer.after_exchange(True)
    (after,) = (state["z"] for state in optimizer.inner[0].state.values())
    torch.testing.assert_close(after - before, moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*AVERAGING, "prodigy"])
def test_lost_weights_begin_anew(alone, name):
    """After a round that lost this worker's weights it goes on from those it was given, as at the start of a run."""
    model, optimizer = adopt(alone, network(), name)
    rounds_of(optimizer, model)
    optimizer.begin_round(RATE)
    model.parameters.data.fill_(torch.nan)
    optimizer.end_training()
    fresh, other = adopt(alone, network(7), name)
    model.state.detach().copy_(fresh.state.detach())
    optimizer.after_exchange(False)
    rounds_of(optimizer, model)
    rounds_of(other, fresh)
    assert torch.equal(model.parameters, fresh.parameters)


def test_prodigys_step_is_its_estimate_times_the_rate(alone):
    model, optimizer = adopt(alone, network(), "prodigy")
    rounds_of(optimizer, model, rounds=((0, 5),) * 6, rate=1.0)
    estimate = optimizer.inner[0].param_groups[0]["d"]
    assert estimate > 1e-6, "it has grown from where it begins"
    assert optimizer.effective_lr(0.3) == pytest.approx(0.3 * estimate)


def test_prodigys_base_rate_is_one_and_the_others_are_their_familys():
    assert lr_scale("prodigy", 0.1, 0.001, 0.9) * 0.1 == pytest.approx(1)
    assert lr_scale("schedulefree-adamw", 0.1, 0.001, 0.9) * 0.1 == pytest.approx(0.001)
    assert lr_scale("schedulefree-sgd", 0.1, 0.001, 0.9) == 1
    assert {n for n in OPTIMIZERS if is_schedule_free(n)} == set(AVERAGING)
    under_sam = {n for n in OPTIMIZERS if split_name(n)[0]}
    assert not any(is_schedule_free(n) or lr_option(n) == "one" for n in under_sam)


def test_only_they_are_refused():
    refuse_averages([n for n in OPTIMIZERS if n not in AVERAGING], "anything")
    with pytest.raises(UsageError, match=r"schedulefree-adamw .* together with anything"):
        refuse_averages(["sgd", "schedulefree-adamw"], "anything")


def test_an_ecosphere_refuses_them_where_it_moves_weights_itself():
    specs = [PopulationSpec("gwo", 2, "schedulefree-sgd"), PopulationSpec("hold", 2, "prodigy")]
    check_search(EoaArgs(), specs)
    for args, some, said in (
        (EoaArgs(intra_coupling="easgd"), specs, "does not go together with --intra-coupling easgd"),
        (EoaArgs(base_rate="forage"), specs[:1], "rounds that --base-rate forage takes back"),
        (EoaArgs(base_rate="forage"), specs, "looks for what prodigy finds by itself"),
    ):
        with pytest.raises(UsageError, match=said):
            check_search(args, some)
