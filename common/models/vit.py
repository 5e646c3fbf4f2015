"""Vision Transformers (Dosovitskiy et al. 2021) by timm: from scratch, or fine-tuned from Google's `.npz` checkpoints."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from zipfile import BadZipFile

import numpy as np
import torch
from torch import nn

from common.errors import UsageError
from common.paths import expand

# Our name: the paper's, timm's, and the file of weights trained on ImageNet-21k in Google's bucket of that name.
PUBLISHED = "https://storage.googleapis.com/vit_models/imagenet21k"


@dataclass(frozen=True)
class Published:
    """One network of the paper: its title, its name in timm, and the file Google publishes."""

    title: str
    timm_name: str
    file: str


NETWORKS = {
    "vit-b16": Published("ViT-B/16", "vit_base_patch16_224", "ViT-B_16.npz"),
    "vit-b32": Published("ViT-B/32", "vit_base_patch32_224", "ViT-B_32.npz"),
    "vit-l16": Published("ViT-L/16", "vit_large_patch16_224", "ViT-L_16.npz"),
    "vit-l32": Published("ViT-L/32", "vit_large_patch32_224", "ViT-L_32.npz"),
    "vit-h14": Published("ViT-H/14", "vit_huge_patch14_224", "ViT-H_14.npz"),
    "r50-vit-b16": Published("R50+ViT-B/16", "vit_base_r50_s16_224", "R50+ViT-B_16.npz"),
}


def build_vit(name: str, channels: int, classes: int, image_size: int, dropout: float = 0.0) -> nn.Module:
    """One of NETWORKS with random weights, for square images of `image_size` pixels."""
    options = {"img_size": image_size, "in_chans": channels, "num_classes": classes, "proj_drop_rate": dropout}
    return import_timm().create_model(NETWORKS[name].timm_name, pretrained=False, **options)


def build_tiny(channels: int, classes: int, image_size: int, depth: int, width: int, dropout: float = 0.0) -> nn.Module:
    """A small one for small images: `depth` blocks of 32 `width` dimensions, heads of 32, patches of an eighth of the side,
    at least 2 pixels.

    Raises UsageError where depth or width < 1.
    """
    if min(depth, width) < 1:
        raise UsageError(f"a tiny Vision Transformer has a depth and a width of at least 1, not {depth} and {width}")
    sides = {"img_size": image_size, "patch_size": max(2, image_size // 8)}
    shape = {"embed_dim": 32 * width, "depth": depth, "num_heads": width}
    vit = import_timm().models.vision_transformer.VisionTransformer
    module = vit(**sides, **shape, in_chans=channels, num_classes=classes, proj_drop_rate=dropout, weight_init="jax")
    # The paper's deviation of 0.02 suits long training: for hundreds of steps a network would not know where things are.
    nn.init.normal_(module.pos_embed, std=0.5)
    return module


def load_published(module: nn.Module, name: str, path: str | os.PathLike[str]) -> None:
    """Read one of Google's files into a network of `build_vit` and put a zeroed head in place of theirs.

    Position embeddings are resized where the image size differs. Raises UsageError where the file is missing or holds
    another network.
    """
    path, network = Path(expand(os.fspath(path), "--pretrained")), NETWORKS[name]
    if not path.is_file():
        raise UsageError(
            f"no checkpoint {path}: Google publishes {network.title} as {PUBLISHED}/{network.file.replace('+', '%2B')} "
            "(--pretrained FILE); leave --pretrained out to train from scratch"
        )
    try:
        _check_patches(module, path)
        module.load_pretrained(str(path))  # type: ignore[operator]
    except (KeyError, IndexError, ValueError, RuntimeError, OSError, EOFError, AssertionError, BadZipFile) as error:
        why = " ".join(str(error).split())[:150]
        raise UsageError(f"{path} does not hold the weights of {network.title} ({why}): see {PUBLISHED}") from None
    with torch.no_grad():
        for parameter in module.get_submodule("head").parameters():
            parameter.zero_()


def _check_patches(module: nn.Module, path: Path) -> None:
    """Raises ValueError where the file's patches are not the network's: timm would resample them without a word."""
    height, width, _, dimensions = np.load(path)["embedding/kernel"].shape
    wanted = module.get_submodule("patch_embed.proj").get_parameter("weight").shape
    if (dimensions, height, width) != (wanted[0], *wanted[2:]):
        raise ValueError(f"patches of {height} x {width} pixels, {dimensions} dimensions, not {tuple(wanted[2:])}, {wanted[0]}")


def import_timm() -> ModuleType:
    """timm, imported late: it takes two seconds, and only Vision Transformers need it."""
    from common.data.sources import import_torchvision

    import_torchvision()  # timm imports it, and alone it fails beside a CPU build of torch
    import timm

    return timm
