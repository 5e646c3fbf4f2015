"""Every network on every size of images: it gives logits, or one line says how large images have to be."""

import pytest
import torch

from common.data.dataset import open_data
from common.data.options import DataOptions
from common.errors import UsageError
from common.models import FOR_TEXT, MODELS, NETWORKS, build_model

LEAST = {"wrn": 4, "cnn": 4, "easgd-cnn": 24, "dhpo-cnn": 16, "vit-tiny": 2}
PATCHES = {"vit-b16": 16, "vit-b32": 32, "vit-l16": 16, "vit-l32": 32, "vit-h14": 14, "r50-vit-b16": 16}


def build(name, side):
    depth = 10 if name == "wrn" else 1
    return build_model(name, 3, 7, depth=depth, width=1, image_size=side)


@pytest.mark.parametrize("name", LEAST)
def test_each_small_network_takes_images_from_some_size_on_and_refuses_smaller_ones(name):
    for side in range(1, 41):
        with torch.device("meta"):
            if side < LEAST[name]:
                with pytest.raises(UsageError, match=rf"at least {LEAST[name]}\b"):
                    build(name, side)
            elif name != "vit-tiny" or side % max(2, side // 8) == 0:  # patches have to divide
                assert build(name, side)(torch.empty(2, 3, side, side)).shape == (2, 7)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_published_transformer_takes_one_patch_at_least(name):
    least = PATCHES[name]
    for side in (1, least - 1):
        said = rf"--model {name} takes images of at least {least} x {least} pixels, not {side} x"
        with pytest.raises(UsageError, match=said):
            build(name, side)
    with torch.device("meta"):
        assert build(name, least)(torch.empty(2, 3, least, least)).shape == (2, 7)


def test_these_are_all_networks_for_images():
    assert {*LEAST, *PATCHES} == {*MODELS} - {*FOR_TEXT}


@pytest.mark.parametrize("option", ["image_size", "crop"])
def test_augmenters_take_a_single_pixel(alone, option):
    """The network decides which sizes are too small."""
    data = open_data(DataOptions(dataset="digits", **{option: 1}), alone, 0)
    assert data.train.size == 1
    everything = torch.arange(len(data.train))
    assert data.train.plain(everything)[0].shape == (len(data.train), 1, 1, 1)
    assert data.train.augmented(everything, data.train.draw(0, 0))[0].isfinite().all()
