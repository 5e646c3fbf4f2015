"""Checkpoints of a whole run at round boundaries.

    OUT/checkpoints/round-00003/rank-00000.safetensors ...

Every rank writes its own file (temporary name, fsync, rename) into a folder named `.partial`; when all are written, rank 0
renames the folder. A run killed at any moment leaves the previous rounds loadable; the last `KEEP` are kept.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.parallel.comm import Group

KEEP = 2

State = tuple[dict[str, Tensor], dict[str, Any]]


def save(directory: Path, t: int, world: Group, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Save every rank's state after round t. Collective over the world.

    tensors, numbers: state of this rank; numbers must be JSON-serialisable.
    """
    final = directory / f"round-{t:05d}"
    partial = final.with_suffix(".partial")
    if world.rank == 0:
        for leftover in directory.glob("*.partial"):
            shutil.rmtree(leftover)
        partial.mkdir(parents=True)
    world.barrier()
    _write(partial / _name(world.rank), tensors, numbers)
    world.barrier()
    if world.rank == 0:
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
        for old in _complete(directory)[KEEP:]:
            shutil.rmtree(old)


def save_own(directory: Path, t: int, rank: int, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Save one rank's state after its own round t; not collective. `load_latest` skips incomplete rounds."""
    folder = directory / f"round-{t:05d}"
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / _name(rank), tensors, numbers)


def forget(directory: Path, ranks: int) -> None:
    """Remove all rounds older than the newest `KEEP` rounds that every rank has saved. Called by one rank."""
    whole = [folder for folder in _complete(directory) if len(list(folder.glob("rank-*.safetensors"))) == ranks]
    if len(whole) >= KEEP:
        for folder in (f for f in _complete(directory) if f.name < whole[KEEP - 1].name):
            shutil.rmtree(folder)


def load_latest(directory: Path, world: Group) -> tuple[int, State] | None:
    """The newest round that every rank can read, and this rank's state after it; None if there is none. Collective."""
    for folder in world.bcast_object(_complete(directory)):
        state = _read(folder / _name(world.rank))
        if all(world.comm.allgather(state is not None)):
            assert state is not None
            return int(folder.name.removeprefix("round-")), state
    return None


def forget_from(directory: Path, t: int) -> None:
    """Remove round t and all later ones, saved by some ranks only and now run again. Called by one rank."""
    for folder in _complete(directory):
        if int(folder.name.removeprefix("round-")) >= t:
            shutil.rmtree(folder)


def _name(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def _complete(directory: Path) -> list[Path]:
    """Folders of complete rounds, newest first."""
    return sorted((p for p in directory.glob("round-*") if p.suffix != ".partial"), reverse=True)


def _write(path: Path, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, temporary, {"numbers": json.dumps(numbers)})
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _read(path: Path) -> State | None:
    """One rank's state, None if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            return tensors, json.loads(file.metadata()["numbers"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
