"""Sharpness-aware minimisation on flat buffers: the perturbations and the two-pass gradient.

Foret et al. 2021 (SAM, eq. 2) and Kwon et al. 2021 (ASAM, eq. 7 with the layer-wise constant eta = 0). One norm over the
whole flat buffer.
"""

from collections.abc import Callable

import torch
from torch import Tensor

TINY = 1e-12  # keeps the quotient finite where the gradient is exactly zero

Perturbation = Callable[[Tensor, Tensor, float], Tensor]


def sam_perturbation(weights: Tensor, gradient: Tensor, rho: float) -> Tensor:
    """E = rho g / (||g|| + 1e-12). weights, gradient and result: shape (P,). Pure; nothing is reduced over ranks."""
    return gradient * (rho / (gradient.norm() + TINY))


def asam_perturbation(weights: Tensor, gradient: Tensor, rho: float) -> Tensor:
    """E = rho w^2 g / (|| |w| g || + 1e-12), element-wise products. Shapes (P,). Pure; nothing is reduced over ranks."""
    scaled = weights * gradient  # |w| g up to the sign of w, which cancels in the norm and in the second product
    return scaled * weights * (rho / (scaled.norm() + TINY))


PERTURBATIONS: dict[str, Perturbation] = {"sam": sam_perturbation, "asam": asam_perturbation}


class Sharpness:
    """The two-pass gradient: perturb, differentiate again, restore the weights bit for bit."""

    passes = 2

    def __init__(self, perturbation: Perturbation, rho: float) -> None:
        self.perturbation, self.rho = perturbation, rho

    @torch.no_grad()
    def perturb(self, weights: Tensor, gradient: Tensor) -> Tensor:
        """Add e to `weights` in place; returns a copy of the weights before."""
        before = weights.clone()
        weights.add_(self.perturbation(weights, gradient, self.rho))
        return before
