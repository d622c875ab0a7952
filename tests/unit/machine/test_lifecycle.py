"""What a machine must have, and which of its ports are free."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from machine import build, lifecycle, network, packages, processes
from machine.errors import MachineError
from machine.layout import LONGEST_STATE_DIRECTORY, Layout
from machine.lifecycle import Requirement
from machine.progress import Step

Program = Callable[[str, str], Path]


@dataclass(kw_only=True)
class Machine:
    """One that has everything, unless told otherwise."""

    system: str = "Linux"
    architecture: str = "x86_64"
    uid: int = 0
    free_gib: float = 100
    memory_gib: float = 8
    missing: tuple[str, ...] = ()
    built: bool = True

    def requirements(self, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> dict[str, Requirement]:
        def sysconf(name: str) -> int:
            return {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(self.memory_gib * 2**30 / 4096)}[name]

        monkeypatch.setattr(platform, "system", lambda: self.system)
        monkeypatch.setattr(platform, "machine", lambda: self.architecture)
        monkeypatch.setattr(os, "geteuid", lambda: self.uid)
        monkeypatch.setattr(os, "sysconf", sysconf)
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: SimpleNamespace(free=int(self.free_gib * 2**30))
        )
        monkeypatch.setattr(
            packages, "missing", lambda: [it for it in packages.PACKAGES if it.name in self.missing]
        )
        monkeypatch.setattr(build, "is_built", lambda layout: self.built)
        return {it.name: it for it in lifecycle.requirements(layout)}


def test_a_machine_that_has_everything_meets_every_requirement(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    for architecture in ("x86_64", "aarch64"):
        found = Machine(architecture=architecture).requirements(layout, monkeypatch)
        assert [it.name for it in found.values() if not it.met] == []
    lifecycle.check(layout)


@pytest.mark.parametrize(
    ("machine", "name", "found", "fix"),
    [
        (Machine(system="Darwin"), "operating system", "Darwin x86_64", "--context NAME"),
        (Machine(architecture="riscv64"), "operating system", "Linux riscv64", "Linux on x86_64 or aarch64"),
        (Machine(uid=1000), "user", "uid 1000", "sudo ./maas up"),
        (Machine(free_gib=2.4), "disk", "2 GiB free below ", "free 3 GiB, or set MAAS_CACHE_DIR"),
        (
            Machine(free_gib=11, built=False),
            "disk",
            "11 GiB free below ",
            "free 12 GiB, or set MAAS_CACHE_DIR",
        ),
        (Machine(memory_gib=2), "memory", "2.0 GiB", "4 GiB"),
    ],
)
def test_what_up_cannot_mend_is_refused_with_its_fix(
    machine: Machine, name: str, found: str, fix: str, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirement = machine.requirements(layout, monkeypatch)[name]
    assert not requirement.met
    assert not requirement.mended_by_up
    assert requirement.found.startswith(found)
    assert fix in requirement.fix
    with pytest.raises(MachineError) as caught:
        lifecycle.check(layout)
    assert str(caught.value) == f"{name}: {requirement.found}; needed: {requirement.fix}"


def test_everything_that_is_missing_is_told_at_once(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(system="Darwin", uid=501, free_gib=0, memory_gib=1).requirements(layout, monkeypatch)
    with pytest.raises(MachineError) as caught:
        lifecycle.check(layout)
    named = [line.partition(":")[0] for line in str(caught.value).splitlines()]
    assert named == ["operating system", "user", "disk", "memory"]


def test_what_up_mends_by_itself_stands_in_nobodys_way(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Machine(missing=("buildah", "runc"), built=False).requirements(layout, monkeypatch)
    unmet = [it for it in found.values() if not it.met]
    assert [it.name for it in unmet] == ["distribution packages", "Kubernetes binary"]
    assert all(it.mended_by_up for it in unmet)
    assert unmet[0].found == "missing: buildah runc"
    assert "apt-get install --no-install-recommends buildah runc" in unmet[0].fix
    lifecycle.check(layout)


def test_a_machine_sold_with_four_gib_is_enough(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Machine(memory_gib=3.8).requirements(layout, monkeypatch)["memory"].met


def test_disk_is_looked_for_where_the_cache_will_be(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not layout.cache.exists()
    found = Machine().requirements(layout, monkeypatch)["disk"].found
    assert found == f"100 GiB free below {layout.cache.parent}"


def test_a_state_directory_that_is_too_long_for_unix_sockets_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for length, met in ((LONGEST_STATE_DIRECTORY, True), (LONGEST_STATE_DIRECTORY + 1, False)):
        layout = Layout(state=Path("/" + (length - 1) * "x"), cache=Path("/var/cache/maas"))
        requirement = Machine().requirements(layout, monkeypatch)["state directory"]
        assert requirement.met is met
        assert not requirement.mended_by_up
        assert "set MAAS_STATE_DIR to a path of at most 60 bytes" in requirement.fix
    with pytest.raises(MachineError, match=r"^state directory: /x{60}; needed: set MAAS_STATE_DIR "):
        lifecycle.check(layout)


SS = 'LISTEN 0 128 {} 0.0.0.0:* users:(("nginx",pid=42,fd=6),("nginx",pid=41,fd=6))'


@pytest.mark.parametrize(
    ("line", "holder"),
    [
        ("", None),
        (SS.format("127.0.0.1:30080"), "nginx (pid 42)"),
        (SS.format("0.0.0.0:30080"), "nginx (pid 42)"),
        (SS.format("*:30080"), "nginx (pid 42)"),
        (SS.format("[::]:30080"), "nginx (pid 42)"),
        ("LISTEN 0 128 127.0.0.1:30080 0.0.0.0:*", "a process of another user"),
        # Elsewhere on this machine, and so in nobody's way.
        (SS.format("192.0.2.7:30080"), None),
        (SS.format("[::1]:30080"), None),
        (SS.format("127.0.0.2:30080"), None),
        (SS.format("192.0.2.7:30080") + "\n" + SS.format("127.0.0.1:30080"), "nginx (pid 42)"),
    ],
)
def test_a_port_is_taken_by_whom_the_kernel_says(
    line: str, holder: str | None, layout: Layout, program: Program, tmp_path: Path
) -> None:
    (tmp_path / "output").write_text(f"{line}\n" if line else "")
    program("ss", f'[ "$6" = "sport = :30080" ] && cat {tmp_path}/output')
    if holder is None:
        lifecycle.require_free_ports(layout, [30080])
    else:
        with pytest.raises(MachineError) as caught:
            lifecycle.require_free_ports(layout, [30080])
        assert str(caught.value).startswith(f"port 127.0.0.1:30080: taken by {holder}; end it, or give ")


def test_a_port_that_this_platform_publishes_is_free_for_it(
    layout: Layout, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("ss", f"echo '{SS.format('127.0.0.1:30080')}'")
    monkeypatch.setattr(processes, "running", lambda layout, name: 42 if name == "forward-30080" else None)
    lifecycle.require_free_ports(layout, [30080])
    with pytest.raises(MachineError, match=r"^port 127\.0\.0\.1:30081: taken by "):
        lifecycle.require_free_ports(layout, [30080, 30081])


def test_published_ports_are_those_that_are_wanted_and_no_others(
    layout: Layout, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("ss", "")
    started, stopped = [], []
    monkeypatch.setattr(processes, "names", lambda layout: ["etcd", "forward-30080", "forward-30099"])
    monkeypatch.setattr(processes, "stop", lambda layout, name: stopped.append(name))
    monkeypatch.setattr(processes, "start", lambda layout, process: started.append(process))
    lifecycle.publish_ports(layout, [30080, 30081])
    assert stopped == ["forward-30099"]
    assert [(it.name, it.in_namespace) for it in started] == [
        ("forward-30080", False),
        ("forward-30081", False),
    ]
    assert [it.command[1:] for it in started] == [
        (f"127.0.0.1:{port}", f"{layout.node_address}:{port}") for port in (30080, 30081)
    ]


def test_an_address_that_the_machine_has_already_is_refused(layout: Layout, program: Program) -> None:
    links = [{"ifname": "eth9", "addr_info": [{"local": "192.0.2.1"}, {"local": layout.host_address}]}]
    program("ip", f"echo '{json.dumps(links)}'")
    message = f"^address {layout.host_address}: taken by the interface eth9; set MAAS_STATE_DIR to another directory"
    with pytest.raises(MachineError, match=message):
        network.ensure(layout)


def test_a_failing_ip_command_is_named_with_its_words(program: Program) -> None:
    program("ip", "echo 'RTNETLINK answers: Operation not permitted' >&2; exit 2")
    with pytest.raises(
        MachineError, match=r"^ip -n maas-1 link show: RTNETLINK answers: Operation not permitted$"
    ):
        network._ip("link", "show", namespace="maas-1")


def test_a_platform_that_was_never_started_is_not_up_and_has_no_components(layout: Layout) -> None:
    assert not lifecycle.is_up(layout)
    assert lifecycle.components(layout) == []


def test_components_are_what_was_started_with_where_their_logs_are(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "names", lambda layout: ["etcd", "kubelet"])
    monkeypatch.setattr(processes, "running", lambda layout, name: 7 if name == "etcd" else None)
    assert lifecycle.components(layout) == [
        lifecycle.Component(name="etcd", running=True, log=layout.logs / "etcd.log"),
        lifecycle.Component(name="kubelet", running=False, log=layout.logs / "kubelet.log"),
    ]


class SilentProgress:
    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        yield SilentStep()


class SilentStep:
    def update(self, detail: str, *, fraction: float | None = None) -> None: ...


def test_nothing_is_removed_while_something_is_mounted_below(
    layout: Layout, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod's volume is the model store itself: what is removed through a mount is the user's."""
    volume = layout.state / "kubelet" / "volume" / "models"
    volume.mkdir(parents=True)
    (volume / "manifest.json").write_text("{}")
    program("umount", "exit 32")
    monkeypatch.setattr(lifecycle, "_stop_processes", lambda layout: None)
    monkeypatch.setattr(lifecycle, "_mounts_below", lambda roots: [volume])
    with pytest.raises(
        MachineError, match=rf"^mounts {volume}: could not be unmounted, so no file was removed"
    ):
        lifecycle.down(layout, SilentProgress())
    assert (volume / "manifest.json").exists()
