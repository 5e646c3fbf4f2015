"""What cannot work is refused in one clear line, with exit code 2, before anything is written."""

import re
import shlex
import shutil
import subprocess
from functools import partial

import generated_data
import pytest
from launching import CIFAR10, NO_NETWORK, ROOT, TINY, check_refused, run, run_each

CIFAR = "--preset cpu --rounds 1"

# What is wrong: (ranks, variables and options as in a shell, what the line has to name). {tmp} is an empty folder.
REFUSED = {  # one of every kind; all refusals: tests/unit/test_refusals.py
    "unknown species": (1, "--populations wolves", "'wolves'"),
    "batch larger than the data": (1, "--batch-size 100000", "100000"),
    "unknown option": (1, "--frobnicate 3", "--frobnicate"),
    "unknown preset": (1, "--preset huge", "huge"),
    "unknown data set": (1, "--dataset imagenet", "imagenet"),
    "word for a number": (1, "--seed many", "many"),
    "nothing to resume from": (1, "--resume", "--resume"),
    "empty data folder": (1, f"{CIFAR} --data-dir {{tmp}}/empty", "--data-dir"),
    "missing data folder": (1, f"{CIFAR} --data-dir {{tmp}}/missing", "--data-dir"),
    "truncated data file": (1, f"{CIFAR} --data-dir {{tmp}}/cifar", "--dataset digits"),
    "word for threads": (1, "OMP_NUM_THREADS=abc", "OMP_NUM_THREADS='abc'"),
    "word for a cycle time": (1, "HOROVOD_CYCLE_TIME=abc", "HOROVOD_CYCLE_TIME='abc'"),
    "empty EOA_DATA": (1, "EOA_DATA=", "EOA_DATA is empty"),
    "empty --out": (1, "--out=", "--out is empty"),
    "empty --data-dir": (1, "--data-dir ''", "--data-dir is empty"),
    "empty --pretrained": (1, "--pretrained=", "--pretrained is empty"),
    "batch that does not divide": (3, "--batch-size 64", "63 or 66"),
    "more populations than ranks": (2, "--populations gwo,woa,gwo", "3 populations need at least 3 ranks"),
    "empty data folder, ranks": (2, f"{CIFAR} --data-dir {{tmp}}/empty", "--dataset digits"),
    "unknown option, ranks": (2, "--frobnicate 3", "--frobnicate"),
    # workers without a first gradient would never enter the all-reduce that blocks the others
    "first gradients missing": (2, "--populations gwo:1:sgd,woa:1:sam --sam-scope world", "--sam-scope world averages"),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Result of every call of REFUSED, and its --out; and the data folder, with `empty`, and `cifar` with a file cut short."""
    folder, outs, jobs = tmp_path_factory.mktemp("bad"), {}, []
    (folder / "empty").mkdir()
    generated_data.write_cifar(folder / "cifar", train=500, test=20)
    file = folder / "cifar" / "cifar-10-batches-py" / "data_batch_2"
    file.write_bytes(file.read_bytes()[:-100])
    for name, (ranks, line, _) in REFUSED.items():
        words = shlex.split(line.format(tmp=folder))
        variables = dict(word.split("=") for word in words if re.match("[A-Z]", word))
        options = [word for word in words if word.split("=")[0] not in variables]
        options += [] if "--preset" in options else ["--preset", "smoke"]
        outs[name] = folder / name.replace(" ", "-")
        options += [] if {"--resume", "--out="} & set(options) else ["--out", outs[name]]
        script = [generated_data.__file__, folder / "cifar", CIFAR10] if name == "truncated data file" else [CIFAR10]
        jobs.append(partial(run, *script, *options, ranks=ranks, code=None, limit=60, **NO_NETWORK, **variables))
    return folder, {name: (done, outs[name]) for name, done in zip(REFUSED, run_each(jobs), strict=True)}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line_and_exit_code_2(refused, name):
    ranks, _, named = REFUSED[name]
    done, out = refused[1][name]
    check_refused(done, named, out)
    if ranks == 1:
        assert done.out == "", done
        assert len(re.sub(r"\nlibgomp: .*\n", "", done.err).splitlines()) == 1, done


def test_refused_runs_leave_nothing_in_the_data_folder(refused):
    folder, _ = refused
    assert list((folder / "empty").iterdir()) == []
    assert not (folder / "missing").exists()


def test_an_out_that_holds_another_record_is_refused_and_left_alone(tiny_runs):
    directory = tiny_runs("python", 1).directory
    before = {p: p.stat().st_mtime_ns for p in directory.rglob("*")}
    cases = [
        (1, ("--out", directory), "already holds a record"),
        (1, ("--out", directory / "config.json"), "not a writable directory"),
        (1, ("--out", directory, "--resume", "--learning-rate", 0.2), "another configuration"),
        (2, ("--out", directory, "--resume"), "'ranks': 1"),
    ]
    jobs = [partial(run, CIFAR10, *TINY, *options, ranks=ranks, code=2) for ranks, options, _ in cases]
    for (ranks, _, named), done in zip(cases, run_each(jobs), strict=True):
        lines = done.err.splitlines() if ranks == 1 else done.ours
        assert len(lines) == 1, done
        assert named in lines[0]
    assert {p: p.stat().st_mtime_ns for p in directory.rglob("*")} == before


def test_the_launcher_of_another_mpi_is_recognised(tmp_path):
    """MPICH's launcher and Open MPI's mpi4py make four worlds of one rank; all exit, and only the first prints the error."""
    options = ("--preset", "smoke", "--out", tmp_path / "run")
    done = run_each([partial(run, CIFAR10, *options, code=None, PMI_SIZE="4", PMI_RANK=str(r)) for r in range(4)])
    assert [d.code for d in done] == [2, 2, 2, 2], done[0]
    assert [len(d.err.splitlines()) for d in done] == [1, 0, 0, 0], done
    assert "the launcher started 4 processes, but MPI sees a world of 1" in done[0].err
    assert not (tmp_path / "run").exists()


def test_a_venv_that_is_a_link_is_never_emptied(tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/setup.sh", tmp_path / "scripts")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/precious").touch()
    (tmp_path / ".venv").symlink_to("other")
    done = subprocess.run(["bash", "scripts/setup.sh"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert ".venv is a link to other" in done.stderr
    assert (tmp_path / "other/precious").exists()
