"""Vision Transformers, mixed species and optimizers, a folder of images, and a custom script."""

import difflib
import re

import numpy as np
import pytest
from launching import CIFAR10, ROOT, TINY, VIT, run
from PIL import Image
from run_records import check_complete


def test_a_tiny_vision_transformer_trains_in_parts_at_another_size(tmp_path):
    options = ("--image-size", 16, "--accumulate", 3, "--depth", 1)
    run(VIT, *TINY, *options, "--out", tmp_path / "run", ranks=2)
    summary = check_complete(tmp_path / "run", 3, 2).summary
    assert (summary["experiment"], summary["model"]) == ("eoa-vit", "ViT-1-64")
    assert summary["gradient_evaluations"] == summary["train_images"] == 3 * 4 * 48


@pytest.mark.slow
def test_the_reference_behaviour_of_the_vit_script(tmp_path):
    done = run(VIT, *TINY, "--reference", "--out", tmp_path / "run", ranks=2)
    config = check_complete(tmp_path / "run", 3, 2).config
    assert "reference behaviour of the vit script" in done.out
    assert (config["base_rate"], config["damping"], config["momentum"], config["scope"]) == ("best", "fixed", "keep", "world")
    assert (config["dropout"], config["flip"], config["precision"], config["label_smoothing"]) == (0.1, False, "float32", 0.0)


def test_a_missing_checkpoint_is_one_line_that_says_where_to_get_it(tmp_path):
    options = ("--model", "vit-b32", "--image-size", 32, "--pretrained", tmp_path / "ViT-B_32.npz")
    done = run(VIT, *TINY, *options, "--out", tmp_path / "run", ranks=2, code=2)
    (line,) = done.ours
    assert "https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_32.npz" in line
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


def write_folder(where, classes=("cats", "dogs"), n=20, sides=((20, 30), (40, 20))):
    """Noisy images of two brightnesses, of several sizes."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for k, name in enumerate(classes):
            folder = where / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 128, (*sides[i % 2], 3)) + 127 * k
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


def test_a_folder_of_images_is_a_data_set(tmp_path):
    write_folder(tmp_path / "pets")
    options = ("--dataset", "imagefolder", "--data-dir", tmp_path / "pets", "--image-size", 16, "--rounds", 6)
    run(VIT, *TINY, *options, "--batch-size", 6, "--round-steps", 0, "--out", tmp_path / "run", ranks=2)
    summary = check_complete(tmp_path / "run", 6, 2).summary
    assert (summary["dataset"], summary["classes"]) == ("imagefolder", 2)
    assert summary["test_accuracy"] == 1.0  # dark and bright


def test_a_folder_that_does_not_fit_is_refused(tmp_path):
    write_folder(tmp_path / "pets")
    (tmp_path / "pets/test/dogs").rename(tmp_path / "pets/test/wolves")
    options = ("--dataset", "imagefolder", "--image-size", 16, "--out", tmp_path / "run")
    (line,) = run(VIT, *TINY, *options, "--data-dir", tmp_path / "pets", code=2).ours
    assert "different classes" in line
    (line,) = run(VIT, *TINY, *options, "--data-dir", tmp_path / "nothing", ranks=2, code=2).ours
    assert "DIR/train/CLASS" in line


def test_the_example_becomes_a_member_in_at_most_fifteen_lines():
    before, after = ((ROOT / f"examples/{name}.py").read_text().splitlines() for name in ("digits", "digits_ecosphere"))
    changed = [line for line in difflib.unified_diff(before, after, lineterm="", n=0) if re.match(r"\+(?!\+\+)", line)]
    assert 0 < len(changed) <= 15, "\n".join(changed)


@pytest.mark.parametrize(
    ("name", "ranks"), [("digits", 1), pytest.param("digits_ecosphere", 1, marks=pytest.mark.slow), ("digits_ecosphere", 4)]
)
def test_the_example_learns_the_digits_before_and_after(name, ranks):
    done = run(f"examples/{name}.py", ranks=ranks)
    (accuracy,) = re.findall(r"test accuracy ([\d.]+)", done.out)
    assert float(accuracy) >= 0.9


@pytest.mark.slow
def test_the_vit_smoke_preset_learns_the_digits(tmp_path):
    run(VIT, "--preset", "smoke", "--out", tmp_path / "run", ranks=8, limit=300)
    assert check_complete(tmp_path / "run", 30, 8).summary["test_accuracy"] >= 0.8


@pytest.mark.slow
def test_four_species_and_three_optimizers_learn_the_digits_together(tmp_path):
    populations = "gwo:2:sam,woa:2:adamw,pso:2:sgd,de:2:sam"
    run(CIFAR10, "--preset", "smoke", "--populations", populations, "--out", tmp_path / "run", ranks=8, limit=300)
    record = check_complete(tmp_path / "run", 12, 8)
    assert record.summary["test_accuracy"] >= 0.9
    adam = [float(m["lr"]) for m in record.metrics if m["optimizer"] == "adamw"]
    assert max(adam) < 0.02, "AdamW's rates are multiples of its own eta0, 0.001"


@pytest.mark.slow
def test_one_step_of_vit_b16_at_224_pixels_fits_into_24_gib(tmp_path):
    write_folder(tmp_path / "pets", n=8)
    options = ("--model", "vit-b16", "--image-size", 224, "--batch-size", 2, "--max-steps", 1, "--val-fraction", 0.25)
    options += ("--dataset", "imagefolder", "--data-dir", tmp_path / "pets")
    run(VIT, "--preset", "cpu", *options, "--out", tmp_path / "run", ranks=2, limit=600)
    summary = check_complete(tmp_path / "run", 1, 2).summary
    assert summary["train_images"] == 2
    assert summary["peak_memory_gib"] <= 24
