"""A profile's tables in the READMEs, between their markers: no number there is typed by hand."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from report.section import Block, Section

COMPACT = ["method", "data, model", "ranks: populations", "gradient evaluations", "test accuracy, %", "validation, %"]


@dataclass(frozen=True)
class Placed:
    """Where a table stands: README, name of the block between its markers, tables of the registry, index of the block."""

    readme: str
    name: str
    tables: tuple[str, ...]
    block: int = 0


PLACES = (
    Placed("README.md", "results", ("ecosphere-cifar10", "ecosphere-cifar100", "vit-cifar10")),
    Placed("EOA-SAM/README.md", "start", ("start-rates",)),
    Placed("EASGD/README.md", "period", ("elastic-periods",)),
    Placed("PSO-PS/README.md", "MNIST", ("local-images-mnist",)),
    Placed("PSO-PS/README.md", "MNIST swarm", ("local-images-mnist",), 1),
    Placed("PSO-PS/README.md", "CIFAR-10", ("local-images-cifar10",)),
    Placed("PSO-PS/README.md", "CIFAR-10 swarm", ("local-images-cifar10",), 1),
    Placed("SaLSA/README.md", "MNIST", ("step-sizes-mnist",)),
    Placed("SaLSA/README.md", "CIFAR-10", ("step-sizes-cifar10",)),
    Placed("SaLSA/README.md", "text", ("step-sizes-topics",)),
    Placed("SaLSA/README.md", "digits first step", ("step-sizes-digits",)),
    Placed("SaLSA/README.md", "CIFAR-10 first step", ("step-sizes-cifar10",), 1),
    Placed("DHPO/README.md", "MNIST", ("search-mnist",)),
    Placed("DHPO/README.md", "CIFAR-10", ("search-cifar10",)),
)


def update(root: Path, sections: list[Section]) -> list[Path]:
    """Write every block whose tables have records; returns the READMEs. root: the folder of the project."""
    by_name = {section.name: section for section in sections}
    for place in PLACES:
        blocks = [by_name[name].blocks[place.block] for name in place.tables if name in by_name]
        if blocks:
            path = root / place.readme
            path.write_text(replaced(path.read_text(encoding="utf-8"), place.name, table_of(blocks)), encoding="utf-8")
    return [root / readme for readme in dict.fromkeys(place.readme for place in PLACES)]


def table_of(blocks: list[Block]) -> str:
    """One table with its marks; of several the lines below each other, in the columns that a README has room for."""
    table = pd.concat([block.table for block in blocks])
    marks = tuple(mark for block in blocks for mark in block.marks)
    return "\n\n".join(Block(table if len(blocks) == 1 else table[COMPACT], marks).lines())


def replaced(readme: str, name: str, table: str) -> str:
    """README with the block between the markers of one table replaced. Raises ValueError where the markers are missing."""
    pattern = rf"(<!-- {name} table.*?-->\n).*?(<!-- end of {name} table -->)"
    if not re.search(pattern, readme, re.DOTALL):
        raise ValueError(f"README.md has no markers of a {name} table")
    return re.sub(pattern, lambda m: f"{m[1]}{table}\n{m[2]}", readme, count=1, flags=re.DOTALL)
