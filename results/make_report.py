"""One page with the tables and figures of a profile, readable without a network.

    python results/make_report.py [smoke|cpu|gpu|paper]

Writes results/<profile>/report.html from the records and from the figures that make_figures.py has drawn. It holds no date:
the same records and figures give the same page.
"""

import base64
from dataclasses import dataclass
from pathlib import Path

import cells
import jinja2
import make_tables
import pandas as pd
import searches
import step_tables
import sweep_tables
from PIL import Image
from records import Records, from_command_line, write_text

PROFILES = {
    "smoke": "Every experiment at the smallest size, on handwritten digits of 8 × 8 pixels that ship with scikit-learn. It "
    "shows that everything works; it does not rank methods.",
    "cpu": "CIFAR-10 and CIFAR-100 at a size that two cores can do overnight. Networks and training are smaller than "
    "published, so these numbers are not comparable with those of the papers.",
    "gpu": "The published setting, WRN-22-8 (called 16-8 there) for 200 epochs, on the GPUs of one node.",
    "paper": "The published setting, WRN-22-8 (called 16-8 there) for 200 epochs, for several seeds; beside it the rules of "
    "the published scripts.",
}
KINDS = (
    "accuracy",
    "start",
    "period",
    "search",
    "distance",
    "steps",
    "first",
    "workers",
    "seconds",
)  # of figures, in the order they are shown; others follow


@dataclass(frozen=True)
class Shown:
    """One figure, ready for the page."""

    name: str
    title: str
    caption: str
    data: str
    width: int
    height: int


def figures(folder: Path) -> list[Shown]:
    """The PNG files of a folder with the words inside them."""

    def place(path: Path) -> tuple[int, str]:
        kind = path.stem.split("-")[0]
        return KINDS.index(kind) if kind in KINDS else len(KINDS), path.stem

    shown = []
    for path in sorted(folder.glob("*.png"), key=place):
        with Image.open(path) as image:
            words, (width, height) = image.info, image.size
        data = base64.b64encode(path.read_bytes()).decode()
        shown.append(Shown(path.name, words.get("Title", path.stem), words.get("Description", ""), data, width, height))
    return shown


def render(records: Records, folder: Path) -> str:
    """The page. folder: the profile's, which holds figures/."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    runs = records.runs
    return templates.get_template("report.html.j2").render(
        profile=records.profile,
        about=PROFILES.get(records.profile, ""),
        counts={s: int((runs.status == s).sum()) for s in ("finished", "diverged", "incomplete", "repeated")},
        rows=len(records.rows),
        commits=list(dict.fromkeys(runs.commit)),
        hardware=list(dict.fromkeys(runs.hardware)),
        accuracy=_cells(make_tables.accuracy_table(records)),
        accuracy_notes=make_tables.accuracy_notes(records),
        starts=[
            (
                f"{rows.data.iloc[0]}, {rows.model.iloc[0]}",
                _cells(sweep_tables.start_table(rows)),
                _noted(cells.statistics_note(rows), sweep_tables.start_notes(records, rows)),
            )
            for _, rows in records.sweeps()
        ],
        periods=[
            (
                sweep_tables.period_title(rows),
                [
                    _cells(table)
                    for table in (sweep_tables.period_table(records, rows), sweep_tables.swarm_table(rows))
                    if len(table)
                ],
                _noted(sweep_tables.marks(rows), sweep_tables.period_notes(records, rows)),
                sweep_tables.SWARM_NOTE,
            )
            for _, rows in records.periods()
        ],
        steps=[
            (
                f"{rows.data.iloc[0]}, {rows.model.iloc[0]}",
                [_cells(table) for table in (step_tables.steps_table(rows), step_tables.first_step_table(rows)) if len(table)],
                _noted(cells.statistics_note(rows), step_tables.steps_notes(records, rows)),
                step_tables.FIRST_STEP_NOTE,
            )
            for _, rows in records.steps()
        ],
        searches=[(group.title + _pixels(group.runs), _cells(searches.table(group))) for group in searches.load(folder)],
        search_note=searches.NOTE,
        cost=_cells(make_tables.cost_table(records)),
        cost_notes=make_tables.cost_notes(records),
        troubled=_cells(make_tables.troubled_table(records)),
        figures=figures(folder / "figures"),
        commands=make_tables.commands(records),
        regenerate=cells.regenerate(records, "make_report.py"),
    )


def _noted(marks: list[str], notes: list[str]) -> list[str]:
    """Notes below a table, after what Markdown quotes above it."""
    return [*(mark.removeprefix("> ") for mark in marks), *notes]


def _pixels(runs: pd.DataFrame) -> str:
    """What the title of a search adds where its pixels were not normalised."""
    return " (pixels in [0, 1], to be made again)" if (runs.pixels == "unit").any() else ""


def _cells(table: pd.DataFrame) -> dict[str, list]:
    """Column names, whether each is text (to the left) or number, and the cells as text."""
    return {
        "columns": [(c, c in cells.TEXT) for c in table],
        "lines": table.astype(str).to_numpy().tolist(),
    }


def write(records: Records, folder: Path) -> Path:
    """Write report.html into the profile's folder."""
    path = folder / "report.html"
    write_text(path, render(records, folder))
    return path


def main() -> None:
    print(write(*from_command_line(__doc__)))


if __name__ == "__main__":
    main()
