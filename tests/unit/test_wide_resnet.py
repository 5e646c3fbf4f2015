"""Wide ResNets: sizes from the table of Zagoruyko & Komodakis 2016 counted layer by layer, shapes, initial weights."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.errors import UsageError
from common.models import MODELS, Shape, build_model, model_title, without


def counted(depth, width, classes, channels=3):
    """Parameters of WRN-depth-width: 3x3 stem of 16, three groups of 16k, 32k, 64k, batch norm (2 a channel), linear head."""
    total, inputs = 9 * channels * 16, 16
    for group in (16, 32, 64):
        outputs = group * width
        for _ in range((depth - 4) // 6):
            total += 2 * inputs + 9 * inputs * outputs + 2 * outputs + 9 * outputs * outputs
            total += inputs * outputs if inputs != outputs else 0  # 1x1 projection
            inputs = outputs
    return total + 2 * inputs + (inputs + 1) * classes


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("depth", "width", "size"),
    [(16, 8, 10_961_370), (28, 10, 36_479_194), (22, 8, 17_158_106)],  # table 4 of the paper: 11.0M, 36.5M
)
def test_the_papers_networks_have_their_published_sizes_and_titles(depth, width, size):
    """The sources' 16-8 is 22-8 here: a unit that changes the shape and then (16 - 4)/6 = 2 units per group."""
    with torch.device("meta"):
        module = MODELS["wrn"](Shape(3, 10, depth=depth, width=width))
    assert parameters(module) == counted(depth, width, 10) == size
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in module.modules()) == depth - 3
    assert model_title("wrn", depth, width) == f"WRN-{depth}-{width}"


@settings(max_examples=15)
@given(st.sampled_from([10, 16, 22]), st.integers(1, 4), st.integers(2, 20), st.sampled_from([1, 3]))
def test_sizes_follow_depth_and_width(depth, width, classes, channels):
    with torch.device("meta"):
        module = MODELS["wrn"](Shape(channels, classes, depth=depth, width=width))
    assert parameters(module) == counted(depth, width, classes, channels)


@pytest.mark.parametrize("name", ["wrn", "cnn"])
@pytest.mark.parametrize(("side", "channels"), [(4, 1), (8, 1), (28, 1), (32, 3)])
def test_any_square_of_at_least_four_pixels_gives_one_finite_logit_per_class(name, side, channels):
    module = build_model(name, channels, 7, depth=10, width=1)
    logits = module(torch.randn(2, channels, side, side))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["wrn", "cnn", "easgd-cnn", "dhpo-cnn", "vit-tiny"])
@pytest.mark.parametrize("side", range(24, 33))
def test_no_network_leaves_rows_or_columns_out(name, side):
    try:
        module = build_model(name, 1, 10, depth=10, width=2, image_size=side)
    except UsageError:
        assert (name, side) in {("vit-tiny", 29), ("vit-tiny", 31)}  # primes
        return
    nn.init.normal_(list(module.parameters())[-2])  # the head, which may begin with zeros
    images = torch.randn(8, 1, side, side, requires_grad=True)
    module(images).square().sum().backward()
    seen = (images.grad != 0).any(dim=0)[0]  # pooling and ReLU let single pixels go unseen, but no whole row
    assert seen.any(dim=0).all()
    assert seen.any(dim=1).all()


def slow_forward(weights, x, depth):
    """The network from its equations: pre-activation, both branches of a widening block after the same BN-ReLU.

    Nothing stands on the shortcut where the shape does not change, and groups halve the image twice.
    """

    def active(x, norm):
        return F.batch_norm(x, None, None, weights[f"{norm}.weight"], weights[f"{norm}.bias"], training=True).clamp(min=0)

    x = F.conv2d(x, weights["stem.weight"], padding=1)
    blocks = (depth - 4) // 6
    for i in range(3 * blocks):
        stride = 2 if i in (blocks, 2 * blocks) else 1
        a = active(x, f"blocks.{i}.norm1")
        y = F.conv2d(a, weights[f"blocks.{i}.conv1.weight"], stride=stride, padding=1)
        y = F.conv2d(active(y, f"blocks.{i}.norm2"), weights[f"blocks.{i}.conv2.weight"], padding=1)
        project = weights.get(f"blocks.{i}.project.weight")
        x = y + (x if project is None else F.conv2d(a, project, stride=stride))
    return active(x, "norm").mean((2, 3)) @ weights["head.weight"].T + weights["head.bias"]


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (10, 2), (16, 1)])
def test_logits_are_those_of_the_equations(depth, width):
    module = build_model("wrn", 3, 10, depth, width).double()
    torch.manual_seed(0)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)  # so that scale and shift count
        nn.init.normal_(norm.bias)
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    # The same operations in double precision; the mean over pixels may be summed in another order.
    torch.testing.assert_close(module(images), slow_forward(module.state_dict(), images, depth), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "options", "error", "said"),
    [
        *(("wrn", {"depth": depth}, UsageError, rf"6 n \+ 4.* {depth} ") for depth in (-2, 0, 4, 9, 11, 15, 17, 20)),
        *((name, {"width": width}, UsageError, f"width.*{width}") for name in ("wrn", "cnn") for width in (0, -1)),
        ("wrn", {"initialisation": "orthogonal"}, ValueError, r"orthogonal.*fan-out, fan-in"),
        ("vgg", {}, ValueError, r"vgg.*wrn"),
    ],
)
def test_what_makes_no_network_is_refused_by_name_and_number(name, options, error, said):
    with pytest.raises(error, match=said):
        build_model(name, 3, 10, **options)


@pytest.mark.parametrize("name", ["wrn", "cnn"])
def test_initial_weights_depend_on_the_seed_alone_and_leave_torchs_generator_alone(name):
    def weights(seed):
        return torch.cat([p.detach().flatten() for p in build_model(name, 1, 10, 10, 1, seed=seed).parameters()])

    torch.manual_seed(1)
    first, state = weights(5), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(weights(5), first)
    assert not torch.equal(weights(6), first)


@pytest.mark.parametrize(("initialisation", "side"), [("fan-out", "out_channels"), ("fan-in", "in_channels")])
def test_convolutions_start_with_he_variance_and_batch_norm_as_the_identity(initialisation, side):
    module = build_model("wrn", 3, 10, depth=10, width=4, initialisation=initialisation)
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions:
        fan, n = getattr(layer, side) * layer.kernel_size[0] ** 2, layer.weight.numel()
        # The sample variance of n normal numbers lies within five of its standard deviations, sqrt(2/n), of the true one.
        assert layer.weight.var().item() == pytest.approx(2 / fan, rel=5 * (2 / n) ** 0.5)
    assert any(layer.in_channels != layer.out_channels for layer in convolutions), "where fan-in and fan-out differ"
    for layer in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        assert (layer.weight == 1).all()
        assert not layer.bias.any()


def test_by_fan_in_the_head_begins_with_zeros_and_can_leave_them():
    module = build_model("wrn", 3, 10, depth=10, width=4, initialisation="fan-in")
    assert not module.head.weight.any()
    assert not module.head.bias.any()
    assert not module(torch.randn(2, 3, 8, 8)).any()
    loss = F.cross_entropy(module(torch.randn(8, 3, 8, 8)), torch.arange(8))
    loss.backward()
    assert module.head.weight.grad.any(), "the head has to be able to leave zero"
    assert build_model("wrn", 3, 10, depth=10, width=1).head.weight.any(), "ours begins with torch's"


def test_only_networks_whose_initial_weights_can_be_chosen_have_the_option():
    assert [name for name in MODELS if "initialisation" not in without(name)] == ["wrn"]
    assert without("a network of one's own") == ("initialisation",)


def test_dropout_acts_in_training_only():
    images = torch.randn(2, 3, 8, 8)
    module = build_model("wrn", 3, 10, depth=10, width=1, dropout=0.5)
    assert not torch.equal(module(images), module(images))
    module.eval()
    assert torch.equal(module(images), module(images))
