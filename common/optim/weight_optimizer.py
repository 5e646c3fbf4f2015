"""Weight optimizers: how a worker turns gradients into a step, on the flat buffers of its model.

    sgd  nesterov  adamw  muon   what takes the step (`bases`)
    salsa  salsa-sgd             Adam and SGD whose steps are found by a line search
    schedulefree-sgd  -adamw     SGD and AdamW at a constant rate, judged by an average of the weights
    prodigy                      AdamW times an estimate of its own
    sam  asam                    SGD with SAM's gradient, with adaptive SAM's
    sam+adamw  asam+muon ...     the same over another one

A step is: backward, average over the gradient scope, update. With SAM two backward passes: the first one's gradient is
averaged over `--sam-scope` and forms the perturbation, the second's is averaged over the gradient scope, and weight decay,
momentum and step act once, at the unperturbed weights. Where workers keep weights of their own, a synchroniser
(`common.coupling`) couples them around the step.

A line search evaluates the loss at trial points as well, all workers of the gradient scope together: they take the same steps.
What rates mean to it: `WeightOptimizer.begin_round`.

Schedule-free optimizers have two places for the weights; between `begin_round` and `rest` they are where gradients are taken,
otherwise where they are judged, exchanged and saved.
"""

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from common.coupling.elastic import Synchroniser
from common.ecosphere.membership import Ecosphere
from common.models.batch_norm import frozen_batch_norm
from common.optim.armijo import State
from common.optim.bases import BASES, Averaging, LookAhead, OptimizerSettings
from common.optim.salsa import Salsa
from common.optim.sam import PERTURBATIONS, Sharpness
from common.parallel.comm import Group

SAM_SCOPES = ("local", "population", "world")
COUNTS = ("searches", "trials", "exhausted", "flat", "skipped")  # of a line search
UNDER_SAM = [name for name, base in BASES.items() if name != "sgd" and base.plain]
OPTIMIZERS = (*BASES, *PERTURBATIONS, *(f"{sharp}+{base}" for sharp in PERTURBATIONS for base in UNDER_SAM))


class Closure(Protocol):
    """One batch."""

    def __call__(self, backwards: bool = True) -> Tensor:
        """Forward; before it, with `backwards`, the gradient is set to zero, and after it backward adds to it.

        Returns what it wants to report of the batch; a line search takes the first number for the summed loss and the last
        for how many losses they are, a single one for the mean loss.
        """
        ...


def parts(name: str) -> tuple[str, str]:
    """(perturbation or '', base) of one of OPTIMIZERS, e.g. ('sam', 'adamw')."""
    sharp, _, base = name.rpartition("+")
    return (base, "sgd") if base in PERTURBATIONS else (sharp, base)


def family(name: str) -> str:
    """Which option quotes the base rate of one of OPTIMIZERS: `sgd`, which has a momentum as well, or `adam`; `one`: none, it
    is 1.
    """
    return BASES[parts(name)[1]].family


def searches(name: str) -> bool:
    """Whether one of OPTIMIZERS finds its steps by a line search."""
    return BASES[parts(name)[1]].searches


def averages(name: str) -> bool:
    """Whether one of OPTIMIZERS is judged by an average of its weights."""
    return BASES[parts(name)[1]].averages


def unit(name: str, learning_rate: float, adam_rate: float, momentum: float) -> float:
    """Eta0 of one of OPTIMIZERS over the one that rates are quoted for, `learning_rate`, that of SGD.

    A line search along SGD has a momentum that averages; what it averages over, SGD's own adds up.
    """
    if family(name) != "sgd":
        return (adam_rate if family(name) == "adam" else 1.0) / learning_rate
    return 1 / (1 - momentum) if searches(name) else 1.0


class WeightOptimizer:
    """One worker's optimizer on the flat parameters of `ecosphere.model`.

    unit: this optimizer's eta0 over the one that rates are quoted for. What populations elect, move and tell each other is the
    rate without it, so that a rate of AdamW and one of SGD can be compared: both are eta0 times the same ratio.

    synchroniser: what couples these weights to those of other workers, before and after every step; None for nothing.

    Attributes:
        clock: steps since the start of the run.
        passes: backward passes per step; images times passes are the gradient evaluations.
        salsa: the line search, None where there is none.
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
        self.salsa = next((optimizer for optimizer in self.inner if isinstance(optimizer, Salsa)), None)
        self.averaging = next((optimizer for optimizer in self.inner if isinstance(optimizer, Averaging)), None)
        self._rested: Tensor | None = None  # the weights that `rest` left
        self._numbers = BASES[base].numbers
        self._rate = 0.0  # of the round before, where there was one
        if self.salsa:
            self.salsa.gather, self.salsa.rank = ecosphere.topology.gradients.gather_rows, ecosphere.topology.world.rank

    @property
    def forward_passes(self) -> int:
        """Of the last step: one for each backward pass, and one for each trial point of a line search."""
        return self.passes + (self.salsa.last.trials if self.salsa else 0)

    def counts(self) -> dict[str, int]:
        """What the line search has come to so far, all 0 where there is none: see `common.optim.armijo.State`."""
        return {name: getattr(self.salsa.search, name) if self.salsa else 0 for name in COUNTS}

    def begin_round(self, rate: float) -> None:
        """A population that moved its workers' rates by some factor moves the step of their line search by it (by the geometric
        mean over the gradient scope): the next step is a searched one that begins there. That is all a rate means to it; how
        large it is, and how it changes inside a round, does not concern it. A schedule-free optimizer goes to where gradients
        are taken. Others do nothing here. Collective over the gradient scope.
        """
        if self.averaging:
            self.averaging.train()
        if not self.salsa:
            return
        before, self._rate = self._rate, rate
        moved = np.log(rate / before) if before > 0 and rate > 0 else 0.0
        factor = np.exp(self.ecosphere.topology.gradients.gather_rows(np.array([moved])).mean())
        if factor != 1:
            for group in self.salsa.param_groups:
                group["lr"] = float(self.salsa.search.eta * factor)

    def rest(self) -> bool:
        """After the steps of a round: to the weights that are judged. Returns whether these are others than those that
        gradients were taken at; batch-norm statistics then have to be measured.
        """
        if not self.averaging:
            return False
        self.averaging.eval()
        self._rested = self.model.parameters.detach().clone()
        return True

    def step_size(self, rate: float) -> float:
        """What the record says of a round at this rate: rate * unit, times its estimate under Prodigy, or the step that a line
        search accepted last.
        """
        return self.salsa.search.eta if self.salsa else rate * self.unit * self.inner[0].param_groups[0].get("d", 1.0)

    def step(self, closure: Closure, rate: float) -> Tensor:
        """One update at learning rate `rate * unit`, or by a line search; returns what the (first) closure call returned.

        Collective over the gradient scope, and over the SAM scope. Left out where no rank's gradient is finite, and by a line
        search where not all losses are.
        """
        weights, synchroniser = self.model.parameters.data, self.synchroniser
        if synchroniser:
            synchroniser.begin(self.clock, weights)
        report = self._search(closure, self.salsa) if self.salsa else self._step_at(closure, rate)
        if synchroniser:
            synchroniser.end(self.clock, weights, self.model.gradient)
        self.clock += 1
        return report

    def _step_at(self, closure: Closure, rate: float) -> Tensor:
        for optimizer in self.inner:
            if isinstance(optimizer, LookAhead):
                optimizer.look_ahead()
        report = self._observed(closure())
        if self.sharpness:
            self._second_pass(closure, self.sharpness)
        if self._may_step():
            self._take_step(rate)
        return report

    def _search(self, closure: Closure, salsa: Salsa) -> Tensor:
        first: list[Tensor] = []

        def averaged(backwards: bool) -> Tensor:
            report = closure(backwards)
            if not backwards:
                return report
            first.append(self._observed(report))
            return report if self._may_step() else torch.full_like(report, torch.nan)

        salsa.step(averaged)
        return first[0]

    def _observed(self, report: Tensor) -> Tensor:
        """The report of a step's batch, once the synchroniser has seen it."""
        if self.synchroniser:
            self.synchroniser.observe(report)
        return report

    def _may_step(self) -> bool:
        """Average the gradient; whether it is finite somewhere, and there is a step to take with it."""
        finite = self.ecosphere.average_gradient()
        return self.synchroniser.take(self.clock, self.model.gradient, finite) if self.synchroniser else finite

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
        for a fresh one; what a synchroniser remembers begins anew at the weights that all have been given. Workers that search
        together forget together (collective over the gradient scope).
        """
        if self.salsa:
            finite = bool(self.ecosphere.topology.gradients.gather_rows(np.array([float(finite)])).all())
        if self.settings.reset_momentum or not finite:
            self.forget()
        if self.averaging and self._rested is not None:
            moved = self.model.parameters.detach() - self._rested
            for state in self.inner[0].state.values():
                state["z"].add_(moved)  # the place that gradients move goes along with the weights
        if self.synchroniser:
            self.synchroniser.restart(self.model.parameters.data)

    def forget(self) -> None:
        """Momentum, moments and averages begin anew; a line search keeps its step and how often it looks for one."""
        if self.salsa:
            self.salsa.search = replace(self.salsa.search, h=0.0, s=0.0)
        for optimizer in self.inner:
            optimizer.state.clear()
            for group in optimizer.param_groups:
                group.update({name: optimizer.defaults[name] for name in self._numbers})

    def momentum(self) -> list[Tensor]:
        """SGD's momentum as flat tensors, to travel with the weights; other optimizers keep their state to themselves.

        Made, as zeros, where no step has been taken yet.
        """
        parameters = self.model.parameters
        if self.settings.momentum == 0 or not isinstance(self.inner[0], (torch.optim.SGD, LookAhead)):
            return []
        return [self.inner[0].state[parameters].setdefault("momentum_buffer", torch.zeros_like(parameters))]

    def state_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep besides the weights: by `optimizer.parameter.name`, `optimizer.numbers`, and `search`
        of a line search.
        """
        kept: dict[str, Tensor] = {}
        if self.salsa:
            kept["search"] = torch.tensor([self._rate, *self.salsa.search.numbers()], dtype=torch.float64)
        for i, optimizer in enumerate(self.inner):
            if self._numbers:
                numbers = [float(optimizer.param_groups[0][name]) for name in self._numbers]
                kept[f"{i}.numbers"] = torch.tensor(numbers, dtype=torch.float64)
            for j, state in optimizer.state_dict()["state"].items():
                kept |= {f"{i}.{j}.{name}": torch.as_tensor(value) for name, value in state.items() if value is not None}
        return kept

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state_tensors` gave."""
        for i, optimizer in enumerate(self.inner):
            states: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"{i}.") and key != f"{i}.numbers":
                    _, j, name = key.split(".", 2)
                    states.setdefault(int(j), {})[name] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
            for group in optimizer.param_groups if self._numbers else ():
                numbers = zip(self._numbers, tensors[f"{i}.numbers"].tolist(), strict=True)
                group.update({name: type(optimizer.defaults[name])(value) for name, value in numbers})
        if self.salsa:
            self._rate, *found = tensors["search"].tolist()
            self.salsa.search = State.of(found)


def _group(ecosphere: Ecosphere, scope: str) -> Group | None:
    """The communicator of a SAM scope; None for `local`, where nothing is averaged."""
    topology = ecosphere.topology
    if scope == "local":
        return None
    return topology.world if scope == "world" else topology.population


__all__ = [
    "BASES",
    "COUNTS",
    "OPTIMIZERS",
    "SAM_SCOPES",
    "Closure",
    "OptimizerSettings",
    "WeightOptimizer",
    "averages",
    "family",
    "parts",
    "searches",
    "unit",
]
