"""The options of the search: what goes together, what is refused before any rank trains, and the spaces that come with it."""

import pytest
from experiment_scripts import ROOT, command_line, presets, script

from common.models import build_model
from common.search.space import read_space
from common.search.steady_state import Steady

DHPO = "DHPO/DHPO"


def settled(options):
    args, given = command_line(DHPO, options)
    return args, script(DHPO).read_checked_space(args, given, 4)


@pytest.mark.parametrize("preset", ["smoke", "cpu", "paper"])
def test_a_preset_is_in_order(preset):
    args = presets(DHPO)[preset]
    space = script(DHPO).read_checked_space(args, set(), 1)
    assert isinstance(script(DHPO).strategy_of(args, space), Steady)
    model = build_model(args.model, 1, 10, args.depth, args.width, args.dropout, image_size=28)
    if preset == "paper":
        assert sum(p.numel() for p in model.parameters()) == 906, "the published network"
        assert (args.trials, args.population, args.grid_size, args.rounds, args.batch_size) == (64, 4, 4, 1, 128)
        assert [(v.name, v.low, v.high, v.scale) for v in space.variables] == [
            (name, 1e-4, 1 - 1e-4, "linear") for name in ("learning_rate", "dropout", "momentum_factor")
        ]


@pytest.mark.parametrize("path", sorted((ROOT / "DHPO/spaces").glob("*.toml")), ids=lambda p: p.stem)
def test_the_spaces_that_come_with_it(path):
    args, space = settled(f"--space {path} --model dhpo-cnn")  # which has a dropout, as the space of MNIST
    assert space == read_space(path)
    assert args.space == str(path)


@pytest.mark.parametrize(
    "options",
    [
        "--strategy grid --pruning median --order free",
        "--strategy evolution --pruning halving --reduction 2",
        "--objective eoa --ranks-per-trial 2 --populations gwo,woa",
        "--strategy tpe --order free",
    ],
)
def test_what_goes_together(options):
    _, space = settled(options)
    assert "learning_rate" in space.names
