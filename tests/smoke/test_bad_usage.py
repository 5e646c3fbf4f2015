"""What cannot work is refused in one clear line, with exit code 2, before anything is written."""

import shutil
import subprocess
from functools import partial

import generated_cifar
import pytest
from launching import CIFAR10, ROOT, TINY, run, run_each

NO_NETWORK = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
NO_NETWORK |= {k.upper(): v for k, v in NO_NETWORK.items()}
CIFAR = "--preset cpu --rounds 1"

# What is wrong: (options, what the line has to name). {tmp} is an empty folder.
ALONE = {  # one of every kind; all refusals: tests/unit/test_refusals.py
    "unknown species": ("--populations wolves", "'wolves'"),
    "batch larger than the data": ("--batch-size 100000", "100000"),
    "unknown option": ("--frobnicate 3", "--frobnicate"),
    "unknown preset": ("--preset huge", "huge"),
    "unknown data set": ("--dataset imagenet", "imagenet"),
    "word for a number": ("--seed many", "many"),
    "nothing to resume from": ("--resume", "--resume"),
    "empty data folder": (f"{CIFAR} --data-dir {{tmp}}/empty", "--data-dir"),
    "missing data folder": (f"{CIFAR} --data-dir {{tmp}}/missing", "--data-dir"),
    "truncated data file": (f"{CIFAR} --data-dir {{tmp}}/cifar", "--dataset digits"),
}
TOGETHER = {
    "batch that does not divide": (3, "--batch-size 64", "63 or 66"),
    "more populations than ranks": (2, "--populations gwo,woa,gwo", "3 populations need at least 3 ranks"),
    "empty data folder": (2, f"{CIFAR} --data-dir {{tmp}}/empty", "--dataset digits"),
    "unknown option": (2, "--frobnicate 3", "--frobnicate"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds `empty`, and `cifar` with one file cut short."""
    path = tmp_path_factory.mktemp("bad")
    (path / "empty").mkdir()
    generated_cifar.write(path / "cifar", train=500, test=20)
    file = path / "cifar" / "cifar-10-batches-py" / "data_batch_2"
    file.write_bytes(file.read_bytes()[:-100])
    return path


def job(folder, out, options, **settings):
    """A call of the script with these options, in whatever way they need."""
    words = [word.format(tmp=folder) for word in options.split()]
    words = words if "--preset" in words else ["--preset", "smoke", *words]
    words += [] if options == "--resume" else ["--out", str(out)]
    script = [generated_cifar.__file__, folder / "cifar", CIFAR10] if "truncated" in str(out) else [CIFAR10]
    return partial(run, *script, *words, code=None, limit=60, **NO_NETWORK, **settings)


@pytest.fixture(scope="module")
def refused(folder):
    """Result of every call of ALONE, and its --out."""
    outs = {name: folder / name.replace(" ", "-") for name in ALONE}
    done = run_each([job(folder, outs[name], options) for name, (options, _) in ALONE.items()])
    return {name: (d, outs[name]) for name, d in zip(ALONE, done, strict=True)}


@pytest.mark.parametrize("name", ALONE)
def test_bad_input_is_one_line_and_exit_code_2(refused, name):
    done, out = refused[name]
    lines = done.err.splitlines()
    assert done.code == 2, done
    assert len(lines) == 1, done
    assert lines[0].startswith("error: ")
    assert ALONE[name][1] in lines[0]
    assert not out.exists()


@pytest.mark.parametrize("name", ALONE)
def test_that_line_is_all_there_is(refused, name):
    done, _ = refused[name]
    assert done.out == "", done


def test_refused_runs_leave_nothing_in_the_data_folder(refused, folder):
    assert list((folder / "empty").iterdir()) == []
    assert not (folder / "missing").exists()


@pytest.mark.parametrize("name", TOGETHER)
def test_many_ranks_speak_with_one_voice(folder, tmp_path, name):
    ranks, options, named = TOGETHER[name]
    done = job(folder, tmp_path / "run", options, ranks=ranks)()
    assert done.code == 2, done
    assert len(done.ours) == 1, done
    assert done.ours[0].startswith("error: ")
    assert named in done.ours[0]
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


def test_an_out_that_holds_a_record_is_refused_and_left_alone(tiny_runs):
    directory = tiny_runs("python", 1).directory
    before = {p: p.stat().st_mtime_ns for p in directory.rglob("*")}
    other = ("--learning-rate", 0.2, "--resume")
    done = run_each(
        [
            partial(run, CIFAR10, *TINY, "--out", directory, code=2),
            partial(run, CIFAR10, *TINY, "--out", directory / "config.json", code=2),
            partial(run, CIFAR10, *TINY, *other, "--out", directory, code=2),
        ]
    )
    assert [len(d.err.splitlines()) for d in done] == [1, 1, 1], done
    assert "already holds a record" in done[0].err
    assert "not a writable directory" in done[1].err
    assert "another configuration" in done[2].err
    assert {p: p.stat().st_mtime_ns for p in directory.rglob("*")} == before


def test_a_run_is_not_resumed_on_another_number_of_ranks(tiny_runs):
    directory = tiny_runs("python", 1).directory
    done = run(CIFAR10, *TINY, "--resume", "--out", directory, ranks=2, code=2)
    assert len(done.ours) == 1
    assert "'ranks': 1" in done.ours[0]


def test_the_launcher_of_another_mpi_is_recognised(tmp_path):
    """MPICH's launcher and Open MPI's mpi4py make four worlds of one rank; all exit, and only the first prints the error."""
    options = ("--preset", "smoke", "--out", tmp_path / "run")
    done = run_each([partial(run, CIFAR10, *options, code=None, PMI_SIZE="4", PMI_RANK=str(r)) for r in range(4)])
    assert [d.code for d in done] == [2, 2, 2, 2], done[0]
    assert [len(d.err.splitlines()) for d in done] == [1, 0, 0, 0], done
    assert "the launcher started 4 processes, but MPI sees a world of 1" in done[0].err
    assert not (tmp_path / "run").exists()


def test_optimizers_that_differ_cannot_share_the_first_gradient_of_sam_over_the_world(tmp_path):
    """Workers without a first gradient would never enter the all-reduce that blocks the others."""
    options = ("--populations", "gwo:1:sgd,woa:1:sam", "--sam-scope", "world")
    done = run(CIFAR10, *TINY, *options, "--out", tmp_path / "run", ranks=2, code=None, limit=40)
    assert done.code == 2, done
    assert len(done.ours) == 1


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
