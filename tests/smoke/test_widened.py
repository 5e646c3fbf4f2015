"""Vision Transformers, mixed species and optimizers, a folder of images, and a custom script."""

import difflib
import re

import pytest
from generated_data import write_pictures
from launching import CIFAR10, ROOT, TINY, VIT, check_refused, run
from run_records import run_to_end


def test_a_tiny_vision_transformer_trains_in_parts_at_another_size(tmp_path):
    options = ("--image-size", 16, "--accumulate", 3, "--depth", 1)
    summary = run_to_end(tmp_path / "run", 3, VIT, *TINY, *options, ranks=2)[1].summary
    assert (summary["experiment"], summary["model"]) == ("eoa-vit", "ViT-1-64")
    assert summary["gradient_evaluations"] == summary["train_images"] == 3 * 4 * 48


@pytest.mark.slow
def test_the_reference_behaviour_of_the_vit_script(tmp_path):
    done, record = run_to_end(tmp_path / "run", 3, VIT, *TINY, "--reference", ranks=2)
    config = record.config
    assert "reference behaviour of the vit script" in done.out
    assert (config["base_rate"], config["damping"], config["momentum"], config["scope"]) == ("best", "fixed", "keep", "world")
    assert (config["dropout"], config["flip"], config["precision"], config["label_smoothing"]) == (0.1, False, "float32", 0.0)


def test_a_missing_checkpoint_is_one_line_that_says_where_to_get_it(tmp_path):
    options = ("--model", "vit-b32", "--image-size", 32, "--pretrained", tmp_path / "ViT-B_32.npz")
    done = run(VIT, *TINY, *options, "--out", tmp_path / "run", ranks=2, code=2)
    check_refused(done, "https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_32.npz", tmp_path / "run")


def test_a_folder_of_images_is_a_data_set(tmp_path):
    write_pictures(tmp_path / "pets")
    options = ("--dataset", "imagefolder", "--data-dir", tmp_path / "pets", "--image-size", 16, "--rounds", 6)
    options += ("--batch-size", 6, "--round-steps", 0)
    summary = run_to_end(tmp_path / "run", 6, VIT, *TINY, *options, ranks=2)[1].summary
    assert (summary["dataset"], summary["classes"]) == ("imagefolder", 2)
    assert summary["test_accuracy"] == 1.0  # dark and bright


def test_a_folder_that_does_not_fit_is_refused(tmp_path):
    write_pictures(tmp_path / "pets")
    (tmp_path / "pets/test/dogs").rename(tmp_path / "pets/test/wolves")
    options = ("--dataset", "imagefolder", "--image-size", 16, "--out", tmp_path / "run")
    done = run(VIT, *TINY, *options, "--data-dir", tmp_path / "pets", code=2)
    check_refused(done, "different classes", tmp_path / "run")
    done = run(VIT, *TINY, *options, "--data-dir", tmp_path / "nothing", ranks=2, code=2)
    check_refused(done, "DIR/train/CLASS", tmp_path / "run")


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
    _, record = run_to_end(tmp_path / "run", 30, VIT, "--preset", "smoke", ranks=8, limit=300)
    assert record.summary["test_accuracy"] >= 0.8


@pytest.mark.slow
def test_four_species_and_three_optimizers_learn_the_digits_together(tmp_path):
    options = ("--preset", "smoke", "--populations", "gwo:2:sam,woa:2:adamw,pso:2:sgd,de:2:sam")
    _, record = run_to_end(tmp_path / "run", 12, CIFAR10, *options, ranks=8, limit=300)
    assert record.summary["test_accuracy"] >= 0.9
    adam = [float(m["lr"]) for m in record.metrics if m["optimizer"] == "adamw"]
    assert max(adam) < 0.02, "AdamW's rates are multiples of its own eta0, 0.001"


@pytest.mark.slow
def test_one_step_of_vit_b16_at_224_pixels_fits_into_24_gib(tmp_path):
    write_pictures(tmp_path / "pets", n=8)
    options = ("--model", "vit-b16", "--image-size", 224, "--batch-size", 2, "--max-steps", 1, "--val-fraction", 0.25)
    options += ("--dataset", "imagefolder", "--data-dir", tmp_path / "pets")
    summary = run_to_end(tmp_path / "run", 1, VIT, "--preset", "cpu", *options, ranks=2, limit=600)[1].summary
    assert summary["train_images"] == 2
    assert summary["peak_memory_gib"] <= 24
