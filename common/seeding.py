"""Addressed random streams.

Every random number of a run comes from a generator seeded by its address: purpose, round, population and worker. No draw
depends on how many numbers were drawn elsewhere: a run resumes after any round with the same numbers, and ranks draw the same
numbers at the same address without communication.
"""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """Purpose of a stream; part of its address."""

    START = 1  # starting rates, one stream per worker
    MOVE = 2  # the moves of a population, one stream per round and population
    SHUFFLE = 3  # the world-wide permutation of a round
    AUGMENT = 4  # crops, flips and cut-outs of a round, one row per training image
    SPLIT = 5  # training images that are held out
    INITIAL = 6  # initial weights
    DROPOUT = 7  # torch's own generator, one stream per round and worker
    SUBSET = 8  # subset of the training images
    SHARD = 9  # shards of the training images, one per worker for a whole run
    PROBE = 10  # training images on which the positions of a swarm are compared
    SWARM = 11  # random factors of a particle's move, one stream per move and worker
    INSIDE_STEP = 12  # forward passes of a line search, one stream per step and worker
    PROPOSE = 13  # configuration of a trial of a search, one stream per trial
    TRIAL = 14  # seed of a trial, where trials do not share one
    STATISTICS = 15  # training images for batch-norm statistics, and their augmentation
    IMPORTANCE = 16  # random forest for the importance of a search's variables


def stream(seed: int, purpose: Purpose, t: int = 0, population: int = 0, worker: int = 0) -> np.random.Generator:
    """Generator at one address; `t` is the round. All arguments are non-negative integers."""
    return np.random.default_rng([seed, int(purpose), t, population, worker])


def torch_seed(seed: int, purpose: Purpose, t: int = 0, worker: int = 0) -> int:
    """A 63-bit seed for `torch.manual_seed` at one address."""
    return int(stream(seed, purpose, t, worker=worker).integers(2**63 - 1))


@contextmanager
def drawn_from(seed: int, devices: Iterable[torch.device]) -> Iterator[None]:
    """Block in which the global generators of torch, NumPy and Python are seeded with `seed`; restored at its end.

    devices: those used in the block; the generator of the CPU is always seeded.
    """
    generators = [torch.default_generator, *(torch.cuda.default_generators[d.index] for d in devices if d.type == "cuda")]
    states = [g.get_state() for g in generators]
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002  (used by third-party code)
    for generator in generators:
        generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
