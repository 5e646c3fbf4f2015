"""Put a profile's tables into the README files, between their markers: no number there is typed by hand.

python results/update_readme.py cpu
"""

import re
import sys
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).parent
BLOCKS = (  # file, name of the block, the table it shows
    ("README.md", "results", "accuracy.md"),
    ("README.md", "start", "start.md"),
    ("EASGD/README.md", "period", "periods.md"),
)


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
    if not (ROOT / profile / "tables" / "accuracy.md").exists():
        sys.exit(f"error: there is no results/{profile}/tables: run `python results/make_tables.py {profile}` first")
    for file, name, source in BLOCKS:
        readme, path = ROOT.parent / file, ROOT / profile / "tables" / source
        if path.exists():  # start.md and periods.md are there where base rates or periods were varied
            readme.write_text(updated(readme.read_text(), name, table_of(path.read_text())))
