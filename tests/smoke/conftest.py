"""The scripts as subprocesses with tiny arguments. A few runs are made once and looked at by several tests."""

import pytest
from launching import CIFAR10, TINY
from run_records import run_to_end


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory):
    """`tiny_runs(launcher, ranks, seed)`: the record of three rounds of EOASAM.py with its defaults, run at the first call."""
    made = {}

    def record(launcher: str, ranks: int, seed: int = 0):
        key = (launcher, ranks, seed)
        if key not in made:
            out = tmp_path_factory.mktemp("tiny") / "-".join(map(str, key))
            _, made[key] = run_to_end(out, 3, CIFAR10, *TINY, "--seed", seed, ranks=ranks, launcher=launcher)
        return made[key]

    return record
