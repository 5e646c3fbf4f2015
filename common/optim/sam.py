"""Perturbations of sharpness-aware minimisation on flat buffers; `WeightOptimizer` makes the two passes.

Foret et al. 2021 (SAM, eq. 2) and Kwon et al. 2021 (ASAM, eq. 7 with the layer-wise constant eta = 0). One norm over the
whole flat buffer. Pure; nothing is reduced over ranks.
"""

from collections.abc import Callable

from torch import Tensor

TINY = 1e-12  # keeps the quotient finite where the gradient is exactly zero

Perturbation = Callable[[Tensor, Tensor, float], Tensor]


def sam_perturbation(weights: Tensor, gradient: Tensor, rho: float) -> Tensor:
    """E = rho g / (||g|| + 1e-12). weights, gradient and result: shape (P,)."""
    return gradient * (rho / (gradient.norm() + TINY))


def asam_perturbation(weights: Tensor, gradient: Tensor, rho: float) -> Tensor:
    """E = rho w^2 g / (|| |w| g || + 1e-12), element-wise products. Shapes (P,)."""
    scaled = weights * gradient  # |w| g up to the sign of w, which cancels in the norm and in the second product
    return scaled * weights * (rho / (scaled.norm() + TINY))


PERTURBATIONS: dict[str, Perturbation] = {"sam": sam_perturbation, "asam": asam_perturbation}
