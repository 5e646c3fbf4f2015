"""What is shown of one table of the registry: tables, notes and figures, for Markdown, the report page and the READMEs."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from report.cells import markdown
from report.drawing import Picture


@dataclass(frozen=True)
class Block:
    """One table; marks: what is quoted above it (why its records are out of date); notes: how to read it, below."""

    table: pd.DataFrame
    marks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """Paragraphs of Markdown."""
        yield from (f"> {mark}" for mark in self.marks)
        yield markdown(self.table)
        yield from self.notes


@dataclass(frozen=True)
class Section:
    """All that is shown of one table of the registry, `name`."""

    name: str
    title: str
    blocks: tuple[Block, ...]
    figures: tuple[Picture, ...] = ()

    def markdown(self, made_by: str) -> str:
        """The section with its heading and the command that makes its runs."""
        lines = [line for block in self.blocks for line in block.lines()]
        return "\n\n".join([f"## {self.title}", *lines, f"Runs: `{made_by}`."])
