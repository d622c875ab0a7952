"""Names and addresses of a platform, and the state directories that can have none."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest

from machine import layout as module
from machine.errors import MachineError
from machine.layout import Layout

STATES = [
    Path(path)
    for path in ("/var/lib/maas", "/var/lib/maas2", "/srv/a", "/srv/b", "/home/one/.local/state/maas")
]


def of(state: Path, cache: Path = Path("/var/cache/maas")) -> Layout:
    return Layout(state=state, cache=cache)


@pytest.mark.parametrize("state", STATES)
def test_a_platforms_addresses_are_the_two_hosts_of_a_network_that_is_never_routed(state: Path) -> None:
    host, node = (ipaddress.ip_address(it) for it in (of(state).host_address, of(state).node_address))
    network = ipaddress.ip_network(f"{host}/30", strict=False)
    assert list(network.hosts()) == [host, node]
    assert network.subnet_of(ipaddress.ip_network("198.18.0.0/15"))  # type: ignore[arg-type]


@pytest.mark.parametrize("identity", ["000000", "007fff", "008000", "ffffff"])
def test_no_identity_leads_out_of_that_network(identity: str) -> None:
    layout = of(STATES[0])
    layout.__dict__["identity"] = identity
    for address in (layout.host_address, layout.node_address):
        assert ipaddress.ip_address(address) in ipaddress.ip_network("198.18.0.0/15")


def test_platforms_with_different_state_directories_share_no_name_and_no_address() -> None:
    layouts = [of(state) for state in STATES]
    for name in (
        "identity",
        "network_namespace",
        "cgroup",
        "host_address",
        "node_address",
        "containerd_root",
    ):
        assert len({getattr(layout, name) for layout in layouts}) == len(STATES), name


def test_a_platform_is_found_again_by_its_state_directory_alone() -> None:
    one, other = of(STATES[0]), of(STATES[0], cache=Path("/srv/cache"))
    assert one.identity == other.identity
    assert one.node_address == other.node_address


def test_the_networks_of_pods_services_and_nodes_do_not_overlap() -> None:
    cidrs = [ipaddress.ip_network(it) for it in (module.POD_CIDR, module.SERVICE_CIDR, "198.18.0.0/15")]
    assert not any(a.overlaps(b) for a in cidrs for b in cidrs if a is not b)
    assert ipaddress.ip_address(module.CLUSTER_DNS_ADDRESS) in cidrs[1]


@pytest.mark.parametrize(
    ("state", "cache"), [("maas", "/cache"), ("./maas", "/cache"), ("/state", "cache"), (".", ".")]
)
def test_a_relative_directory_is_refused(state: str, cache: str) -> None:
    with pytest.raises(MachineError, match=r"^directory '[^']*': must be absolute$"):
        Layout(state=Path(state), cache=Path(cache))


def test_a_state_directory_may_be_as_long_as_unix_sockets_below_it_allow() -> None:
    longest = of(Path("/" + (module.LONGEST_STATE_DIRECTORY - 1) * "x"))
    assert len(str(longest.state)) == module.LONGEST_STATE_DIRECTORY
    assert len(os.fsencode(longest.containerd_socket)) <= 107
    assert len(str(longest.state)) + 44 <= 107  # the kubelet's longest
