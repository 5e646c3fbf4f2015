"""Weight optimizers: how a worker turns gradients into a step, on the flat buffers of its model.

    sgd   SGD with momentum, PyTorch's form: v = mu v + g + lambda w, w -= x v
    sam   the same with SAM's gradient        asam  with adaptive SAM's

A step is: backward, average over the gradient scope, update. With SAM two backward passes: the first one's gradient is
averaged over `--sam-scope` and forms the perturbation, the second's is averaged over the gradient scope, and weight decay,
momentum and step act once, at the unperturbed weights.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.comm import Group
from common.ecosphere import Ecosphere
from common.optim.sam import PERTURBATIONS, Sharpness, frozen_batch_norm

OPTIMIZERS = ("sgd", "sam", "asam")
SAM_SCOPES = ("local", "population", "world")

Closure = Callable[[], Tensor]  # zero the gradient, forward, backward; returns what it wants to report of the batch


@dataclass(frozen=True)
class OptimizerSettings:
    """Hyper-parameters of the weight optimizer; the learning rate is the worker's own and not in here.

    rho: radius of SAM and ASAM. sam_scope: communicator over which SAM's first gradient is averaged.
    reset_momentum: momentum restarts from zero after every round, as in the reference scripts.
    """

    name: str = "asam"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    rho: float = 0.5
    sam_scope: str = "local"
    reset_momentum: bool = False


class WeightOptimizer:
    """One worker's optimizer on the flat parameters of `ecosphere.model`.

    Attributes:
        passes: backward passes per step; images times passes are the gradient evaluations.
    """

    def __init__(self, ecosphere: Ecosphere, settings: OptimizerSettings) -> None:
        self.ecosphere, self.settings = ecosphere, settings
        self.model = ecosphere.model
        self.inner = torch.optim.SGD(
            [self.model.parameters],
            lr=ecosphere.rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            foreach=False,  # one tensor: the grouping of many would only cost time
        )
        perturbation = PERTURBATIONS.get(settings.name)
        self.sharpness = Sharpness(perturbation, settings.rho) if perturbation else None
        self.passes = self.sharpness.passes if self.sharpness else 1
        self._sam_group = _group(ecosphere, settings.sam_scope)

    def step(self, closure: Closure, rate: float) -> Tensor:
        """One update at learning rate `rate`; returns what the (first) closure call returned.

        Collective over the gradient scope, and over the SAM scope. Left out where no rank's gradient is finite.
        """
        report = closure()
        if self.sharpness:
            self._second_pass(closure, self.sharpness)
        if self.ecosphere.average_gradient():
            self.inner.param_groups[0]["lr"] = rate
            self.inner.step()
        return report

    def _second_pass(self, closure: Closure, sharpness: Sharpness) -> None:
        """Replace the gradient at w by the one at w + e."""
        self.model.collect_gradient()
        if self._sam_group is not None:
            self.ecosphere.average_gradient(self._sam_group)
        before = sharpness.perturb(self.model.parameters, self.model.gradient)
        with frozen_batch_norm(self.model.module):
            closure()
        self.model.parameters.data.copy_(before)

    def end_round(self, finite: bool) -> None:
        """After the exchange: momentum stays with its worker, unless the settings or lost weights ask for a fresh one."""
        if self.settings.reset_momentum or not finite:
            self.inner.state.clear()

    def state_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep, besides the weights."""
        state = self.inner.state.get(self.model.parameters, {})
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state_tensors` gave."""
        self.inner.state.clear()
        if tensors:
            self.inner.state[self.model.parameters].update({n: t.to(self.model.device) for n, t in tensors.items()})


def _group(ecosphere: Ecosphere, scope: str) -> Group | None:
    """The communicator of a SAM scope; None for `local`, where nothing is averaged."""
    topology = ecosphere.topology
    if scope == "local":
        return None
    return topology.world if scope == "world" else topology.population
