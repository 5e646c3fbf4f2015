"""The published setting starts, steps, exchanges and finishes on data of CIFAR's shape; slow, because the network is large."""

import generated_data
import pytest
from launching import CIFAR10, CIFAR100
from run_records import run_to_end


@pytest.mark.slow
@pytest.mark.parametrize(("script", "dataset"), [(CIFAR10, "cifar10"), (CIFAR100, "cifar100")])
def test_a_step_of_the_paper_preset_on_two_ranks(tmp_path, script, dataset):
    data = tmp_path / "data"
    generated_data.write_cifar(data, train=2500, test=100)
    options = ("--preset", "paper", "--max-steps", 1, "--accumulate", 8, "--data-dir", data)
    _, record = run_to_end(tmp_path / "run", 1, generated_data.__file__, data, script, *options, ranks=2, limit=1200)
    summary = record.summary
    assert (summary["dataset"], summary["model"]) == (dataset, "WRN-22-8")
    assert summary["parameters"] == {"cifar10": 17_158_106, "cifar100": 17_158_106 + 90 * (512 + 1)}[dataset]
    assert summary["train_images"] == 1024


def test_generated_files_pass_for_cifar(tmp_path):
    """The same run at a smaller size: the cpu preset's network on generated images."""
    generated_data.write_cifar(tmp_path, train=500, test=20)
    options = ("--preset", "cpu", "--batch-size", 16, "--max-steps", 2, "--val-fraction", 0.2, "--data-dir", tmp_path)
    _, record = run_to_end(tmp_path / "run", 1, generated_data.__file__, tmp_path, CIFAR100, *options, ranks=2)
    assert record.summary["dataset"] == "cifar100"
