"""Which of several runs is best on the images that were held out of training: what decides when rates are tuned.

    python results/best.py DIRECTORY ...

Prints the directory with the highest validation accuracy; runs that diverged come last. Test accuracies are not looked at.
"""

import json
import math
import sys
from pathlib import Path

from common.errors import UsageError
from common.paths import expand


def score(directory: str) -> float:
    """Validation accuracy, -1 where the run diverged. Raises FileNotFoundError without a summary."""
    summary = json.loads((Path(expand(directory, "a directory")) / "summary.json").read_text(encoding="utf-8"))
    accuracy = summary["validation_accuracy"]
    return -1.0 if summary["diverged"] or accuracy is None or not math.isfinite(accuracy) else accuracy


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"error: name the directories of runs to choose from\n{__doc__}")
    try:
        print(max(sys.argv[1:], key=score))
    except UsageError as error:
        sys.exit(f"error: {error}")
