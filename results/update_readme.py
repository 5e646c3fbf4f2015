"""Put a profile's results table into README.md, between its markers: no number of the README is typed by hand.

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


def updated(readme: str, table: str) -> str:
    """README with the block between the markers replaced. Raises ValueError where the markers are missing."""
    pattern = r"(<!-- results table.*?-->\n).*?(<!-- end of results table -->)"
    if not re.search(pattern, readme, re.DOTALL):
        raise ValueError("README.md has no results table markers")
    return re.sub(pattern, lambda m: f"{m[1]}{table}\n{m[2]}", readme, count=1, flags=re.DOTALL)


if __name__ == "__main__":
    profile = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    if not (ROOT / profile / "tables" / "accuracy.md").exists():
        sys.exit(
            f"error: there is no results/{profile}/tables/accuracy.md: run `python results/make_tables.py {profile}` first"
        )
    readme = ROOT.parent / "README.md"
    readme.write_text(updated(readme.read_text(), table_of((ROOT / profile / "tables" / "accuracy.md").read_text())))
