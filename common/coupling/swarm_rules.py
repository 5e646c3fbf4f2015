"""Move of a particle on flat weights: PSO-PS (our reconstruction). Pure; no MPI.

A worker is a particle: its weights x are the position, a loss is its fitness (lower is better). With P its best
position, G the best position of all particles, and r1, r2 uniform in [0, 1):

    v <- w v + c1 r1 (P - x) + c2 r2 (G - x)      (5)
    v <- clip(v, -v_max, v_max)                   (6), if there is a v_max
    x <- x + v                                    (7)

(5) has the form of Kennedy and Eberhart 1995 with the inertia w of Shi and Eberhart 1998. Of PSO-PS (Ye, Han, Sun and Lv, IJCNN
2020) only the abstract was available: coefficients, memory and fitness are ours, see docs/algorithms.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MEMORIES = ("standard", "reeval", "fresh")
RANDS = ("element", "tensor", "scalar")
UNITS = ("absolute", "rms")
Coefficients = tuple[float, float, float]  # w, c1 and c2 of one move


@dataclass(frozen=True)
class Motion:
    """The coefficients of all moves.

    inertia, inertia_end: w at the start and after the last round, linear in between. cognitive, social: c1 and c2.
    decay: whether these shrink by (1 - 1/K)^k. rand: whether r1 and r2 are drawn for every coordinate (`element`), for every
    parameter tensor (`tensor`) or once (`scalar`). v_max: largest velocity of a coordinate, 0 for no limit;
    v_max_unit: whether it is `absolute` or in multiples of the root mean square of the coordinate's tensor (`rms`).
    """

    inertia: float
    inertia_end: float
    cognitive: float
    social: float
    decay: bool = False
    rand: str = "element"
    v_max: float = 0.0
    v_max_unit: str = "absolute"

    def at(self, k: int, rounds: int) -> Coefficients:
        """Coefficients of round k = 1 ... K, K = rounds."""
        inertia = self.inertia - (self.inertia - self.inertia_end) * k / rounds
        shrink = (1 - 1 / rounds) ** k if self.decay else 1.0
        return inertia, shrink * self.cognitive, shrink * self.social


# v <- chi [v + phi1 r1 (P - x) + phi2 r2 (G - x)], which is (5) with w = chi and c_m = chi phi_m. Clerc and Kennedy 2002.
PHI = 2.05 + 2.05
CHI = 2 / abs(2 - PHI - math.sqrt(PHI * PHI - 4 * PHI))
MOTIONS = {
    "hull": Motion(0.0, 0.0, 0.25, 0.75),  # ours: x stays within the hull of x, P and G and cannot diverge
    "clerc": Motion(CHI, CHI, CHI * 2.05, CHI * 2.05),  # the textbook
    "shi": Motion(0.9, 0.4, 2.0, 2.0, v_max=0.05),  # needs a v_max, as it is unstable while w > 0.5; the value is ours
    "oz": Motion(0.9, 0.9, 0.08, 0.5, decay=True, rand="tensor"),  # of another method, from Oz's thesis on swarms (2023)
}


def draw(rand: str, sizes: Sequence[int], rng: np.random.Generator) -> Tensor:
    """Uniform factors in [0, 1), float32: shape (N,) with N = sum(sizes), or (1,) if `rand`, one of RANDS, is `scalar`.

    sizes: lengths of the parameter tensors, in their order.
    """
    count = {"element": sum(sizes), "tensor": len(sizes), "scalar": 1}[rand]
    values = torch.from_numpy(rng.random(count, dtype=np.float32))
    return spread(values, sizes) if rand == "tensor" else values


def spread(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """One value per parameter tensor, shape (len(sizes),), to one per coordinate, shape (sum(sizes),)."""
    return values.repeat_interleave(torch.tensor(sizes, device=values.device))


def limits(x: Tensor, v_max: float, unit: str, sizes: Sequence[int]) -> Tensor | None:
    """v_max of every coordinate, shape (1,) or (N,); None without a limit. unit: one of UNITS."""
    if not v_max:
        return None
    if unit == "absolute":
        return x.new_full((1,), v_max)
    squares = torch.stack([part.square().mean() for part in x.split(list(sizes))])
    return spread(v_max * squares.sqrt(), sizes)


def move(
    x: Tensor, v: Tensor, personal: Tensor, best: Tensor, c: Coefficients, r1: Tensor, r2: Tensor, limit: Tensor | None = None
) -> None:
    """(5) to (7), in place on x and v.

    x, v, personal (P), best (G): shape (N,), of one type. r1, r2, limit: shape (N,) or (1,); limit as `limits` gives it.
    """
    w, c1, c2 = c
    v.mul_(w)
    v.addcmul_(r1, personal - x, value=c1)
    v.addcmul_(r2, best - x, value=c2)
    if limit is not None:
        v.clamp_(-limit, limit)
    x.add_(v)


class Best:
    """Best position so far and its fitness, +inf before the first measurement.

    Attributes:
        place: the position: flat weights and floating buffers. value: the fitness, shape (1,), float64; a tensor, so that a
            checkpoint can keep it.
    """

    def __init__(self, start: Tensor) -> None:
        self.place = start.detach().clone()
        self.value = torch.full((1,), math.inf, dtype=torch.float64)

    @property
    def fitness(self) -> float:
        """Lower is better."""
        return self.value.item()

    @fitness.setter
    def fitness(self, fitness: float) -> None:
        self.value.fill_(fitness)

    def take(self, place: Tensor, fitness: float) -> None:
        """Replace position and fitness."""
        self.place.copy_(place)
        self.fitness = fitness


def is_personal_best(memory: str, fitness: float, before: float) -> bool:
    """(3) Whether a worker's current position replaces P.

    standard: if it is better. reeval: likewise, with `before` measured again. fresh: always.
    """
    return memory == "fresh" or fitness < before


def is_global_best(memory: str, fitness: float, before: float) -> bool:
    """(4) Whether the best P of a round becomes G. standard: if it is better. reeval, fresh: always, if it is finite."""
    return fitness < math.inf and (memory != "standard" or fitness < before)


def second_moments(w: float, c1: float, c2: float) -> np.ndarray:
    """One move on (E x^2, E x x_, E x_^2), x_ the position before x, at P = G = 0 with r1, r2 drawn anew; shape (3, 3).

    The variance of a particle stays bounded iff its spectral radius is below 1.
    """
    a, s = 1 + w - (c1 + c2) / 2, (c1 * c1 + c2 * c2) / 12
    return np.array([[a * a + s, -2 * w * a, w * w], [a, -w, 0], [1, 0, 0]])
