"""Put a profile's tables into README.md, between their markers: no number of the README is typed by hand.

python results/update_readme.py cpu
"""

import re
import sys
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).parent


def table_of(text: str) -> str:
    """The first table of a Markdown text."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    return "\n".join(takewhile(lambda line: line.startswith("|"), lines[first:]))


def updated(readme: str, name: str, table: str) -> str:
    """README with the block between the markers of one table replaced. Raises ValueError where the markers are missing."""
    pattern = rf"(<!-- {name} table.*?-->\n).*?(<!-- end of {name} table -->)"
    if not re.search(pattern, readme, re.DOTALL):
        raise ValueError(f"README.md has no {name} table markers")
    return re.sub(pattern, lambda m: f"{m[1]}{table}\n{m[2]}", readme, count=1, flags=re.DOTALL)


if __name__ == "__main__":
    profile = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    readme = ROOT.parent / "README.md"
    text = readme.read_text()
    if not (ROOT / profile / "tables" / "accuracy.md").exists():
        sys.exit(f"error: there is no results/{profile}/tables: run `python results/make_tables.py {profile}` first")
    for name, file in (("results", "accuracy.md"), ("start", "start.md")):
        path = ROOT / profile / "tables" / file
        if path.exists():  # start.md is there where base rates were varied
            text = updated(text, name, table_of(path.read_text()))
    readme.write_text(text)
