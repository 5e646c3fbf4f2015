"""Records of runs are complete (`check_complete` has already checked every one), correct, and determined by the seed."""

import pytest
import torch
from safetensors.torch import load_file

from common.models import build_model
from common.models.flat import FlatModel


@pytest.mark.parametrize(("launcher", "ranks"), [("horovodrun", 3), ("mpirun", 8)])
def test_two_species_move_rates_that_differ_between_workers_and_rounds(tiny_runs, launcher, ranks):
    record = tiny_runs(launcher, ranks)
    assert [p["species"] for p in record.summary["populations"]] == ["gwo", "woa"]
    assert {m["species"] for m in record.metrics} == {"gwo", "woa"}
    assert all(len(set(record.column("lr", round=t))) == ranks for t in range(3))
    assert all(len(set(record.column("lr", rank=r))) == 3 for r in range(ranks))
    assert record.summary["bytes_sent"]["across"] > 0


def test_one_rank_moves_no_rate_and_sends_nothing(tiny_runs):
    record = tiny_runs("python", 1)
    assert record.summary["bytes_sent"] == {"inside": 0, "across": 0}
    # One worker follows the base rate: b = (x + k eta0 (1 + cos(pi t/T))/2) / 2 with k = 48 / 128 and eta0 = 0.1.
    k_eta0 = 0.1 * 48 / 128
    first = k_eta0
    second = (first + k_eta0) / 2
    third = (second + k_eta0 * 0.75) / 2
    assert record.column("lr") == pytest.approx([first, second, third], rel=1e-6)


@pytest.mark.parametrize(("launcher", "ranks"), [("python", 1), ("horovodrun", 3), ("mpirun", 8)])
def test_images_and_gradients_are_counted_over_all_ranks_and_the_environment_is_named(tiny_runs, launcher, ranks):
    record = tiny_runs(launcher, ranks)
    summary, environment = record.summary, record.environment
    assert summary["train_images"] == 3 * 4 * 48
    assert summary["gradient_evaluations"] == 2 * summary["train_images"]  # SAM differentiates twice
    assert (summary["experiment"], summary["dataset"]) == ("eoa-sam", "digits")
    assert (environment["launcher"], environment["ranks"]) == (launcher, ranks)
    assert environment["all_reduce"] in (("none",) if ranks == 1 else ("horovod", "mpi"))
    assert environment["versions"]["torch"] == torch.__version__


def test_the_weights_load_into_the_plain_network_and_are_those_of_the_hash(tiny_runs):
    record = tiny_runs("mpirun", 8)
    config = record.config
    module = build_model(config["model"], 1, 10, config["depth"], config["width"])
    module.load_state_dict(load_file(record.directory / "weights.safetensors"))
    assert FlatModel(module).sha256() == record.hash
    assert module(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("launcher", "ranks"),
    [("mpirun", 1), ("horovodrun", 1), pytest.param("horovodrun", 3, marks=pytest.mark.slow), ("horovodrun", 8)],
)
def test_the_same_seed_gives_the_same_weights_and_metrics_under_another_launcher(tiny_runs, launcher, ranks):
    tiny_runs(launcher, ranks).check_equals(tiny_runs("python" if ranks == 1 else "mpirun", ranks))


@pytest.mark.parametrize(("launcher", "ranks"), [("python", 1), ("mpirun", 3)])
def test_another_seed_gives_other_weights(tiny_runs, launcher, ranks):
    assert tiny_runs(launcher, ranks).hash != tiny_runs(launcher, ranks, seed=1).hash
