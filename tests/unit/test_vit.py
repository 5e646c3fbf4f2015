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


def layout(name, image=224):
    """Names and shapes of Google's file for one network."""
    width, blocks, heads, hidden, patch = SIZES[name]
    grid = image // 16 if name.startswith("r50") else image // patch
    channels = 1024 if name.startswith("r50") else 3
    shapes = {
        "cls": (1, 1, width),
        "embedding/kernel": (patch, patch, channels, width),
        "embedding/bias": (width,),
        "Transformer/posembed_input/pos_embedding": (1, grid * grid + 1, width),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
        "pre_logits/kernel": (width, width),
        "pre_logits/bias": (width,),
        "head/kernel": (width, 50),  # 21,843 in Google's file; nothing of it is kept
        "head/bias": (50,),
    }
    for i in range(blocks):
        block = f"Transformer/encoderblock_{i}/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}{norm}/scale": (width,), f"{block}{norm}/bias": (width,)}
        attention = f"{block}MultiHeadDotProductAttention_1/"
        for part in ("query", "key", "value"):
            shapes |= {f"{attention}{part}/kernel": (width, heads, width // heads)}
            shapes |= {f"{attention}{part}/bias": (heads, width // heads)}
        shapes |= {f"{attention}out/kernel": (heads, width // heads, width), f"{attention}out/bias": (width,)}
        shapes |= {f"{block}MlpBlock_3/Dense_0/kernel": (width, hidden), f"{block}MlpBlock_3/Dense_0/bias": (hidden,)}
        shapes |= {f"{block}MlpBlock_3/Dense_1/kernel": (hidden, width), f"{block}MlpBlock_3/Dense_1/bias": (width,)}
    return shapes | (resnet_layout() if name.startswith("r50") else {})


def resnet_layout():
    """The part of the hybrid in front of the patches."""
    norm = lambda prefix, width: {f"{prefix}/scale": (1, 1, 1, width), f"{prefix}/bias": (1, 1, 1, width)}  # noqa: E731
    shapes = {"conv_root/kernel": (7, 7, 3, 64), **norm("gn_root", 64)}
    before = 64
    for stage, (units, width) in STAGES.items():
        for unit in range(1, units + 1):
            prefix = f"block{stage}/unit{unit}/"
            shapes |= {f"{prefix}conv1/kernel": (1, 1, before, width), **norm(f"{prefix}gn1", width)}
            shapes |= {f"{prefix}conv2/kernel": (3, 3, width, width), **norm(f"{prefix}gn2", width)}
            shapes |= {f"{prefix}conv3/kernel": (1, 1, width, 4 * width), **norm(f"{prefix}gn3", 4 * width)}
            if unit == 1:
                shapes |= {f"{prefix}conv_proj/kernel": (1, 1, before, 4 * width), **norm(f"{prefix}gn_proj", 4 * width)}
            before = 4 * width
    return shapes


def expected(name, arrays):
    """PyTorch's tensors from Google's arrays, by an independent reading of both layouts: {torch name: array}."""
    blocks = SIZES[name][1]
    conv = lambda a: a.transpose(3, 2, 0, 1)  # noqa: E731  height, width, in, out -> out, in, height, width
    patch = "patch_embed.proj"
    tensors = {
        "cls_token": arrays["cls"],
        "pos_embed": arrays["Transformer/posembed_input/pos_embedding"],
        f"{patch}.weight": conv(arrays["embedding/kernel"]),
        f"{patch}.bias": arrays["embedding/bias"],
        "norm.weight": arrays["Transformer/encoder_norm/scale"],
        "norm.bias": arrays["Transformer/encoder_norm/bias"],
    }
    for i in range(blocks):
        theirs, ours = f"Transformer/encoderblock_{i}/", f"blocks.{i}."
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        width = arrays["cls"].shape[-1]
        parts = [arrays[f"{attention}{p}/kernel"].reshape(width, width).T for p in ("query", "key", "value")]
        biases = [arrays[f"{attention}{p}/bias"].reshape(width) for p in ("query", "key", "value")]
        tensors |= {
            f"{ours}norm1.weight": arrays[f"{theirs}LayerNorm_0/scale"],
            f"{ours}norm1.bias": arrays[f"{theirs}LayerNorm_0/bias"],
            f"{ours}norm2.weight": arrays[f"{theirs}LayerNorm_2/scale"],
            f"{ours}norm2.bias": arrays[f"{theirs}LayerNorm_2/bias"],
            f"{ours}attn.qkv.weight": np.concatenate(parts),
            f"{ours}attn.qkv.bias": np.concatenate(biases),
            f"{ours}attn.proj.weight": arrays[f"{attention}out/kernel"].reshape(width, width).T,
            f"{ours}attn.proj.bias": arrays[f"{attention}out/bias"],
            f"{ours}mlp.fc1.weight": arrays[f"{theirs}MlpBlock_3/Dense_0/kernel"].T,
            f"{ours}mlp.fc1.bias": arrays[f"{theirs}MlpBlock_3/Dense_0/bias"],
            f"{ours}mlp.fc2.weight": arrays[f"{theirs}MlpBlock_3/Dense_1/kernel"].T,
            f"{ours}mlp.fc2.bias": arrays[f"{theirs}MlpBlock_3/Dense_1/bias"],
        }
    if not name.startswith("r50"):
        return tensors
    stem = "patch_embed.backbone.stem."
    tensors |= {f"{stem}conv.weight": conv(arrays["conv_root/kernel"])}
    tensors |= {f"{stem}norm.weight": arrays["gn_root/scale"].ravel(), f"{stem}norm.bias": arrays["gn_root/bias"].ravel()}
    for stage, (units, _) in STAGES.items():
        for unit in range(1, units + 1):
            theirs, ours = f"block{stage}/unit{unit}/", f"patch_embed.backbone.stages.{stage - 1}.blocks.{unit - 1}."
            pairs = [(f"conv{r}", f"gn{r}", f"conv{r}", f"norm{r}") for r in (1, 2, 3)]
            if unit == 1:
                pairs.append(("conv_proj", "gn_proj", "downsample.conv", "downsample.norm"))
            for their_conv, their_norm, our_conv, our_norm in pairs:
                tensors |= {
                    f"{ours}{our_conv}.weight": conv(arrays[f"{theirs}{their_conv}/kernel"]),
                    f"{ours}{our_norm}.weight": arrays[f"{theirs}{their_norm}/scale"].ravel(),
                    f"{ours}{our_norm}.bias": arrays[f"{theirs}{their_norm}/bias"].ravel(),
                }
    return tensors


def write(path, shapes, seed=0):
    """A file in Google's layout with random numbers; returns its arrays."""
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    np.savez(path, **arrays)
    return arrays


@pytest.mark.parametrize("name", ["vit-b16", "r50-vit-b16"])
def test_a_published_file_is_read_tensor_by_tensor(tmp_path, name):
    arrays = write(tmp_path / "file.npz", layout(name))
    module = build_model(name, 3, 10, image_size=224)
    load_published(module, name, tmp_path / "file.npz")
    state = module.state_dict()
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
    shapes = layout("vit-b32")
    arrays = write(tmp_path / "file.npz", shapes)
    flat = np.ones((1, 50, 768), dtype=np.float32) * np.arange(768, dtype=np.float32)  # the same at all 7 x 7 places
    np.savez(tmp_path / "file.npz", **{**arrays, "Transformer/posembed_input/pos_embedding": flat})
    module = build_model("vit-b32", 3, 10, image_size=96)
    load_published(module, "vit-b32", tmp_path / "file.npz")
    assert module.pos_embed.shape == (1, 1 + 3 * 3, 768)
    np.testing.assert_allclose(module.pos_embed.detach()[0], np.tile(flat[0, :1], (10, 1)), rtol=1e-6)


def test_a_zeroed_head_knows_nothing_before_training(tmp_path):
    write(tmp_path / "file.npz", {**layout("vit-b32"), "head/kernel": (768, 10), "head/bias": (10,)})  # as many classes as ours
    module = build_model("vit-b32", 3, 10, image_size=224)
    load_published(module, "vit-b32", tmp_path / "file.npz")
    with torch.no_grad():
        assert not module.eval()(torch.randn(1, 3, 224, 224)).any()


def test_a_missing_file_is_refused_by_name_address_and_the_way_without(tmp_path):
    with pytest.raises(UsageError) as refusal:
        load_published(nn.Linear(1, 1), "r50-vit-b16", tmp_path / "none.npz")
    said = str(refusal.value)
    assert str(tmp_path / "none.npz") in said
    assert "https://storage.googleapis.com/vit_models/imagenet21k/R50%2BViT-B_16.npz" in said
    assert "--pretrained" in said
    assert "from scratch" in said


@pytest.mark.parametrize("content", ["another network", "not an archive", "empty", "cut off", "an array", "lacks a tensor"])
def test_a_file_that_does_not_fit_is_refused(tmp_path, content):
    path = tmp_path / "file.npz"
    if content == "not an archive":
        path.write_bytes(b"nothing of the kind")
    elif content == "empty":
        path.touch()
    elif content == "cut off":
        np.savez(path, **{"embedding/kernel": np.zeros((32, 32, 3, 768), np.float32)})
        path.write_bytes(path.read_bytes()[:5000])
    elif content == "an array":
        np.save(tmp_path / "file.npy", np.zeros(3))
        (tmp_path / "file.npy").rename(path)
    else:
        shapes = layout("vit-b32")
        shapes.pop("Transformer/encoderblock_11/MlpBlock_3/Dense_0/kernel")
        write(path, layout("vit-b16") if content == "another network" else shapes)
    module = build_model("vit-b32", 3, 10, image_size=224)
    with pytest.raises(UsageError, match=r"does not hold the weights of ViT-B/32"):
        load_published(module, "vit-b32", path)


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


@pytest.mark.parametrize("side", [3, 5, 29, 31, 46, 62])
def test_sides_of_nearly_prime_numbers_of_pixels_are_refused_by_the_tiny_one(side):
    with pytest.raises(UsageError, match=rf"--model vit-tiny .* {side}: take a side of .*--image-size"):
        build_model("vit-tiny", 3, 10, depth=1, width=1, image_size=side)


@pytest.mark.parametrize("side", [28, 9, 225])
def test_every_pixel_counts_for_the_tiny_one(side):
    module = build_model("vit-tiny", 1, 10, depth=1, width=1, image_size=side)
    assert all_pixels_count(module.patch_embed, torch.randn(1, 1, side, side))


def all_pixels_count(network, images):
    images.requires_grad_()
    network(images).square().sum().backward()
    return bool((images.grad != 0).all())


@pytest.mark.parametrize(
    ("name", "side", "nearest"),
    [
        ("vit-b16", 225, "224 or 240"),
        ("vit-b32", 225, "224 or 256"),
        ("vit-l16", 100, "96 or 112"),
        ("vit-l32", 33, "32 or 64"),
        ("vit-h14", 225, "224 or 238"),
    ],
)
def test_a_published_network_refuses_images_that_its_patches_do_not_divide(name, side, nearest):
    with pytest.raises(UsageError, match=rf"--model {name} .* {side}: take a side of {nearest} pixels \(--image-size"):
        build_model(name, 3, 10, image_size=side)


def test_the_hybrid_leaves_no_pixel_out_at_any_size():
    """Its convolutions pad, and a patch is one of their outputs, of every 16 pixels."""
    module = build_model("r50-vit-b16", 3, 10, image_size=49)
    assert module.patch_embed.grid_size == (4, 4)
    assert all_pixels_count(module.patch_embed.eval(), torch.randn(1, 3, 49, 49))


def test_titles_are_the_papers():
    assert [model_title(name, 0, 0) for name in NETWORKS] == [
        "ViT-B/16",
        "ViT-B/32",
        "ViT-L/16",
        "ViT-L/32",
        "ViT-H/14",
        "R50+ViT-B/16",
    ]
