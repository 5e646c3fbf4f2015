"""Optimizers that do not load torch's compiler.

torch.optim excludes some methods from compilation, and for that imports `torch._dynamo` when the first optimizer is built: a
large part of a script's start-up time, on every rank. No script here uses the compiler.
"""

import inspect
from typing import TypeVar

import prodigyopt
import schedulefree
import torch
from torch.optim import Optimizer

T = TypeVar("T", bound=Optimizer)


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


def eager(kind: type[T]) -> type[T]:
    """A library's optimizer class with the mixin."""
    return type(kind.__name__, (Eager, kind), {})


SGD = eager(torch.optim.SGD)
AdamW = eager(torch.optim.AdamW)
ScheduleFreeSGD = eager(schedulefree.SGDScheduleFree)
ScheduleFreeAdamW = eager(schedulefree.AdamWScheduleFree)
Prodigy = eager(prodigyopt.Prodigy)
if hasattr(torch.optim, "Muon"):  # from torch 2.9 on
    Muon = eager(torch.optim.Muon)
