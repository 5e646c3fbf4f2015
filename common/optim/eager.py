"""Optimizers that do not load torch's compiler.

torch.optim excludes some methods from compilation, and for that imports `torch._dynamo` when the first optimizer is built: a
large part of a script's start-up time, on every rank. No script here uses the compiler.
"""

import inspect

import prodigyopt
import schedulefree
import torch
from torch.optim import Optimizer


class Eager:
    """Mixin for optimizers whose steps are neither compiled nor differentiated: methods without torch's compiler decorators,
    steps under no_grad. Must come before the optimizer among the bases.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.step = torch.no_grad()(inspect.unwrap(cls.step))  # type: ignore[attr-defined]


class SGD(Eager, torch.optim.SGD):
    """torch's."""


class AdamW(Eager, torch.optim.AdamW):
    """torch's."""


class ScheduleFreeSGD(Eager, schedulefree.SGDScheduleFree):
    """schedulefree's."""


class ScheduleFreeAdamW(Eager, schedulefree.AdamWScheduleFree):
    """schedulefree's."""


class Prodigy(Eager, prodigyopt.Prodigy):
    """prodigyopt's."""


if hasattr(torch.optim, "Muon"):  # from torch 2.9 on

    class Muon(Eager, torch.optim.Muon):
        """torch's."""
