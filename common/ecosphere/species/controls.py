"""Controls for comparison: `hold` never changes the rates, `random` draws them without using fitness."""

import numpy as np

from common.ecosphere.species.moves import Memory, View


def propose_to_hold(view: View, rng: np.random.Generator) -> tuple[np.ndarray, Memory]:
    """The coordinates unchanged, for any base and fitness; no draws."""
    return view.x, {}


def propose_at_random(view: View, rng: np.random.Generator) -> tuple[np.ndarray, Memory]:
    """Log-uniform around the base in either space: ln x' ~ U(ln b - w, ln b + w), w = 1, or 0.2 unless damping is `none`."""
    draws = 2 * rng.random(len(view.x)) - 1
    if view.rules.space == "log":
        return view.base + view.width * draws, {}
    return view.base * np.exp(view.width / view.base * draws) if view.base else np.zeros(len(view.x)), {}
