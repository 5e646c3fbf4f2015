"""Weight optimizers: how a worker turns gradients into a step, on the flat buffers of its model.

    sgd  nesterov  adamw  muon   what takes the step (`bases`)
    sam  asam                    SGD with SAM's gradient, with adaptive SAM's
    sam+adamw  asam+muon ...     the same over another one

A step is: backward, average over the gradient scope, update. With SAM two backward passes: the first one's gradient is
averaged over `--sam-scope` and forms the perturbation, the second's is averaged over the gradient scope, and weight decay,
momentum and step act once, at the unperturbed weights. Where workers keep weights of their own, a synchroniser
(`common.elastic`) couples them around the step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from common.comm import Group
from common.ecosphere import Ecosphere
from common.elastic.rules import Synchroniser
from common.optim.bases import BASES, LookAhead, OptimizerSettings
from common.optim.sam import PERTURBATIONS, Sharpness, frozen_batch_norm

SAM_SCOPES = ("local", "population", "world")
OPTIMIZERS = (*BASES, *PERTURBATIONS, *(f"{sharp}+{base}" for sharp in PERTURBATIONS for base in BASES if base != "sgd"))

Closure = Callable[[], Tensor]  # zero the gradient, forward, backward; returns what it wants to report of the batch


def parts(name: str) -> tuple[str, str]:
    """(perturbation or '', base) of one of OPTIMIZERS, e.g. ('sam', 'adamw')."""
    sharp, _, base = name.rpartition("+")
    return (base, "sgd") if base in PERTURBATIONS else (sharp, base)


def family(name: str) -> str:
    """`sgd` or `adam`: which option quotes the base rate of one of OPTIMIZERS, and, for sgd, that it has a momentum."""
    return BASES[parts(name)[1]].family


class WeightOptimizer:
    """One worker's optimizer on the flat parameters of `ecosphere.model`.

    unit: this optimizer's eta0 over the one that rates are quoted for. What populations elect, move and tell each other is the
    rate without it, so that a rate of AdamW and one of SGD can be compared: both are eta0 times the same ratio.

    synchroniser: what couples these weights to those of other workers, before and after every step; None for nothing.

    Attributes:
        clock: steps since the start of the run.
        passes: backward passes per step; images times passes are the gradient evaluations.
    """

    def __init__(
        self, ecosphere: Ecosphere, settings: OptimizerSettings, unit: float = 1.0, synchroniser: Synchroniser | None = None
    ) -> None:
        self.ecosphere, self.settings, self.unit, self.synchroniser = ecosphere, settings, unit, synchroniser
        self.clock = 0
        self.model = ecosphere.model
        sharp, base = parts(settings.name)
        self.inner = BASES[base].build(self.model, settings)
        self.sharpness = Sharpness(PERTURBATIONS[sharp], settings.rho) if sharp else None
        self.passes = self.sharpness.passes if self.sharpness else 1
        self._sam_group = _group(ecosphere, settings.sam_scope)

    def step(self, closure: Closure, rate: float) -> Tensor:
        """One update at learning rate `rate * unit`; returns what the (first) closure call returned.

        Collective over the gradient scope, and over the SAM scope. Left out where no rank's gradient is finite.
        """
        weights, synchroniser = self.model.parameters.data, self.synchroniser
        if synchroniser:
            synchroniser.begin(self.clock, weights)
        for optimizer in self.inner:
            if isinstance(optimizer, LookAhead):
                optimizer.look_ahead()
        report = closure()
        if synchroniser:
            synchroniser.observe(report)
        if self.sharpness:
            self._second_pass(closure, self.sharpness)
        finite = self.ecosphere.average_gradient()
        if synchroniser.take(self.clock, self.model.gradient, finite) if synchroniser else finite:
            self._take_step(rate)
        if synchroniser:
            synchroniser.end(self.clock, weights, self.model.gradient)
        self.clock += 1
        return report

    def _take_step(self, rate: float) -> None:
        if self.settings.clip_norm:
            self._clip(self.settings.clip_norm)
        for optimizer in self.inner:
            for group in optimizer.param_groups:
                group["lr"] = rate * self.unit
            optimizer.step()

    def _second_pass(self, closure: Closure, sharpness: Sharpness) -> None:
        """Replace the gradient at w by the one at w + e."""
        self.model.collect_gradient()
        if self._sam_group is not None:
            self.ecosphere.average_gradient(self._sam_group)
        before = sharpness.perturb(self.model.parameters, self.model.gradient)
        with frozen_batch_norm(self.model.module):
            closure()
        self.model.parameters.data.copy_(before)

    def _clip(self, limit: float) -> None:
        """Scale the averaged gradient down to a norm of at most `limit`; all ranks of the scope hold the same one."""
        gradient = self.model.gradient
        gradient.mul_((limit / (gradient.norm() + 1e-6)).clamp(max=1.0))

    def end_round(self, finite: bool) -> None:
        """After the exchange of a population's weights: momentum stays with its worker, unless the settings or lost weights ask
        for a fresh one; what a synchroniser remembers begins anew at the weights that all have been given.
        """
        if self.settings.reset_momentum or not finite:
            self.forget()
        if self.synchroniser:
            self.synchroniser.restart(self.model.parameters.data)

    def forget(self) -> None:
        """Momentum and moments begin anew."""
        for optimizer in self.inner:
            optimizer.state.clear()

    def momentum(self) -> list[Tensor]:
        """SGD's momentum as flat tensors, to travel with the weights; other optimizers keep their state to themselves.

        Made, as zeros, where no step has been taken yet.
        """
        parameters = self.model.parameters
        if self.settings.momentum == 0 or not isinstance(self.inner[0], (torch.optim.SGD, LookAhead)):
            return []
        return [self.inner[0].state[parameters].setdefault("momentum_buffer", torch.zeros_like(parameters))]

    def state_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep besides the weights, by `optimizer.parameter.name`."""
        return {
            f"{i}.{j}.{name}": value
            for i, optimizer in enumerate(self.inner)
            for j, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
            if isinstance(value, Tensor)
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state_tensors` gave."""
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in self.inner]
        for key, value in tensors.items():
            i, j, name = key.split(".", 2)
            states[int(i)].setdefault(int(j), {})[name] = value
        for optimizer, state in zip(self.inner, states, strict=True):
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _group(ecosphere: Ecosphere, scope: str) -> Group | None:
    """The communicator of a SAM scope; None for `local`, where nothing is averaged."""
    topology = ecosphere.topology
    if scope == "local":
        return None
    return topology.world if scope == "world" else topology.population


__all__ = ["BASES", "OPTIMIZERS", "SAM_SCOPES", "Closure", "OptimizerSettings", "WeightOptimizer", "family", "parts"]
