"""Rates of an earlier run: means over its workers, ratios of optimizers, lineages, and what has no rates to replay."""

import json

import pytest

from common.errors import UsageError
from common.training.replay import read_rates

CONFIG = {"learning_rate": 0.1, "adam_rate": 0.05, "momentum_factor": 0.9}


@pytest.fixture
def written(tmp_path):
    """Write a run of (round, population, optimizer, rate), and what lies beside it."""

    def write(lines, config=None, summary=None):
        rows = "".join(f"{t},{rank},{p},{o},{lr}\n" for rank, (t, p, o, lr) in enumerate(lines))
        (tmp_path / "metrics.csv").write_text("round,rank,population,optimizer,lr\n" + rows)
        for name, content in (("config", config), ("summary", summary)):
            (tmp_path / f"{name}.json").write_text(json.dumps(content or {}))
        return tmp_path

    return write


def test_mean_over_the_workers_from_a_folder_or_its_table(written):
    run = written([(0, 0, "sgd", 0.1), (0, 1, "sgd", 0.3), (1, 0, "sgd", 0.1), (1, 1, "sgd", 0.2)])
    for path in (run, run / "metrics.csv"):
        rates, warmed_up = read_rates(path, 2)
        assert rates == pytest.approx([0.2, 0.15])
        assert warmed_up
    assert read_rates(run, 1)[0] == rates, "a shorter run uses the first of them"


def test_rates_of_other_optimizers_in_multiples_of_sgds(written):
    """AdamW's base rate is half of SGD's; a line search along SGD's momentum averages gradients: 1 / (1 - 0.9)."""
    run = written([(0, 0, "adamw", 0.1), (0, 1, "sam+adamw", 0.1), (0, 2, "sgd", 0.5), (0, 3, "salsa-sgd", 3.0)], CONFIG)
    assert read_rates(run, 1)[0] == pytest.approx([(0.2 + 0.2 + 0.5 + 0.3) / 4])


def test_lineage_is_followed_without_a_warm_up(written):
    lines = [(t, p, "sgd", (1 + p) / 10**t) for t in range(3) for p in range(2)]
    run = written(lines, CONFIG, {"lineage": [1, 0]})  # round 2 lost every worker
    assert read_rates(run, 2) == ([2.0, 0.1], False)
    with pytest.raises(UsageError, match=r"rates of 2 rounds, not 3: add --rounds 2"):
        read_rates(run, 3)


@pytest.mark.parametrize(
    ("lines", "config", "said"),
    [
        ([], {}, "holds no rates"),
        ([(0, 0, "sgd", "fast")], {}, "cannot read rates"),
        ([(0, 0, "sgd", 0.1)], {**CONFIG, "base_rate": "forage"}, "takes rounds back"),
    ],
)
def test_what_has_no_rates_is_refused(written, lines, config, said):
    with pytest.raises(UsageError, match=said):
        read_rates(written(lines, config), 1)


def test_no_table_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read rates from .*name the folder, or the metrics.csv"):
        read_rates(tmp_path, 1)
