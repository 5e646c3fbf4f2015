"""The options of the search: what goes together, what is refused before any rank trains, and the spaces that come with it."""

from pathlib import Path

import pytest
from test_cli import load_script, undocumented

from common.errors import UsageError
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--ranks-per-trial 3", "--ranks-per-trial 3 does not divide the 4 ranks"),
        ("--trials 0", "--trials 0 has to be at least 1"),
        ("--population 1", "--population 1"),
        ("--threads 0", "--threads 0"),
        ("--target 95", "--target 95"),
        ("--strategy random --population 8", "--population is for --strategy evolution, async-evolution"),
        ("--grid-size 3", "--grid-size is for --strategy grid"),
        ("--strategy grid --lag 4", "--lag is for --strategy"),
        ("--order free --lag 4", "has no lag"),
        ("--strategy evolution --order free", "waits for all of a generation"),
        ("--strategy grid --pruning median", "add --order free"),
        ("--pruning median --reduction 3", "--reduction is for --pruning halving"),
        ("--pruning median --rounds 1", "at least 2"),
        ("--objective eoa --schedule constant", "--schedule is for --objective train"),
        ("--populations gwo", "--populations is for --objective eoa"),
        ("--max-steps 9", "--max-steps"),
        ("--time-budget -1", "--time-budget -1"),
        ("--strategy grid --grid-size 1000 --space cifar10", "is more than 1000000"),
        ("--learning-rate 0.1", "--learning-rate is searched in digits"),
        ("--space nowhere", "DHPO/spaces"),
        ("--space nowhere.toml", "nowhere.toml"),
    ],
)
def test_what_cannot_work_is_refused(script, options, said):
    with pytest.raises(UsageError) as error:
        settled(script, options)
    assert said in str(error.value)


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
