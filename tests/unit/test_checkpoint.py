"""Checkpoints: what goes in comes out; a damaged or unfinished round is passed over for the one before it."""

import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.training import checkpoint


def tensors(t):
    return {"state": torch.arange(5.0) + t, "optimizer.momentum_buffer": torch.full((2, 3), math.pi * t)}


def numbers(t):
    return {"rate": 0.1 / (t + 1), "final_population": 1, "totals": {"seconds": {"train": 1 / 3}, "train_images": 10**12}}


def save(directory, one, *rounds):
    for t in rounds:
        checkpoint.save(directory, t, one, tensors(t), numbers(t))


def assert_loads(directory, one, t):
    found, (read, said) = checkpoint.load_latest(directory, one)
    assert (found, said) == (t, numbers(t))
    assert read.keys() == tensors(t).keys()
    assert all(torch.equal(value, tensors(t)[name]) for name, value in read.items())


def file_of(directory, t):
    return directory / f"round-{t:05d}" / "rank-00000.safetensors"


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


def test_the_newest_round_comes_back_bit_for_bit_and_only_the_last_ones_are_kept(tmp_path, one):
    save(tmp_path, one, *range(5))
    assert_loads(tmp_path, one, 4)
    assert names_in(tmp_path) == [f"round-{t:05d}" for t in range(5 - checkpoint.KEEP, 5)]


def test_numbers_round_trip_with_every_digit(tmp_path, one):
    said = {"rate": 0.1 + 0.2, "best": -math.inf, "none": None, "rows": [1e-300, 5e-324]}
    checkpoint.save(tmp_path, 0, one, {"x": torch.tensor([math.nan, -0.0])}, said)
    _, (read, back) = checkpoint.load_latest(tmp_path, one)
    assert back == said
    assert math.isnan(read["x"][0])
    assert math.copysign(1, read["x"][1]) == -1


def test_tensors_are_saved_as_they_were_at_the_call(tmp_path, one):
    state = torch.arange(4.0)
    checkpoint.save(tmp_path, 0, one, {"every other": state[::2], "transposed": torch.eye(2, 3).t()}, {})
    state.zero_()
    _, (read, _) = checkpoint.load_latest(tmp_path, one)
    assert read["every other"].tolist() == [0, 2]
    assert torch.equal(read["transposed"], torch.eye(3, 2))


def test_without_a_whole_checkpoint_there_is_nothing_to_load(tmp_path, one):
    assert checkpoint.load_latest(tmp_path / "absent", one) is None
    assert checkpoint.load_latest(tmp_path, one) is None
    save(tmp_path, one, 0, 1)
    for t in (0, 1):
        file_of(tmp_path, t).write_bytes(b"")
    assert checkpoint.load_latest(tmp_path, one) is None


def test_a_round_that_is_run_again_replaces_its_checkpoint(tmp_path, one):
    checkpoint.save(tmp_path, 3, one, tensors(9), numbers(9))
    save(tmp_path, one, 3)
    assert_loads(tmp_path, one, 3)


def test_a_file_that_is_missing_cut_off_at_any_byte_or_of_another_program_is_passed_over_for_the_round_before(tmp_path, one):
    save(tmp_path, one, 0, 1)
    path = file_of(tmp_path, 1)
    whole = path.read_bytes()
    others = [safetensors.torch.save(tensors(1), m) for m in (None, {"format": "pt"}, {"numbers": "{not json"})]
    for content in [*(whole[:length] for length in range(len(whole))), *others]:
        path.write_bytes(content)
        assert_loads(tmp_path, one, 0)
    path.unlink()
    assert_loads(tmp_path, one, 0)
    path.write_bytes(whole)
    assert_loads(tmp_path, one, 1)


@settings(max_examples=40)
@given(st.binary(max_size=300))
def test_a_file_of_anything_is_passed_over(tmp_path, one, content):
    save(tmp_path, one, 0, 1)
    file_of(tmp_path, 1).write_bytes(content)
    assert_loads(tmp_path, one, 0)


@pytest.mark.parametrize("before", ["the folder", "the file", "the rename"])
def test_a_save_that_died_at_any_moment_leaves_the_previous_round(tmp_path, one, monkeypatch, before):
    save(tmp_path, one, 0)
    real = checkpoint.os.replace

    def dies(source, target):
        if before == "the file" or Path(target).name.startswith("round"):
            raise KeyboardInterrupt
        real(source, target)

    if before == "the folder":
        (tmp_path / "round-00001.partial").mkdir()
    else:
        monkeypatch.setattr(checkpoint.os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, one, 1)
        monkeypatch.undo()
    assert (tmp_path / "round-00001.partial").exists()
    assert_loads(tmp_path, one, 0)
    save(tmp_path, one, 1)  # and the leftovers do not stand in the way
    assert_loads(tmp_path, one, 1)
    assert not list(tmp_path.glob("*.partial"))


def test_rounds_that_single_ranks_save_are_kept_until_two_newer_ones_are_whole(tmp_path, one):
    for rank, rounds in ((0, range(5)), (1, range(4))):
        for t in rounds:
            checkpoint.save_own(tmp_path, t, rank, tensors(t), numbers(t))
    checkpoint.forget(tmp_path, 2)
    assert names_in(tmp_path) == ["round-00002", "round-00003", "round-00004"]
    checkpoint.forget_from(tmp_path, 4)
    assert names_in(tmp_path) == ["round-00002", "round-00003"]
    assert_loads(tmp_path, one, 3)
