"""Output of a search: importance, trials.csv, the command of the best setting, figures; options that may change on resuming."""

import csv
import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_cli import load_script

from common.errors import UsageError
from common.models import without
from common.optim.options import without_effect
from common.search.figures import write_figures
from common.search.importance import importance
from common.search.objective import Trials
from common.search.report import COLUMNS, check_same_search, command_of, totals, write_trials
from common.search.search import Limits, Search
from common.search.simulation import play
from common.search.space import Space
from common.search.steady_state import FREE, Steady
from common.search.tpe import study_of
from common.search.trial import State, Trial
from common.training.options import SIZES, CommonArgs, parse_args

ROOT = Path(__file__).parents[2]
UNIT = {"kind": "float", "low": 0.0, "high": 1.0}
LINEAR = Space.of({"x1": UNIT, "x2": UNIT, "x3": UNIT})
CHOICE = {"kind": "categorical", "choices": ["a", "b"]}
TREE = Space.of({"c": CHOICE, "x": {**UNIT, "when": {"c": "a"}}, "y": UNIT})


def drawn(space, n, value, seed=0):
    rng = np.random.default_rng(seed)
    settings = [space.draw(rng) for _ in range(n)]
    return [Trial(i, s, state=State.COMPLETE, value=value(s), curve=[value(s)]) for i, s in enumerate(settings)]


class TestImportance:
    def test_shares_of_a_linear_function(self):
        """y = 10 x1 + x2 + 0 x3: 100/101, 1/101 and 0 in the limit of many trials."""
        shares = importance(LINEAR, drawn(LINEAR, 100, lambda s: 10 * s["x1"] + s["x2"]))
        assert shares["x1"] > shares["x2"] > shares["x3"]
        assert shares["x1"] == pytest.approx(100 / 101, abs=0.03)
        assert shares["x2"] == pytest.approx(1 / 101, abs=0.02)
        assert shares["x3"] < 0.01
        assert sum(shares.values()) == pytest.approx(1)

    @pytest.mark.parametrize("seed", [2**32, 2**63 - 1, 10**22])
    def test_any_seed_of_a_search_will_do_for_its_forest(self, seed):
        """scikit-learn takes 32 bits."""
        shares = importance(LINEAR, drawn(LINEAR, 40, lambda s: 10 * s["x1"] + s["x2"]), seed)
        assert shares["x1"] > 0.8

    def test_few_trials_are_refused_and_failures_do_not_count(self):
        trials = drawn(LINEAR, 10, lambda s: s["x1"])
        assert importance(LINEAR, trials) is not None
        trials[0].state = State.FAILED
        assert importance(LINEAR, trials) is None
        wide = Space.of({f"x{k}": UNIT for k in range(6)})
        assert importance(wide, drawn(wide, 11, lambda s: s["x1"])) is None

    def test_not_to_exist_is_a_level_of_its_own(self):
        """c = b costs 1, whatever else: x, which exists where c = a, tells as much about that as c does."""
        shares = importance(TREE, drawn(TREE, 100, lambda s: float(s["c"] == "a")))
        assert shares["c"] + shares["x"] > 0.95 > shares["c"] > 0.2
        assert shares["x"] > 0.2
        assert shares["y"] < 0.05

    def test_a_variable_that_does_not_always_exist_has_its_share(self):
        shares = importance(TREE, drawn(TREE, 100, lambda s: s["y"] + 3 * s.get("x", 0.5)))
        assert shares["x"] > shares["y"] > shares["c"]
        assert importance(TREE, drawn(TREE, 100, lambda s: s["y"]))["y"] > 0.9

    def test_numbers_count_on_their_scale(self):
        """y = log10(rate) + 2 u has shares 1/5 and 4/5 on a logarithmic scale; plain numbers would crowd at the low end."""
        space = Space.of({"rate": {"kind": "float", "low": 0.001, "high": 1.0, "scale": "log"}, "u": UNIT})
        shares = importance(space, drawn(space, 150, lambda s: math.log10(s["rate"]) / 3 + 2 * s["u"]))
        assert shares["rate"] == pytest.approx(1 / 5, abs=0.05)

    def test_a_choice_may_not_exist(self):
        space = Space.of({"c": CHOICE, "d": {"kind": "categorical", "choices": [1, 2], "when": {"c": "a"}}})
        shares = importance(space, drawn(space, 60, lambda s: float(s.get("d", 0) == 2)))
        assert shares["d"] > shares["c"]


def test_a_logit_scale_is_a_range_of_logits_for_optuna():
    space = Space.of({"p": {"kind": "float", "low": 0.1, "high": 0.9, "scale": "logit"}})
    (trial,) = study_of(space, drawn(space, 1, lambda s: 1.0)).get_trials()
    assert trial.distributions["p"].high == pytest.approx(math.log(9))
    assert space.variables[0].from_scale(trial.params["p"]) == drawn(space, 1, lambda s: 1.0)[0].setting["p"]


@pytest.fixture
def search():
    search = Search(Steady(TREE, order=FREE), Limits(30), 3)
    play(search, lambda t: 1.0 + t.id % 3, lambda s: math.nan if s["y"] > 0.9 else s["y"] + (s["c"] == "a"))
    search.trials[4].state, search.trials[4].curve = State.PRUNED, [0.1, 0.2]
    return search


def test_trials_csv(tmp_path, search):
    write_trials(tmp_path / "trials.csv", TREE, search.trials, lambda number: 7 + number)
    with open(tmp_path / "trials.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [*COLUMNS, "c", "x", "y"]
    assert [int(line["id"]) for line in lines] == list(range(30))
    assert [int(line["seed"]) for line in lines] == list(range(7, 37))
    assert all((line["x"] == "") is (line["c"] == "b") for line in lines)
    assert all(float(line["value"]) == t.value for line, t in zip(lines, search.trials, strict=True) if t.value is not None)
    assert {line["state"] for line in lines} == {"complete", "failed", "pruned"}
    assert float(lines[-1]["end"]) - float(lines[-1]["start"]) == pytest.approx(float(lines[-1]["cost"]))


def test_totals_add_up(search):
    found = totals(search)
    assert sum(found["trials"].values()) == 30
    assert found["trial_seconds"] == sum(1.0 + i % 3 for i in range(30))
    assert 0 < found["utilisation"] <= 1


def test_every_figure_is_drawn(tmp_path, search):
    paths = write_figures(tmp_path, search, TREE, "a search")
    assert [p.stem for p in paths] == ["history", "slices", "curves"]
    assert all(p.stat().st_size > 5000 for p in paths)
    search.trials[:] = [t for t in search.trials if t.state is not State.COMPLETE]
    assert write_figures(tmp_path / "none", search, TREE, "a search") == []


@pytest.mark.parametrize(
    ("kind", "schedule", "setting", "said", "unsaid"),
    [
        (
            "train",
            "cosine",
            {"learning_rate": 0.1, "batch_size": 32},
            ("--learning-rate 0.1 ", "--batch-size 32"),
            "--momentum-factor",
        ),
        ("train", "constant", {"optimizer": "adamw", "adam_rate": 0.001}, ("--adam-rate 0.001 ",), "--learning-rate"),
        ("train", "cosine", {"momentum_factor": 0.123456789}, ("--momentum-factor 0.123456789 ",), "--adam-rate"),
        ("eoa", "", {"learning_rate": 0.2, "damping": "none"}, ("--learning-rate 0.2 ", "--damping none "), "--method"),
    ],
)
def test_the_command_names_what_was_searched_in_full_and_nothing_of_other_optimizers(kind, schedule, setting, said, unsaid):
    base = CommonArgs(preset="smoke", dataset="digits", model="cnn", width=2, rounds=3, optimizer="sgd", precision="float32")
    ranks = 2 if kind == "eoa" else 1
    command = command_of(Trials(base, kind).options(setting, 7), setting, schedule, ranks, 1) + " "
    start = f"python baselines/Baselines.py --preset smoke --method {schedule}"
    if kind == "eoa":
        start = "mpirun --oversubscribe --bind-to none -np 2 python EOA-SAM/EOASAM.py --preset smoke"
    assert command.startswith(f"OMP_NUM_THREADS=1 {start} --seed 7 ")
    assert all(words in command for words in said)
    assert unsaid not in command


SETTINGS = {  # by weight optimizer, what may be searched beside it
    "sgd": {"learning_rate": 0.0123456789, "momentum_factor": 0.9, "weight_decay": 1e-06},
    "nesterov": {"learning_rate": 0.1, "clip_norm": 1.0},
    "adamw": {"adam_rate": 0.001, "adam_decay": 0.02},
    "muon": {"adam_rate": 0.003},
    "prodigy": {"adam_decay": 0.0},
    "asam": {"learning_rate": 0.3, "rho": 0.5},
    "sam+adamw": {"adam_rate": 0.002, "rho": 0.05},
}


@pytest.mark.parametrize("preset", ["smoke", "cpu", "paper"])
@pytest.mark.parametrize("dataset", ["digits", "mnist", "topics", "cifar10"])
@pytest.mark.parametrize("kind", ["train", "eoa"])
@pytest.mark.parametrize("optimizer", SETTINGS)
def test_the_command_of_the_winner_says_all_that_it_was_trained_with(monkeypatch, kind, preset, dataset, optimizer):
    """Read by the script it names, for every preset, on images and texts, beside what is shared with the preset or not."""
    dhpo = load_script("DHPO", monkeypatch, ROOT / "DHPO")
    words = ["--preset", preset, "--dataset", dataset, "--rounds", "7", "--train-images", "1200", "--label-smoothing", "0.1"]
    words += ["--width", str(SIZES[preset].get("width", 1)), "--batch-size", str(SIZES[preset]["batch_size"])]  # of images
    base, _ = parse_args(dhpo.PRESETS, "a test", words)
    setting = {"optimizer": optimizer, **SETTINGS[optimizer]}
    args = Trials(replace(base, precision="float32"), kind).options(setting, 3)
    called = shlex.split(command_of(args, setting, "cosine", 2, 1))
    at = next(k for k, word in enumerate(called) if word.endswith(".py"))
    script = Path(called[at])
    module = load_script(script.stem, monkeypatch, ROOT / script.parent)
    again, given = parse_args(module.PRESETS, "a test", called[at + 1 :])
    used = set(vars(args)) - {"out", "resume"} - set(without(args.model))
    if kind == "train":
        again = module.resolve(again, given, 2)
        assert again.method == "cosine"
        used -= without_effect(optimizer)
    assert {k: getattr(again, k) for k in used} == {k: getattr(args, k) for k in used}


def test_flags_and_initial_weights_are_part_of_the_winners_command(monkeypatch):
    args = CommonArgs(flip=False, initialisation="fan-in", optimizer="sgd")
    called = shlex.split(command_of(args, {}, "cosine", 1, 1))
    module = load_script("Baselines", monkeypatch, ROOT / "baselines")
    again, _ = parse_args(module.PRESETS, "a test", called[called.index("baselines/Baselines.py") + 1 :])
    assert (again.flip, again.initialisation) == (False, "fan-in")
    assert "flip" not in command_of(CommonArgs(), {}, "cosine", 1, 1)


def test_a_seed_for_all_trials_or_one_for_each():
    args = CommonArgs(seed=5)
    common, own = Trials(args), Trials(args, own_seeds=True)
    assert {common.seed_of(trial) for trial in range(9)} == {5}
    seeds = [own.seed_of(trial) for trial in range(99)]
    assert len(set(seeds)) == 99
    assert seeds == [own.seed_of(trial) for trial in range(99)]
    assert seeds[0] != Trials(replace(args, seed=6), own_seeds=True).seed_of(0)


def test_a_search_may_grow_when_it_is_resumed_and_nothing_else(tmp_path):
    config = {"strategy": "grid", "trials": 8, "space": TREE.as_dict(), "seed": 0, "lag": 4, "rounds": 1, "space_name": "a"}
    check_same_search(tmp_path, config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_same_search(tmp_path, {**config, "trials": 16, "out": "elsewhere", "resume": True})
    check_same_search(tmp_path, {**config, "space_name": "the same space from another file"})
    with pytest.raises(UsageError, match=r"--trials 7: .* may only grow"):
        check_same_search(tmp_path, {**config, "trials": 7})
    wider = {**TREE.as_dict(), "y": {**TREE.as_dict()["y"], "high": 2.0}}
    with pytest.raises(UsageError, match=r"another search: space.y.high was 1.0, and 2.0 is given$"):
        check_same_search(tmp_path, {**config, "space": wider})
    for name, other in {"space": LINEAR.as_dict(), "seed": 1, "lag": 8, "rounds": 2, "strategy": "random"}.items():
        with pytest.raises(UsageError, match=rf"with another search: {name}[a-z0-9.]* was .*given"):
            check_same_search(tmp_path, {**config, name: other})
