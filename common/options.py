"""Options as dataclasses: each field carries its help, bounds and applicability; one function checks, one reads them.

    @dataclass(frozen=True)
    class DataOptions:
        \"\"\"Data sets.\"\"\"

        train_images: Annotated[int, Range(0)] = 0
        \"\"\"number of training images, a stratified subset; 0 for all\"\"\"

An options class lives next to the code it configures. A script's options class inherits from several: its values are flat
(`args.train_images`), and `--help` groups them by the class that declares them. Checks beyond bounds go into a method
`refuse(self, given)` of the class, which `check` calls.
"""

import ast
import contextlib
import inspect
import io
import math
import re
import textwrap
from collections.abc import Callable, Collection, Iterator
from dataclasses import Field, dataclass, field, fields, make_dataclass, replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, get_type_hints

import tyro

from common.errors import UsageError
from common.parallel.launch import say
from common.paths import expand

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    PathText: TypeAlias = str
else:
    PathText = Annotated[str, tyro.conf.arg(metavar="PATH")]  # a path: `~` is expanded, an empty one refused

MOST = 2**31 - 1  # of integers without an upper bound: larger ones overflow somewhere, or fill the memory

T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True)
class Range:
    """Bounds of a number: least <= value <= most, above < value < below; without upper bounds, finite.

    usual: hint for the message.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    usual: str = ""

    def wrong(self, value: float) -> str:
        """The bound that a value violates, as text; empty if none."""
        most = min(self.most, MOST) if isinstance(value, int) and self.most == math.inf else self.most
        if self.least <= value <= most and self.above < value < self.below:
            return ""
        return f"{self._words(value, most)}{f'; {self.usual} is usual' if self.usual else ''}"

    def _words(self, value: float, most: float) -> str:
        if isinstance(value, int):
            return f"has to be at least {self.least:g}" if value < self.least else f"has to be at most {most}"
        if most == self.below == math.inf:
            return "has to be positive and finite" if self.above == 0 else f"has to be {self.least:g} or more, and finite"
        low = f"[{self.least:g}" if self.above == -math.inf else f"({self.above:g}"
        high = f"{most:g}]" if self.below == math.inf else f"{self.below:g})"
        return f"has to lie in {low}, {high}"


@dataclass(frozen=True)
class For:
    """Rule: the option applies only to some choices of another option."""

    option: str
    choices: tuple[str, ...]

    def wrong(self, args: Any) -> str:
        """Why the option may not be given; empty where it may."""
        chosen = getattr(args, self.option)
        if chosen in self.choices:
            return ""
        return f"is for {flag(self.option)} {', '.join(self.choices)}, not {chosen}: leave it out"


@dataclass(frozen=True)
class Needs:
    """Rule: the option applies only where `holds(args)`. words: message otherwise, with {names} of other options."""

    holds: Callable[[Any], bool]
    words: str

    def wrong(self, args: Any) -> str:
        """Why the option may not be given; empty where it may."""
        return "" if self.holds(args) else self.words.format(**vars(args))


def flag(name: str) -> str:
    """The command-line spelling of an option."""
    return f"--{name.replace('_', '-')}"


def check(args: "DataclassInstance", given: Collection[str] = ()) -> None:
    """Check bounds, then that given options have an effect, then the classes' own `refuse`.

    given: names of the options given on the command line. Raises UsageError naming the option, its value and valid values.
    """
    for name, rules in sorted(rules_of(type(args)).items(), key=lambda item: item[0] not in given):  # given options first
        value = getattr(args, name)
        for rule in rules:
            if isinstance(rule, Range):
                if value is not None and (wrong := rule.wrong(value)):
                    raise UsageError(f"{flag(name)} {value} {wrong}")
            elif name in given and (wrong := rule.wrong(args)):
                raise UsageError(f"{flag(name)} {wrong}")
    for owner in type(args).__mro__:  # the script's own class first
        if "refuse" in vars(owner):
            owner.refuse(args, set(given))  # type: ignore[attr-defined]


@cache
def rules_of(kind: type) -> dict[str, list[Range | For | Needs]]:
    """Bounds and applicability of every option of a class, in the order of its fields."""
    rules, hints = {}, get_type_hints(kind, include_extras=True)
    for name in (f.name for f in fields(kind)):
        metadata = [Range()] if hints[name] is int else getattr(hints[name], "__metadata__", ())
        rules[name] = [m for m in metadata if isinstance(m, Range | For | Needs)]
    return rules


def read(default: T, description: str | None, argv: list[str]) -> tuple[T, set[str]]:
    """Parse a command line over default options and expand paths; help is grouped by the classes that declare the options.

    Returns the options and the names of those given. `--help` prints on rank 0 and exits with 0; an invalid option or an
    empty path raises UsageError.
    """
    output, groups = io.StringIO(), list(_groups(default))
    grouped = make_dataclass(type(default).__name__, groups, frozen=True)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            parts: Any = tyro.cli(grouped, args=argv, description=description)
    except SystemExit as request:
        if request.code:
            raise UsageError(f"{_first_paragraph(output.getvalue())} (--help lists all options)") from None
        say(output.getvalue())
        raise
    values = {name: value for part in vars(parts).values() for name, value in vars(part).items()}
    given = {match[1].replace("-", "_") for a in argv if (match := re.match(r"--(?:no-)?([a-z0-9_-]+)", a))}
    return expand_paths(replace(default, **values), given), given


def _groups(default: Any) -> Iterator[tuple[str, Any, Field]]:
    """One field per class that declares options: its name, a dataclass of these options with their help, its default."""
    hints, classes = get_type_hints(type(default), include_extras=True), type(default).__mro__
    names = {f.name for f in fields(default)}
    owners: dict[str, type] = {}  # the most derived class that declares an option
    for owner in classes:
        owners = {name: owner for name in inspect.get_annotations(owner) if name in names} | owners
    for owner in reversed(classes):
        if declared := [name for name in inspect.get_annotations(owner) if owners.get(name) is owner]:
            helps = help_of(owner)
            options = [
                (name, Annotated[hints[name], tyro.conf.arg(help=helps.get(name, ""))], field(default=getattr(default, name)))
                for name in declared
            ]
            kind: Any = make_dataclass(owner.__name__, options, frozen=True)
            kind.__doc__ = (owner.__doc__ or "").split("\n\n")[0]
            title = re.split(r"[:.]", kind.__doc__)[0]  # becomes the heading of the group
            yield re.sub(r"\W", "_", title.lower()), tyro.conf.OmitArgPrefixes[kind], field(default=kind())  # type: ignore[misc]


@cache
def help_of(kind: type) -> dict[str, str]:
    """The strings below the fields of a class."""
    helps, body = {}, ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    for pair in pairwise(body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                helps[name] = " ".join(text.split())
    return helps


def read_options(kind: type[T], description: str | None) -> T:
    """Parse the command line of a program without presets; no path may be empty. Raises UsageError."""
    args = tyro.cli(kind, description=description)
    return expand_paths(args, {f.name for f in fields(args)})


def expand_paths(args: T, given: Collection[str] = ()) -> T:
    """Expand `~` in the options that hold a path (`PathText`).

    given: names of options that may not be empty; for the others empty means none. Raises UsageError.
    """
    kinds = get_type_hints(type(args), include_extras=True)
    names = [name for name, kind in kinds.items() if kind == PathText and (name in given or getattr(args, name))]
    return replace(args, **{name: expand(getattr(args, name), flag(name)) for name in names})


def _first_paragraph(box: str) -> str:
    """The text in tyro's error box, between its title and the rule below it."""
    lines = [line.strip("│| ") for line in box.splitlines()][1:]
    rules = [i for i, line in enumerate(lines) if line and set(line) <= set("─-")]
    first = 1 if rules[:1] == [0] else 0
    last = next((i for i in rules if i > 0), len(lines))
    return " ".join(" ".join(lines[first:last]).split()) or "cannot read the command line"
