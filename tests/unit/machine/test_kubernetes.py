"""What each component of the cluster is configured to do; facts that something else relies on."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from machine import configuration, kubernetes
from machine.configuration import KUBERNETES_VERSION
from machine.errors import MachineError
from machine.layout import Layout

GO_MOD = (Path(kubernetes.__file__).parent / "go" / "go.mod").read_text()
BINARIES = Path("/opt/binaries")


def files(layout: Layout) -> dict[str, Any]:
    """Configuration files by name, parsed."""
    parsed: dict[str, Any] = {}
    for name, content in configuration.files(layout).items():
        text = content if isinstance(content, str) else json.dumps(content)
        if name.endswith(".toml"):
            parsed[name] = tomllib.loads(text)
        elif name.endswith((".json", ".conflist")):
            parsed[name] = json.loads(text)
        elif name == "kubeadm.yaml":
            parsed[name] = {document["kind"]: document for document in yaml.safe_load_all(text)}
        else:
            parsed[name] = text
    return parsed


def processes(layout: Layout) -> dict[str, tuple[str, ...]]:
    every = [
        *configuration.storage_processes(layout),
        configuration.api_server(layout, BINARIES),
        *configuration.cluster_processes(layout, BINARIES),
    ]
    assert all(process.in_namespace for process in every)
    return {process.name: process.command for process in every}


def test_the_version_is_that_of_the_built_modules() -> None:
    required = re.search(r"^\tk8s\.io/kubernetes (\S+)$", GO_MOD, re.MULTILINE)
    assert required is not None
    assert required[1] == KUBERNETES_VERSION


def test_every_staging_module_is_replaced_by_its_release_of_the_same_version() -> None:
    block = GO_MOD.partition("replace (\n")[2].partition(")")[0]
    replaced = [re.fullmatch(r"\t(\S+) => (\S+) (\S+)", line) for line in block.splitlines()]
    assert len(replaced) > 20
    for match in replaced:
        assert match is not None
        module, target, version = match.groups()
        assert target == module
        assert version == KUBERNETES_VERSION.replace("v1.", "v0.")
    # k8s.io/kubernetes requires these without a version of their own.
    unversioned = set(re.findall(r"^\t(k8s\.io/\S+) v0\.0\.0 // indirect$", GO_MOD, re.MULTILINE))
    assert unversioned <= {match[1] for match in replaced if match}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        # A v1 machine is what many containers and small virtual machines still are.
        ("failCgroupV1", False),
        ("failSwapOn", False),
        ("cgroupDriver", "cgroupfs"),
        ("authentication.anonymous.enabled", False),
        ("authentication.webhook.enabled", True),
        ("authorization.mode", "Webhook"),
        ("makeIPTablesUtilChains", False),
        ("evictionHard.nodefs.available", "0%"),
        ("evictionHard.imagefs.available", "0%"),
        ("serializeImagePulls", False),
        ("clusterDNS", ["10.96.0.10"]),
    ],
)
def test_the_kubelet_is_configured(path: str, expected: object, layout: Layout) -> None:
    value: Any = files(layout)["kubelet.json"]
    if path.startswith("evictionHard."):
        value = value["evictionHard"][path.removeprefix("evictionHard.")]
    else:
        for key in path.split("."):
            value = value[key]
    assert value == expected


def test_the_kubelet_is_within_the_platforms_group_and_addresses(layout: Layout) -> None:
    kubelet = files(layout)["kubelet.json"]
    assert kubelet["cgroupRoot"] == f"/{layout.cgroup}"
    assert kubelet["address"] == layout.node_address
    assert f"--node-ip={layout.node_address}" in processes(layout)["kubelet"]
    assert (
        kubelet["containerRuntimeEndpoint"] == f"unix://{files(layout)['containerd.toml']['grpc']['address']}"
    )
    # The controller manager installs volume plugins where the kubelet looks for them.
    assert (
        f"--flex-volume-plugin-dir={kubelet['volumePluginDir']}"
        in processes(layout)["kube-controller-manager"]
    )


def test_the_api_server_admits_nobody_without_a_name(layout: Layout) -> None:
    command = processes(layout)["kube-apiserver"]
    assert {
        "--anonymous-auth=false",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--bind-address={layout.node_address}",
        f"--client-ca-file={layout.pki / 'ca.crt'}",
    } <= set(command)
    assert not any(argument.startswith(("--insecure", "--token-auth-file")) for argument in command)


def test_etcd_takes_only_clients_with_a_certificate(layout: Layout) -> None:
    command = processes(layout)["etcd"]
    assert "--client-cert-auth" in command
    (listens,) = (it for it in command if it.startswith("--listen-client-urls="))
    assert listens == "--listen-client-urls=https://127.0.0.1:2379"


def test_components_that_serve_for_themselves_listen_on_no_address_of_the_machine(layout: Layout) -> None:
    own = {"127.0.0.1", layout.node_address}
    for name, command in processes(layout).items():
        for argument in command:
            if match := re.match(r"--(?:bind-address|listen-\w+-urls)=(?:https?://)?([^:]+)", argument):
                assert match[1] in own, f"{name} {argument}"
    assert files(layout)["registry.json"]["http"]["addr"] == layout.registry_address
    assert files(layout)["kube-proxy.json"]["healthzBindAddress"].startswith("127.0.0.1:")


def test_kube_proxy_leaves_the_machines_own_settings_alone(layout: Layout) -> None:
    proxy = files(layout)["kube-proxy.json"]
    assert proxy["mode"] == "nftables"
    assert proxy["conntrack"] == {
        "maxPerCore": 0,
        "min": 0,
        "tcpEstablishedTimeout": "0s",
        "tcpCloseWaitTimeout": "0s",
    }


def test_the_certificates_are_made_for_the_nodes_address_and_this_version(layout: Layout) -> None:
    kubeadm = files(layout)["kubeadm.yaml"]
    cluster = kubeadm["ClusterConfiguration"]
    assert kubeadm["InitConfiguration"]["localAPIEndpoint"]["advertiseAddress"] == layout.node_address
    assert cluster["controlPlaneEndpoint"] == layout.api_server.removeprefix("https://")
    assert cluster["kubernetesVersion"] == KUBERNETES_VERSION
    assert cluster["certificatesDir"] == str(layout.pki)


def test_images_are_pulled_from_the_platforms_registry_by_its_name(layout: Layout) -> None:
    hosts = files(layout)["registries/maas.local/hosts.toml"]
    assert list(hosts["host"]) == [f"http://{layout.registry_address}"]
    assert "push" not in hosts["host"][f"http://{layout.registry_address}"]["capabilities"]
    cri = files(layout)["containerd.toml"]["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["registry"]["config_path"] == str(layout.configuration / "registries")
    assert cri["sandbox_image"] == configuration.PAUSE_IMAGE


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (*_texts(key), *_texts(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


# Of the machine: its programs.
OF_THE_MACHINE = {"/usr/lib/cni", str(BINARIES)}


def test_every_path_that_is_written_to_is_the_platforms_own(layout: Layout) -> None:
    configured = {name: content for name, content in files(layout).items() if name != "kubelet.json"}
    kubelet = {key: value for key, value in files(layout)["kubelet.json"].items() if key != "cgroupRoot"}
    paths = {
        path
        for text in _texts([configured, kubelet, processes(layout)])
        for path in re.findall(r"(?:^|[=\s]|unix://)(/[\w.-][\w./-]*)", text)
    }
    assert len(paths) > 30
    roots = [layout.state, layout.cache, *map(Path, OF_THE_MACHINE)]
    assert {path for path in paths if not any(Path(path).is_relative_to(root) for root in roots)} == set()


def test_nothing_that_goes_with_down_is_in_the_cache_and_nothing_that_stays_in_the_state(
    layout: Layout,
) -> None:
    content = files(layout)
    assert content["registry.json"]["storage"]["filesystem"]["rootdirectory"] == str(layout.registry_storage)
    assert content["containerd.toml"]["root"] == str(layout.containerd_root)
    in_cache = {text for text in _texts([content, processes(layout)]) if str(layout.cache) in text}
    assert in_cache == {str(layout.registry_storage), str(layout.containerd_root)}


def test_the_bootstrap_has_every_address_filled_in(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[str | None] = []

    def run(command: list[str], *, stdin: str | None = None) -> str:
        assert command[command.index("--kubeconfig") + 1] == str(layout.configuration / "super-admin.conf")
        applied.append(stdin)
        return ""

    monkeypatch.setattr(kubernetes, "_run", run)
    kubernetes.bootstrap(layout, BINARIES)
    (text,) = applied
    assert text is not None
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert "$" not in body
    objects = {(it["kind"], it["metadata"]["name"]): it for it in yaml.safe_load_all(text)}
    assert (
        objects["Service", "kube-dns"]["spec"]["clusterIP"] == files(layout)["kubelet.json"]["clusterDNS"][0]
    )
    for name in ("kube-dns", "metrics-server"):
        assert objects["EndpointSlice", name]["endpoints"] == [{"addresses": [layout.node_address]}]


def test_a_failing_command_is_named_with_its_last_words(program: Any) -> None:
    kubeadm = program("kubeadm", "echo 'the disk is full' >&2; exit 3")
    message = "^kubeadm init phase certs failed:\nthe disk is full$"
    with pytest.raises(MachineError, match=message):
        kubernetes._run([str(kubeadm), "init", "phase", "certs", "all"])


def test_the_administrators_credentials_are_for_the_owner_alone(layout: Layout) -> None:
    layout.state.mkdir(parents=True)
    kubernetes._write_secret(layout.kubeconfig, "secret")
    assert layout.kubeconfig.stat().st_mode & 0o777 == 0o600
    assert list(layout.state.iterdir()) == [layout.kubeconfig]
