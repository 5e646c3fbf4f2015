"""Vision Transformers (Dosovitskiy et al. 2021) by timm: from scratch, or fine-tuned from Google's `.npz` checkpoints."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import nn

from common.errors import UsageError
from common.paths import expand

# Google's weights, trained on ImageNet-21k.
PUBLISHED = "https://storage.googleapis.com/vit_models/imagenet21k"


@dataclass(frozen=True)
class Published:
    """One network of the paper: title, name in timm, Google's file, and side of a patch in pixels.

    patch 0: padded convolutions come first, so images may have any side.
    """

    title: str
    timm_name: str
    file: str
    patch: int


NETWORKS = {
    "vit-b16": Published("ViT-B/16", "vit_base_patch16_224", "ViT-B_16.npz", 16),
    "vit-b32": Published("ViT-B/32", "vit_base_patch32_224", "ViT-B_32.npz", 32),
    "vit-l16": Published("ViT-L/16", "vit_large_patch16_224", "ViT-L_16.npz", 16),
    "vit-l32": Published("ViT-L/32", "vit_large_patch32_224", "ViT-L_32.npz", 32),
    "vit-h14": Published("ViT-H/14", "vit_huge_patch14_224", "ViT-H_14.npz", 14),
    "r50-vit-b16": Published("R50+ViT-B/16", "vit_base_r50_s16_224", "R50+ViT-B_16.npz", 0),
}


def build_vit(name: str, channels: int, classes: int, image_size: int, dropout: float) -> nn.Module:
    """One of NETWORKS with random weights, for square images of `image_size` pixels.

    Raises UsageError where the patches do not divide the side: timm would drop the last rows and columns.
    """
    patch = NETWORKS[name].patch
    if patch and image_size % patch:
        works = nearest_sides(image_size, lambda side: side % patch == 0)
        raise UsageError(
            f"--model {name} cuts images into patches of {patch} pixels, which do not divide a side of {image_size}: "
            f"take a side of {works} pixels (--image-size, --crop)"
        )
    return _create(NETWORKS[name].timm_name, channels, classes, image_size, dropout)


def nearest_sides(side: int, works: Callable[[int], bool]) -> str:
    """The nearest smaller and larger image sides that work, as text; a larger one must exist."""
    below = next((s for s in range(side - 1, 1, -1) if works(s)), None)
    above = next(s for s in count(side + 1) if works(s))
    return f"{below} or {above}" if below else str(above)


def build_tiny(channels: int, classes: int, image_size: int, depth: int, width: int, dropout: float) -> nn.Module:
    """A Vision Transformer for small images: `depth` blocks of 32 `width` dimensions, heads of 32, patches of `tiny_patch`.

    Raises UsageError where depth or width < 1, or there is no such patch.
    """
    if min(depth, width) < 1:
        raise UsageError(f"a tiny Vision Transformer has a depth and a width of at least 1, not {depth} and {width}")
    shape = {"patch_size": tiny_patch(image_size), "embed_dim": 32 * width, "depth": depth, "num_heads": width}
    module = _create("vit_tiny_patch16_224", channels, classes, image_size, dropout, **shape, weight_init="jax")
    # The paper's standard deviation of 0.02 suits long training: in hundreds of steps positions would hardly be learnt.
    nn.init.normal_(module.get_parameter("pos_embed"), std=0.5)
    return module


def _create(timm_name: str, channels: int, classes: int, image_size: int, dropout: float, **options: Any) -> nn.Module:
    """One of timm's networks with random weights, with dropout after the embeddings and in the MLPs, as in Google's code."""
    rates = {"pos_drop_rate": dropout, "proj_drop_rate": dropout}
    sizes = {"img_size": image_size, "in_chans": channels, "num_classes": classes}
    module = import_timm().create_model(timm_name, pretrained=False, **sizes, **rates, **options)
    for block in module.get_submodule("blocks").children():
        block.get_submodule("attn.proj_drop").p = 0.0  # not after attention, for which timm has the rate of the MLPs
    return module


def tiny_patch(side: int) -> int:
    """Patch size of `build_tiny` in pixels, a divisor of the side: an eighth of the side, rounded down and at least 2; else the
    divisor nearest to an eighth, between half and twice of it.

    Raises UsageError where there is none, with the nearest sides that have one.
    """
    if found := _tiny_patch(side):
        return found
    raise UsageError(
        f"--model vit-tiny has no patches near an eighth of the side that divide a side of {side}: "
        f"take a side of {nearest_sides(side, lambda s: _tiny_patch(s) > 0)} pixels (--image-size, --crop)"
    )


def _tiny_patch(side: int) -> int:
    """As `tiny_patch`, but 0 where there is none."""
    wanted = max(2, side // 8)
    if side % wanted == 0:
        return wanted
    near = [p for p in range(2, side) if side % p == 0 and wanted <= 2 * p <= 4 * wanted]
    return min(near, key=lambda p: abs(math.log(8 * p / side)), default=0)


def load_published(module: nn.Module, name: str, path: str | os.PathLike[str]) -> None:
    """Load one of Google's files into a network of `build_vit`; the head is set to zero.

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
    """Raise ValueError where the file's patches differ from the network's: timm would resample them silently."""
    height, width, _, dimensions = np.load(path)["embedding/kernel"].shape
    wanted = module.get_submodule("patch_embed.proj").get_parameter("weight").shape
    if (dimensions, height, width) != (wanted[0], *wanted[2:]):
        raise ValueError(f"patches of {height} x {width} pixels, {dimensions} dimensions, not {tuple(wanted[2:])}, {wanted[0]}")


def import_timm() -> ModuleType:
    """Import timm late: it takes two seconds, and only Vision Transformers need it."""
    from common.vision import import_torchvision

    import_torchvision()  # first, since timm imports it too, which may fail with a CPU build of torch
    import timm

    return timm
