"""Optimizers without torch's marks for its compiler: the same numbers, and no compiler loaded."""

import subprocess
import sys
from pathlib import Path

import prodigyopt
import pytest
import schedulefree
import torch

from common.optim import eager

ROOT = Path(__file__).resolve().parents[2]
BUILD_ALL = """
import sys
import torch
from common.models.flat import FlatModel
from common.optim.protocols import Reductions
from common.optim.bases import BASES, OptimizerSettings
for name, base in BASES.items():
    model = FlatModel(torch.nn.Sequential(torch.nn.Linear(3, 2)))
    for optimizer in base.build(model, OptimizerSettings(), Reductions(lambda values: 1, None, lambda row: row[None], 0)):
        model.gradient.fill_(1.0)
        if hasattr(optimizer, "train"):
            optimizer.train()
        if hasattr(optimizer, "step_ahead"):
            optimizer.step_ahead()
        optimizer.zero_grad(set_to_none=False)
        optimizer.step(*[lambda backwards=True: torch.ones(())] * base.line_search)
        optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""


def test_no_optimizer_loads_the_compiler_when_it_is_built_steps_or_is_saved():
    done = subprocess.run([sys.executable, "-c", BUILD_ALL], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stderr


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (eager.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
        (eager.AdamW, torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
        (eager.ScheduleFreeSGD, schedulefree.SGDScheduleFree, {"lr": 0.1}),
        (eager.ScheduleFreeAdamW, schedulefree.AdamWScheduleFree, {"lr": 0.01}),
        (eager.Prodigy, prodigyopt.Prodigy, {"lr": 1.0}),
    ],
)
def test_the_weights_are_those_of_the_library_bit_by_bit(ours, theirs, options):
    ends = []
    for kind in (ours, theirs):
        x = torch.nn.Parameter(torch.linspace(-1, 1, 7))
        optimizer = kind([x], **options)
        if hasattr(optimizer, "train"):
            optimizer.train()
        for _ in range(5):
            optimizer.zero_grad()
            (x**2).sum().backward()
            optimizer.step()
        ends.append(x.detach().clone())
    assert torch.equal(*ends)
