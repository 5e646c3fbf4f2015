"""Base optimizers, on the flat buffers of a model; most are torch's.

    sgd     v = mu v + g + lambda w, w -= x v, on the whole buffer as one tensor
    adamw   decoupled decay (Loshchilov & Hutter 2019), likewise
    muon    orthogonalised momentum (Jordan et al. 2024) for weights with a matrix shape (of a convolution: outputs x rest),
            scaled to AdamW's rates; biases and normalisation by AdamW at the same rate
    salsa   Adam with a line search for the step size (`common.optim.salsa`); salsa-sgd: SGD with one
    schedulefree-sgd, schedulefree-adamw   constant rate; an average of the weights is evaluated (Defazio et al. 2024)
    prodigy AdamW with its rate multiplied by an estimate of the distance to the solution (Mishchenko, Defazio 2023)

To add an optimizer, write a function like these and add one line to `BASES`.
"""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from common.models.flat import FlatModel
from common.optim import eager
from common.optim.armijo import PAPER, Rules
from common.optim.protocols import Reductions
from common.optim.salsa import Direction, Salsa


@dataclass(frozen=True)
class OptimizerSettings:
    """Hyper-parameters of the weight optimizer, without the learning rate, which belongs to the worker.

    momentum, weight_decay: of SGD. adam_decay: decoupled decay of AdamW and Muon. rho: radius of SAM and ASAM. sam_scope:
    communicator over which SAM's first gradient is averaged. clip_norm: largest norm of the averaged gradient, 0 for no limit.
    reset_momentum: reset momentum to zero after every round, as in the reference scripts. search: line-search settings.
    seed: of the random draws inside a step.
    """

    name: str = "asam"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    adam_decay: float = 0.05
    rho: float = 0.5
    sam_scope: str = "local"
    clip_norm: float = 0.0
    reset_momentum: bool = False
    search: Rules = PAPER
    seed: int = 0


@dataclass(frozen=True)
class Base:
    """A base optimizer.

    lr_option: option with its base rate: `sgd`, `adam`, or `one` where the base rate is fixed at 1. line_search: whether its
    step sizes come from a line search, which excludes SAM. averages_iterates: whether its methods `train` and `eval` switch
    between the weights at which gradients are taken and their average, which is evaluated. numbers: names of scalar state in
    its parameter groups.
    """

    build: Callable[[FlatModel, OptimizerSettings, Reductions], list[torch.optim.Optimizer]]
    lr_option: str
    line_search: bool = False
    averages_iterates: bool = False
    numbers: tuple[str, ...] = ()


def _sgd(model: FlatModel, settings: OptimizerSettings, ranks: Reductions) -> list[torch.optim.Optimizer]:
    mu, decay = settings.momentum, settings.weight_decay
    return [eager.SGD([model.parameters], 1.0, mu, weight_decay=decay, foreach=False)]  # a single tensor


class NesterovSGD(eager.Eager, torch.optim.Optimizer):
    """SGD with Nesterov momentum in the form of the EASGD paper (M1, M2): gradient and decay at x + delta v,

    v <- delta v - eta (g + lambda x), x <- x + v. Call `step_ahead` before computing the gradient.
    """

    def __init__(self, parameters: list[nn.Parameter], momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": 1.0, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step_ahead(self) -> None:
        """v <- delta v, x <- x + v."""
        for group in self.param_groups:
            for x in group["params"]:
                velocity = self.state[x].setdefault("momentum_buffer", torch.zeros_like(x))
                x.add_(velocity.mul_(group["momentum"]))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """x <- x - eta g, v <- v - eta g, with the gradient at the point reached by `step_ahead`."""
        for group in self.param_groups:
            for x in group["params"]:
                move = x.grad.add(x, alpha=group["weight_decay"]).mul_(group["lr"])
                x.sub_(move)
                self.state[x]["momentum_buffer"].sub_(move)


def _nesterov(model: FlatModel, settings: OptimizerSettings, ranks: Reductions) -> list[torch.optim.Optimizer]:
    return [NesterovSGD([model.parameters], settings.momentum, settings.weight_decay)]


def _adamw(model: FlatModel, settings: OptimizerSettings, ranks: Reductions) -> list[torch.optim.Optimizer]:
    return [eager.AdamW([model.parameters], lr=1.0, weight_decay=settings.adam_decay, foreach=False)]


def _muon(model: FlatModel, settings: OptimizerSettings, ranks: Reductions) -> list[torch.optim.Optimizer]:
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for weights, gradient in model.views():
        shape = (len(weights), -1) if weights.ndim > 1 else weights.shape
        parameter = nn.Parameter(weights.view(shape))
        parameter.grad = gradient.view(shape)
        (matrices if weights.ndim > 1 else vectors).append(parameter)
    decay = settings.adam_decay
    muon = [eager.Muon(matrices, lr=1.0, weight_decay=decay, adjust_lr_fn="match_rms_adamw")] if matrices else []
    adamw = [eager.AdamW(vectors, lr=1.0, weight_decay=decay)] if vectors else []
    return [*muon, *adamw]


def _schedulefree_sgd(model: FlatModel, settings: OptimizerSettings, ranks: Reductions) -> list[torch.optim.Optimizer]:
    mu, decay = settings.momentum, settings.weight_decay
    return [eager.ScheduleFreeSGD([model.parameters], 1.0, mu, weight_decay=decay, foreach=False)]


def _schedulefree_adamw(model: FlatModel, settings: OptimizerSettings, ranks: Reductions) -> list[torch.optim.Optimizer]:
    return [eager.ScheduleFreeAdamW([model.parameters], 1.0, weight_decay=settings.adam_decay, foreach=False)]


def _prodigy(model: FlatModel, settings: OptimizerSettings, ranks: Reductions) -> list[torch.optim.Optimizer]:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a note on decoupled decay on every rank
        return [eager.Prodigy([model.parameters], 1.0, weight_decay=settings.adam_decay)]


def _salsa(
    model: FlatModel, settings: OptimizerSettings, ranks: Reductions, direction: Direction = "adam"
) -> list[torch.optim.Optimizer]:
    momentum, decay = (0.9, settings.adam_decay) if direction == "adam" else (settings.momentum, settings.weight_decay)
    salsa = Salsa(
        [model.parameters],
        settings.search,
        direction,
        betas=(momentum, 0.999),
        weight_decay=decay,
        buffers=[model.buffers, *model.counters().values()],
        seed=settings.seed,
        rank=ranks.rank,
        gather=ranks.gather,
    )
    return [salsa]


BASES = {
    "sgd": Base(_sgd, "sgd"),
    "nesterov": Base(_nesterov, "sgd"),
    "adamw": Base(_adamw, "adam"),
    "salsa": Base(_salsa, "adam", line_search=True),
    "salsa-sgd": Base(partial(_salsa, direction="sgd"), "sgd", line_search=True),
    "schedulefree-sgd": Base(_schedulefree_sgd, "sgd", averages_iterates=True, numbers=("k", "weight_sum", "lr_max")),
    "schedulefree-adamw": Base(_schedulefree_adamw, "adam", averages_iterates=True, numbers=("k", "weight_sum", "lr_max")),
    "prodigy": Base(_prodigy, "one", numbers=("k", "d", "d_max", "d_numerator")),
}
if hasattr(eager, "Muon"):
    BASES["muon"] = Base(_muon, "adam")
