"""Vision Transformers: Google's checkpoints tensor by tensor, the zeroed head, resized positions, and what is refused."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.errors import UsageError
from common.models import build_model, model_title
from common.models.vit import NETWORKS, import_timm, load_published, tiny_patch

# Google's published sizes: width, blocks, heads, hidden units of the MLP, patch; Dosovitskiy et al. 2021, table 1.
SIZES = {
    "vit-b16": (768, 12, 12, 3072, 16),
    "vit-b32": (768, 12, 12, 3072, 32),
    "vit-l16": (1024, 24, 16, 4096, 16),
    "vit-l32": (1024, 24, 16, 4096, 32),
    "vit-h14": (1280, 32, 16, 5120, 14),
    "r50-vit-b16": (768, 12, 12, 3072, 1),
}
STAGES = {1: (3, 64), 2: (4, 128), 3: (9, 256)}  # R50: units and width of every block


def convolution(kernel):
    """Height, width, in, out -> out, in, height, width."""
    return kernel.transpose(3, 2, 0, 1)


def norm(theirs, ours, *shape):
    yield f"{theirs}/scale", shape, f"{ours}.weight", np.ravel
    yield f"{theirs}/bias", shape, f"{ours}.bias", np.ravel


def transformer(name):
    """Every tensor by an independent reading of both layouts: Google's name and shape, PyTorch's name, and what becomes of it.

    Several of Google's for one of PyTorch's are stacked along its first axis.
    """
    width, blocks, heads, hidden, patch = SIZES[name]
    hybrid = name.startswith("r50")
    grid, channels = (14, 1024) if hybrid else (224 // patch, 3)
    yield "cls", (1, 1, width), "cls_token", np.asarray
    yield "embedding/kernel", (patch, patch, channels, width), "patch_embed.proj.weight", convolution
    yield "embedding/bias", (width,), "patch_embed.proj.bias", np.asarray
    yield "Transformer/posembed_input/pos_embedding", (1, grid * grid + 1, width), "pos_embed", np.asarray
    yield from norm("Transformer/encoder_norm", "norm", width)
    for i in range(blocks):
        theirs, ours, head = f"Transformer/encoderblock_{i}", f"blocks.{i}", (heads, width // heads)
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        yield from norm(f"{theirs}/LayerNorm_0", f"{ours}.norm1", width)
        yield from norm(f"{theirs}/LayerNorm_2", f"{ours}.norm2", width)
        for part in ("query", "key", "value"):
            yield f"{attention}/{part}/kernel", (width, *head), f"{ours}.attn.qkv.weight", lambda a: a.reshape(width, width).T
            yield f"{attention}/{part}/bias", head, f"{ours}.attn.qkv.bias", np.ravel
        yield f"{attention}/out/kernel", (*head, width), f"{ours}.attn.proj.weight", lambda a: a.reshape(width, width).T
        yield f"{attention}/out/bias", (width,), f"{ours}.attn.proj.bias", np.asarray
        for k, shape in enumerate(((width, hidden), (hidden, width))):
            yield f"{theirs}/MlpBlock_3/Dense_{k}/kernel", shape, f"{ours}.mlp.fc{k + 1}.weight", np.transpose
            yield f"{theirs}/MlpBlock_3/Dense_{k}/bias", shape[1:], f"{ours}.mlp.fc{k + 1}.bias", np.asarray
    for their_conv, their_norm, our_conv, our_norm, shape in resnet() if hybrid else ():
        yield f"{their_conv}/kernel", shape, f"patch_embed.backbone.{our_conv}.weight", convolution
        yield from norm(their_norm, f"patch_embed.backbone.{our_norm}", 1, 1, 1, shape[-1])


def resnet():
    """Convolutions of the hybrid in front of the patches, each with the group norm behind it, in both namings; shapes."""
    yield "conv_root", "gn_root", "stem.conv", "stem.norm", (7, 7, 3, 64)
    before = 64
    for stage, (units, width) in STAGES.items():
        for unit in range(1, units + 1):
            theirs, ours = f"block{stage}/unit{unit}", f"stages.{stage - 1}.blocks.{unit - 1}"
            if unit == 1:
                projection = (f"{theirs}/conv_proj", f"{theirs}/gn_proj", f"{ours}.downsample.conv", f"{ours}.downsample.norm")
                yield *projection, (1, 1, before, 4 * width)
            for k, shape in enumerate(((1, 1, before, width), (3, 3, width, width), (1, 1, width, 4 * width)), start=1):
                yield f"{theirs}/conv{k}", f"{theirs}/gn{k}", f"{ours}.conv{k}", f"{ours}.norm{k}", shape
            before = 4 * width


def layout(name):
    """Names and shapes of Google's file for one network."""
    width = SIZES[name][0]
    unused = {"pre_logits/kernel": (width, width), "pre_logits/bias": (width,)}
    unused |= {"head/kernel": (width, 50), "head/bias": (50,)}  # 21,843 in Google's file; nothing of it is kept
    return {theirs: shape for theirs, shape, *_ in transformer(name)} | unused


def expected(name, arrays):
    """PyTorch's tensors from Google's arrays: {torch name: array}."""
    parts = {}
    for theirs, _, ours, converted in transformer(name):
        parts.setdefault(ours, []).append(converted(arrays[theirs]))
    return {ours: np.concatenate(found) if len(found) > 1 else found[0] for ours, found in parts.items()}


def write(path, shapes, seed=0):
    """A file in Google's layout with random numbers; returns its arrays."""
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    np.savez(path, **arrays)
    return arrays


def loaded(path, name, image_size=224):
    module = build_model(name, 3, 10, image_size=image_size)
    load_published(module, name, path)
    return module


@pytest.mark.parametrize("name", ["vit-b16", "r50-vit-b16"])
def test_a_published_file_is_read_tensor_by_tensor(tmp_path, name):
    arrays = write(tmp_path / "file.npz", layout(name))
    state = loaded(tmp_path / "file.npz", name).state_dict()
    wanted = expected(name, arrays)
    assert set(state) == set(wanted) | {"head.weight", "head.bias"}
    for key, array in wanted.items():
        assert np.array_equal(state[key].numpy(), array), key
    assert state["head.weight"].shape == (10, 768)
    assert not state["head.weight"].any()
    assert not state["head.bias"].any()


@pytest.mark.parametrize("name", ["vit-b32", "vit-l16", "vit-l32", "vit-h14"])
def test_every_other_network_has_googles_shapes(name):
    with torch.device("meta"):
        module = import_timm().create_model(NETWORKS[name].timm_name, num_classes=10)
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    arrays = {key: np.empty(shape, dtype=np.uint8) for key, shape in layout(name).items()}  # empty: pages are never touched
    wanted = {key: array.shape for key, array in expected(name, arrays).items()}
    assert shapes == {**wanted, "head.weight": (10, SIZES[name][0]), "head.bias": (10,)}


def test_position_embeddings_are_resized_to_the_images(tmp_path):
    arrays = write(tmp_path / "file.npz", layout("vit-b32"))
    flat = np.ones((1, 50, 768), dtype=np.float32) * np.arange(768, dtype=np.float32)  # the same at all 7 x 7 places
    np.savez(tmp_path / "file.npz", **{**arrays, "Transformer/posembed_input/pos_embedding": flat})
    module = loaded(tmp_path / "file.npz", "vit-b32", image_size=96)
    assert module.pos_embed.shape == (1, 1 + 3 * 3, 768)
    np.testing.assert_allclose(module.pos_embed.detach()[0], np.tile(flat[0, :1], (10, 1)), rtol=1e-6)


def test_a_zeroed_head_knows_nothing_before_training(tmp_path):
    write(tmp_path / "file.npz", {**layout("vit-b32"), "head/kernel": (768, 10), "head/bias": (10,)})  # as many classes as ours
    with torch.no_grad():
        assert not loaded(tmp_path / "file.npz", "vit-b32").eval()(torch.randn(1, 3, 224, 224)).any()


def test_a_missing_file_is_refused_by_name_address_and_the_way_without(tmp_path):
    with pytest.raises(UsageError) as refusal:
        load_published(nn.Linear(1, 1), "r50-vit-b16", tmp_path / "none.npz")
    said = str(refusal.value)
    assert str(tmp_path / "none.npz") in said
    assert "https://storage.googleapis.com/vit_models/imagenet21k/R50%2BViT-B_16.npz" in said
    assert "--pretrained" in said
    assert "from scratch" in said


def write_cut_off(path):
    np.savez(path, **{"embedding/kernel": np.zeros((32, 32, 3, 768), np.float32)})
    path.write_bytes(path.read_bytes()[:5000])


def write_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def write_without_a_tensor(path):
    shapes = layout("vit-b32")
    shapes.pop("Transformer/encoderblock_11/MlpBlock_3/Dense_0/kernel")
    write(path, shapes)


@pytest.mark.parametrize(
    "write_wrongly",
    [
        lambda path: write(path, layout("vit-b16")),
        lambda path: path.write_bytes(b"nothing of the kind"),
        lambda path: path.touch(),
        *(write_cut_off, write_array, write_without_a_tensor),
    ],
    ids=["another network", "not an archive", "empty", "cut off", "an array", "lacks a tensor"],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, write_wrongly):
    write_wrongly(tmp_path / "file.npz")
    with pytest.raises(UsageError, match=r"does not hold the weights of ViT-B/32"):
        loaded(tmp_path / "file.npz", "vit-b32")


@pytest.mark.parametrize(("image_size", "channels", "classes"), [(8, 1, 10), (32, 3, 100), (64, 3, 2)])
def test_the_tiny_one_turns_images_into_logits(image_size, channels, classes):
    module = build_model("vit-tiny", channels, classes, depth=2, width=2, image_size=image_size)
    assert module(torch.randn(3, channels, image_size, image_size)).shape == (3, classes)
    assert module.patch_embed.num_patches == (16 if image_size == 8 else 64)
    assert model_title("vit-tiny", 2, 2) == "ViT-2-64"


@pytest.mark.parametrize("name", ["vit-tiny", "vit-b32", "r50-vit-b16"])
def test_dropout_is_behind_the_embeddings_and_in_the_mlps_but_not_behind_attention(name):
    """As in Google's code. timm's `proj_drop_rate` alone drops behind attention too, and not behind the embeddings."""
    module = build_model(name, 3, 10, depth=2, width=2, dropout=0.1, image_size=32)
    blocks = list(module.blocks)
    rates = {name: m.p for name, m in module.named_modules() if isinstance(m, nn.Dropout) and m.p}
    mlps = {f"blocks.{i}.mlp.drop{k}" for i in range(len(blocks)) for k in (1, 2)}
    assert rates == dict.fromkeys({"pos_drop", *mlps}, 0.1)
    for block in blocks:
        assert block.attn.proj_drop.p == block.attn.attn_drop.p == 0
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(module.eval()(images), module(images))
    nothing = build_model(name, 3, 10, depth=2, width=2, image_size=32)
    assert not any(m.p for m in nothing.modules() if isinstance(m, nn.Dropout))


@pytest.mark.parametrize(
    ("side", "patch"),
    [(2, 2), (4, 2), (8, 2), (16, 2), (24, 3), (32, 4), (64, 8), (224, 28), (9, 3), (15, 3), (28, 4), (33, 3), (225, 25)],
)
def test_a_tiny_ones_patch_is_an_eighth_of_the_side_or_the_divisor_nearest_to_it(side, patch):
    assert tiny_patch(side) == patch


@given(st.integers(2, 600))
def test_a_tiny_ones_patches_divide_the_image_or_it_is_refused_with_sides_that_they_divide(side):
    patch, said = found(side)
    if patch:
        eighth = max(2, side // 8)
        assert side % patch == 0
        assert patch == eighth or side % eighth
        assert eighth / 2 <= patch <= 2 * eighth
        return
    asked, *others = [int(n) for n in re.findall(r"\d+", said)]
    assert asked == side
    *below, above = others
    assert below == [s for s in range(side) if found(s)[0]][-1:]
    assert side < above
    assert not any(found(s)[0] for s in range(side, above))
    assert found(above)[0]


def found(side):
    """The patch, or 0 and why there is none."""
    try:
        return (tiny_patch(side), "") if side > 1 else (0, "")
    except UsageError as refusal:
        return 0, str(refusal)


@pytest.mark.parametrize(
    ("name", "side", "nearest"),
    [
        *(("vit-tiny", 3, "2 or 4"), ("vit-tiny", 5, "4 or 6"), ("vit-tiny", 29, "28 or 30"), ("vit-tiny", 31, "30 or 32")),
        *(("vit-tiny", 46, "45 or 48"), ("vit-tiny", 62, "60 or 63"), ("vit-b16", 225, "224 or 240")),
        *(("vit-b32", 225, "224 or 256"), ("vit-l16", 100, "96 or 112"), ("vit-l32", 33, "32 or 64")),
        ("vit-h14", 225, "224 or 238"),
    ],
)
def test_images_that_no_patches_divide_are_refused(name, side, nearest):
    with pytest.raises(UsageError, match=rf"--model {name} .* {side}: take a side of {nearest} pixels \(--image-size"):
        build_model(name, 3, 10, depth=1, width=1, image_size=side)


@pytest.mark.parametrize(
    ("name", "side", "patches"), [("vit-tiny", 28, 49), ("vit-tiny", 9, 9), ("vit-tiny", 225, 81), ("r50-vit-b16", 49, 16)]
)
def test_every_pixel_counts(name, side, patches):
    """Also for the hybrid, at any size: its convolutions pad, and a patch is one of their outputs, of every 16 pixels."""
    network = build_model(name, 3, 10, depth=1, width=1, image_size=side).patch_embed.eval()
    images = torch.randn(1, 3, side, side, requires_grad=True)
    found = network(images)
    assert found.shape[1] == patches
    found.square().sum().backward()
    assert (images.grad != 0).all()


def test_titles_are_the_papers():
    titles = [model_title(name, 0, 0) for name in NETWORKS]
    assert titles == ["ViT-B/16", "ViT-B/32", "ViT-L/16", "ViT-L/32", "ViT-H/14", "R50+ViT-B/16"]
