"""Random streams with an address.

Every random number of a run comes from a generator named by what it is for and where it is used. Nothing depends on how
many numbers were drawn elsewhere, so a run can stop after any round and go on with the same numbers, and ranks that name
the same address draw the same numbers without a message.
"""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What a stream is for; part of its address."""

    START = 1  # starting rates, one stream per worker
    MOVE = 2  # the moves of a population, one stream per round and population
    SHUFFLE = 3  # the world-wide permutation of a round
    AUGMENT = 4  # crops, flips and cut-outs of a round, one row per training image
    SPLIT = 5  # which training images are held out
    INITIAL = 6  # initial weights
    DROPOUT = 7  # torch's own generator, one stream per round and worker
    SUBSET = 8  # which training images are used where not all are
    SHARD = 9  # which training images are one worker's own for a whole run
    PROBE = 10  # which training images a swarm's places are compared on
    SWARM = 11  # the random factors of a particle's move, one stream per move and worker
    INSIDE_STEP = 12  # what a line search's forward passes draw, one stream per step and worker
    PROPOSE = 13  # the setting of a trial of a search, one stream per trial
    TRIAL = 14  # a trial's own seed, where trials do not share one
    STATISTICS = 15  # which training images batch-norm statistics are measured on, and their augmentation
    IMPORTANCE = 16  # the forest that tells how much each variable of a search matters


def stream(seed: int, purpose: Purpose, t: int = 0, population: int = 0, worker: int = 0) -> np.random.Generator:
    """Generator at one address; `t` is the round. All arguments are non-negative integers."""
    return np.random.default_rng([seed, int(purpose), t, population, worker])


def torch_seed(seed: int, purpose: Purpose, t: int = 0, worker: int = 0) -> int:
    """A 63-bit seed for `torch.manual_seed` at one address."""
    return int(stream(seed, purpose, t, worker=worker).integers(2**63 - 1))


@contextmanager
def drawn_from(seed: int, devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """A block in which the global generators of torch, NumPy and Python draw from `seed`, and after which they go on as if
    nothing had been drawn.

    devices: the CUDA devices that are used inside; others are left alone, the CPU is always among them.
    """
    generators = [torch.default_generator, *(torch.cuda.default_generators[d.index] for d in devices)]
    states = [g.get_state() for g in generators]
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002  (what others' code draws from)
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
