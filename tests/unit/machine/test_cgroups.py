"""The platform's control group, on directories that look like a mounted hierarchy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machine import cgroups
from machine.errors import MachineError
from machine.layout import Layout

V2 = "cgroup2 {0}/v2 cgroup2 rw,nosuid 0 0\n"
V1 = "cgroup {0}/v1/memory cgroup rw,memory 0 0\ncgroup {0}/v1/cpuset cgroup rw,cpuset 0 0\n"
READ_ONLY = "cgroup {0}/v1/cpu cgroup ro,nosuid,cpu 0 0\n"
OTHER = "tmpfs /run tmpfs rw 0 0\n/dev/vda1 / ext4 rw,noro 0 0\n"


def mount(text: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = root / "mounts"
    mounts.write_text(text.format(root))
    monkeypatch.setattr(cgroups, "_MOUNTS", mounts)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (OTHER + V2, ["v2"]),
        (V1, ["v1/memory", "v1/cpuset"]),
        (V1 + V2 + READ_ONLY + OTHER, ["v1/memory", "v1/cpuset", "v2"]),
    ],
    ids=["v2", "v1", "hybrid"],
)
def test_every_writable_hierarchy_is_used(
    text: str, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount(text, tmp_path, monkeypatch)
    assert cgroups._hierarchies() == [tmp_path / path for path in found]


@pytest.mark.parametrize("text", [OTHER, READ_ONLY], ids=["none", "read-only"])
def test_a_machine_without_a_writable_hierarchy_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount(text, tmp_path, monkeypatch)
    with pytest.raises(MachineError, match=r"^control groups: none is mounted writable"):
        cgroups._hierarchies()


def test_a_v1_cpuset_gets_the_machines_processors_before_a_process_joins(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount(V1, tmp_path, monkeypatch)
    hierarchy = tmp_path / "v1" / "cpuset"
    group = hierarchy / layout.cgroup
    for directory in (hierarchy, group):
        directory.mkdir(parents=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            (directory / name).write_text("0-1" if directory == hierarchy else "")
    cgroups.ensure(layout)
    for directory in (group, group / "processes"):
        assert [(directory / name).read_text() for name in ("cpuset.cpus", "cpuset.mems")] == ["0-1", "0-1"]
    assert (tmp_path / "v1" / "memory" / layout.cgroup / "processes").is_dir()


def test_who_joined_is_a_member_in_every_hierarchy_and_pods_are_too(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount(V1 + V2, tmp_path, monkeypatch)
    assert cgroups.members(layout) == set()
    cgroups.ensure(layout)
    cgroups.join(layout)
    for path in ("v1/memory", "v1/cpuset", "v2"):
        assert (tmp_path / path / layout.cgroup / "processes/cgroup.procs").read_text() == str(os.getpid())
    pods = tmp_path / "v2" / layout.cgroup / "kubepods" / "pod1"
    pods.mkdir(parents=True)
    (pods / "cgroup.procs").write_text("7\n8\n")
    (tmp_path / "v2" / "another").mkdir()
    (tmp_path / "v2" / "another" / "cgroup.procs").write_text("9\n")
    assert cgroups.members(layout) == {os.getpid(), 7, 8}


def test_the_group_is_removed_from_every_hierarchy(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount(V1 + V2, tmp_path, monkeypatch)
    cgroups.ensure(layout)
    (tmp_path / "v2" / layout.cgroup / "kubepods" / "pod1").mkdir(parents=True)
    cgroups.remove(layout)
    assert list(tmp_path.rglob(layout.cgroup)) == []
    cgroups.remove(layout)
