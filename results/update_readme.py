"""Put a profile's tables into the README files, between their markers: no number there is typed by hand.

python results/update_readme.py cpu
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent
OWN_IMAGES = ", workers with images of their own"
BLOCKS = (  # file, name of the block, the table it shows: of which file, the how-manieth after which heading
    ("README.md", "results", "accuracy.md", "", 0),
    ("README.md", "start", "start.md", "", 0),
    ("EASGD/README.md", "period", "periods.md", "## CIFAR-10, EASGD-CNN-4\n", 0),
    ("PSO-PS/README.md", "MNIST", "periods.md", f"## MNIST, EASGD-CNN-4{OWN_IMAGES}\n", 0),
    ("PSO-PS/README.md", "MNIST swarm", "periods.md", f"## MNIST, EASGD-CNN-4{OWN_IMAGES}\n", 1),
    ("PSO-PS/README.md", "CIFAR-10", "periods.md", f"## CIFAR-10, CNN-2{OWN_IMAGES}\n", 0),
    ("PSO-PS/README.md", "CIFAR-10 swarm", "periods.md", f"## CIFAR-10, CNN-2{OWN_IMAGES}\n", 1),
    ("SaLSA/README.md", "MNIST", "steps.md", "## MNIST, CNN-2\n", 0),
    ("SaLSA/README.md", "CIFAR-10", "steps.md", "## CIFAR-10, CNN-2\n", 0),
    ("SaLSA/README.md", "text", "steps.md", "## Python topics, ", 0),
    ("SaLSA/README.md", "digits first step", "steps.md", "## digits, CNN-2\n", 1),
    ("SaLSA/README.md", "CIFAR-10 first step", "steps.md", "## CIFAR-10, CNN-2\n", 1),
    ("DHPO/README.md", "MNIST", "search.md", "## MNIST", 0),
    ("DHPO/README.md", "CIFAR-10", "search.md", "## CIFAR-10", 0),
)


def table_of(text: str, heading: str = "", which: int = 0) -> str:
    """One table of a Markdown text, with what is quoted above it: the first after a heading, or a later one. Empty where there
    is none.
    """
    start = text.find(heading)
    blocks = re.findall(r"(?:^> .*\n\n)*(?:^\|.*\n?)+", text[start:], re.MULTILINE) if start >= 0 else []
    return blocks[which].rstrip("\n") if which < len(blocks) else ""


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
    for file, name, source, heading, which in BLOCKS:
        readme, path = ROOT.parent / file, ROOT / profile / "tables" / source
        table = table_of(path.read_text(encoding="utf-8"), heading, which) if path.exists() else ""
        if table:  # start.md and periods.md are there where base rates or periods were varied
            readme.write_text(updated(readme.read_text(encoding="utf-8"), name, table), encoding="utf-8")
