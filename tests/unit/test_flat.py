"""The flat model: views of one buffer, the same function and gradient as the module it was made from, its digest."""

import copy
import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parameters_to_vector

from common.models.flat import FlatModel
from common.parallel.comm import host_array


def network(channels=2, width=3, seed=0):
    """Convolution, batch norm with lived-in statistics, a linear head; and images."""
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.Tanh(), nn.Flatten(), nn.Linear(4 * width, 5, bias=False)
    )
    module[1].running_mean.uniform_(-1, 1)
    module[1].running_var.uniform_(0.5, 2)
    return module, torch.randn(6, channels, 4, 4)


shapes = given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 9))


def floats(module):
    """Parameters, then floating buffers, in the module's own order."""
    return [*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]


def vector(module):
    """All of them, one after the other."""
    return torch.cat([t.detach().flatten() for t in floats(module)])


def gradient(module):
    return parameters_to_vector(p.grad for p in module.parameters())


@shapes
def test_the_state_is_all_parameters_then_all_floating_buffers(channels, width, seed):
    module, _ = network(channels, width, seed)
    expected = vector(module)
    flat = FlatModel(module)
    assert torch.equal(flat.state, expected)
    assert flat.buffers.numel() == 2 * width
    assert torch.equal(torch.cat([flat.parameters.detach(), flat.buffers]), expected)
    assert not flat.gradient_and_flag.any()
    assert flat.sha256() == hashlib.sha256(expected.numpy().astype("<f4").tobytes()).hexdigest()
    flat.buffers[-1] += 1
    assert flat.sha256() == hashlib.sha256(vector(module).numpy().astype("<f4").tobytes()).hexdigest()


@shapes
def test_writing_to_the_buffer_or_to_the_module_shows_in_the_other(channels, width, seed):
    module, _ = network(channels, width, seed)
    flat = FlatModel(module)
    numbers = torch.arange(flat.state.numel(), dtype=torch.float32)
    flat.state.copy_(numbers)
    assert torch.equal(vector(module), numbers)
    with torch.no_grad():
        for t in floats(module):
            t.neg_()
    assert torch.equal(flat.state, -numbers)
    host_array(flat.state)[0] = 42  # of a CPU buffer: a view as well
    assert flat.state[0] == 42


@shapes
def test_forward_backward_statistics_and_a_torch_optimizer_equal_the_plain_modules(channels, width, seed):
    plain, images = network(channels, width, seed)
    module = copy.deepcopy(plain)
    flat = FlatModel(module)
    for _ in range(2):  # two passes: gradients add up
        for m in (plain, module):
            m(images).square().mean().backward()
    # The same operations on the same numbers: no tolerance.
    assert torch.equal(module(images), plain(images))
    assert torch.equal(flat.gradient, gradient(plain))
    assert torch.equal(flat.state, vector(plain))
    for parameters in ([flat.parameters], plain.parameters()):
        torch.optim.SGD(parameters, lr=0.5).step()
    torch.testing.assert_close(vector(module), vector(plain), rtol=1e-6, atol=1e-6)  # one fused rounding
    flat.zero_gradient()
    assert not gradient(module).any()


def test_gradients_that_zero_grad_moved_away_are_collected():
    plain, images = network()
    module = copy.deepcopy(plain)
    flat = FlatModel(module)
    flat.gradient.fill_(7.0)  # stale
    module.zero_grad(set_to_none=True)
    module(images).square().mean().backward()
    plain(images).square().mean().backward()
    flat.collect_gradient()
    assert torch.equal(flat.gradient, gradient(plain))
    module(images).square().mean().backward()  # and they are views again
    assert not torch.equal(flat.gradient, gradient(plain))
    flat.gradient.fill_(7.0)
    module.zero_grad(set_to_none=True)
    module[4].weight.sum().backward()  # touches the head alone: no gradient counts as zero
    flat.collect_gradient()
    assert flat.gradient.sum() == module[4].weight.numel()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_noticed_in_parameters_and_buffers(bad):
    for place in (0, -1):
        flat = FlatModel(network()[0])
        assert flat.is_finite()
        flat.state[place] = bad
        assert not flat.is_finite()


def test_state_dicts_survive_the_flattening():
    plain, images = network()
    module, other = copy.deepcopy(plain), network(seed=1)[0]
    FlatModel(module)
    flat = FlatModel(other)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.eval()(images), plain.eval()(images))
    assert torch.equal(flat.state, vector(plain))


def test_a_channels_last_module_keeps_its_values_in_the_plain_layout():
    plain, images = network(3, 4)
    flat = FlatModel(copy.deepcopy(plain).to(memory_format=torch.channels_last))
    assert torch.equal(flat.state, vector(plain))
    assert torch.equal(flat.module.eval()(images), plain.eval()(images))


def test_a_module_in_double_precision_or_without_parameters_is_refused():
    with pytest.raises(ValueError, match="float64"):
        FlatModel(network()[0].double())
    mixed = network()[0]
    mixed[1].running_mean = mixed[1].running_mean.half()
    with pytest.raises(ValueError, match="float16"):
        FlatModel(mixed)
    with pytest.raises(ValueError, match="no trainable parameters"):
        FlatModel(nn.ReLU())
