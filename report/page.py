"""One page with the tables and figures of a profile, readable without a network; it holds no date."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
from PIL import Image

from experiments.registry import PROFILES
from report import cost
from report.cells import TEXT
from report.records import TableRecords
from report.section import Section


@dataclass(frozen=True)
class Shown:
    """One figure, ready for the page."""

    name: str
    title: str
    caption: str
    data: str
    width: int
    height: int


def render(profile: str, found: list[TableRecords], sections: Iterable[Section], folder: Path, made_by: str) -> str:
    """The page. folder: the profile's, whose figures/ are drawn."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    runs = pd.concat([records.runs for records in found])
    return templates.get_template("page.html.j2").render(
        profile=profile,
        about=PROFILES[profile][1],
        runs=len(runs),
        lost=int(runs.diverged.sum()),
        commits=list(dict.fromkeys(runs.commit)),
        hardware=list(dict.fromkeys(runs.hardware)),
        sections=[
            {
                "name": section.name,
                "title": section.title,
                "blocks": [(_cells(block.table), block.marks, block.notes) for block in section.blocks],
                "figures": [_shown(folder / "figures" / f"{picture.name}.png") for picture in section.figures],
            }
            for section in sections
        ],
        diverged=_cells(cost.diverged(found)),
        commands=[(records.table.title, _commands(records)) for records in found],
        made_by=made_by,
    )


def _shown(path: Path) -> Shown:
    with Image.open(path) as image:
        words, (width, height) = image.info, image.size
    data = base64.b64encode(path.read_bytes()).decode()
    return Shown(path.name, words["Title"], words["Description"], data, width, height)


def _cells(table: pd.DataFrame) -> dict[str, list]:
    """Column names, whether each is text (to the left) or number, and the cells as text."""
    return {"columns": [(c, c in TEXT) for c in table], "lines": table.astype(str).to_numpy().tolist()}


def _commands(records: TableRecords) -> list[dict[str, str]]:
    rows = cost.all_rows(records)[["label", "seeds", "commit", "command"]]
    return [{"name": str(name), **line} for name, line in rows.iterrows()]
