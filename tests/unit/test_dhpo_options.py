"""The options of the search: what goes together, what is refused before any rank trains, and the spaces that come with it."""

from pathlib import Path

import pytest
from test_cli import load_script, undocumented

from common.models import build_model
from common.search.space import read_space
from common.search.steady_state import Steady
from common.training.options import parse_args

FOLDER = Path(__file__).parents[2] / "DHPO"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        yield load_script("DHPO", patch, FOLDER)


def settled(script, options, ranks=4):
    args, given = parse_args(script.PRESETS, "a test", ["--preset", "smoke", *options.split()])
    return args, script.read_checked_space(args, given, ranks)


def test_every_option_is_documented(script):
    assert not undocumented(script.Args)


@pytest.mark.parametrize("preset", ["smoke", "cpu", "paper"])
def test_a_preset_is_in_order(script, preset):
    args = script.PRESETS[preset]
    space = script.read_checked_space(args, set(), 1)
    assert isinstance(script.strategy_of(args, space), Steady)
    model = build_model(args.model, 1, 10, args.depth, args.width, args.dropout, image_size=28)
    if preset == "paper":
        assert sum(p.numel() for p in model.parameters()) == 906, "the published network"
        assert (args.trials, args.population, args.grid_size, args.rounds, args.batch_size) == (64, 4, 4, 1, 128)
        assert [(v.name, v.low, v.high, v.scale) for v in space.variables] == [
            (name, 1e-4, 1 - 1e-4, "linear") for name in ("learning_rate", "dropout", "momentum_factor")
        ]


@pytest.mark.parametrize("path", sorted((FOLDER / "spaces").glob("*.toml")), ids=lambda p: p.stem)
def test_the_spaces_that_come_with_it(script, path):
    args, space = settled(script, f"--space {path} --model dhpo-cnn")  # which has a dropout, as the space of MNIST
    assert space == read_space(path)
    assert args.space == str(path)


def test_what_goes_together(script):
    for options in (
        "--strategy grid --pruning median --order free",
        "--strategy evolution --pruning halving --reduction 2",
        "--objective eoa --ranks-per-trial 2 --populations gwo,woa",
        "--strategy tpe --order free",
    ):
        args, space = settled(script, options)
        assert "learning_rate" in space.names
        assert vars(args) == vars(parse_args(script.PRESETS, "a test", ["--preset", "smoke", *options.split()])[0])
