"""Search spaces: scales, grids, conditions, equality of settings, and refusals before training."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UsageError
from common.search.space import Space, key_of, read_space

UNIT, BIT = {"kind": "float", "low": 0.0, "high": 1.0}, {"kind": "int", "low": 0, "high": 1}
SGD = {"kind": "float", "low": 0.001, "high": 1.0, "scale": "log", "when": {"optimizer": "sgd"}}
TREE = Space.of(
    {
        "optimizer": {"kind": "categorical", "choices": ["sgd", "adamw"]},
        "learning_rate": SGD,
        "adam_rate": {"kind": "float", "low": 1e-4, "high": 1e-2, "scale": "log", "when": {"optimizer": ["adamw"]}},
        "batch_size": {"kind": "int", "low": 16, "high": 64},
        "width": {"kind": "int", "low": 1, "high": 3, "when": {"optimizer": "sgd", "batch_size": list(range(16, 32))}},
    }
)


def one(**fields):
    return Space.of({"x": fields}).variables[0]


def test_grid_values_are_interior_and_start_at_low():
    assert one(kind="float", low=2.0, high=6.0).grid_values(3) == [3.0, 4.0, 5.0]
    assert one(kind="int", low=2, high=6).grid_values(3) == [3, 4, 5]
    assert one(kind="float", low=0.0, high=1.0).grid_values(4) == [0.2, 0.4, 0.6, 0.8]
    assert one(kind="float", low=0.001, high=1.0, scale="log").grid_values(2) == [0.01, 0.1]
    assert one(kind="int", low=1, high=2).grid_values(4) == [1, 2]
    assert one(kind="categorical", choices=["a", "b"]).grid_values(9) == ["a", "b"]
    assert one(kind="float", low=0.0, high=1.0, grid=1).grid_values(4) == [0.5]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_grid_points_are_numbered_row_major_with_the_last_variable_fastest(sizes, data):
    space = Space.of({f"v{k}": {"kind": "float", "low": 0.0, "high": 1.0, "grid": n} for k, n in enumerate(sizes)})
    assert space.grid_shape(9) == tuple(sizes)
    index = data.draw(st.integers(0, math.prod(sizes) - 1))
    (point,) = space.grid_points([index], 9)
    places = [v.grid_values(9).index(point[v.name]) for v in space.variables]
    assert sum(e * math.prod(sizes[k + 1 :]) for k, e in enumerate(places)) == index
    assert all(0 < value < 1 for value in point.values())


@given(st.sampled_from(["linear", "log", "logit"]), st.floats(0.01, 0.4), st.floats(0.5, 0.99), st.floats(0, 1))
def test_units_go_back_and_forth_and_stay_inside(scale, low, high, u):
    variable = one(kind="float", low=low, high=high, scale=scale)
    value = variable.from_unit(u)
    assert low <= value <= high
    assert variable.to_unit(value) == pytest.approx(u, abs=2e-4)
    assert variable.from_unit(variable.to_unit(value)) == pytest.approx(value, rel=2e-6)
    assert variable.from_unit(-3) == pytest.approx(low, rel=1e-5)  # six digits
    assert variable.from_unit(3) == pytest.approx(high, rel=1e-5)


def test_each_integer_has_its_fair_share():
    variable, rng = one(kind="int", low=3, high=6), np.random.default_rng(0)
    counts = np.bincount([variable.draw(rng) for _ in range(8000)], minlength=7)
    assert counts[:3].sum() == 0
    assert (abs(counts[3:] - 2000) < 5 * math.sqrt(2000)).all()


def test_a_logarithmic_range_has_as_many_draws_in_each_decade():
    variable, rng = one(kind="float", low=0.001, high=1.0, scale="log"), np.random.default_rng(1)
    decades = np.bincount([int(-math.log10(variable.draw(rng)) // 1) for _ in range(6000)], minlength=3)
    assert (abs(decades[:3] - 2000) < 5 * math.sqrt(2000)).all()


@given(st.integers(0, 2**32 - 1))
def test_what_does_not_exist_is_not_in_a_setting(seed):
    setting = TREE.draw(np.random.default_rng(seed))
    sgd = setting["optimizer"] == "sgd"
    assert ("learning_rate" in setting) is sgd
    assert ("adam_rate" in setting) is not sgd
    assert ("width" in setting) is (sgd and setting["batch_size"] < 32)


def test_settings_that_differ_only_in_what_does_not_exist_are_equal():
    def with_rates(learning_rate, adam_rate):
        wanted = {"optimizer": "adamw", "learning_rate": learning_rate, "adam_rate": adam_rate, "batch_size": 20, "width": 2}
        return key_of(TREE.build(lambda variable: wanted[variable.name]))

    assert with_rates(0.1, 0.001) == with_rates(0.5, 0.001)
    assert with_rates(0.1, 0.001) != with_rates(0.1, 0.002)
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


def test_a_finite_space_can_be_listed():
    space = Space.of(
        {
            "optimizer": {"kind": "categorical", "choices": ["sgd", "adamw", "muon"]},
            "width": {"kind": "int", "low": 1, "high": 4, "when": {"optimizer": ["sgd", "muon"]}},
        }
    )
    settings = space.every_setting()
    assert len(settings) == len({key_of(s) for s in settings}) == 4 + 1 + 4
    assert TREE.every_setting() == []


def test_a_space_is_read_from_a_file_as_from_a_dictionary(tmp_path):
    (tmp_path / "space.toml").write_text(
        """
        [optimizer]
        kind = "categorical"
        choices = ["sgd", "adamw"]

        [learning_rate]
        kind = "float"
        low = 0.001
        high = 1.0
        scale = "log"
        when = {optimizer = "sgd"}
        """
    )
    space = read_space(tmp_path / "space.toml")
    assert space == Space.of({"optimizer": {"kind": "categorical", "choices": ["sgd", "adamw"]}, "learning_rate": SGD})
    assert Space.of(space.as_dict()) == space
    (tmp_path / "space.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not a text in UTF-8"):
        read_space(tmp_path / "space.toml")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "no variables"),
        ({"x": 3}, "a table with a kind"),
        ({"x": {"kind": "real"}}, "kind 'real'"),
        ({"x": {"kind": "float", "low": 1.0}}, "low and high"),
        ({"x": {"kind": "float", "low": 1.0, "high": 1.0}}, "has to be below"),
        ({"x": {**UNIT, "scale": "log"}}, "low above 0"),
        ({"x": {**UNIT, "scale": "logit"}}, "inside (0, 1)"),
        ({"x": {**UNIT, "scale": "cubic"}}, "'cubic'"),
        ({"x": {**UNIT, "step": 2}}, "unknown field step"),
        ({"x": {**UNIT, "scale": ["log"]}}, "['log']"),
        ({"x": {"kind": ["float"]}}, "kind '['float']'"),
        ({"x": {"kind": "int", "low": False, "high": True}}, "must be numbers"),
        ({"x": {"kind": "int", "low": 0, "high": 4, "grid": True}}, "grid True"),
        ({"x": BIT, "y": {**BIT, "when": {"x": []}}}, "no value of x"),
        ({"x": {"kind": "int", "low": 0.5, "high": 1}}, "integers"),
        ({"x": {"kind": "categorical"}}, "choices"),
        ({"x": {"kind": "categorical", "choices": ["a", "a"]}}, "not all different"),
        ({"x": {"kind": "categorical", "choices": ["a"], "low": 1}}, "no low"),
        ({"x": {**BIT, "when": {"y": 1}}}, "'y' is no variable above"),
        ({"optimizer": {"kind": "categorical", "choices": ["sgd"]}, "x": {**SGD, "when": {"optimizer": "adam"}}}, "never adam"),
        ({"y": {"kind": "float", "low": 0, "high": 1}, "x": {**SGD, "when": {"y": 0.5}}}, "'y' is a float"),
    ],
)
def test_what_cannot_work_is_refused_with_its_name(content, said):
    with pytest.raises(UsageError, match=r"^space.toml") as error:
        Space.of(content, "space.toml")
    assert said in str(error.value)
