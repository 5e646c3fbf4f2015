"""The weight optimizer of one worker: how gradients become a step, on the flat buffers of its model.

A step is: backward, average over the gradient scope, update. With SAM two backward passes: the first one's gradient is
averaged over `--sam-scope` and forms the perturbation, the second's is averaged over the gradient scope, and weight decay,
momentum and step act once, at the unperturbed weights. Where workers keep weights of their own, a `Coupling` acts before and
after the step.

A line search evaluates the loss at trial points as well, all workers of the gradient scope together: they take the same steps.
What rates mean to it: `WeightOptimizer.begin_round`.

Schedule-free optimizers have two sets of weights; between `begin_round` and `end_training` the model holds those at which
gradients are taken, otherwise those that are evaluated, exchanged and saved.
"""

import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from common.models.batch_norm import frozen_batch_norm
from common.models.flat import FlatModel
from common.optim.armijo import COUNTS, State
from common.optim.bases import BASES, IterateAveraging, NesterovSGD, OptimizerSettings
from common.optim.protocols import Closure, Coupling, Reductions
from common.optim.registry import split_name
from common.optim.salsa import Salsa
from common.optim.sam import PERTURBATIONS, Sharpness


class WeightOptimizer:
    """One worker's optimizer on the flat parameters of a model.

    lr_scale: this optimizer's base rate over SGD's (`registry.lr_scale`). What populations elect, move and exchange is the rate
    without it, so that a rate of AdamW and one of SGD can be compared: both are eta0 times the same ratio.

    coupling: what couples these weights to those of other workers, before and after every step; None for nothing.

    Attributes:
        clock: steps since the start of the run.
        passes: backward passes per step; images times passes are the gradient evaluations.
        salsa: the line search, None where there is none.
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
        sharp, base = split_name(settings.name)
        self.inner = BASES[base].build(model, settings, reductions)
        self.sharpness = Sharpness(PERTURBATIONS[sharp], settings.rho) if sharp else None
        self.passes = self.sharpness.passes if self.sharpness else 1
        self.salsa = next((optimizer for optimizer in self.inner if isinstance(optimizer, Salsa)), None)
        self.averaging = next((optimizer for optimizer in self.inner if isinstance(optimizer, IterateAveraging)), None)
        self._averaged: Tensor | None = None  # the weights that `end_training` left
        self._numbers = BASES[base].numbers
        self._rate = 0.0  # of the previous round, 0 in the first
        self._seconds = 0.0  # in the coupling, since `coupling_seconds` was last called

    @property
    def forward_passes(self) -> int:
        """Of the last step: one for each backward pass, and one for each trial point of a line search."""
        return self.passes + (self.salsa.last.trials if self.salsa else 0)

    def counts(self) -> dict[str, int]:
        """Counters of the line search so far, all 0 where there is none: see `common.optim.armijo.State`."""
        return {name: getattr(self.salsa.search, name) if self.salsa else 0 for name in COUNTS}

    def coupling_seconds(self) -> float:
        """Seconds in the coupling since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def begin_round(self, rate: float) -> None:
        """Before the steps of a round; collective over the gradient scope.

        With a line search: where a population multiplied its workers' rates by some factor, the step size is multiplied by the
        geometric mean of these factors over the gradient scope, and the next step is a searched one that begins there. The
        rate itself, and how it changes within a round, has no other meaning to it. A schedule-free optimizer moves to the
        weights at which gradients are taken. Others do nothing.
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
        """After the steps of a round: switch to the weights that are evaluated.

        Returns whether gradients were taken at other weights; batch-norm statistics then have to be measured.
        """
        if not self.averaging:
            return False
        self.averaging.eval()
        self._averaged = self.model.parameters.detach().clone()
        return True

    def effective_lr(self, rate: float) -> float:
        """The recorded learning rate of a round at this rate: rate * lr_scale, times Prodigy's estimate; with a line search the
        step size that was accepted last.
        """
        return self.salsa.search.eta if self.salsa else rate * self.lr_scale * self.inner[0].param_groups[0].get("d", 1.0)

    def step(self, closure: Closure, rate: float) -> Tensor:
        """One update at learning rate `rate * lr_scale`, or by a line search; returns what the (first) closure call returned.

        Collective over the gradient scope, and over the SAM scope. Left out where no rank's gradient is finite, and by a line
        search where not all losses are.
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
        if self.sharpness:
            self._second_pass(closure, self.sharpness)
        if self._may_step():
            self._take_step(rate)
        return report

    def _line_search(self, closure: Closure, salsa: Salsa) -> Tensor:
        first: list[Tensor] = []

        def averaged(backwards: bool) -> Tensor:
            """The closure with the averaged gradient; NaN where there is no step to take."""
            report = closure(backwards)
            if not backwards:
                return report
            first.append(self._observed(report))
            return report if self._may_step() else torch.full_like(report, torch.nan)

        salsa.step(averaged)
        return first[0]

    def _observed(self, report: Tensor) -> Tensor:
        """The report of a step's batch, after the coupling has seen it."""
        if self.coupling:
            self.coupling.observe(report)
        return report

    def _may_step(self) -> bool:
        """Average the gradient; whether it is finite on some rank, and there is a step to take with it."""
        self.model.collect_gradient()
        finite = self.reductions.mean(self.model.gradient_and_flag) > 0
        return self.coupling.take(self.clock, self.model.gradient, finite) if self.coupling else finite

    def _take_step(self, rate: float) -> None:
        if self.settings.clip_norm:
            self._clip(self.settings.clip_norm)
        for optimizer in self.inner:
            for group in optimizer.param_groups:
                group["lr"] = rate * self.lr_scale
            optimizer.step()

    def _second_pass(self, closure: Closure, sharpness: Sharpness) -> None:
        """Replace the gradient at w by the one at w + e."""
        self.model.collect_gradient()
        if self.reductions.first_mean:
            self.reductions.first_mean(self.model.gradient_and_flag)
        before = sharpness.perturb(self.model.parameters, self.model.gradient)
        with frozen_batch_norm(self.model.module):
            closure()
        self.model.parameters.data.copy_(before)

    def _clip(self, limit: float) -> None:
        """Scale the averaged gradient down to a norm of at most `limit`; all ranks of the scope hold the same one."""
        gradient = self.model.gradient
        gradient.mul_((limit / (gradient.norm() + 1e-6)).clamp(max=1.0))

    def end_round(self, finite: bool) -> None:
        """After the weights of a round were exchanged: momentum stays with its worker, unless the settings or lost weights
        ask for a fresh one; what a coupling remembers begins anew at the present weights. Workers of one line search forget
        together (collective over the gradient scope).
        """
        if self.salsa:
            finite = bool(self.reductions.gather(np.array([float(finite)])).all())
        if self.settings.reset_momentum or not finite:
            self.forget()
        if self.averaging and self._averaged is not None:
            moved = self.model.parameters.detach() - self._averaged
            for state in self.inner[0].state.values():
                state["z"].add_(moved)  # the weights that gradients move follow those that were exchanged
        if self.coupling:
            self.coupling.restart(self.model.parameters.data)

    def forget(self) -> None:
        """Momentum, moments and averages begin anew; a line search keeps its step size and its interval."""
        if self.salsa:
            self.salsa.search = replace(self.salsa.search, h=0.0, s=0.0)
        for optimizer in self.inner:
            optimizer.state.clear()
            for group in optimizer.param_groups:
                group.update({name: optimizer.defaults[name] for name in self._numbers})

    def momentum(self) -> list[Tensor]:
        """SGD's momentum as flat tensors, to travel with the weights; other optimizers keep their state to themselves.

        Zeros where no step has been taken yet.
        """
        parameters = self.model.parameters
        if self.settings.momentum == 0 or not isinstance(self.inner[0], (torch.optim.SGD, NesterovSGD)):
            return []
        return [self.inner[0].state[parameters].setdefault("momentum_buffer", torch.zeros_like(parameters))]

    def state_tensors(self) -> dict[str, Tensor]:
        """State that a checkpoint keeps besides the weights: by `optimizer.parameter.name`, `optimizer.numbers`, and `search`
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
