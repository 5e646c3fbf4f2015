"""Networks by name. To add one, write a file and one line here."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from common.errors import UsageError
from common.models.cnn import dhpo_cnn, easgd_cnn, small_cnn
from common.models.transformer import Transformer
from common.models.vit import NETWORKS, build_tiny, build_vit
from common.models.wide_resnet import WideResNet


@dataclass(frozen=True)
class Shape:
    """Arguments of a network: channels and side of its images, classes; depth, width and dropout where it has them.

    For text: no channels, image_size is the window length in characters, classes the alphabet size.
    initialisation: of the networks in INITIALISED.
    """

    channels: int
    classes: int
    image_size: int = 32
    depth: int = 16
    width: int = 8
    dropout: float = 0.0
    initialisation: str = "fan-out"


def _published(name: str) -> Callable[[Shape], nn.Module]:
    return lambda s: build_vit(name, s.channels, s.classes, s.image_size, s.dropout)


MODELS: dict[str, Callable[[Shape], nn.Module]] = {
    "wrn": lambda s: WideResNet(s.channels, s.classes, s.depth, s.width, s.dropout, s.initialisation),
    "cnn": lambda s: small_cnn(s.channels, s.classes, s.width),
    "easgd-cnn": lambda s: easgd_cnn(s.channels, s.classes, s.image_size, s.width, s.dropout),
    "dhpo-cnn": lambda s: dhpo_cnn(s.channels, s.classes, s.image_size, s.width, s.dropout),
    "vit-tiny": lambda s: build_tiny(s.channels, s.classes, s.image_size, s.depth, s.width, s.dropout),
    "transformer": lambda s: Transformer(s.classes, s.image_size, s.depth, s.width, s.dropout),
    **{name: _published(name) for name in NETWORKS},
}
WITHOUT = {  # options that a network does not have
    **{"cnn": ("depth", "dropout"), "easgd-cnn": ("depth",), "dhpo-cnn": ("depth",)},
    **dict.fromkeys(NETWORKS, ("depth", "width")),
}
INITIALISED = ("wrn",)  # networks whose initial weights can be chosen
# Of images in pixels; easgd-cnn and dhpo-cnn check it themselves. The hybrid among NETWORKS halves its images four times.
LEAST_SIDE = {"wrn": 4, "cnn": 4, "vit-tiny": 2, **{name: network.patch or 16 for name, network in NETWORKS.items()}}
FOR_TEXT = ("transformer",)  # the others are for images


def build_model(
    name: str,
    channels: int,
    classes: int,
    depth: int = 16,
    width: int = 8,
    dropout: float = 0.0,
    seed: int = 0,
    image_size: int = 32,
    initialisation: str = "fan-out",
) -> nn.Module:
    """A network with initial weights that depend on `seed` alone; torch's global CPU generator is restored.

    channels: of the images. depth, width, dropout, initialisation: ignored where the network does not have them, see `without`.
    image_size: side of the images in pixels, or window length in characters.
    Raises ValueError for an unknown name, UsageError for unsupported sizes.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model '{name}': choose from {', '.join(MODELS)}")
    if image_size < (least := LEAST_SIDE.get(name, 1)):
        raise UsageError(
            f"--model {name} takes images of at least {least} x {least} pixels, not {image_size} x {image_size}: choose a "
            "larger --image-size or --crop, or another network"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](Shape(channels, classes, image_size, depth, width, dropout, initialisation))


def without(name: str) -> tuple[str, ...]:
    """Network options that this network does not have."""
    return (*WITHOUT.get(name, ()), *(() if name in INITIALISED else ("initialisation",)))


def model_title(name: str, depth: int, width: int) -> str:
    """The network's name in tables, e.g. WRN-22-8."""
    titles = {
        "wrn": f"WRN-{depth}-{width}",
        "cnn": f"CNN-{width}",
        "easgd-cnn": f"EASGD-CNN-{width}",
        "dhpo-cnn": f"DHPO-CNN-{width}",
        "vit-tiny": f"ViT-{depth}-{32 * width}",
        "transformer": f"Transformer-{depth}-{32 * width}",
        **{published: network.title for published, network in NETWORKS.items()},
    }
    return titles.get(name, name)
