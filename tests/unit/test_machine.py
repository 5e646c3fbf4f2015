"""Cores granted, threads requested, and a monotonic clock."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.parallel import environment, machine
from common.parallel.machine import Quota, share_of_cores, threads_wanted

V1 = "4:cpu,cpuacct:/job/step\n2:memory:/elsewhere\n"
V1_MOUNT = "33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
V2_MOUNT = "31 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture
def tree(tmp_path):
    """Builds a root folder: /proc/self/cgroup, /proc/self/mountinfo, and files by their paths."""

    def build(cgroup, mounts, files):
        for name, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return build


def cores(root):
    return sorted(quota.cores for quota in machine.quotas(root))


def v1(folder, quota, period=100000):
    base = f"sys/fs/cgroup/cpu,cpuacct{folder}"
    return {f"{base}/cpu.cfs_quota_us": f"{quota}\n", f"{base}/cpu.cfs_period_us": f"{period}\n"}


def v2(folder, text):
    return {f"sys/fs/cgroup{folder}/cpu.max": text}


UNIFIED = V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
DOCKER = V2_MOUNT.replace("0:26 /", "0:26 /docker/abc", 1)
ESCAPED = V2_MOUNT.replace("/sys/fs/cgroup", "/my\\040groups")


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "expected"),
    [
        # The group and all around it.
        (V1, V1_MOUNT, {**v1("/job/step", -1), **v1("/job", 250000), **v1("", 400000)}, [2.5, 4.0]),
        ("0::/a/b\n", V2_MOUNT, {**v2("/a/b", "max 100000\n"), **v2("/a", "50000 100000\n")}, [0.5]),
        (f"{V1}0::/a\n", V1_MOUNT + UNIFIED, {**v1("/job/step", 300000), **v2("/unified/a", "200000 100000")}, [2.0, 3.0]),
        # In a container what is mounted is the group.
        ("0::/", V2_MOUNT, v2("", "150000 100000"), [1.5]),  # with a namespace of its own
        ("0::/docker/abc", DOCKER, v2("", "150000 100000"), [1.5]),  # one that sees the host's paths
        ("0::/docker/abc", V2_MOUNT, v2("", "150000 100000"), [1.5]),  # one whose path is not among what is mounted
        ("0::/../other", V2_MOUNT, v2("", "150000 100000"), [1.5]),  # a process of another namespace
        ("0::/", ESCAPED, {"my groups/cpu.max": "100000 50000"}, [2.0]),
        # What is no limit is none.
        *(
            ("0::/", V2_MOUNT, v2("", text), [])
            for text in ("max 100000", "", "x y", "100000", "0 100000", "100000 0", "-1 100000")
        ),
    ],
)
def test_quotas_are_those_of_the_group_and_of_all_around_it(tree, cgroup, mounts, files, expected):
    assert cores(tree(cgroup, mounts, files)) == expected


@pytest.mark.parametrize("missing", ["proc/self/cgroup", "proc/self/mountinfo", "sys/fs/cgroup/cpu.max"])
def test_what_cannot_be_read_is_none(tree, missing):
    root = tree("0::/", V2_MOUNT, v2("", "50000 100000"))
    (root / missing).unlink()
    (root / missing).mkdir()  # unreadable as a file, for root as well
    assert cores(root) == []
    assert cores(root / "nowhere") == []


@pytest.mark.parametrize(("quota", "expected"), [(50000, 1), (100000, 1), (199999, 1), (200000, 2), (250000, 2), (800000, 4)])
def test_a_quota_is_rounded_down_to_at_least_one_core(tree, monkeypatch, quota, expected):
    monkeypatch.setattr(machine, "visible_cores", lambda: [0, 1, 2, 3])
    assert machine.available_cores(tree(V1, V1_MOUNT, v1("/job", quota))) == expected


def test_without_a_quota_the_affinity_counts_and_launch_counts_the_same(tree):
    assert machine.available_cores(tree(V1, V1_MOUNT, {})) == len(os.sched_getaffinity(0))
    assert environment.available_cores is machine.available_cores


def test_cores_are_shared_out_over_the_ranks_of_a_node():
    everything, none = [list(range(8))] * 4, [[]] * 4
    assert [share_of_cores(everything, none, me) for me in range(4)] == [2] * 4
    assert share_of_cores([[0], [1]], [[], []], 0) == 1  # each bound to one of two cores
    assert share_of_cores([[0]] * 3, [[]] * 3, 2) == 1  # more ranks than cores


def test_a_quota_is_shared_out_among_those_it_holds_for():
    visible = [list(range(16))] * 4
    common = Quota(8.0, (1, 1), "/job")
    assert share_of_cores(visible, [[common]] * 4, 0) == 2
    own = [[common, Quota(1.5, (1, 10 + rank), f"/job/{rank}")] for rank in range(4)]
    assert share_of_cores(visible, own, 3) == 1
    assert share_of_cores(visible, [[common], [common], [], []], 0) == 4  # two ranks share it
    assert share_of_cores(visible, [[common], [common], [], []], 2) == 4  # the others have a quarter of the cores


@given(cores=st.integers(1, 32), ranks=st.integers(1, 16), quota=st.floats(0.01, 64), me=st.integers(0, 15))
def test_all_ranks_together_never_exceed_the_quota_unless_each_has_one_thread(cores, ranks, quota, me):
    limits = [[Quota(quota, (0, 1), "/")]] * ranks
    share = share_of_cores([list(range(cores))] * ranks, limits, me % ranks)
    assert share == 1 or share * ranks <= min(quota, cores)
    assert share >= 1


@pytest.mark.parametrize(
    ("text", "threads"),
    [(None, None), ("", None), ("  ", None), ("4", 4), ("4,2", 4), (" 5 ,10", 5), (" 3 ", 3), ("+2", 2), ("8,4,2", 8)],
)
def test_the_first_of_a_list_of_threads_counts(text, threads):
    assert threads_wanted(text) == threads


@pytest.mark.parametrize("text", ["0", "abc", "-1", "4,", ",4", "4,0", "2.5", "4 2", "4;2", "²", "0x4", "1025", "99999999999"])
def test_what_openmp_does_not_define_is_refused(text):
    with pytest.raises(ValueError):
        threads_wanted(text)


def test_the_age_of_a_process_does_not_depend_on_the_time_of_day(monkeypatch):
    before = machine.seconds_since_start()
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the clock is set back by decades
    after = machine.seconds_since_start()
    assert 0 < before <= after < before + 60


def test_the_age_counts_from_the_start_of_the_process():
    """Also what happened before the import: half a second of sleep."""
    code = (
        "import time; time.sleep(0.5); from common.parallel import machine; "
        "print(machine.seconds_since_start(), machine.process_age())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=True)
    ages = [float(word) for word in done.stdout.split()]
    assert all(0.48 < age < 30 for age in ages), ages  # the kernel counts the start in hundredths
    assert abs(ages[0] - ages[1]) < 0.05


def test_the_age_is_read_from_what_the_kernel_tells_and_0_where_it_does_not(tmp_path):
    assert machine.process_age(tmp_path) == 0.0
    stat = tmp_path / "proc/self/stat"
    stat.parent.mkdir(parents=True)
    stat.write_text("1 (a) b) S 0", encoding="utf-8")
    assert machine.process_age(tmp_path) == 0.0
    started = round((time.clock_gettime(time.CLOCK_BOOTTIME) - 7) * os.sysconf("SC_CLK_TCK"))
    # Blanks and brackets in a name do not move the fields.
    stat.write_text(f"1 (my ) prog) S {'0 ' * 18}{started} 0", encoding="utf-8")
    assert 6.9 < machine.process_age(tmp_path) < 12


@pytest.mark.slow
def test_a_real_quota_is_found():
    """A control group of this machine, made and taken away again; needs root and a file system of groups to write to."""
    parent = next((p for p in (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/cpu,cpuacct")) if p.is_dir()), None)
    if os.geteuid() != 0 or parent is None or not os.access(parent, os.W_OK):
        pytest.skip("needs root and a cgroup of version 1 that may be written to")
    group = parent / f"test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text("50000", encoding="utf-8")
        code = f"""
import os
from pathlib import Path
Path({str(group / "cgroup.procs")!r}).write_text(str(os.getpid()), encoding="utf-8")
from common.parallel import machine
print(machine.available_cores(), min(machine.quotas()).cores)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=False)
        assert done.stdout.split() == ["1", "0.5"], done
    finally:
        group.rmdir()
