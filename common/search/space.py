"""Search spaces: variables with scales and conditions, and settings of them. Pure; no MPI.

A space is a TOML file, or a dictionary of that form; `when` names earlier variables and the values at which this one exists:

    [learning_rate]
    kind = "float"                  # or "int", "categorical"
    low = 0.001
    high = 1.0
    scale = "log"                   # or "linear" (default), "logit"

    [momentum_factor]
    kind = "float"
    low = 0.0
    high = 0.99
    when = {optimizer = ["sgd", "nesterov"]}

A setting is a dictionary of the variables that exist in it; floats have six significant digits, so that printed, recorded and
used values are equal. Grids and mutations work on the scale of a variable: `to_unit` maps it to [0, 1].
"""

import math
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from common.errors import UsageError

Value: TypeAlias = float | int | str
Setting: TypeAlias = dict[str, Value]
Key: TypeAlias = tuple[tuple[str, Value], ...]

KINDS = ("float", "int", "categorical")
SCALES: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {  # onto the scale, and back
    "linear": (lambda x: x, lambda s: s),
    "log": (math.log, math.exp),
    "logit": (lambda x: math.log(x / (1 - x)), lambda s: 1 / (1 + math.exp(-s))),
}
FIELDS = {"kind", "low", "high", "scale", "choices", "grid", "when"}
LARGEST_GRID = 10**6


def key_of(setting: Setting) -> Key:
    """Hashable form of a setting, independent of the order of names. Inactive variables are not in a setting."""
    return tuple(sorted(setting.items()))


@dataclass(frozen=True)
class Variable:
    """One searched variable: a range, or choices.

    grid: number of grid values, 0 for the default of all variables. when: pairs (earlier variable, values at which this one
    exists); it exists if all of them hold.
    """

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    scale: str = "linear"
    choices: tuple[Value, ...] = ()
    grid: int = 0
    when: tuple[tuple[str, tuple[Value, ...]], ...] = ()

    @property
    def is_numeric(self) -> bool:
        """Whether it is a range."""
        return self.kind != "categorical"

    def exists_in(self, setting: Setting) -> bool:
        """Whether this variable exists, given a setting of the earlier variables."""
        return all(name in setting and setting[name] in values for name, values in self.when)

    def on_scale(self, value: float) -> float:
        """A value on this variable's scale."""
        return SCALES[self.scale][0](value)

    def from_scale(self, position: float) -> Value:
        """The value at a position of the scale: rounded, and inside the bounds."""
        value = SCALES[self.scale][1](position)
        if self.kind == "int":
            return min(max(round(value), int(self.low)), int(self.high))
        return min(max(float(f"{value:.6g}"), self.low), self.high)

    @property
    def ends(self) -> tuple[float, float]:
        """Ends of the range on the scale; for integers half a unit further out, so that all have equal shares."""
        half = 0.5 if self.kind == "int" else 0.0
        return self.on_scale(self.low - half), self.on_scale(self.high + half)

    def to_unit(self, value: Value) -> float:
        """Position of a value in the range, in [0, 1]."""
        low, high = self.ends
        return (self.on_scale(float(value)) - low) / (high - low)

    def from_unit(self, u: float) -> Value:
        """The value at u, clipped to [0, 1]."""
        low, high = self.ends
        return self.from_scale(low + min(max(u, 0.0), 1.0) * (high - low))

    def draw(self, rng: np.random.Generator) -> Value:
        """A random value, uniform on the scale or over the choices."""
        if self.is_numeric:
            return self.from_unit(rng.random())
        return self.choices[rng.integers(len(self.choices))]

    def grid_values(self, default: int) -> list[Value]:
        """low + i (high - low) / (n + 1), i = 1 .. n, on the scale, without duplicate integers; or all choices."""
        if not self.is_numeric:
            return list(self.choices)
        n = self.grid or default
        low, high = self.on_scale(self.low), self.on_scale(self.high)
        return list(dict.fromkeys(self.from_scale(low + i * (high - low) / (n + 1)) for i in range(1, n + 1)))

    @property
    def values(self) -> Sequence[Value]:
        """All values of an integer or of choices; empty for a float."""
        return range(int(self.low), int(self.high) + 1) if self.kind == "int" else self.choices

    def as_dict(self) -> dict[str, Any]:
        """As in a file; `Space.of` reads it back."""
        bounds = {"low": self.low, "high": self.high, "scale": self.scale}
        grid = {"grid": self.grid} if self.grid else {}
        when = {"when": {name: list(values) for name, values in self.when}} if self.when else {}
        return {"kind": self.kind, **(bounds if self.is_numeric else {"choices": list(self.choices)}), **grid, **when}


@dataclass(frozen=True)
class Space:
    """The variables of a search, in order; conditions refer to earlier variables only."""

    variables: tuple[Variable, ...]

    @classmethod
    def of(cls, content: Mapping[str, Any], source: str = "the search space") -> "Space":
        """Read a dictionary. Raises UsageError naming the source, the variable and what is wrong with it."""
        if not content:
            raise UsageError(f"{source} has no variables: name at least one, e.g. [learning_rate]")
        variables: list[Variable] = []
        for name, fields in content.items():
            try:
                variables.append(_variable(name, fields, {v.name: v for v in variables}))
            except (ValueError, TypeError) as error:
                raise UsageError(f"{source}, variable '{name}': {error}") from None
        return cls(tuple(variables))

    def as_dict(self) -> dict[str, Any]:
        """As in a file."""
        return {v.name: v.as_dict() for v in self.variables}

    @property
    def names(self) -> list[str]:
        """Names of the variables, in order."""
        return [v.name for v in self.variables]

    def build(self, value_of: Callable[[Variable], Value]) -> Setting:
        """The setting with the value `value_of(variable)` of every variable that exists; called in order."""
        setting: Setting = {}
        for variable in self.variables:
            if variable.exists_in(setting):
                setting[variable.name] = value_of(variable)
        return setting

    def draw(self, rng: np.random.Generator) -> Setting:
        """A random setting."""
        return self.build(lambda variable: variable.draw(rng))

    def grid_shape(self, default: int) -> tuple[int, ...]:
        """Number of grid values of each variable. Raises UsageError for more than LARGEST_GRID points."""
        shape = tuple(len(v.grid_values(default)) for v in self.variables)
        if math.prod(shape) > LARGEST_GRID:
            sizes = " x ".join(map(str, shape))
            raise UsageError(f"a grid of {sizes} points is more than {LARGEST_GRID}: lower --grid-size or `grid` of variables")
        return shape

    def grid_points(self, indices: Iterable[int], default: int) -> Iterator[Setting]:
        """Grid points by index: row-major, the last variable fastest; variables that do not exist are left out."""
        shape = self.grid_shape(default)
        values = {v.name: v.grid_values(default) for v in self.variables}

        def point(index: int) -> Setting:
            """The grid point with this index."""
            places = dict(zip(self.names, np.unravel_index(index, shape), strict=True))
            return self.build(lambda variable: values[variable.name][places[variable.name]])

        return map(point, indices)

    def every_setting(self) -> list[Setting]:
        """All settings of a finite space; none if a float is searched."""
        finite = all(v.values for v in self.variables)
        return self.combinations(lambda variable: variable.values) if finite else []

    def combinations(self, values_of: Callable[[Variable], Iterable[Value]]) -> list[Setting]:
        """All settings with the values `values_of(variable)`, the last variable fastest."""
        settings: list[Setting] = [{}]
        for variable in self.variables:
            extended: list[Setting] = []
            for setting in settings:
                exists = variable.exists_in(setting)
                extended += [{**setting, variable.name: value} for value in values_of(variable)] if exists else [setting]
            settings = extended
        return settings

    def corners(self, names: Iterable[str], values_of: Callable[[Variable], Sequence[Value]]) -> list[Setting]:
        """All settings of the variables with these names, and of those that their conditions refer to.

        values_of: test values of a variable; values named in conditions are added.
        """
        wanted = set(names)
        named: dict[str, set[Value]] = {}
        for variable in reversed(self.variables):  # conditions refer to earlier variables
            if variable.name in wanted:
                for name, values in variable.when:
                    wanted.add(name)
                    named.setdefault(name, set()).update(values)
        part = Space(tuple(v for v in self.variables if v.name in wanted))
        return part.combinations(lambda v: dict.fromkeys([*values_of(v), *sorted(named.get(v.name, ()), key=str)]))


def read_space(path: Path) -> Space:
    """The space of a TOML file. Raises UsageError."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the search space {path}: {error.strerror}; DHPO/spaces has some") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the search space {path} is not valid TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"the search space {path} is not a text in UTF-8: {error}") from None
    return Space.of(content, str(path))


def _variable(name: str, fields: Any, earlier: Mapping[str, Variable]) -> Variable:
    """One variable, checked. Raises ValueError."""
    if not isinstance(fields, Mapping) or "kind" not in fields:
        raise ValueError(f"must be a table with a kind: {', '.join(KINDS)}")
    if unknown := set(fields) - FIELDS:
        raise ValueError(f"unknown field {', '.join(sorted(unknown))}; there are {', '.join(sorted(FIELDS))}")
    kind = fields["kind"]
    if kind not in KINDS:
        raise ValueError(f"kind '{kind}' is none of {', '.join(KINDS)}")
    when = _conditions(fields.get("when", {}), earlier)
    if kind == "categorical":
        if wrong := {"low", "high", "scale", "grid"} & set(fields):
            raise ValueError(f"a categorical variable has choices, and no {', '.join(sorted(wrong))}")
        return Variable(name, kind, choices=_choices(fields.get("choices")), when=when)
    if "choices" in fields:
        raise ValueError("choices are for kind categorical")
    low: Any = fields.get("low")
    high: Any = fields.get("high")
    grid: Any = fields.get("grid", 0)
    if not all(_is_number(bound) and math.isfinite(bound) for bound in (low, high)):
        raise ValueError(f"low and high must be numbers, not {low} and {high}")
    if kind == "int" and not all(isinstance(bound, int) for bound in (low, high)):
        raise ValueError(f"low {low} and high {high} of an integer must be integers")
    if not low < high:
        raise ValueError(f"low {low} has to be below high {high}")
    if not isinstance(grid, int) or isinstance(grid, bool) or grid < 0:
        raise ValueError(f"grid {grid} must be a number of values")
    scale = fields.get("scale", "linear")
    if not isinstance(scale, str) or scale not in SCALES:
        raise ValueError(f"scale '{scale}' is none of {', '.join(SCALES)}")
    if scale == "log" and low <= 0:
        raise ValueError(f"a logarithmic scale needs low above 0, not {low}")
    if scale == "logit" and (kind == "int" or not 0 < low < high < 1):
        raise ValueError(f"a logit scale is for floats inside (0, 1), not for {kind} in [{low}, {high}]")
    return Variable(name, kind, low, high, scale, grid=grid, when=when)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)  # a bool is an int in Python


def _choices(choices: Any) -> tuple[Value, ...]:
    if not isinstance(choices, (list, tuple)) or not choices:
        raise ValueError("choices must be a list of at least one value")
    if not all(isinstance(c, str) or _is_number(c) for c in choices):
        raise ValueError("choices must be words or numbers")
    if len(set(choices)) < len(choices):
        raise ValueError(f"choices {list(choices)} are not all different")
    return tuple(choices)


def _conditions(when: Any, earlier: Mapping[str, Variable]) -> tuple[tuple[str, tuple[Value, ...]], ...]:
    if not isinstance(when, Mapping):
        raise ValueError("when must be a table of earlier variables and their values")
    conditions = []
    for name, wanted in when.items():
        values = tuple(wanted) if isinstance(wanted, (list, tuple)) else (wanted,)
        if name not in earlier:
            raise ValueError(f"when: '{name}' is no variable above this one")
        if not values:
            raise ValueError(f"when: no value of {name} is named, so it would never exist")
        possible = earlier[name].values
        if not possible:
            raise ValueError(f"when: '{name}' is a float; conditions are on integers and choices")
        if missing := [v for v in values if v not in possible]:
            raise ValueError(f"when: {name} is never {', '.join(map(str, missing))}")
        conditions.append((name, values))
    return tuple(conditions)
