"""Which of several runs is best on the images that were held out of training: what decides when rates are tuned.

    python results/best.py DIRECTORY ...

Prints the directory with the highest validation accuracy; runs that diverged come last. Test accuracies are not looked at.
"""

import json
import math
import sys
from pathlib import Path


def score(directory: str) -> float:
    """Validation accuracy, -1 where the run diverged. Raises FileNotFoundError without a summary."""
    summary = json.loads((Path(directory) / "summary.json").read_text())
    accuracy = summary["validation_accuracy"]
    return -1.0 if summary["diverged"] or accuracy is None or not math.isfinite(accuracy) else accuracy


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"error: name the directories of runs to choose from\n{__doc__}")
    print(max(sys.argv[1:], key=score))
