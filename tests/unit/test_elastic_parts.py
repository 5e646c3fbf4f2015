"""Parts of elastic averaging: look-ahead momentum, its network, crops, and image orders per worker."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from experiment_scripts import presets
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks import elastic_theory as stability
from common.coupling.elastic import CenterVariable, Elastic
from common.data.augment import CroppingAugmenter, in_unit_range
from common.data.dataset import open_data, permutation
from common.data.options import DataOptions
from common.data.registry import SOURCES
from common.errors import UsageError
from common.models import MODELS, Shape, model_title
from common.models.flat import FlatModel
from common.optim.bases import NesterovSGD, OptimizerSettings
from common.optim.weight_optimizer import WeightOptimizer
from common.paths import data_directory
from common.training.worker import reductions_of


@given(st.floats(0.01, 1.0), st.floats(0.0, 0.99), st.floats(0.0, 0.1))
def test_look_ahead_momentum_is_m1_and_m2(eta, delta, decay):
    x = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = NesterovSGD([x], delta, decay)
    optimizer.param_groups[0]["lr"] = eta
    slow, v = x.detach().clone(), torch.zeros(2, dtype=torch.float64)
    for _ in range(5):
        optimizer.step_ahead()
        x.grad = x.detach().clone()  # F = x^2 / 2
        optimizer.step()
        ahead = slow + delta * v
        v = delta * v - eta * (ahead + decay * ahead)
        slow = slow + v
    torch.testing.assert_close(x.detach(), slow)


@pytest.mark.parametrize("delta", [0.0, 0.9])
def test_the_weight_optimizer_with_an_elastic_coupling_is_eamsgd(alone, delta):
    """One worker, tau = 1: the map of S6 on (x, v, centre), with (7.2)'s order: pull formed before, applied after the step."""
    model = FlatModel(nn.Linear(1, 1, bias=False))
    x = model.parameters.data.fill_(1.0)
    master = CenterVariable(torch.tensor([3.0]))
    settings = OptimizerSettings(name="nesterov", momentum=delta, weight_decay=0.0)
    coupling = Elastic(x, master, 0.2, 1)
    optimizer = WeightOptimizer(model, settings, reductions_of(alone), coupling=coupling)

    def closure():
        model.zero_gradient()
        loss = model.module.weight.square().sum() / 2
        loss.backward()
        return loss.detach()

    for _ in range(6):
        optimizer.step(closure, 0.1)
    state = np.linalg.matrix_power(stability.synchronous_eamsgd(0.1, 0.2, 0.2, delta), 6) @ [1.0, 0.0, 3.0]
    assert [float(x), float(master.centre)] == pytest.approx(state[[0, 2]], rel=1e-5)
    assert optimizer.clock == 6


def test_the_papers_network_has_its_size():
    with torch.device("meta"):
        module = MODELS["easgd-cnn"](Shape(3, 10, image_size=28, width=8, dropout=0.5))
        assert module(torch.empty(2, 3, 28, 28)).shape == (2, 10)
    assert sum(p.numel() for p in module.parameters()) == 351_946
    assert model_title("easgd-cnn", 16, 8) == "EASGD-CNN-8"
    small = MODELS["easgd-cnn"](Shape(1, 10, image_size=24, width=1))
    assert small(torch.zeros(1, 1, 24, 24)).shape == (1, 10)
    assert not any(layer.bias.any() for layer in small.layers if isinstance(layer, (nn.Conv2d, nn.Linear)))
    for size, width in ((23, 1), (28, 0)):
        with pytest.raises(UsageError, match="at least"):
            MODELS["easgd-cnn"](Shape(3, 10, image_size=size, width=width))


@given(st.integers(0, 50), st.integers(3, 8), st.booleans())
def test_crops_are_windows_of_the_image_mirrored_or_not(seed, size, unit):
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8))
    source = SOURCES["cifar10"]
    augmenter = CroppingAugmenter(images, in_unit_range(source) if unit else source, size)
    mean, std = (torch.tensor(values) for values in (((0.0,) * 3, (1.0,) * 3) if unit else (source.mean, source.std)))
    scaled = ((images / 255 - mean) / std).permute(0, 3, 1, 2)
    draws, everything = augmenter.draw(seed, 1, worker=2), torch.arange(5)
    batch = augmenter.augmented(everything, draws)
    assert batch.shape == (5, 3, size, size)
    for ours, image, (top, left, flip) in zip(batch, scaled, draws.tolist(), strict=True):
        window = image[:, top : top + size, left : left + size]
        torch.testing.assert_close(ours, window.flip(2) if flip else window, rtol=1e-5, atol=1e-5)
    middle = slice((8 - size) // 2, (8 - size) // 2 + size)
    torch.testing.assert_close(augmenter.plain(everything), scaled[:, :, middle, middle], rtol=1e-5, atol=1e-5)


def moments(data):
    """Mean and deviation of the pixels of all plain training images of a data set."""
    pixels, _ = data.train.plain(torch.arange(len(data.train)))
    return pixels.mean().item(), pixels.std().item()


def test_crops_of_digits_are_normalised_unless_pixels_are_to_lie_in_0_to_1(alone):
    for sizes in ({}, {"crop": 8}):
        options = DataOptions(dataset="digits", **sizes)
        assert moments(open_data(options, alone, 0)) == pytest.approx((0, 1), abs=0.01)
        unit = open_data(replace(options, pixels="unit"), alone, 0)
        assert moments(unit) == pytest.approx((SOURCES["digits"].mean[0], SOURCES["digits"].std[0]), abs=0.003)
        pixels, _ = unit.train.augmented(torch.arange(9), unit.train.draw(0, 0))
        assert (pixels.min().item(), pixels.max().item()) == (0, 1)


@pytest.mark.parametrize(("name", "crop"), [("mnist", 28), ("cifar10", 32), ("fashion-mnist", 28)])
def test_crops_of_what_was_downloaded_are_normalised(alone, name, crop):
    """The original of the search sees MNIST with mean 0.1307 and deviation 0.3081 taken off and out."""
    folder = {"mnist": "MNIST", "cifar10": "cifar-10-batches-py", "fashion-mnist": "FashionMNIST"}[name]
    directory = data_directory("auto")
    if not (directory / folder).exists():
        pytest.skip(f"{SOURCES[name].title} is not in {directory}")
    data = open_data(DataOptions(dataset=name, train_images=5000, crop=crop), alone, 0)
    assert moments(data) == pytest.approx((0, 1), abs=0.03)


@pytest.mark.parametrize(
    ("path", "names", "pixels"),
    [
        ("EASGD/EASGD", ("cpu", "paper"), "unit"),
        ("PSO-PS/PSOPS", ("cpu", "paper"), "normalised"),
        ("DHPO/DHPO", ("paper",), "normalised"),
    ],
)
def test_only_elastic_averaging_was_published_with_pixels_in_0_to_1(path, names, pixels):
    assert {(presets(path)[name].crop, presets(path)[name].pixels) for name in names} == {(28, pixels)}


def test_workers_have_orders_and_crops_of_their_own():
    orders = {tuple(permutation(0, 3, 50, worker)) for worker in range(4)}
    assert len(orders) == 4
    assert tuple(permutation(0, 3, 50)) in orders, "the first worker's is the world's"
    augmenter = CroppingAugmenter(torch.zeros(50, 8, 8, 1, dtype=torch.uint8), SOURCES["digits"], 6)
    assert not torch.equal(augmenter.draw(0, 3, 0), augmenter.draw(0, 3, 1))
