"""Vision Transformers: Google's checkpoints tensor by tensor, the zeroed head, resized positions, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UsageError
from common.models import build_model, load_published, model_title
from common.models.vit import NETWORKS, import_timm

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


def test_titles_are_the_papers():
    assert [model_title(name, 0, 0) for name in NETWORKS] == [
        "ViT-B/16",
        "ViT-B/32",
        "ViT-L/16",
        "ViT-L/32",
        "ViT-H/14",
        "R50+ViT-B/16",
    ]
