"""The validation split: disjoint, complete, stratified, a function of the seed alone; and the embedded digits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.dataset import open_data, split
from common.data.options import DataOptions
from common.data.registry import SOURCES
from common.errors import UsageError


@st.composite
def label_sets(draw):
    """Classes of similar but unequal sizes, shuffled."""
    sizes = draw(st.lists(st.integers(20, 40), min_size=2, max_size=8))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(labels)


fractions = st.floats(0.1, 0.9)
seeds = st.integers(0, 999) | st.sampled_from([2**32 - 1, 2**32, 10**12])


@settings(max_examples=40)
@given(label_sets(), fractions, st.integers(0, 100), seeds)
def test_a_split_is_disjoint_complete_and_stratified(labels, fraction, fitness_images, seed):
    kept, held_out, judged = split(labels, fraction, fitness_images, seed, "test")
    assert sorted([*kept, *held_out]) == list(range(len(labels)))
    assert len(held_out) == round(fraction * len(labels))
    assert set(judged) <= set(held_out)
    assert len(set(judged)) == len(judged)
    for part, whole in ((held_out, np.arange(len(labels))), (judged, held_out)):
        for label in np.unique(labels):
            share = len(part) * np.mean(labels[whole] == label)
            assert abs(np.sum(labels[part] == label) - share) <= 1


@settings(max_examples=20)
@given(label_sets(), fractions, seeds)
def test_a_split_depends_on_the_seed_alone(labels, fraction, seed):
    np.random.seed(1)  # noqa: NPY002  (numpy's global state must not matter)
    first = split(labels, fraction, 20, seed, "test")
    np.random.seed(2)  # noqa: NPY002
    for one, other in zip(first, split(labels, fraction, 20, seed, "test"), strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(first[0], split(labels, fraction, 20, seed + 1, "test")[0])


def test_fitness_images_are_at_most_what_was_asked_for_or_all():
    labels = np.repeat(np.arange(10), 100)
    for asked, expected in ((0, 200), (50, 50), (10, 10), (3, 10), (200, 200), (5000, 200)):  # at least one a class
        _, held_out, judged = split(labels, 0.2, asked, 0, "test")
        assert (len(held_out), len(judged)) == (200, expected)


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5, -0.1, 0.005, 0.995, float("nan")])
def test_a_fraction_that_leaves_a_part_without_a_class_is_refused_with_the_numbers(fraction):
    with pytest.raises(UsageError) as refusal:
        split(np.repeat(np.arange(10), 100), fraction, 0, 0, "Test-Set")
    message = str(refusal.value)
    for part in ("--val-fraction", f"{fraction:g}", "Test-Set", "1000", "10 classes", "0.0100", "0.9900"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("fitness_images", [0, 5])
@pytest.mark.parametrize("rare", [1, 3, 10, 20])
def test_a_rare_class_is_in_both_parts_or_the_split_is_refused(rare, fitness_images):
    labels = np.repeat([0, 1, 2], [100, 100, rare])
    try:
        kept, held_out, judged = split(labels, 0.1, fitness_images, 0, "test")
    except UsageError:
        assert rare < 10
        return
    assert set(labels[kept]) == set(labels[held_out]) == {0, 1, 2}
    assert len(judged) >= fitness_images


def test_the_digits_are_all_there_once_and_the_test_part_does_not_depend_on_the_seed(alone):
    from sklearn.datasets import load_digits

    digits = load_digits()
    one, other = (open_data(DataOptions(dataset="digits", fitness_images=50), alone, seed) for seed in (0, 1))
    assert len(one.test) == 360  # 20 % of 1797
    assert len(one.train) + len(one.validation) + len(one.test) == 1797
    found = [row for part in (one.train, one.validation, one.test) for row in part.augmenter.images.flatten(1).tolist()]
    assert sorted(found) == sorted(np.round(digits.data * 255 / 16).tolist())
    assert np.array_equal(one.test.augmenter.images, other.test.augmenter.images)
    assert not np.array_equal(one.validation.labels, other.validation.labels)
    assert len(one.fitness) == 50
    pixels = one.train.augmenter.images.float() / 255
    assert one.source.mean[0] == pytest.approx(pixels.mean().item(), abs=2e-3)  # rounded constants of all training images
    assert one.source.std[0] == pytest.approx(pixels.std().item(), abs=2e-3)


@pytest.mark.parametrize("sizes", [{}, {"image_size": 6}, {"crop": 6}], ids=["as they are", "resized", "cropped"])
def test_images_are_mirrored_where_the_data_set_allows_it_and_flips_are_wanted(sizes, alone, monkeypatch):
    def mirrored(flip):
        train = open_data(DataOptions(dataset="digits", **sizes, flip=flip), alone, 0).train
        column = 2 if train.draw(0, 0).shape[1] != 5 else 4
        return set(train.draw(0, 0)[:, column].tolist())

    assert mirrored(True) == {0}  # of digits never
    monkeypatch.setitem(SOURCES, "digits", replace(SOURCES["digits"], flip=True))
    assert mirrored(True) == {0, 1}
    assert mirrored(False) == {0}
