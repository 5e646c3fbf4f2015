"""Augmentation against a loop over images and pixels; what an image looks like depends on (seed, round, image) alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import DataSet, Pictures, permutation, shard
from common.data.augment import Augmenter, ResizingAugmenter
from common.data.sources import Source

CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # float32 scale and shift of pixels of up to 255


def source(pad=2, flip=True, cutout=4, channels=3):
    return Source("test", 10, (0.5, 0.4, 0.3)[:channels], (0.2, 0.3, 0.4)[:channels], pad, flip, cutout)


@st.composite
def augmenters(draw):
    n, h, w, channels = draw(st.integers(1, 9)), draw(st.integers(4, 9)), draw(st.integers(4, 9)), draw(st.sampled_from([1, 3]))
    images = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (n, h, w, channels), dtype=np.uint8)
    kind = source(draw(st.integers(0, 3)), draw(st.booleans()), draw(st.sampled_from([0, 2, 4, 6])), channels)
    return Augmenter(torch.from_numpy(images), kind), images, kind


def slow_plain(image, kind):
    """(h, w, channels) uint8 -> (channels, h, w), normalised."""
    h, w, channels = image.shape
    out = np.zeros((channels, h, w))
    for c in range(channels):
        out[c] = (image[:, :, c] / 255 - kind.mean[c]) / kind.std[c]
    return out


def slow_augmented(image, kind, choices):
    """Pad with black, crop, mirror, normalise, cut a square out."""
    y0, x0, flip, cut, top, left = choices
    h, w, _ = image.shape
    cropped = np.zeros_like(image)
    for y in range(h):
        for x in range(w):
            ys, xs = y + y0 - kind.pad, x + x0 - kind.pad
            if 0 <= ys < h and 0 <= xs < w:
                cropped[y, x] = image[ys, xs]
    if flip:
        cropped = cropped[:, ::-1]
    out = slow_plain(cropped, kind)
    if cut:
        for y in range(top, top + kind.cutout):
            for x in range(left, left + kind.cutout):
                if 0 <= y < h and 0 <= x < w:
                    out[:, y, x] = 0
    return out


@given(augmenters())
def test_a_plain_batch_is_normalised_pixel_by_pixel(case):
    augmenter, images, kind = case
    indices = torch.arange(len(images)).flip(0)
    expected = np.stack([slow_plain(image, kind) for image in images[::-1]])
    torch.testing.assert_close(augmenter.plain(indices).double(), torch.from_numpy(expected), **CLOSE)


@given(augmenters(), st.integers(0, 99), st.integers(0, 9))
def test_an_augmented_batch_equals_a_loop_over_images(case, seed, t):
    augmenter, images, kind = case
    draws = augmenter.draw(seed, t)
    expected = np.stack([slow_augmented(image, kind, d.tolist()) for image, d in zip(images, draws, strict=True)])
    batch = augmenter.augmented(torch.arange(len(images)), draws)
    torch.testing.assert_close(batch.double(), torch.from_numpy(expected), **CLOSE)


@given(augmenters(), st.integers(0, 99), st.integers(0, 9), st.randoms(use_true_random=False))
def test_an_image_looks_the_same_in_any_batch(case, seed, t, random):
    augmenter, images, _ = case
    draws = augmenter.draw(seed, t)
    whole = augmenter.augmented(torch.arange(len(images)), draws)
    some = torch.tensor([random.randrange(len(images)) for _ in range(5)])
    assert torch.equal(augmenter.augmented(some, draws), whole[some])


def test_draws_are_named_by_seed_and_round():
    augmenter = Augmenter(torch.zeros(50, 8, 8, 3, dtype=torch.uint8), source())
    assert torch.equal(augmenter.draw(1, 2), augmenter.draw(1, 2))
    assert not torch.equal(augmenter.draw(1, 2), augmenter.draw(1, 3))
    assert not torch.equal(augmenter.draw(1, 2), augmenter.draw(2, 2))


def test_draws_reach_every_place_and_no_other():
    augmenter = Augmenter(torch.zeros(4000, 6, 5, 1, dtype=torch.uint8), source(pad=2, cutout=4, channels=1))
    draws = augmenter.draw(0, 0)
    expected = [range(5), range(5), range(2), range(2), range(-2, 4), range(-2, 3)]  # centres of the square: every pixel
    for column, values in enumerate(expected):
        drawn, counts = draws[:, column].unique(return_counts=True)
        assert drawn.tolist() == list(values)
        # Equally likely: five standard deviations of a binomial count.
        p = 1 / len(values)
        assert ((counts - 4000 * p).abs() < 5 * (4000 * p * (1 - p)) ** 0.5).all()


def test_a_source_without_augmentation_gets_its_images_as_they_are():
    images = torch.randint(256, (6, 5, 5, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augmenter = Augmenter(images, source(pad=0, flip=False, cutout=0, channels=1))
    everything = torch.arange(6)
    assert torch.equal(augmenter.augmented(everything, augmenter.draw(0, 0)), augmenter.plain(everything))


def numbered(n):
    """A data set whose labels are the numbers of its images."""
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 4, 4, 1).contiguous()
    pictures = Pictures(Augmenter(images, source(pad=1, channels=1)), torch.arange(n))
    return DataSet(source(), pictures, pictures, pictures, pictures)


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 30), st.integers(0, 9), st.integers(0, 9), st.data())
def test_the_ranks_together_see_a_run_of_the_permutation_whatever_their_number(ranks, per_rank, more, seed, t, data):
    batch_size = ranks * per_rank
    n = min(batch_size + more, 255)
    steps = data.draw(st.integers(1, n // batch_size))
    everything = numbered(n)
    parts = [list(everything.batches(seed, t, batch_size, rank, ranks, steps)) for rank in range(ranks)]
    (whole,) = [list(everything.batches(seed, t, batch_size, 0, 1, steps))]
    order = permutation(seed, t, n)
    assert sorted(order) == list(range(n))
    seen = []
    for step in range(steps):
        labels = torch.cat([part[step][1] for part in parts])
        assert labels.tolist() == order[step * batch_size : (step + 1) * batch_size].tolist()
        assert torch.equal(torch.cat([part[step][0] for part in parts]), whole[step][0])  # the same pictures, too
        seen += labels.tolist()
    assert all(len(part) == steps for part in parts)
    assert len(set(seen)) == len(seen) == steps * batch_size


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 30), st.integers(0, 9), st.integers(0, 9), st.data())
def test_a_worker_with_images_of_its_own_sees_no_others_and_in_a_new_order_every_round(workers, size, more, seed, t, data):
    n = min(workers * size + more, 255)
    steps = data.draw(st.integers(1, n // workers // size))
    everything, shards = numbered(n), [shard(seed, n, w, workers) for w in range(workers)]
    assert all(len(s) == n // workers for s in shards)
    assert len(set(np.concatenate(shards))) == n // workers * workers
    seen = []
    for worker in range(workers):
        batches = list(everything.own_batches(seed, t, size, worker, workers, steps))
        labels = torch.cat([y for _, y in batches]).tolist()
        assert [len(y) for _, y in batches] == [size] * steps
        assert set(labels) <= set(shards[worker].tolist())
        pictures = everything.train.augmenter.augmented(torch.tensor(labels), everything.train.augmenter.draw(seed, t))
        assert torch.equal(torch.cat([x for x, _ in batches]), pictures)  # what happens to an image is the world's draw
        seen += labels
    assert len(set(seen)) == len(seen) == workers * steps * size


def test_a_shard_lasts_and_its_order_does_not():
    everything = numbered(60)
    rounds = [[y for _, y in everything.own_batches(1, t, 5, 2, 3, 4)] for t in range(4)]
    orders = [tuple(torch.cat(labels).tolist()) for labels in rounds]
    assert len(set(orders)) == 4
    assert {frozenset(order) for order in orders} == {frozenset(shard(1, 60, 2, 3).tolist())}
    assert set(shard(1, 60, 2, 3)) != set(shard(2, 60, 2, 3))


def test_rounds_and_seeds_have_orders_of_their_own():
    orders = {tuple(permutation(seed, t, 20)) for seed in range(3) for t in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_float32_in_channels_last_format(channels):
    augmenter = Augmenter(torch.zeros(4, 8, 8, channels, dtype=torch.uint8), source(channels=channels))
    for batch in (augmenter.plain(torch.arange(4)), augmenter.augmented(torch.arange(4), augmenter.draw(0, 0))):
        assert (batch.shape, batch.dtype) == ((4, channels, 8, 8), torch.float32)
        assert batch.is_contiguous(memory_format=torch.channels_last)


def resizing(size, crop_scale=0.3, flip=True, n=6, side=8, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return ResizingAugmenter(torch.from_numpy(images), source(flip=flip), size, crop_scale), images


@given(st.integers(4, 12), st.floats(0.05, 1.0), st.integers(0, 99))
def test_resized_crops_lie_inside_the_image_and_cover_the_share_asked_for(size, crop_scale, seed):
    augmenter, _ = resizing(size, crop_scale, n=50)
    height, width, y, x, sign = augmenter.draw(seed, 3).double().T
    assert (height <= 1).all()
    assert (width <= 1).all()
    for half, centre in ((height, y), (width, x)):
        assert (centre.abs() + half <= 1 + 1e-6).all()
    clipped = (height > 1 - 1e-6) | (width > 1 - 1e-6)  # a side that would not fit is cut
    assert (clipped | (height * width >= crop_scale - 1e-6)).all()
    ratio = width / height
    assert (clipped | ((ratio > 3 / 4 - 1e-4) & (ratio < 4 / 3 + 1e-4))).all()
    assert set(sign.tolist()) <= {-1.0, 1.0}
    assert torch.equal(augmenter.draw(seed, 3), augmenter.draw(seed, 3))


def test_the_whole_image_as_its_own_crop_is_the_image():
    augmenter, _ = resizing(8, crop_scale=1.0)
    window = torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0]]).repeat(6, 1)
    everyone = torch.arange(6)
    torch.testing.assert_close(augmenter.augmented(everyone, window), augmenter.plain(everyone), **CLOSE)
    window[:, 4] = -1
    torch.testing.assert_close(augmenter.augmented(everyone, window), augmenter.plain(everyone).flip(3), **CLOSE)


def test_a_crop_is_read_with_bilinear_interpolation_pixel_by_pixel():
    augmenter, images = resizing(5)
    choices = augmenter.draw(1, 0)
    batch = augmenter.augmented(torch.arange(6), choices)
    for i, (half_height, half_width, cy, cx, sign) in enumerate(choices.double().tolist()):
        plain = (images[i].astype(float) / 255 - 0.5) / 0.5
        for row in range(5):
            for column in range(5):
                v, u = cy + half_height * ((2 * row + 1) / 5 - 1), cx + sign * half_width * ((2 * column + 1) / 5 - 1)
                y, x = np.clip([(v + 1) * 4 - 0.5, (u + 1) * 4 - 0.5], 0, 7)  # [-1, 1] are the outer edges of 8 pixels
                y0, x0 = int(min(y, 6)), int(min(x, 6))
                dy, dx = y - y0, x - x0
                rows = (1 - dy) * plain[y0] + dy * plain[y0 + 1]
                expected = (1 - dx) * rows[x0] + dx * rows[x0 + 1]
                np.testing.assert_allclose(batch[i, :, row, column], expected, rtol=1e-3, atol=1e-3)


def test_plain_images_are_resized_whole():
    augmenter, images = resizing(4)
    assert augmenter.plain(torch.arange(6)).shape == (6, 3, 4, 4)
    same, _ = resizing(8)
    expected = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    torch.testing.assert_close(same.plain(torch.arange(6)), expected, **CLOSE)
