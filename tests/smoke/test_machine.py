"""Runs on machines that are not the authors': another locale, a clock that is set back, a hidden process table, a home."""

import json
from functools import partial

import pytest
from launching import CIFAR10, TINY, run, run_each

# Runs a script with a clock that is set back by two hours when it is first read, and an unreadable process table.
STRANGE = """
import runpy, sys, time
import psutil

real = time.time
time.time = lambda: real() - 7200

def hidden(self, *_):
    raise psutil.AccessDenied(self.pid)

psutil.Process.cmdline = hidden
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
NO_UTF_8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
CASES = {
    "OMP_NUM_THREADS=abc": ({"OMP_NUM_THREADS": "abc"}, ()),
    "HOROVOD_CYCLE_TIME=abc": ({"HOROVOD_CYCLE_TIME": "abc"}, ()),
    "EOA_DATA is empty": ({"EOA_DATA": ""}, ()),
    "--out is empty": ({}, ("--out=",)),
    "--data-dir is empty": ({}, ("--data-dir", "")),
    "--pretrained is empty": ({}, ("--pretrained=",)),
}


def test_a_run_on_a_strange_machine_is_like_any_other(tmp_path):
    (tmp_path / "strange.py").write_text(STRANGE, encoding="utf-8")
    variables = {**NO_UTF_8, "HOME": str(tmp_path), "OMP_NUM_THREADS": " 1 ,2", "MPI4PY_RC_THREAD_LEVEL": "single"}
    done = run(tmp_path / "strange.py", CIFAR10, *TINY, "--out=~/run", ranks=2, launcher="mpirun", **variables)
    assert done.out.count("note: MPI4PY_RC_THREAD_LEVEL=single") == 1, done
    summary, environment, config = (
        json.loads((tmp_path / f"run/{name}.json").read_text(encoding="utf-8")) for name in ("summary", "environment", "config")
    )
    seconds = summary["seconds"]
    assert 0 < seconds["setup"] < seconds["total"] < done.seconds + 1, seconds
    assert all(value >= 0 for value in seconds.values()), seconds
    assert (environment["launcher"], environment["threads_per_rank"]) == ("mpirun", 1)
    assert config["out"] == str(tmp_path / "run")


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Result of each of CASES, and its output folder."""
    folder = tmp_path_factory.mktemp("refused")
    outs = {name: folder / str(number) for number, name in enumerate(CASES)}
    jobs = []
    for name, (variables, options) in CASES.items():
        out = () if "--out=" in options else ("--out", outs[name])
        jobs.append(partial(run, CIFAR10, "--preset", "smoke", *out, *options, code=None, limit=60, **variables))
    return {name: (done, outs[name]) for name, done in zip(CASES, run_each(jobs), strict=True)}


@pytest.mark.parametrize("named", CASES)
def test_variables_and_paths_that_cannot_work_are_one_line(refused, named):
    done, out = refused[named]
    assert done.code == 2, done
    lines = [line for line in done.err.splitlines() if line and not line.startswith("libgomp: ")]
    assert len(lines) == 1, done
    assert lines[0].startswith("error: ")
    assert named.replace("=abc", "='abc'") in lines[0]
    assert done.out == "", done
    assert not out.exists()
