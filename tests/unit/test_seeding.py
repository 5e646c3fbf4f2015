"""Random streams: one address, one sequence; every part of the address matters, large seeds included."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from common.seeding import Purpose, stream, torch_seed

SEEDS = st.one_of(st.integers(0, 9), st.integers(0, 2**80))
ADDRESS = st.tuples(SEEDS, st.sampled_from(Purpose), st.integers(0, 9), st.integers(0, 3), st.integers(0, 3))


@given(ADDRESS, ADDRESS)
def test_equal_addresses_name_one_sequence_and_others_another(one, other):
    assert stream(*one).random(2).tolist() == stream(*one).random(2).tolist()
    assert (stream(*one).random(2).tolist() == stream(*other).random(2).tolist()) == (one == other)


def test_the_parts_of_an_address_are_not_interchangeable():
    first = {
        stream(seed, purpose, t, population, worker).random()
        for seed, purpose, t, population, worker in itertools.product(range(3), Purpose, range(3), range(3), range(3))
    }
    assert len(first) == 3 * len(Purpose) * 27


@given(SEEDS, st.integers(0, 99), st.integers(0, 99))
def test_torch_seeds_fit_its_generator_and_differ_between_rounds_and_workers(seed, t, worker):
    here = torch_seed(seed, Purpose.DROPOUT, t, worker)
    assert 0 <= here < 2**63
    assert here == torch_seed(seed, Purpose.DROPOUT, t, worker)
    assert len({here, torch_seed(seed, Purpose.DROPOUT, t + 1, worker), torch_seed(seed, Purpose.DROPOUT, t, worker + 1)}) == 3
