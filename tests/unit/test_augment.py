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


def slow_crop(areas, ratios, h, w, least):
    """RandomResizedCrop.get_params with its random numbers handed in; None where it would take the central crop."""
    for u, v in zip(areas, ratios, strict=True):
        area, ratio = h * w * (least + (1 - least) * u), math.exp(math.log(3 / 4) + math.log(16 / 9) * v)
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= w and 0 < rows <= h:
            return rows, columns
    return None


@given(st.integers(4, 40), st.integers(4, 40), st.floats(0.05, 1.0), st.integers(0, 99))
def test_a_crop_is_the_first_of_ten_attempts_that_fits(h, w, least, seed):
    areas, ratios = np.random.default_rng(seed).random((2, 30, 10))
    rows, columns = crop_sizes(areas, ratios, h, w, least)
    for i in range(30):
        assert (rows[i], columns[i]) == (slow_crop(areas[i], ratios[i], h, w, least) or (0, 0))


@given(st.integers(4, 40), st.integers(4, 40), st.floats(0.05, 1.0), st.booleans(), st.integers(0, 99))
def test_resized_crops_lie_inside_the_image_and_are_its_largest_central_part_where_nothing_fits(h, w, least, flip, seed):
    augmenter = ResizingAugmenter(torch.zeros(40, h, w, 3, dtype=torch.uint8), source(flip=flip), 4, least)
    draws = augmenter.draw(seed, 3)
    assert (draws.shape, draws.dtype) == ((40, 5), torch.int64)
    top, left, rows, columns, mirrored = draws.T
    assert (torch.stack([top, left, rows - 1, columns - 1]) >= 0).all()
    assert (top + rows <= h).all()
    assert (left + columns <= w).all()
    assert set(mirrored.tolist()) <= ({0, 1} if flip else {0})
    assert torch.equal(augmenter.draw(seed, 3), draws)
    numbers = stream(seed, Purpose.AUGMENT, 3).random((40, 23))
    nothing = [slow_crop(u[:10], u[10:20], h, w, least) is None for u in numbers]
    assert (rows[nothing] == min(h, round(w * 4 / 3))).all()
    assert (columns[nothing] == min(w, round(h * 4 / 3))).all()
    assert (top[nothing] == (h - rows[nothing]) // 2).all()
    assert (left[nothing] == (w - columns[nothing]) // 2).all()


def expected_area(side, least):
    """Mean share of a square that an attempt covers if it fits, by quadrature over share and logarithm of the ratio."""
    middles = (np.arange(1500) + 0.5) / 1500
    rows, columns = crop_sizes(*(a.reshape(-1, 1) for a in np.meshgrid(middles, middles)), side, side, least)
    return (rows * columns)[rows > 0].mean() / side**2


def test_resized_crops_cover_what_torchvisions_do():
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
    augmenter = ResizingAugmenter(torch.zeros(50000, 32, 32, 1, dtype=torch.uint8), source(channels=1), 224, 0.05)
    rows, columns = augmenter.draw(0, 0)[:, 2:4].double().T
    shares = rows * columns / 32**2
    error = float(shares.std()) / 50000**0.5
    assert shares.mean().item() == pytest.approx(expected_area(32, 0.05), abs=5 * error)  # five of its standard deviations
    image, get_params = torch.zeros(1, 32, 32), import_torchvision().transforms.RandomResizedCrop.get_params
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([get_params(image, [0.05, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    mean = (theirs[:, 2] * theirs[:, 3] / 32**2).mean()
    assert mean == pytest.approx(shares.mean().item(), abs=5 * error * (1 + 12.5) ** 0.5)  # 12.5 times fewer
    for ours, other in zip(augmenter.draw(0, 0)[:, :4].double().numpy().T, theirs.T, strict=True):  # places and sides alike
        assert ours.mean() == pytest.approx(other.mean(), abs=5 * ours.std() / 4000**0.5)
        assert ours.std() == pytest.approx(other.std(), rel=0.1)


@pytest.mark.parametrize(("h", "w"), [(4, 40), (40, 4), (7, 40), (31, 8)])
def test_a_crop_that_never_fits_is_torchvisions_central_one(h, w):
    augmenter = ResizingAugmenter(torch.zeros(5, h, w, 1, dtype=torch.uint8), source(channels=1), 8, 0.9)
    theirs = import_torchvision().transforms.RandomResizedCrop.get_params(torch.zeros(1, h, w), [0.9, 1.0], [3 / 4, 4 / 3])
    assert augmenter.draw(0, 0)[:, :4].tolist() == [list(theirs)] * 5


def test_the_whole_image_as_its_own_crop_is_the_image():
    augmenter, _ = resizing(8, crop_scale=1.0)
    window = torch.tensor([[0, 0, 8, 8, 0]]).repeat(6, 1)
    indices = torch.arange(6)
    torch.testing.assert_close(augmenter.augmented(indices, window), augmenter.plain(indices), **CLOSE)
    window[:, 4] = 1
    torch.testing.assert_close(augmenter.augmented(indices, window), augmenter.plain(indices).flip(3), **CLOSE)


def test_a_crop_is_read_with_bilinear_interpolation_pixel_by_pixel_and_without_its_surroundings():
    augmenter, images = resizing(5)
    choices = augmenter.draw(1, 0)
    batch = augmenter.augmented(torch.arange(6), choices)
    for i, (top, left, rows, columns, flip) in enumerate(choices.tolist()):
        crop = (images[i, top : top + rows, left : left + columns].astype(float) / 255 - 0.5) / 0.5
        crop = crop[:, ::-1] if flip else crop
        for row in range(5):
            for column in range(5):
                y = np.clip((row + 0.5) * rows / 5 - 0.5, 0, rows - 1)
                x = np.clip((column + 0.5) * columns / 5 - 0.5, 0, columns - 1)
                above, before = int(y), int(x)
                below, after = min(above + 1, rows - 1), min(before + 1, columns - 1)
                upper = (1 - (x - before)) * crop[above, before] + (x - before) * crop[above, after]
                lower = (1 - (x - before)) * crop[below, before] + (x - before) * crop[below, after]
                expected = (1 - (y - above)) * upper + (y - above) * lower
                np.testing.assert_allclose(batch[i, :, row, column], expected, rtol=1e-3, atol=1e-3)


def test_an_enlarged_crop_is_torchvisions():
    """It filters where a crop shrinks; where none does, both are the same interpolation, flipped before or after."""
    augmenter, images = resizing(9)
    choices = augmenter.draw(2, 0)
    batch = augmenter.augmented(torch.arange(6), choices)
    resized_crop = import_torchvision().transforms.functional.resized_crop
    assert {0, 1} == set(choices[:, 4].tolist())
    for i, (*window, flip) in enumerate(choices.tolist()):
        pixels = (torch.from_numpy(images[i]).permute(2, 0, 1) / 255 - 0.5) / 0.5
        theirs = resized_crop(pixels, *window, [9, 9], antialias=True)
        torch.testing.assert_close(batch[i], theirs.flip(2) if flip else theirs, **CLOSE)


def test_plain_images_are_resized_whole():
    augmenter, images = resizing(4)
    assert augmenter.plain(torch.arange(6)).shape == (6, 3, 4, 4)
    same, _ = resizing(8)
    expected = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    torch.testing.assert_close(same.plain(torch.arange(6)), expected, **CLOSE)
