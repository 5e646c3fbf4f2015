"""A run on a machine that is not the authors': another locale, a clock that is set back, a hidden process table, a home."""

import json

from launching import CIFAR10, TINY, run

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
