"""Options of the weight optimizer, and which of them each optimizer uses."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from common.errors import UsageError
from common.optim.bases import OptimizerSettings
from common.optim.registry import OPTIMIZERS, has_line_search, is_schedule_free, lr_option, split_name
from common.options import Needs, Range, flag

WITH_RATE = Needs(
    lambda args: not has_line_search(args.optimizer),
    "is for optimizers with a rate, and {optimizer} finds its steps by itself: leave one of them out",
)
OF_OTHERS = {  # by `lr_option`: options that such an optimizer ignores
    "sgd": ("adam_rate", "adam_decay"),
    "adam": ("learning_rate", "momentum_factor", "weight_decay"),
    "one": ("learning_rate", "adam_rate", "momentum_factor", "weight_decay"),
}


@dataclass(frozen=True)
class OptimizerOptions:
    """Weight optimizer."""

    optimizer: Literal[*OPTIMIZERS] = "asam"  # type: ignore[valid-type]
    """weight optimizer of populations that name none; sam and asam alone use sgd (EOA: asam; sgd in EOA-ViT)"""
    learning_rate: Annotated[float, Range(above=0)] = 0.1
    """base rate eta0 of sgd, for 128 images per averaged gradient (EOA: 0.1 for one worker; 0.03 in EOA-ViT)"""
    adam_rate: Annotated[float, Range(above=0)] = 0.001
    """base rate eta0 of adamw, muon and schedulefree-adamw (prodigy's is 1); rates are compared as multiples of eta0"""
    adam_decay: Annotated[float, Range(0)] = 0.05
    """weight decay of adamw, muon, schedulefree-adamw, prodigy and salsa"""
    clip_norm: Annotated[float, Range(0)] = 0.0
    """largest norm of an averaged gradient; 0 for no limit (EOA: 1 in EOA-ViT)"""
    rho: Annotated[float, Range(above=0)] = 0.5
    """radius of SAM's perturbation (EOA: 0.5, ASAM)"""
    momentum_factor: Annotated[float, Range(0, below=1)] = 0.9
    """momentum of SGD (EOA: 0.9)"""
    weight_decay: Annotated[float, Range(0)] = 5e-4
    """weight decay of SGD (EOA: 5e-4; 0 in EOA-ViT)"""
    label_smoothing: Annotated[float, Range(0, below=1)] = 0.1
    """label smoothing of the training loss (EOA: 0.1; 0 in EOA-ViT)"""

    one_optimizer: ClassVar[bool] = True  # whether --optimizer is the only optimizer of a run

    def refuse(self, given: set[str]) -> None:
        """Refuse options that the only weight optimizer of a run does not have. Raises UsageError."""
        if not self.one_optimizer:
            return
        for name in sorted(given & {"learning_rate", "adam_rate"}):
            if wrong := WITH_RATE.wrong(self):
                raise UsageError(f"{flag(name)} {wrong}")
        for name in sorted(given & without_effect(self.optimizer)):
            raise UsageError(f"{flag(name)} is not an option of {self.optimizer}: leave it out, or take another optimizer")


def optimizer_settings(args: OptimizerOptions, name: str, seed: int, **own: Any) -> OptimizerSettings:
    """Settings of the weight optimizer `name`, one of OPTIMIZERS. own: fields that are no options of every script."""
    return OptimizerSettings(
        name=name,
        momentum=args.momentum_factor,
        weight_decay=args.weight_decay,
        adam_decay=args.adam_decay,
        rho=args.rho,
        clip_norm=args.clip_norm,
        seed=seed,
        **own,
    )


def without_effect(optimizer: str) -> set[str]:
    """Options that one of OPTIMIZERS ignores."""
    return {*OF_OTHERS[lr_option(optimizer)], *(() if split_name(optimizer)[0] else ("rho",))}


def refuse_averages(optimizers: Iterable[str], beside: str) -> None:
    """Refuse schedule-free optimizers where two sets of weights are not supported. Raises UsageError."""
    for name in sorted(filter(is_schedule_free, optimizers)):
        raise UsageError(
            f"{name} is judged by an average of its weights, which does not go together with {beside}: leave one of them out"
        )


def refuse_clipping(clip_norm: float, optimizers: Iterable[str]) -> None:
    """Refuse gradient clipping where the optimizer derives its step or rate from the unclipped gradient. Raises UsageError."""
    for name in sorted(set(optimizers)) if clip_norm else ():
        if has_line_search(name) or lr_option(name) == "one":
            why = "bounds its steps by itself" if has_line_search(name) else "estimates its rate from unclipped gradients"
            raise UsageError(f"--clip-norm {clip_norm:g}: {name} {why}; give --clip-norm 0, or take another optimizer")
