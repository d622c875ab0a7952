"""`--context`: a cluster that the user has, with a registry and a store that its nodes reach.

The tests' platform plays that cluster: for `maas` it is only a kubeconfig, a registry and a directory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cli.platforms import layout
from machine.layout import Layout
from tests.e2e.conftest import FLASK_PORT, IRIS_PORT, STATE, Checkout

PORTS = (IRIS_PORT, FLASK_PORT)
needs_pulumi = pytest.mark.skipif(
    shutil.which("pulumi") is None,
    reason="no pulumi on PATH: the offline engine was tested, the Pulumi CLI was not",
)


@pytest.fixture
def user(checkout: Checkout, first_up: str, tmp_path: Path) -> Iterator[tuple[Checkout, list[str]]]:
    """Somebody with a checkout, a kubeconfig and no platform of their own; and what they pass to `up`."""
    assert first_up
    cluster = Layout(state=STATE, cache=layout().cache)
    # As for kind or k3d: the nodes are told once how the registry is reached.
    hosts = cluster.configuration / "registries" / cluster.registry_address / "hosts.toml"
    hosts.parent.mkdir(exist_ok=True)
    hosts.write_text(f'[host."http://{cluster.registry_address}"]\n  capabilities = ["pull", "resolve"]\n')
    stack_file = checkout.root / "stacks" / "Pulumi.mine.yaml"
    text = checkout.stack_file.read_text()
    for port in PORTS:
        text = text.replace(str(port), str(port + 100))
    stack_file.write_text(text)
    environment = {"KUBECONFIG": str(cluster.kubeconfig), "MAAS_STATE_DIR": str(tmp_path / "state")}
    options = ["--context=maas", f"--registry={cluster.registry_address}", f"--store=file://{STATE}/store"]
    yield (
        Checkout(root=checkout.root, environment=environment),
        [*options, f"--endpoint-host={cluster.node_address}"],
    )
    stack_file.unlink()
    hosts.unlink()


@pytest.mark.parametrize(
    "engine", ["offline", pytest.param("pulumi", marks=[needs_pulumi, pytest.mark.pulumi])]
)
def test_a_stack_runs_on_a_cluster_that_is_there_already(
    user: tuple[Checkout, list[str]], engine: str
) -> None:
    somebody, options = user
    host = options[-1].partition("=")[2]
    url = f"http://{host}:{IRIS_PORT + 100}/v2/models/iris"
    try:
        printed = somebody.maas("up", "mine", *options, "--engine", engine)
        assert f"({engine} engine" in printed
        assert httpx.get(url, trust_env=False).json()["versions"] == ["1"]
        # The cluster, registry and store are remembered: no option is given again.
        assert json.loads(somebody.maas("predict", "iris", "[[5.1, 3.5, 1.4, 0.2]]", "--stack", "mine"))[
            "outputs"
        ]
        assert "iris@1" in somebody.maas("status", "mine")
        assert "nothing to do" in somebody.maas("up", "mine", "--engine", engine)
        other = "pulumi" if engine == "offline" else "offline"
        if engine == "pulumi":
            assert "brought up by the pulumi engine" in somebody.maas(
                "up", "mine", "--engine", other, expect=1
            )
    finally:
        somebody.maas("down", "mine")
    with pytest.raises(httpx.TransportError):
        httpx.get(url, trust_env=False, timeout=3)


def test_a_context_that_does_not_exist_is_one_clear_error(user: tuple[Checkout, list[str]]) -> None:
    somebody, options = user
    printed = somebody.maas("up", "mine", "--context=nowhere", *options[1:], expect=1)
    assert "nowhere" in printed
