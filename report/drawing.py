"""What all figures share: palette, title, legend, footnote, and a file that says what it shows."""

import io
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, PngImagePlugin

from report.cells import count_ranks, percent
from report.names import DATASETS

# Okabe and Ito's palette and three of Tol's colours: colour-blind readers can tell them apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255", "#44AA99", "#999933")
METHOD_COLOURS = {  # the same in every figure; others take the next of COLOURS
    "eoa": "#0072B2",
    "eoa-reference": "#56B4E9",
    "foraging": "#E69F00",
    "cosine": "#000000",
    "linear": "#D55E00",
    "sqrt": "#009E73",
    "replay": "#CC79A7",
}
METHOD_DASHES = {"eoa-reference": (0, (6, 2)), "replay": (0, (4, 1.5))}
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))  # of lines that come after each colour has been used once
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


def subject(rows: pd.DataFrame) -> str:
    """`CIFAR-10 (WRN-16-1)`; with several networks or data sets, all of them."""
    pairs = dict.fromkeys((DATASETS.get(d, d), m) for d, m in zip(rows.dataset, rows.model, strict=True))
    return ", ".join(f"{data} ({model})" for data, model in pairs)


def look(rows: pd.DataFrame, i: int) -> dict[str, object]:
    """Colour and dashes of the i-th row: its method's own, or the i-th of the palette where several rows share a method."""
    method = rows.method.iloc[i]
    if method in METHOD_COLOURS and not rows.method.duplicated().any():
        return {"color": METHOD_COLOURS[method], "ls": METHOD_DASHES.get(method, "-")}
    return {"color": COLOURS[i % len(COLOURS)], "ls": DASHES[i // len(COLOURS) % len(DASHES)]}


def test_cell(row: pd.Series) -> str:
    """Test accuracy for a legend."""
    lost = f", {row.diverged} diverged" if row.diverged else ""
    seeds = f" (n = {row.n}{lost})" if row.n > 1 else " (diverged)" if row.diverged else ""
    return f"{percent(row, 'test_accuracy')} %{seeds}"


def footer(figure: Figure, profile: str, rows: pd.DataFrame, *more: str) -> None:
    """One small line below: profile, ranks, seeds, commits of the rows, and what else there is to say."""
    counts = [str(n) for n in sorted(set(rows.ranks))]
    ranks = f"{', '.join(counts[:-1])}{' and ' * (len(counts) > 1)}{count_ranks(int(counts[-1]))}"
    seeds = sorted({int(s) for text in rows.seeds for s in text.split(", ")})
    commits = ", ".join(dict.fromkeys(c for text in rows.commit for c in text.split(", ")))
    parts = [
        f"profile {profile}",
        ranks,
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        f"commit {commits}",
        *more,
    ]
    figure.supxlabel(fill("  ·  ".join(parts), 125), x=0.01, ha="left", fontsize=7.5, color=GREY)


def headline(
    figure: Figure, axes: Axes, title: str, columns: int, handles: list[Line2D] | None = None, side: str = "left"
) -> None:
    """Title at the figure's left edge, legend between it and the axes."""
    figure.suptitle(fill(title, 80), x=0.01, ha="left", fontsize=11, fontweight="bold")
    handles = handles or axes.get_legend_handles_labels()[0]
    place = {"loc": f"lower {side}", "bbox_to_anchor": (-0.01 if side == "left" else 1.0, 1.0)}
    axes.legend(handles=handles, ncols=columns, fontsize=9, columnspacing=1.4, handlelength=1.6, **place)
