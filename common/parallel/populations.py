"""The `--populations` grammar. Pure; no MPI.

gwo:4,woa:4          species : workers, adding up to the ranks
gwo:50%,woa:50%      species : share of the ranks
gwo,woa              equal shares
gwo:4:sam,woa:4:sgd  species : workers : weight optimizer
"""

from dataclasses import asdict, dataclass
from fractions import Fraction

from common.errors import UsageError

DEFAULT = "gwo,woa"


@dataclass(frozen=True)
class PopulationSpec:
    """One population of `--populations`, its size in workers."""

    species: str
    workers: int
    optimizer: str

    def as_dict(self) -> dict[str, str | int]:
        """For records."""
        return asdict(self)


def parse_populations(
    text: str, ranks: int, default_optimizer: str, species: tuple[str, ...], optimizers: tuple[str, ...]
) -> list[PopulationSpec]:
    """Parse `--populations` for a world of `ranks` workers.

    Shares are rounded by the largest-remainder method (ties: first listed); every population gets at least one worker.
    Raises UsageError for unknown names, sizes that do not add up to `ranks`, and mixtures of sizes and shares.
    """
    parts = [[field.strip() for field in item.split(":")] for item in text.split(",")]
    for item in parts:
        if len(item) > 3 or not all(item):
            raise UsageError(f"cannot read population '{':'.join(item)}': write species[:workers][:optimizer], e.g. gwo:4:sam")
        _known(item[0], species, "species")
    sizes, chosen = zip(*(_size_and_optimizer(item, default_optimizer, optimizers) for item in parts), strict=True)
    if len(parts) > ranks:
        raise UsageError(
            f"{len(parts)} populations need at least {len(parts)} ranks, and there are {ranks}: "
            f"start with -np {len(parts)} or more, or name at most {ranks} population{'s'[: ranks > 1]}"
        )
    workers = _divide(sizes, ranks, text)
    return [PopulationSpec(p[0], m, o) for p, m, o in zip(parts, workers, chosen, strict=True)]


def default_populations(ranks: int) -> str:
    """`gwo,woa`, or `gwo` on one rank."""
    return ",".join(DEFAULT.split(",")[:ranks])


def _known(name: str, names: tuple[str, ...], kind: str) -> None:
    if name not in names:
        raise UsageError(f"unknown {kind} '{name}': choose from {', '.join(names)}")


def _size_and_optimizer(item: list[str], default: str, optimizers: tuple[str, ...]) -> tuple[str, str]:
    """Size field ('' if absent) and optimizer of one population; without a size write `gwo:sam`."""
    numeric = [bool(field[0].isdigit() or field[0] in "+-.") for field in item[1:]]
    if numeric in ([True, True], [False, False], [False, True]):
        raise UsageError(f"cannot read population '{':'.join(item)}': write species[:workers][:optimizer], e.g. gwo:4:sam")
    size = item[1] if True in numeric else ""
    optimizer = item[-1] if False in numeric else default
    _known(optimizer, optimizers, "weight optimizer")
    return size, optimizer


def _divide(sizes: tuple[str, ...], ranks: int, text: str) -> list[int]:
    """Workers of each population, from the size fields of all."""
    try:
        if all(s and not s.endswith("%") for s in sizes):
            return _exact([int(s) for s in sizes], ranks, text)
        if all(s.endswith("%") for s in sizes):
            return largest_remainder(_whole([float(s[:-1]) for s in sizes], text), ranks)
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"cannot read the sizes in '{text}': workers are whole numbers (gwo:4), shares end in % (gwo:50%)"
        ) from None
    if not any(sizes):
        return largest_remainder([1.0] * len(sizes), ranks)
    raise UsageError(f"'{text}' mixes sizes, shares and bare names: give all populations workers, or all a share, or none")


def _exact(workers: list[int], ranks: int, text: str) -> list[int]:
    if min(workers) < 1:
        raise UsageError(f"'{text}' has a population of {min(workers)} workers: each needs at least one")
    if sum(workers) != ranks:
        raise UsageError(
            f"'{text}' adds up to {sum(workers)} workers, but there are {ranks} ranks: "
            f"start with -np {sum(workers)}, or change the numbers, or use shares (gwo:50%)"
        )
    return workers


def _whole(shares: list[float], text: str) -> list[float]:
    # A tolerance of 1 % accepts three times 33 %.
    if min(shares) <= 0 or not 99 <= sum(shares) <= 101:
        raise UsageError(f"the shares in '{text}' must be positive and add up to 100 %, not {sum(shares):g} %")
    return shares


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
