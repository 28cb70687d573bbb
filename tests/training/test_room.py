"""Memory is what the machine has free, within the limits that a container sets."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from refseg.training.resources import (
    childrens_bytes,
    free_disk,
    main_memory,
    memory_on,
    nearest_folder,
    resident_bytes,
    watch_children,
)

GB = 10**9


def machine(folder, *, group="0::/", limits=None):
    """A /proc and a /sys/fs/cgroup with 16 GB of memory, 12 of them free."""
    proc, groups = folder / "proc", folder / "groups"
    (proc / "self").mkdir(parents=True)
    groups.mkdir()
    (proc / "meminfo").write_text(
        f"MemTotal: {16 * GB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {12 * GB // 1024} kB\n"
    )
    (proc / "self" / "cgroup").write_text(group + "\n")
    for path, files in (limits or {}).items():
        place = groups / path
        place.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (place / name).write_text(f"{text}\n")
    return proc, groups


def of(room):
    return round(room.free / GB, 3), round(room.total / GB, 3), room.limit


def test_without_limits_it_is_what_the_system_calls_available(tmp_path):
    assert of(main_memory(*machine(tmp_path))) == (12, 16, "")


def test_a_limit_of_a_group_above_counts_and_cached_files_are_free(tmp_path):
    limits = {
        "job": {"memory.max": 4 * GB, "memory.current": 3 * GB, "memory.stat": f"anon 5\ninactive_file {GB}"},
        "job/step": {"memory.max": "max", "memory.current": GB},
    }
    assert of(main_memory(*machine(tmp_path, group="0::/job/step", limits=limits))) == (2, 4, "control group")


def test_a_container_that_is_told_the_path_of_its_host_reads_the_root(tmp_path):
    limits = {"": {"memory.max": 8 * GB, "memory.current": GB}}
    assert of(main_memory(*machine(tmp_path, group="0::/docker/abc", limits=limits))) == (
        7,
        8,
        "control group",
    )


def test_the_first_version_of_groups_is_read_too(tmp_path):
    limits = {"memory/job": {"memory.limit_in_bytes": 2 * GB, "memory.usage_in_bytes": GB // 2}}
    group = "5:cpu,cpuacct:/job\n4:memory:/job"
    assert of(main_memory(*machine(tmp_path, group=group, limits=limits))) == (1.5, 2, "control group")


def test_the_huge_number_of_the_first_version_is_no_limit(tmp_path):
    limits = {"memory": {"memory.limit_in_bytes": 9223372036854771712, "memory.usage_in_bytes": 1}}
    assert of(main_memory(*machine(tmp_path, group="4:memory:/", limits=limits))) == (12, 16, "")


def test_a_system_that_does_not_tell_gives_nothing(tmp_path):
    assert main_memory(tmp_path, tmp_path) is None


def test_this_machine_has_memory():
    room = memory_on(torch.device("cpu"))
    if room is None:
        pytest.skip("this system does not tell its memory")
    assert 0 < room.free <= room.total
    assert resident_bytes() < room.total


def test_the_private_memory_of_children_is_added_up(tmp_path):
    for pid, private in (("11", 100), ("12", 23)):
        (tmp_path / pid).mkdir()
        text = (
            f"00-ff ---p 0 00:00 0 [rollup]\nRss: 999 kB\nPrivate_Clean: 1 kB\nPrivate_Dirty: {private} kB\n"
        )
        (tmp_path / pid / "smaps_rollup").write_text(text)
    (tmp_path / "self" / "task" / "7").mkdir(parents=True)
    (tmp_path / "self" / "task" / "7" / "children").write_text("11 12 13 ")  # 13 has just ended
    assert childrens_bytes(tmp_path) == 1024 * (100 + 23 + 2)


def test_the_most_that_children_have_held_is_remembered():
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("this system does not tell what processes hold")
    hold = "import time; held = bytearray(40_000_000); held[::4096] = held[::4096]; print('holds', flush=True); time.sleep(0.5)"
    with (
        watch_children(every=0.02) as most,
        subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as child,
    ):
        child.wait()
    assert most[0] > 40_000_000


def test_the_disk_of_a_folder_that_is_not_there_is_that_of_the_one_above(tmp_path):
    assert nearest_folder(tmp_path / "a" / "b") == tmp_path
    assert free_disk(tmp_path / "a" / "b") > 0
