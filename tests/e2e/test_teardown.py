"""The end of a platform, by accident and on purpose. These run last: the platform is gone afterwards."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from machine import cgroups, network, processes
from machine.layout import Layout
from tests.e2e.conftest import IRIS_PORT, STATE, Checkout, wait_until


def _layout() -> Layout:
    from cli.platforms import layout

    return Layout(state=STATE, cache=layout().cache)


def test_status_names_a_component_that_died_and_up_mends_it(platform: Checkout) -> None:
    processes.stop(_layout(), "kube-scheduler")
    (STATE / "run" / "kube-scheduler.pid").write_text('{"pid": 1, "identity": "gone"}')
    assert "kube-scheduler: not running" in platform.maas("status", expect=1)
    platform.maas("up")
    assert "not running" not in platform.maas("status")


def test_up_serves_again_after_the_machine_restarted(platform: Checkout) -> None:
    """What a restart takes: processes, mounts, control groups and network namespaces. Files stay."""
    layout = _layout()
    cgroups.kill_members(layout, timeout_seconds=10)
    mounts = [
        line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if str(STATE) in line
    ]
    for mount in reversed(mounts):
        subprocess.run(["umount", "--lazy", mount], check=True)
    cgroups.remove(layout)
    network.remove(layout)

    platform.maas("up")

    def ready() -> bool:
        try:
            answer = httpx.get(f"http://127.0.0.1:{IRIS_PORT}/v2/health/ready", trust_env=False)
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    wait_until(ready, timeout_seconds=60, what="iris to answer")
    assert "nothing to do" in platform.maas("up")


def _commands_mentioning(*needles: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(needle in command for needle in needles):
            found.append(f"{entry.name} {command}")
    return found


def test_down_leaves_nothing_of_the_platform_behind(platform: Checkout) -> None:
    layout = _layout()
    assert httpx.get(f"http://127.0.0.1:{IRIS_PORT}/v2/health/ready", trust_env=False).status_code == 200
    pods = cgroups.members(layout)
    assert pods, "nothing runs, so nothing would be proven"
    addresses = (STATE / "run" / "containerd").glob("io.containerd.runtime.v2.task/*/*/address")
    sockets = {Path(address.read_text().removeprefix("unix://")).name for address in addresses}
    assert sockets

    printed = platform.maas("down")

    assert "down" in printed
    # One that was killed may take init a moment to bury.
    wait_until(
        lambda: not any(Path("/proc", str(pid)).exists() for pid in pods),
        timeout_seconds=5,
        what="every process's end",
    )
    assert _commands_mentioning(str(STATE), layout.node_address) == []
    assert [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(STATE) in line] == []
    assert list(Path("/run/netns").glob(f"*{layout.identity}*")) == []
    assert list(Path("/sys/class/net").glob(f"*{layout.identity}*")) == []
    assert list(Path("/sys/fs/cgroup").glob(f"**/{layout.cgroup}")) == []
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert "kube-proxy" not in rules
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    assert f":{IRIS_PORT} " not in listening
    assert {path.name for path in STATE.iterdir()} == {"store"}
    assert {path.name for path in Path("/run/containerd/s").glob("*")} & sockets == set()
    links = Path("/var/log/containers").glob("*.log")
    assert [link for link in links if link.readlink().is_relative_to(STATE)] == []


def test_up_after_down_serves_again_from_the_caches(checkout: Checkout) -> None:
    checkout.maas("up")
    assert httpx.get(f"http://127.0.0.1:{IRIS_PORT}/v2/health/ready", trust_env=False).status_code == 200


def interrupt_and_continue(checkout: Checkout, sent: signal.Signals, after_seconds: float) -> None:
    checkout.maas("down")
    interrupted = checkout.start("up")
    with pytest.raises(subprocess.TimeoutExpired):
        interrupted.wait(after_seconds)
    interrupted.send_signal(sent)
    printed, _ = interrupted.communicate(timeout=20)
    assert interrupted.returncode == (130 if sent == signal.SIGINT else -sent), printed
    assert "Traceback" not in printed
    checkout.maas("up")
    assert httpx.get(f"http://127.0.0.1:{IRIS_PORT}/v2/health/ready", trust_env=False).status_code == 200


@pytest.mark.parametrize(
    ("sent", "after_seconds"), [(signal.SIGINT, 3), (signal.SIGKILL, 7), (signal.SIGINT, 11)]
)
def test_up_continues_where_an_interrupted_one_ended(
    checkout: Checkout, sent: signal.Signals, after_seconds: float
) -> None:
    interrupt_and_continue(checkout, sent, after_seconds)


@pytest.mark.long
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("after_seconds", [0.5, 1, 2, 4, 5, 6, 8, 9, 10, 12])
def test_up_continues_wherever_it_was_interrupted(
    checkout: Checkout, sent: signal.Signals, after_seconds: float
) -> None:
    interrupt_and_continue(checkout, sent, after_seconds)


def test_down_of_nothing_is_no_error(checkout: Checkout) -> None:
    checkout.maas("down")
    checkout.maas("down")
    assert "is not up" in checkout.maas("status", expect=1)
