"""Checkpoints on N ranks: one file per rank; a round is complete only if every rank can read its file."""

import pytest
import torch
from worlds import LAYOUTS, RANK, SIZE, WORLD, build, everyones, numbers

from common.training import checkpoint


def save_rounds(directory, *rounds):
    """Save some rounds, whose tensors and numbers differ between rounds and ranks; returns the world's group."""
    world = build(LAYOUTS[0]).world
    for t in rounds:
        tensors = {"state": numbers(10, t, RANK), "optimizer.momentum_buffer": numbers(8, t, RANK, 1)}
        checkpoint.save(directory, t, world, tensors, {"rate": 0.1 / (RANK + 3), "round": t})
    return world


def check(found, t):
    """What was loaded is exactly what this rank saved after round t."""
    assert found is not None
    assert found[0] == t
    tensors, kept = found[1]
    assert torch.equal(tensors["state"], numbers(10, t, RANK))
    assert torch.equal(tensors["optimizer.momentum_buffer"], numbers(8, t, RANK, 1))
    assert kept == {"rate": 0.1 / (RANK + 3), "round": t}  # numbers come back bit for bit


def spoil(directory, t, rank, damage):
    """Damage one rank's file of round t."""
    WORLD.Barrier()
    if rank == RANK:
        path = directory / f"round-{t:05d}" / f"rank-{rank:05d}.safetensors"
        if damage == "missing":
            path.unlink()
        else:
            content = path.read_bytes()
            path.write_bytes(b"\xff" * len(content) if damage == "overwritten" else content[: int(len(content) * damage)])
    WORLD.Barrier()


def rounds_in(directory):
    """The names in a directory, once all ranks have saved."""
    WORLD.Barrier()
    return sorted(p.name for p in directory.iterdir())


def test_only_the_last_rounds_are_kept_with_one_file_per_rank_and_the_newest_is_loaded(shared_dir):
    world = save_rounds(shared_dir, 0, 1, 2, 3)
    check(checkpoint.load_latest(shared_dir, world), 3)
    assert checkpoint.load_latest(shared_dir / "never", world) is None
    assert rounds_in(shared_dir) == ["round-00002", "round-00003"]
    assert len(rounds_in(shared_dir / "round-00003")) == SIZE


@pytest.mark.parametrize("damage", [0.0, 0.01, 0.5, 0.99, "missing", "overwritten"])
def test_a_damaged_file_on_one_rank_sends_all_ranks_to_the_previous_round(shared_dir, damage):
    world = save_rounds(shared_dir, 4, 5)
    spoil(shared_dir, 5, SIZE - 1, damage)
    check(checkpoint.load_latest(shared_dir, world), 4)
    spoil(shared_dir, 4, 0, 0.5)
    assert everyones(checkpoint.load_latest(shared_dir, world)) == [None] * SIZE, "every round is damaged on some rank"


def test_a_round_that_was_being_saved_is_ignored_and_then_taken_away(shared_dir):
    world = save_rounds(shared_dir, 1)
    WORLD.Barrier()
    if RANK == 0:
        (shared_dir / "round-00002.partial").mkdir()
        (shared_dir / "round-00002.partial" / "rank-00000.tmp").write_bytes(b"half a file")
    WORLD.Barrier()
    check(checkpoint.load_latest(shared_dir, world), 1)
    save_rounds(shared_dir, 2)
    assert rounds_in(shared_dir) == ["round-00001", "round-00002"]


def test_a_round_saved_again_replaces_the_old_one(shared_dir):
    world = save_rounds(shared_dir, 1, 2)
    checkpoint.save(shared_dir, 2, world, {"state": torch.full((3,), float(RANK))}, {})
    found = checkpoint.load_latest(shared_dir, world)
    assert found is not None
    assert found[1][0]["state"].tolist() == [RANK] * 3
