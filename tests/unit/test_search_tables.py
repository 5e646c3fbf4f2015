"""The table and the figure of searches, from made-up records whose means can be worked out by hand."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

RESULTS = Path(__file__).parents[2] / "results"
sys.path.insert(0, str(RESULTS))  # a folder of scripts, which find each other there

import make_tables  # noqa: E402
import records as recorded  # noqa: E402
import searches  # noqa: E402
from test_results import add_run  # noqa: E402


def add_search(root, strategy, seed=0, test=0.9, finish=True, **options):
    """Four trials on two ranks, the last of which failed; 0.5, 0.7 and 0.6 in the order of their ends."""
    directory = root / "cpu" / "dhpo" / f"search-{strategy}-seed{seed}-{len(options)}"
    directory.mkdir(parents=True)
    config = {"strategy": strategy, "dataset": "mnist", "seed": seed, "trials": 4, "rounds": 1, "train_images": 5000, "lag": 4}
    config |= {"population": 4, "grid_size": 4, "order": "lag", "space_name": "mnist", "space": {}, **options}
    summary = {"model": "DHPO-CNN-1", "ranks": 2, "workers": 2, "steps": 3, "trial_seconds": 72.0, "commit": "abc1234"}
    summary |= {"validation_accuracy": test + 0.01, "test_accuracy": test}
    summary |= {"trials": {"complete": 3, "pruned": 0, "failed": 1}}
    summary |= {"seconds": {"setup": 1, "search": 40.0 + seed, "winner": 2}, "best": {"setting": {"learning_rate": 0.1}}}
    for name, content in {"config": config, "summary": summary, "environment": {"command": f"python DHPO.py {seed}"}}.items():
        if finish or name != "summary":
            (directory / f"{name}.json").write_text(json.dumps(content))
    trials = {
        "id": range(4),
        "state": ["complete"] * 3 + ["failed"],
        "value": [0.7, 0.5, 0.6, np.nan],
        "end": [2.0, 1.0, 3.0, 4.0],
    }
    pd.DataFrame(trials).to_csv(directory / "trials.csv", index=False)


@pytest.fixture
def root(tmp_path):
    for seed, test in enumerate((0.90, 0.92, 0.97)):
        add_search(tmp_path, "evolution", seed, test)
    add_search(tmp_path, "async-evolution", 0, 0.8)
    add_search(tmp_path, "grid", 1, finish=False)
    return tmp_path


def test_means_and_published_figures_in_a_column_of_their_own(root):
    (group,) = searches.load(root / "cpu")
    table = searches.table(group).set_index("method")
    assert list(table.index) == ["evolution (μ + μ)", "asynchronous evolution"]
    line = table.loc["evolution (μ + μ)"]
    assert (line.n, line["test, %"], line["validation, %"]) == (3, "93.00 ± 3.61", "94.00 ± 3.61")
    assert line["published, other protocol"] == "94.67"
    assert line["complete / pruned / failed"] == "3 / 0 / 1"
    assert line["search, s"] == "41"
    assert table.loc["asynchronous evolution", "published, other protocol"] == "–"


def test_unfinished_searches_are_named(root):
    words = searches.text(root / "cpu")
    assert "Not finished, and not counted: search-grid-seed1-0." in words
    assert "MNIST, DHPO-CNN-1: 4 trials of 1 epoch of 5,000 images, space mnist" in words


def test_searches_of_crops_with_pixels_in_0_to_1_say_so(root):
    assert "Made with pixels" not in searches.text(root / "cpu")
    add_search(root, "tpe", 0, dataset="cifar10", crop=28)
    add_search(root, "random", 0, dataset="digits", crop=28, pixels="normalised")
    words = searches.text(root / "cpu")
    assert words.count("> Made with pixels in [0, 1]") == 1
    assert words.index("CIFAR-10, DHPO") < words.index("> Made with pixels")


def test_other_budgets_are_not_compared_and_own_options_are_named(root):
    add_search(root, "random", 0, trials=8)
    add_search(root, "evolution", 0, 0.5, population=8)
    first, second = searches.load(root / "cpu")
    assert {first.name, second.name} == {"mnist-dhpo-cnn-1", "mnist-dhpo-cnn-1-2"}
    names = [name for _, name, _ in first.methods()]
    assert names[:2] == [f"evolution (μ + μ) (population {p})" for p in (4, 8)]


def test_best_so_far_goes_by_the_ends_of_trials(root):
    trials = searches.load(root / "cpu")[0].runs.trials.iloc[0]
    assert list(searches._best_so_far(trials)) == [0.5, 0.7, 0.7, 0.7]
    (picture,) = searches.pictures(root / "cpu")
    assert picture.name == "search-mnist-dhpo-cnn-1"


def test_searches_are_no_training_runs(root):
    with pytest.raises(FileNotFoundError):
        recorded.load(root, "cpu")
    add_run(root, "eoa-sam/one")
    (root / "smoke" / "dhpo").symlink_to(root / "cpu" / "dhpo")
    records = recorded.load(root, "smoke")
    assert len(records.runs) == 1
    assert "search.md" in [p.name for p in make_tables.write(records, root / "smoke" / "tables")]


def test_as_a_script(root):
    done = subprocess.run([sys.executable, RESULTS / "searches.py", "cpu", "--root", root], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (root / "cpu/tables/search.md").exists()
    assert (root / "cpu/figures/search-mnist-dhpo-cnn-1.png").stat().st_size > 5000
    empty = subprocess.run([sys.executable, RESULTS / "searches.py", "gpu", "--root", root], capture_output=True, text=True)
    assert empty.returncode == 2
    assert "no finished searches" in empty.stderr
