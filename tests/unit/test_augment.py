"""Augmentation against a loop over images and pixels; what an image looks like depends on (seed, round, image) alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.augment import Augmenter, ResizingAugmenter, crop_sizes
from common.data.dataset import DataSet, ImageDataset, permutation, shard
from common.data.registry import Source
from common.seeding import Purpose, stream
from common.vision import import_torchvision

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
    return ((image / 255 - kind.mean) / kind.std).transpose(2, 0, 1)


def slow_augmented(image, kind, choices):
    """Pad with black, crop, mirror, normalise, cut a square out."""
    y, x, flip, cut, top, left = choices
    h, w, _ = image.shape
    cropped = np.pad(image, ((kind.pad, kind.pad), (kind.pad, kind.pad), (0, 0)))[y : y + h, x : x + w]
    out = slow_plain(cropped[:, ::-1] if flip else cropped, kind)
    if cut:
        out[:, max(top, 0) : top + kind.cutout, max(left, 0) : left + kind.cutout] = 0
    return out


def check(batch, expected):
    """Equal numbers, in float32 and channels-last format."""
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(batch.double(), torch.from_numpy(np.stack(expected)), **CLOSE)


@given(augmenters())
def test_a_plain_batch_is_normalised_image_by_image(case):
    augmenter, images, kind = case
    check(augmenter.plain(torch.arange(len(images)).flip(0)), [slow_plain(image, kind) for image in images[::-1]])


@given(augmenters(), st.integers(0, 99), st.integers(0, 9), st.randoms(use_true_random=False))
def test_an_augmented_batch_equals_a_loop_over_images_and_an_image_looks_the_same_in_any(case, seed, t, random):
    augmenter, images, kind = case
    everything, draws = torch.arange(len(images)), augmenter.draw(seed, t)
    batch = augmenter.augmented(everything, draws)
    check(batch, [slow_augmented(image, kind, choices) for image, choices in zip(images, draws.tolist(), strict=True)])
    some = torch.tensor([random.randrange(len(images)) for _ in range(5)])
    assert torch.equal(augmenter.augmented(some, draws), batch[some])
    if not (kind.pad or kind.flip or kind.cutout):
        assert torch.equal(batch, augmenter.plain(everything))


def test_draws_and_orders_are_named_by_seed_and_round():
    augmenter = Augmenter(torch.zeros(50, 8, 8, 3, dtype=torch.uint8), source())
    assert torch.equal(augmenter.draw(1, 2), augmenter.draw(1, 2))
    names = [(seed, t) for seed in range(3) for t in range(3)]
    assert len({tuple(augmenter.draw(*name).flatten().tolist()) for name in names}) == len(names)
    assert len({tuple(permutation(*name, 20)) for name in names}) == len(names)


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


def numbered(n):
    """A data set whose labels are the numbers of its images."""
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 4, 4, 1).contiguous()
    pictures = ImageDataset(Augmenter(images, source(pad=1, channels=1)), torch.arange(n))
    return DataSet(source(), pictures, pictures, pictures, pictures)


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 30), st.integers(0, 9), st.integers(0, 9), st.data())
def test_the_ranks_together_see_a_run_of_the_permutation_whatever_their_number(ranks, per_rank, more, seed, t, data):
    batch_size = ranks * per_rank
    n = min(batch_size + more, 255)
    steps = data.draw(st.integers(1, n // batch_size))
    everything = numbered(n)
    parts = [list(everything.batches(seed, t, batch_size, rank, ranks, steps)) for rank in range(ranks)]
    whole = list(everything.batches(seed, t, batch_size, 0, 1, steps))
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
    orders = {tuple(torch.cat([y for _, y in everything.own_batches(1, t, 5, 2, 3, 4)]).tolist()) for t in range(4)}
    assert len(orders) == 4
    assert {frozenset(order) for order in orders} == {frozenset(shard(1, 60, 2, 3).tolist())}
    assert set(shard(1, 60, 2, 3)) != set(shard(2, 60, 2, 3))


def resizing(size, crop_scale=0.3, flip=True, n=6, side=8, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return ResizingAugmenter(torch.from_numpy(images), source(flip=flip), size, crop_scale), images


sides = st.integers(4, 40)


@given(sides, sides, st.floats(0.05, 1.0), st.integers(0, 999))
def test_crops_are_torchvisions_for_the_same_random_numbers(h, w, least, seed):
    """The first of ten attempts that fits, or the largest central part."""
    get_params = import_torchvision().transforms.RandomResizedCrop.get_params
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        areas, ratios = torch.rand(10, 2).double().numpy().T
        torch.manual_seed(seed)
        top, left, *theirs = get_params(torch.zeros(1, h, w), [least, 1.0], [3 / 4, 4 / 3])
    rows, columns = crop_sizes(areas[None], ratios[None], h, w, least)
    central = central_crop(h, w)
    assert theirs == [rows[0] or central[0], columns[0] or central[1]]
    if not rows[0]:
        assert (top, left) == ((h - central[0]) // 2, (w - central[1]) // 2)


def central_crop(h, w):
    """Rows and columns of the largest crop with an aspect ratio in [3/4, 4/3]."""
    return min(h, round(w * 4 / 3)), min(w, round(h * 4 / 3))


@given(sides, sides, st.floats(0.05, 1.0), st.booleans(), st.integers(0, 99))
def test_a_drawn_crop_lies_anywhere_inside_the_image_or_in_its_centre_where_no_attempt_fits(h, w, least, flip, seed):
    augmenter = ResizingAugmenter(torch.zeros(40, h, w, 3, dtype=torch.uint8), source(flip=flip), 4, least)
    draws = augmenter.draw(seed, 3)
    assert (draws.shape, draws.dtype) == ((40, 5), torch.int64)
    assert torch.equal(augmenter.draw(seed, 3), draws)
    u = stream(seed, Purpose.AUGMENT, 3).random((40, 23))
    for i, (rows, columns) in enumerate(zip(*crop_sizes(u[:, :10], u[:, 10:20], h, w, least), strict=True)):
        place = [int((h - rows + 1) * u[i, 20]), int((w - columns + 1) * u[i, 21])]
        if not rows:
            rows, columns = central_crop(h, w)
            place = [(h - rows) // 2, (w - columns) // 2]
        assert draws[i].tolist() == [*place, rows, columns, flip and u[i, 22] < 0.5]
        assert 0 <= place[0] <= h - rows < h
        assert 0 <= place[1] <= w - columns < w


def expected_area(side, least):
    """Mean share of a square that an attempt covers if it fits, by quadrature over share and logarithm of the ratio."""
    middles = (np.arange(1500) + 0.5) / 1500
    rows, columns = crop_sizes(*(a.reshape(-1, 1) for a in np.meshgrid(middles, middles)), side, side, least)
    return (rows * columns)[rows > 0].mean() / side**2


def test_the_share_of_an_image_that_crops_cover():
    """Shares from 0.05 on: 0.475 of 32 x 32 pixels, 0.463 of very many; crops cut down where they do not fit, 0.519."""
    assert expected_area(32, 0.05) == pytest.approx(0.4753, abs=2e-4)
    share, ratio = np.meshgrid(0.05 + 0.95 * (np.arange(1000) + 0.5) / 1000, (4 / 3) ** np.linspace(-1, 1, 1001))
    clipped = np.minimum(np.sqrt(share * ratio), 1) * np.minimum(np.sqrt(share / ratio), 1)
    assert clipped.mean() == pytest.approx(0.5189, abs=2e-4)
    # Without rounding: all shares up to 3/4 fit, and a share a beyond that with a probability of -ln a / ln (4/3).
    c = math.log(4 / 3)
    chance = 0.7 + (1 / 4 - 0.75 * c) / c
    area = (0.75**2 - 0.05**2) / 2 + (1 / 4 - 0.75**2 / 2 * c - 0.75**2 / 4) / c
    assert area / chance == pytest.approx(0.4627, abs=5e-5)
    assert expected_area(4000, 0.05) == pytest.approx(area / chance, abs=5e-4)


def half_normalised(images):
    """Pixels in [0, 1] less 1/2 over 1/2, shape (n, channels, h, w)."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5


def test_the_whole_image_as_its_own_crop_is_the_image_and_plain_images_are_resized_whole():
    everything = torch.arange(6)
    augmenter, images = resizing(8, crop_scale=1.0)
    torch.testing.assert_close(augmenter.plain(everything), half_normalised(images), **CLOSE)
    for flip, expected in enumerate((half_normalised(images), half_normalised(images).flip(3))):
        window = torch.tensor([0, 0, 8, 8, flip]).expand(6, 5)
        torch.testing.assert_close(augmenter.augmented(everything, window), expected, **CLOSE)
    smaller, _ = resizing(4)
    assert smaller.plain(everything).shape == (6, 3, 4, 4)


@pytest.mark.parametrize(("size", "seed", "tolerance"), [(5, 1, 1e-3), (9, 2, 1e-5)])
def test_a_crop_is_read_by_torchvisions_bilinear_interpolation_without_its_surroundings(size, seed, tolerance):
    """Without antialiasing, which matters where a crop shrinks; flipped before or after."""
    augmenter, images = resizing(size)
    choices = augmenter.draw(seed, 0)
    batch = augmenter.augmented(torch.arange(6), choices)
    resized_crop = import_torchvision().transforms.functional.resized_crop
    assert {0, 1} == set(choices[:, 4].tolist())
    for ours, pixels, (*window, flip) in zip(batch, half_normalised(images), choices.tolist(), strict=True):
        theirs = resized_crop(pixels, *window, [size, size], antialias=size > 8)
        torch.testing.assert_close(ours, theirs.flip(2) if flip else theirs, rtol=tolerance, atol=tolerance)
