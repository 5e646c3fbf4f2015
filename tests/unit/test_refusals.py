"""Every refusal of every script in one table: the options, on how many ranks, and what the line has to name.

The scripts' own `main` is called in this process and has to raise UsageError before a record is written. That such an error
becomes one line on rank 0 and exit code 2 is tested by tests/smoke/test_bad_usage.py.
"""

import sys
from pathlib import Path

import pytest
from test_cli import load_script

from common.errors import UsageError

ROOT = Path(__file__).parents[2]
TABLE = {
    "EOA-SAM/EOASAM": [
        (1, "--populations gwo,woa", "2 populations need at least 2 ranks"),
        (2, "--populations gwo:1:sgd,woa:1:sam --sam-scope world", "--sam-scope world"),
        (1, "--batch-size 100000", "100000"),
        (1, "--round-steps 1000", "1000"),
        (1, "--val-fraction 0", "--val-fraction"),
        (1, "--val-fraction 0.001", "--val-fraction 0.001"),
        (1, "--val-fraction 1.5", "--val-fraction 1.5"),
        (1, "--learning-rate -0.1", "--learning-rate -0.1"),
        (1, "--learning-rate nan", "--learning-rate nan"),
        (1, "--rounds -2", "--rounds -2"),
        (1, "--exchange ring --ring-weight 2", "2"),
        (1, "--model wrn --depth 11", "11"),
        (1, "--seed many", "many"),
        (1, f"--seed {10**22}", "9223372036854775807"),
        (1, "--image-size 1", "at least 4 x 4 pixels, not 1 x 1"),
        (1, "--populations gwo:1:prodigy --clip-norm 1", "--clip-norm 1: prodigy"),
        (1, "--lr-space log --damping annealed", "--damping none or proportional"),
        (1, "--base-rate forage --reference", "--reference"),
        (1, "--base-rate forage --damping none", "--damping"),
        (1, "--forage-rule specified", "--forage-rule"),
        (1, "--base-rate forage --intra-coupling easgd", "--intra-coupling easgd"),
        (1, "--intra-coupling average --scope world", "--scope world"),
        (1, "--intra-coupling average --period 0", "--period 0"),
        (1, "--intra-coupling average --reference", "--intra-coupling average"),
        (1, "--period 4", "--period"),
        (1, "--dataset imagefolder", "--image-size"),
        (1, "--pretrained x.npz", "--model"),
        (1, "--train-images 5", "--train-images 5"),
        (1, "--accumulate 0", "--accumulate 0"),
        (1, "--crop-scale 1.5", "--crop-scale 1.5"),
        (1, "--initialisation fan-in", "--initialisation is not an option of --model cnn"),
        (1, "--model vit-b16 --image-size 225", "224 or 240"),
        (1, "--model vit-tiny --image-size 29", "28 or 30"),
    ],
    "EASGD/EASGD": [
        (1, "--method mdownpour --period 4", "--period 4"),
        (2, "--method aeasgd --servers 2", "--servers 2 of 2 ranks"),
        (1, "--method adownpour --server rma", "--server rma"),
        (1, "--period 0", "--period 0"),
        (1, "--worker-batch 16 --batch-size 48", "--worker-batch of one"),
        (1, "--method easgd --optimizer adamw --momentum-factor 0.5", "--momentum-factor is not an option"),
        (1, "--method msgd --period 2", "--period is for"),
        (1, "--method easgd --servers 1", "--servers is for"),
        (1, "--method sgd --shards own", "--shards is for"),
        (1, "--beta -1", "--beta"),
        (1, "--method mdownpour --decay 0.1", "--decay is for"),
        (1, "--method eamsgd --optimizer sgd", "--optimizer is for"),
        (1, "--method aeasgd --server rma", "on one rank"),
        (1, "--optimizer schedulefree-sgd", "schedulefree-sgd is judged by an average of its weights"),
    ],
    "PSO-PS/PSOPS": [
        (4, "--period 0", "--period 0"),
        (4, "--inertia 1.5", "--inertia 1.5"),
        (4, "--social -1", "--social -1"),
        (4, "--v-max-unit rms", "--v-max"),
        (4, "--fitness last-batch --memory reeval", "--memory reeval"),
        (4, "--fitness phase-mean --probe-images 9", "--probe-images"),
        (4, "--opt-state reset", "--momentum-factor"),
        (4, "--swarm bees", "bees"),
        (4, "--optimizer schedulefree-sgd", "schedulefree-sgd is judged by an average of its weights"),
    ],
    "SaLSA/SaLSA": [
        (1, "--learning-rate 0.1", "--learning-rate is for optimizers with a rate: SaLSA has --eta0"),
        (1, "--clip-norm 1", "--clip-norm 1"),
        (1, "--optimizer sgd", "--optimizer is for optimizers with a rate"),
        (1, "--plain --beta3 0.5", "--plain has no averages"),
        (1, "--plain --variant released", "--plain has no averages and no variants"),
        (1, "--momentum-factor 0.5", "--momentum-factor is not an option of salsa:"),
        (1, "--weight-decay 0.1", "--weight-decay is not an option of salsa:"),
        (1, "--direction sgd --adam-decay 0.1", "--adam-decay is not an option of salsa-sgd"),
        (1, "--variant released --direction sgd --momentum-factor 0.5", "--variant released has no momentum"),
        (1, "--eta0 0", "--eta0 0.0 has to lie in (0, 10]"),
        (1, "--variant released --eta0 inf", "--eta0 inf has to lie in (0, inf], and be finite"),
        (1, "--c 1", "--c 1.0 has to lie between 0 and 1"),
        (1, "--interval -1", "--interval -1 has to be a whole number, at least 0"),
    ],
    "DHPO/DHPO": [
        (4, "--ranks-per-trial 3", "--ranks-per-trial 3 does not divide the 4 ranks"),
        (4, "--trials 0", "--trials 0 has to be at least 1"),
        (4, "--population 1", "--population 1"),
        (4, "--threads 0", "--threads 0"),
        (4, "--target 95", "--target 95"),
        (4, "--strategy random --population 8", "--population is for --strategy evolution, async-evolution"),
        (4, "--grid-size 3", "--grid-size is for --strategy grid"),
        (4, "--strategy grid --lag 4", "--lag is for --strategy"),
        (4, "--order free --lag 4", "has no lag"),
        (4, "--strategy evolution --order free", "waits for all of a generation"),
        (4, "--strategy grid --pruning median", "add --order free"),
        (4, "--pruning median --reduction 3", "--reduction is for --pruning halving"),
        (4, "--pruning median --rounds 1", "at least 2"),
        (4, "--objective eoa --schedule constant", "--schedule is for --objective train"),
        (4, "--populations gwo", "--populations is for --objective eoa"),
        (4, "--max-steps 9", "--max-steps"),
        (4, "--time-budget -1", "--time-budget -1"),
        (4, "--strategy grid --grid-size 1000 --space cifar10", "is more than 1000000"),
        (4, "--learning-rate 0.1", "--learning-rate is searched in digits"),
        (4, "--space nowhere", "DHPO/spaces"),
        (4, "--space nowhere.toml", "nowhere.toml"),
    ],
    "baselines/Baselines": [
        (4, "--method cosine --period 4", "--period is for --method sync"),
        (4, "--method independent --period 4", "--period is for --method sync"),
        (4, "--method average --switch 0.5", "--switch is for --method post-local, not average"),
        (4, "--method sync --outer-rate 1", "--outer-rate is for --method diloco"),
        (4, "--method pbt --schedule cosine", "--schedule is for"),
        (4, "--method linear --worker-batch 16", "--worker-batch is for"),
        (4, "--method sqrt --shards own", "--shards is for"),
        (4, "--method average --period 0", "--period 0 has to be at least 1"),
        (4, "--method average --worker-batch 0", "--worker-batch 0 has to be at least 1"),
        (4, "--method average --worker-batch 16 --batch-size 64", "--batch-size is of all workers"),
        (4, "--method post-local --switch 1.5", "--switch 1.5"),
        (4, "--method diloco --outer-rate 0", "--outer-rate 0.0"),
        (4, "--method diloco --outer-momentum 1", "--outer-momentum 1.0"),
        (4, "--method diloco --learning-rate 0.1", "--learning-rate is not an option of adamw"),
        (4, "--method average --adam-rate 0.1", "--adam-rate is not an option of sgd"),
        (4, "--method pbt --optimizer adamw", "--method pbt copies"),
        (4, "--method sync --period 2 --optimizer nesterov", "--optimizer nesterov looks ahead"),
        (4, "--optimizer salsa", "--method cosine is for optimizers with a rate, and salsa finds its steps by itself"),
        (4, "--method sync --optimizer salsa-sgd", "use SaLSA/SaLSA.py, or --method average"),
        (4, "--method pbt --optimizer salsa-sgd", "--method pbt is for optimizers with a rate"),
        (4, "--method average --optimizer salsa --schedule cosine", "--schedule is for optimizers with a rate"),
        (4, "--method average --optimizer salsa-sgd --learning-rate 1", "--learning-rate is for optimizers with a rate"),
        (4, "--method replay", "--method replay needs --replay"),
        (4, "--replay somewhere", "cannot read rates from 'somewhere'"),
        (4, "--method cosine --optimizer schedulefree-sgd", "--method cosine: schedulefree-sgd is for a constant rate"),
        (4, "--method average --optimizer schedulefree-adamw", "--method average: schedulefree-adamw is for a constant rate"),
        (
            4,
            "--method sync --schedule step --optimizer schedulefree-sgd",
            "--schedule step: schedulefree-sgd is for a constant",
        ),
        (4, "--method pbt --optimizer schedulefree-sgd", "--method pbt: schedulefree-sgd"),
        (4, "--method sync --optimizer prodigy --learning-rate 1", "--learning-rate is not an option of prodigy"),
        (4, "--optimizer prodigy --adam-rate 1", "--adam-rate is not an option of prodigy"),
        (4, "--find-lr --method step", "--find-lr tries rates, --method step moves them"),
        (4, "--find-lr --optimizer prodigy", "prodigy estimates its rate by itself"),
        (4, "--find-lr --optimizer salsa", "salsa finds its steps by itself"),
        (4, "--find-lr --rounds 3", "--rounds is for training"),
        (4, "--method average --warmup 1", "--warmup is for --method constant, cosine, step, onecycle, linear, sqrt"),
        (4, "--warmup -1", "--warmup -1.0 has to be 0 or more, and finite"),
        (4, "--method linear --replay somewhere", "--replay and --method linear exclude each other"),
    ],
}


@pytest.fixture(scope="module", params=TABLE)
def script(request):
    """A script as a module, with its row of the table."""
    folder, name = request.param.split("/")
    with pytest.MonkeyPatch.context() as patch:
        yield request.param, load_script(name, patch, ROOT / folder)


def test_what_cannot_work_is_refused_by_name_and_number_before_anything_is_written(script, monkeypatch, tmp_path):
    path, module = script
    wrong = []
    for number, (ranks, options, said) in enumerate(TABLE[path]):
        for holder in (module, sys.modules["common.training.eoa"]):
            monkeypatch.setattr(holder, "world_size", lambda ranks=ranks: ranks, raising=False)
        monkeypatch.setattr(sys, "argv", [path, "--preset", "smoke", *options.split(), "--out", str(tmp_path / str(number))])
        message = "accepted"
        try:
            module.main()
        except UsageError as error:
            message = str(error)
        if said not in message or "\n" in message or (tmp_path / str(number)).exists():
            wrong.append((options, message))
    assert not wrong
