"""The algorithm in one file: it learns the digits, alone and on several ranks, and loads nothing of the package."""

import re

import pytest
from launching import ROOT, run

SCRIPT = "EOA-SAM/eoa_simple.py"


@pytest.mark.parametrize("ranks", [1, 4])
def test_it_learns_the_digits(ranks):
    done = run(SCRIPT, ranks=ranks, OMP_NUM_THREADS="1")
    accuracies = [float(a) for a in re.findall(r"accuracy ([0-9.]+)", done.out)]
    assert len(accuracies) == 10
    assert accuracies[-1] > 0.9
    kinds = set(re.findall(r"leader (\w+)", done.out))
    assert kinds <= ({"worker"} if ranks == 1 else {"wolf", "whale"})


def test_it_is_one_short_file():
    text = (ROOT / SCRIPT).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert "common" not in re.findall(r"^ *(?:from|import) (\w+)", text, re.MULTILINE)
