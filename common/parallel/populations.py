"""The `--populations` grammar. Pure; no MPI.

gwo:4,woa:4          species : workers, adding up to the ranks
gwo:50%,woa:50%      species : share of the ranks
gwo,woa              equal shares
gwo:4:sam,woa:4:sgd  species : workers : weight optimizer
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from common.errors import UsageError

DEFAULT = "gwo,woa"


@dataclass(frozen=True)
class PopulationSpec:
    """One population of `--populations`, its size in workers."""

    species: str
    workers: int
    optimizer: str


def parse_populations(
    text: str, ranks: int, default_optimizer: str, species: tuple[str, ...], optimizers: tuple[str, ...]
) -> list[PopulationSpec]:
    """Parse `--populations` for a world of `ranks` workers.

    Shares are rounded by the largest-remainder method (ties: first listed); every population gets at least one worker.
    Raises UsageError for unknown names, sizes that do not add up to `ranks`, and mixtures of sizes and shares.
    """
    names, sizes, chosen = zip(*(_fields(item, default_optimizer) for item in text.split(",")), strict=True)
    _known(names, species, "species")
    _known(chosen, optimizers, "weight optimizer")
    n = len(names)
    if n > ranks:
        raise UsageError(
            f"{n} populations need at least {n} ranks, and there are {ranks}: "
            f"start with -np {n} or more, or name at most {ranks} population{'s'[: ranks > 1]}"
        )
    workers = _divide(sizes, ranks, text)
    return [PopulationSpec(*fields) for fields in zip(names, workers, chosen, strict=True)]


def default_populations(ranks: int) -> str:
    """`gwo,woa`, or `gwo` on one rank."""
    return ",".join(DEFAULT.split(",")[:ranks])


def _fields(item: str, default_optimizer: str) -> tuple[str, str, str]:
    """Species, size ('' if absent) and optimizer of one population; without a size write `gwo:sam`."""
    species, *rest = fields = [field.strip() for field in item.split(":")]
    size = rest.pop(0) if rest and re.match(r"[\d+.-]", rest[0]) else ""
    optimizer = rest.pop(0) if rest and not re.match(r"[\d+.-]", rest[0]) else default_optimizer
    if rest or not all(fields):
        raise UsageError(f"cannot read population '{':'.join(fields)}': write species[:workers][:optimizer], e.g. gwo:4:sam")
    return species, size, optimizer


def _known(names: tuple[str, ...], choices: tuple[str, ...], kind: str) -> None:
    for name in names:
        if name not in choices:
            raise UsageError(f"unknown {kind} '{name}': choose from {', '.join(choices)}")


def _divide(sizes: tuple[str, ...], ranks: int, text: str) -> list[int]:
    """Workers of each population, from the size fields of all."""
    if not any(sizes):
        return largest_remainder([1.0] * len(sizes), ranks)
    shares = {size.endswith("%") for size in sizes}
    if not all(sizes) or len(shares) > 1:
        raise UsageError(f"'{text}' mixes sizes, shares and bare names: give all populations workers, or all a share, or none")
    try:
        numbers = [float(size[:-1]) if True in shares else int(size) for size in sizes]
    except ValueError:
        raise UsageError(
            f"cannot read the sizes in '{text}': workers are whole numbers (gwo:4), shares end in % (gwo:50%)"
        ) from None
    total = sum(numbers)
    if True in shares:
        if min(numbers) <= 0 or not 99 <= total <= 101:  # a tolerance of 1 % accepts three times 33 %
            raise UsageError(f"the shares in '{text}' must be positive and add up to 100 %, not {total:g} %")
        return largest_remainder(numbers, ranks)
    if min(numbers) < 1:
        raise UsageError(f"'{text}' has a population of {min(numbers)} workers: each needs at least one")
    if total != ranks:
        raise UsageError(
            f"'{text}' adds up to {total} workers, but there are {ranks} ranks: "
            f"start with -np {total}, or change the numbers, or use shares (gwo:50%)"
        )
    return [int(number) for number in numbers]


def largest_remainder(shares: list[float], seats: int) -> list[int]:
    """Integers that add up to `seats`, nearly proportional to `shares`, at least one each (seats >= len(shares))."""
    exact = [Fraction(str(s)) for s in shares]  # in floats, equal remainders would differ by rounding
    quotas = [seats * s / sum(exact) for s in exact]
    counts = [int(q) for q in quotas]
    by_remainder = sorted(range(len(shares)), key=lambda i: (-(quotas[i] - counts[i]), i))
    for i in by_remainder[: seats - sum(counts)]:
        counts[i] += 1
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts
