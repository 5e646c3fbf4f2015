"""What all figures share: palette, title, legend, footnote, and a file that says what it shows."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import matplotlib as mpl
import pandas as pd
from cells import percent
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from names import ECOSPHERE, SEARCHES
from PIL import Image, PngImagePlugin
from records import count_ranks

# Okabe & Ito's palette, told apart by colour-blind readers as well.
THEIRS = ("#882255", "#44AA99", "#999933")  # Tol's, for those that come after
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", *THEIRS)
OWN = ("#0072B2", "#56B4E9", "#E69F00", "#000000", "#D55E00", "#009E73", "#CC79A7")
METHOD_COLOURS = {
    **dict(zip(ECOSPHERE, OWN, strict=True)),
    **dict(zip(SEARCHES, THEIRS, strict=True)),
}
STYLES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))  # of those that come after each colour has been used once
GREY = "#5F6670"
WIDTH = 7.5  # inches; at 150 dots per inch a little more than the 900 pixels of a README

mpl.rcParams.update(
    {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#E4E6EA",
        "legend.frameon": False,
        "savefig.dpi": 150,
    }
)


@dataclass(frozen=True)
class Picture:
    """A figure with what is said about it: `name` of the file, `title`, and a caption on how to read it."""

    name: str
    title: str
    caption: str
    figure: Figure

    def save(self, folder: Path) -> Path:
        """Write the PNG, in few colours to keep it small; equal records give equal files."""
        path, pixels, words = folder / f"{self.name}.png", io.BytesIO(), PngImagePlugin.PngInfo()
        self.figure.savefig(pixels)
        words.add_itxt("Title", self.title)
        words.add_itxt("Description", self.caption)
        small = Image.open(pixels).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        small.save(path, pnginfo=words, optimize=True)
        return path


def subject_title(rows: pd.DataFrame) -> str:
    """`CIFAR-10 (WRN-16-1)`."""
    return f"{rows.data.iloc[0]} ({rows.model.iloc[0]})"


def test_cell(row: pd.Series) -> str:
    lost = f", {row.diverged} diverged" if row.diverged else ""
    seeds = f" (n = {row.n}{lost})" if row.n > 1 else " (diverged)" if row.diverged else ""
    return f"{percent(row, 'test_accuracy')} %{seeds}"


def seeds(rows: pd.DataFrame) -> str:
    seeds = sorted({int(s) for text in rows.seeds for s in text.split(", ")})
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def ranks(rows: pd.DataFrame) -> str:
    counts = sorted(set(rows.ranks))
    return f"{', '.join(map(str, counts[:-1]))}{' and ' * (len(counts) > 1)}{count_ranks(counts[-1])}"


def commits(rows: pd.DataFrame) -> str:
    return ", ".join(dict.fromkeys(c for text in rows.commit for c in text.split(", ")))


def headline(
    figure: Figure, axes: Axes, title: str, columns: int, handles: list[Line2D] | None = None, side: str = "left"
) -> None:
    """Title at the figure's left edge, legend between it and the axes."""
    figure.suptitle(fill(title, 80), x=0.01, ha="left", fontsize=11, fontweight="bold")
    handles = handles or axes.get_legend_handles_labels()[0]
    place = {"loc": f"lower {side}", "bbox_to_anchor": (-0.01 if side == "left" else 1.0, 1.0)}
    axes.legend(handles=handles, ncols=columns, fontsize=9, columnspacing=1.4, handlelength=1.6, **place)


def footnote(figure: Figure, parts: list[str]) -> None:
    figure.supxlabel("  ·  ".join(parts), x=0.01, ha="left", fontsize=7.5, color=GREY)


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
