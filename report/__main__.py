"""Tables, figures and report page of a profile, from its packed records.

    python -m report [smoke|cpu|gpu|paper] [--readme]

Writes results/PROFILE/tables/ (accuracy.md, start.md, periods.md, steps.md, search.md, cost.md, commands.md, rows.csv,
runs.csv; those that have something to show), results/PROFILE/figures/ and results/PROFILE/report.html. --readme: the tables in
the READMEs as well. Equal records give equal files.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from common.errors import UsageError
from common.parallel.launch import tolerate_terminal
from experiments.options import Parser, results_folder
from experiments.registry import PROFILES, RESULTS, ROOT, load_profile
from report import cost, methods, page, periods, readme, searches, start, steps
from report.records import TableRecords, load
from report.section import Block, Section

KINDS = {  # of the registry: module, file of tables/, heading
    "methods": (methods, "accuracy.md", "Accuracy"),
    "start": (start, "start.md", "What a wrong base rate costs"),
    "periods": (periods, "periods.md", "Communication periods"),
    "steps": (steps, "steps.md", "Step sizes"),
    "search": (searches, "search.md", "Hyper-parameter search"),
}


def main() -> None:
    """Parse and write everything."""
    tolerate_terminal()
    parser = Parser(prog="python -m report", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("profile", nargs="?", default="smoke", choices=PROFILES)
    parser.add_argument("--readme", action="store_true", help="write the tables into the READMEs as well")
    parser.add_argument("--results", default=RESULTS, help="folder of the profiles (default: results/)")
    args = parser.parse_args()
    try:
        args.results = results_folder(args.results)
        found = load(load_profile(args.profile), args.results)
    except UsageError as error:
        parser.error(str(error))
    if not found:
        parser.error(f"no records in {args.results / args.profile}: make some with `./run_all.sh --profile {args.profile}`")
    sections = write(args.profile, found, args.results / args.profile)
    if args.readme:
        readme.update(ROOT, sections)


def write(profile: str, found: list[TableRecords], folder: Path) -> list[Section]:
    """Write tables, figures and page into a profile's folder, and print their paths."""
    made_by = f"python -m report {profile}"
    sections = [KINDS[records.table.kind][0].section(records) for records in found]
    costs = cost.section(found)
    for records in found:
        if missing := records.missing():
            print(f"{records.table.name}: no record yet of {', '.join(missing)}", file=sys.stderr)
    texts = _texts(profile, found, sections, costs, made_by)
    for _, file, _ in KINDS.values():
        if file not in texts:
            (folder / "tables" / file).unlink(missing_ok=True)  # of a table that the profile had once
    for name, text in texts.items():
        _save(folder / "tables" / name, text)
    (folder / "figures").mkdir(exist_ok=True)
    for old in (folder / "figures").glob("*.png"):
        old.unlink()
    for section in sections:
        for picture in section.figures:
            print(picture.save(folder / "figures"))
    _save(folder / "report.html", page.render(profile, found, [*sections, costs], folder, made_by))
    return sections


def _texts(profile: str, found: list[TableRecords], sections: list[Section], costs: Section, made_by: str) -> dict[str, str]:
    """The content of every file of tables/."""
    made = f"Made by `{made_by}`; columns are explained in results/README.md, commands are in commands.md."
    texts = {}
    for kind, (_, file, heading) in KINDS.items():
        parts = [
            section.markdown(f"./run_all.sh --profile {profile} --only {section.name}")
            for records, section in zip(found, sections, strict=True)
            if records.table.kind == kind
        ]
        if parts:
            texts[file] = "\n\n".join([f"# {heading}, profile {profile}", *parts, made])
    lost = cost.diverged(found)
    lines = [line for block in costs.blocks for line in block.lines()]
    lines += ["## Runs that diverged", *Block(lost).lines()] if len(lost) else []
    texts["cost.md"] = "\n\n".join([f"# Cost, profile {profile}", *lines, made])
    commands = [line for records in found for line in cost.commands(records)]
    texts["commands.md"] = "\n\n".join([f"# Commands, profile {profile}", *commands, f"Made by `{made_by}`."])
    rows = pd.concat([cost.all_rows(records).assign(table=records.table.name) for records in found])
    texts["rows.csv"] = rows.drop(columns=["settings", "at", "value", "chosen"]).to_csv(lineterminator="\n").rstrip()
    runs = pd.concat([records.runs.assign(table=records.table.name) for records in found])
    texts["runs.csv"] = runs.drop(columns=["settings", "name"]).to_csv(lineterminator="\n").rstrip()
    return texts


def _save(path: Path, text: str) -> None:
    """Write a text file in UTF-8; a path in it that is not UTF-8 itself keeps its bytes as escapes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    print(path)


if __name__ == "__main__":
    main()
