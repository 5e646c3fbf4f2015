"""Text: disjoint splits, windows that cover the text, labels that follow inputs; the model sees the past alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.data.dataset import open_data
from common.data.options import DataOptions
from common.data.texts import ALPHABET, WINDOW, divide, encode, load_topics, windows, without_repetitions
from common.errors import UsageError
from common.models import build_model
from common.options import check
from common.training.options import PRESETS, TEXT_SIZES, CommonArgs, parse_args

words = st.text(st.sampled_from("ab \n"), max_size=400)


def paragraphs(text):
    """Runs of lines that are not blank, as lists of words."""
    found = [[]]
    for line in text.split("\n"):
        if line.split():
            found[-1] += line.split()
        else:
            found.append([])
    return [tuple(p) for p in found if p]


@given(st.dictionaries(st.text(max_size=5), words, max_size=6))
def test_a_paragraph_is_kept_once_whatever_its_layout(topics):
    kept = [p for text in without_repetitions(topics) for p in paragraphs(text)]
    assert len(set(kept)) == len(kept)
    assert set(kept) == {p for text in topics.values() for p in paragraphs(text)}


def test_topics_that_contain_others_lose_what_was_there_before():
    kept = without_repetitions({"b": "second\n\n  first\n  part\n\nthird", "a": "first part\n\nown"})
    assert kept == ["first part\n\nown", "second\n\nthird"]
    assert without_repetitions({"a": "x\n\nx", "b": "x"}) == ["x"]


@given(st.lists(st.text(st.characters(max_codepoint=300), min_size=1, max_size=200), min_size=1, max_size=5))
def test_the_test_part_is_the_end_of_every_topic(topics):
    train, test = divide(topics)
    firsts, lasts = train.split("\n\n"), test.split("\n\n")
    assert len(train) + len(test) == sum(map(len, topics)) + 4 * (len(topics) - 1)
    if not any("\n\n" in topic for topic in topics) and len(firsts) == len(lasts) == len(topics):
        assert [a + b for a, b in zip(firsts, lasts, strict=True)] == topics


@given(st.text(min_size=1, max_size=50))
def test_characters_have_numbers_and_strangers_share_one(text):
    numbers = encode(text)
    assert len(numbers) == len(text)
    for character, number in zip(text, numbers, strict=True):
        assert (ALPHABET[number] == character) if character in ALPHABET else number == len(ALPHABET)


@given(st.integers(WINDOW + 1, 5 * WINDOW + 3), st.integers(0, 99))
def test_windows_cover_the_stream_and_labels_are_what_follows(length, seed):
    stream = np.random.default_rng(seed).integers(0, 97, length).astype(np.uint8)
    split = windows(stream)
    n = (length - 1) // WINDOW
    assert split.images.shape == split.labels.shape == (n, WINDOW)
    assert np.array_equal(split.images.ravel(), stream[: n * WINDOW])
    assert np.array_equal(split.labels.ravel(), stream[1 : n * WINDOW + 1])


def test_the_reference_of_this_python_is_a_data_set(alone):
    source, train, test = load_topics()
    assert source.classes == len(ALPHABET) + 1 == 97
    assert len(source.digest) == 64
    data = open_data(DataOptions(dataset="topics", fitness_images=40), alone, 0)
    assert len(data.train) + len(data.validation) == len(train) > 1000
    assert (len(data.test), len(data.fitness)) == (len(test), 40)
    assert data.test.labels.max() < 97
    # Held out evenly: a tenth of the text is not much more in the validation part than another.
    held = {tuple(row) for row in data.validation.labels.numpy()}
    places = [i for i, row in enumerate(train.labels) if tuple(row) in held]
    counts = np.histogram(places, 10, (0, len(train)))[0]
    assert counts.max() - counts.min() <= 2
    seen = {tuple(row) for row in train.labels}
    assert not any(tuple(row) in seen for row in test.labels), "no window of the test part was trained on"


@pytest.mark.parametrize("length", [1, 5, 12])
def test_the_transformer_sees_the_past_alone(length):
    model = build_model("transformer", 0, 97, depth=2, width=2, image_size=12).eval()
    x = torch.randint(97, (3, length), generator=torch.Generator().manual_seed(0))
    logits = model(x)
    assert logits.shape == (3, length, 97)
    for place in range(length):
        changed = x.clone()
        changed[:, place] = (changed[:, place] + 1) % 97
        moved = (model(changed) - logits).abs().amax((0, 2)) > 1e-6
        assert not moved[:place].any()
        assert moved[place]


def test_its_initial_weights_depend_on_the_seed_alone_and_differ_between_blocks():
    one, same, other = (build_model("transformer", 0, 97, 2, 1, seed=s, image_size=8).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    assert not torch.equal(one["blocks.0.linear1.weight"], one["blocks.1.linear1.weight"])
    assert "mask" not in one
    with pytest.raises(UsageError, match="depth and a width of at least 1, not 0 and 2"):
        build_model("transformer", 0, 97, 0, 2)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_text_implies_the_transformer_at_the_presets_size_unless_one_is_named(preset):
    presets = {name: CommonArgs(preset=name, model="easgd-cnn", crop=28) for name in PRESETS}
    args, given_names = parse_args(presets, "a test", ["--preset", preset, "--dataset", "topics", "--depth", "3"])
    assert args.crop == 0, "a script's own crop is for images"
    assert (args.model, args.depth, args.width) == ("transformer", 3, TEXT_SIZES[preset]["width"])
    assert given_names == {"preset", "dataset", "depth"}
    check(args)


@pytest.mark.parametrize(("dataset", "model"), [("topics", "cnn"), ("digits", "transformer"), ("imagefolder", "transformer")])
def test_texts_and_networks_for_images_do_not_go_together(dataset, model):
    with pytest.raises(UsageError, match=f"--dataset {dataset} is .*, --model {model}"):
        check(CommonArgs(dataset=dataset, model=model, image_size=8 if dataset == "imagefolder" else 0))


def test_images_are_cropped_and_resized_and_texts_are_not():
    for sizes in ({"image_size": 8}, {"crop": 8}):
        with pytest.raises(UsageError, match="topics is text"):
            check(DataOptions(dataset="topics", **sizes))
