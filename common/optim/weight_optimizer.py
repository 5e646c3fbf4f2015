"""The weight optimizer of one worker, on the flat buffers of its model.

A step is: backward pass, average over the gradient scope, update. SAM makes two backward passes: the gradient of the first is
averaged over `--sam-scope` and forms the perturbation, that of the second is averaged over the gradient scope; weight decay,
momentum and step act once, at the unperturbed weights. Where workers keep their own weights, a `Coupling` acts before and
after the step.

A line search also evaluates the loss at trial points; all workers of the gradient scope do so together and take the same steps.
How it uses rates: `WeightOptimizer.begin_round`.

Schedule-free optimizers have two sets of weights: between `begin_round` and `end_training` the model holds those at which
gradients are taken, otherwise those that are evaluated, exchanged and saved.
"""

import time
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.models.batch_norm import frozen_batch_norm
from common.models.flat import FlatModel
from common.optim.armijo import COUNTS, State
from common.optim.bases import BASES, NesterovSGD, OptimizerSettings
from common.optim.protocols import Closure, Coupling, Reductions
from common.optim.registry import split_name
from common.optim.salsa import Salsa
from common.optim.sam import PERTURBATIONS, Perturbation


class WeightOptimizer:
    """One worker's optimizer on the flat parameters of a model.

    lr_scale: ratio of this optimizer's base rate to SGD's (`registry.lr_scale`). Populations elect, move and exchange the rate
    without this factor, so that rates of AdamW and SGD are comparable as the same multiple of eta0. coupling: to other workers'
    weights, applied before and after every step.

    Attributes:
        clock: steps since the start of the run.
        passes: backward passes per step; gradient evaluations are images times passes.
        salsa: the line search, or None.
    """

    def __init__(
        self,
        model: FlatModel,
        settings: OptimizerSettings,
        reductions: Reductions,
        lr_scale: float = 1.0,
        coupling: Coupling | None = None,
    ) -> None:
        self.model, self.settings, self.reductions = model, settings, reductions
        self.lr_scale, self.coupling = lr_scale, coupling
        self.clock = 0
        sharp, name = split_name(settings.name)
        base = BASES[name]
        self.inner = base.build(model, settings, reductions)
        self.perturbation = PERTURBATIONS[sharp] if sharp else None
        self.passes = 2 if self.perturbation else 1
        self.salsa = next((optimizer for optimizer in self.inner if isinstance(optimizer, Salsa)), None)
        self.averaging: Any = self.inner[0] if base.averages_iterates else None
        self._averaged: Tensor | None = None  # weights after the last `end_training`
        self._numbers = base.numbers
        self._rate = 0.0  # of the previous round, 0 in the first
        self._seconds = 0.0  # in the coupling, since `coupling_seconds` was last called

    @property
    def forward_passes(self) -> int:
        """Forward passes of the last step: one per backward pass, and one per trial point of a line search."""
        return self.passes + (self.salsa.last.trials if self.salsa else 0)

    def counts(self) -> dict[str, int]:
        """Counters of the line search so far, all 0 if there is none: see `common.optim.armijo.State`."""
        return {name: getattr(self.salsa.search, name) if self.salsa else 0 for name in COUNTS}

    def coupling_seconds(self) -> float:
        """Seconds in the coupling since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def begin_round(self, rate: float) -> None:
        """Call before the steps of a round; collective over the gradient scope.

        With a line search: if a population has changed its workers' rates, the step size is multiplied by the geometric mean
        over the gradient scope of the factors of change, and the next step makes a line search that begins there. A line search
        uses rates in no other way. A schedule-free optimizer switches to the weights at which gradients are taken. Others do
        nothing.
        """
        if self.averaging:
            self.averaging.train()
        if not self.salsa:
            return
        before, self._rate = self._rate, rate
        moved = np.log(rate / before) if before > 0 and rate > 0 else 0.0
        factor = np.exp(self.reductions.gather(np.array([moved])).mean())
        if factor != 1:
            for group in self.salsa.param_groups:
                group["lr"] = float(self.salsa.search.eta * factor)

    def end_training(self) -> bool:
        """Call after the steps of a round: switch to the weights that are evaluated.

        Returns whether gradients were taken at other weights; batch-norm statistics must then be re-estimated.
        """
        if not self.averaging:
            return False
        self.averaging.eval()
        self._averaged = self.model.parameters.detach().clone()
        return True

    def effective_lr(self, rate: float) -> float:
        """Recorded learning rate: rate * lr_scale, times Prodigy's estimate; with a line search the last accepted step size."""
        return self.salsa.search.eta if self.salsa else rate * self.lr_scale * self.inner[0].param_groups[0].get("d", 1.0)

    def step(self, closure: Closure, rate: float) -> Tensor:
        """One update at learning rate `rate * lr_scale`, or by a line search; returns the result of the first closure call.

        Collective over the gradient scope and the SAM scope. Skipped where no rank's gradient is finite; with a line search
        also where any rank's loss is not finite.
        """
        weights, coupling = self.model.parameters.data, self.coupling
        if coupling:
            began = time.perf_counter()
            coupling.begin(self.clock, weights)
            self._seconds += time.perf_counter() - began
        report = self._line_search(closure, self.salsa) if self.salsa else self._step_at(closure, rate)
        if coupling:
            began = time.perf_counter()
            if coupling.end(self.clock, weights, self.model.gradient):
                self.forget()
            self._seconds += time.perf_counter() - began
        self.clock += 1
        return report

    def _step_at(self, closure: Closure, rate: float) -> Tensor:
        for optimizer in self.inner:
            if isinstance(optimizer, NesterovSGD):
                optimizer.step_ahead()
        report = self._observed(closure())
        if self.perturbation:
            self._second_pass(closure, self.perturbation)
        if self._may_step():
            self._take_step(rate)
        return report

    def _line_search(self, closure: Closure, salsa: Salsa) -> Tensor:
        first: list[Tensor] = []

        def averaged(backwards: bool) -> Tensor:
            """The closure with the averaged gradient; NaN where no step is to be taken."""
            report = closure(backwards)
            if not backwards:
                return report
            first.append(self._observed(report))
            return report if self._may_step() else torch.full_like(report, torch.nan)

        salsa.step(averaged)
        return first[0]

    def _observed(self, report: Tensor) -> Tensor:
        """Pass a step's report to the coupling, and return it."""
        if self.coupling:
            self.coupling.observe(report)
        return report

    def _may_step(self) -> bool:
        """Average the gradient; returns whether it is finite on some rank and the coupling allows a step."""
        self.model.collect_gradient()
        finite = self.reductions.mean(self.model.gradient_and_flag) > 0
        return self.coupling.take(self.clock, self.model.gradient, finite) if self.coupling else finite

    def _take_step(self, rate: float) -> None:
        gradient, limit = self.model.gradient, self.settings.clip_norm
        if limit:  # the averaged gradient is the same on all ranks of the scope
            gradient.mul_((limit / (gradient.norm() + 1e-6)).clamp(max=1.0))
        for optimizer in self.inner:
            for group in optimizer.param_groups:
                group["lr"] = rate * self.lr_scale
            optimizer.step()

    def _second_pass(self, closure: Closure, perturbation: Perturbation) -> None:
        """Replace the gradient at w by the one at w + e; w is restored bit for bit."""
        self.model.collect_gradient()
        if self.reductions.first_mean:
            self.reductions.first_mean(self.model.gradient_and_flag)
        weights = self.model.parameters.data
        before = weights.clone()
        weights.add_(perturbation(weights, self.model.gradient, self.settings.rho))
        with frozen_batch_norm(self.model.module):
            closure()
        weights.copy_(before)

    def after_exchange(self, finite: bool) -> None:
        """Call after the exchange of weights at the end of a round.

        Resets the optimizer state if the settings say so or this worker's weights were not finite; otherwise it stays with its
        worker. Workers that share a line search reset together (collective over the gradient scope). Restarts the coupling at
        the current weights.
        """
        if self.salsa:
            finite = bool(self.reductions.gather(np.array([float(finite)])).all())
        if self.settings.reset_momentum or not finite:
            self.forget()
        if self.averaging and self._averaged is not None:
            moved = self.model.parameters.detach() - self._averaged
            for state in self.inner[0].state.values():
                state["z"].add_(moved)  # shift the base iterate with the exchanged weights
        if self.coupling:
            self.coupling.restart(self.model.parameters.data)

    def forget(self) -> None:
        """Reset momentum, moments and averages; a line search keeps its step size and its interval."""
        if self.salsa:
            self.salsa.search = replace(self.salsa.search, h=0.0, s=0.0)
        for optimizer in self.inner:
            optimizer.state.clear()
            for group in optimizer.param_groups:
                group.update({name: optimizer.defaults[name] for name in self._numbers})

    def momentum(self) -> list[Tensor]:
        """SGD's momentum as flat tensors, to be exchanged with the weights; empty for other optimizers.

        Zeros before the first step.
        """
        parameters = self.model.parameters
        if self.settings.momentum == 0 or not isinstance(self.inner[0], (torch.optim.SGD, NesterovSGD)):
            return []
        return [self.inner[0].state[parameters].setdefault("momentum_buffer", torch.zeros_like(parameters))]

    def state_tensors(self) -> dict[str, Tensor]:
        """State for a checkpoint, without the weights; keys: `optimizer.parameter.name`, `optimizer.numbers`, and, of a line
        search, `search`.
        """
        kept: dict[str, Tensor] = {}
        if self.salsa:
            kept["search"] = torch.tensor([self._rate, *astuple(self.salsa.search)], dtype=torch.float64)
        for i, optimizer in enumerate(self.inner):
            if self._numbers:
                numbers = [float(optimizer.param_groups[0][name]) for name in self._numbers]
                kept[f"{i}.numbers"] = torch.tensor(numbers, dtype=torch.float64)
            for j, state in optimizer.state_dict()["state"].items():
                kept |= {f"{i}.{j}.{name}": torch.as_tensor(value) for name, value in state.items() if value is not None}
        return kept

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore the result of `state_tensors`."""
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
