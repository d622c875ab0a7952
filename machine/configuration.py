"""What each component is told: its configuration file and its flags. Pure; kubernetes.py writes and starts them.

One node that is control plane and worker, with the upstream commands and no behaviour but theirs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from machine.layout import CLUSTER_DNS_ADDRESS, NODE_NAME, POD_CIDR, REGISTRY_NAME, SERVICE_CIDR, Layout
from machine.processes import Process

KUBERNETES_VERSION = "v1.36.3"
"""As in go/go.mod, which a test asserts."""

PAUSE_IMAGE = f"{REGISTRY_NAME}/pause:1"
"""Held by containerd from an import, never pulled."""

_CNI_PLUGINS = "/usr/lib/cni"


def files(layout: Layout) -> dict[str, str | dict[str, Any]]:
    """Every configuration file by its path below `layout.configuration`; a mapping is written as JSON."""
    return {
        "kubeadm.yaml": _kubeadm(layout),
        "kubelet.json": _kubelet(layout),
        "kube-proxy.json": {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(layout.configuration / "kube-proxy.conf")},
            "clusterCIDR": POD_CIDR,
            "hostnameOverride": NODE_NAME,
            "oomScoreAdj": 0,
            "healthzBindAddress": "127.0.0.1:10256",
            # Conntrack's limits belong to the machine, not to a network namespace: leave them alone.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        },
        "containerd.toml": _containerd(layout),
        f"registries/{REGISTRY_NAME}/hosts.toml": (
            f'server = "http://{layout.registry_address}"\n'
            f'[host."http://{layout.registry_address}"]\n  capabilities = ["pull", "resolve"]\n'
        ),
        "cni/10-ptp.conflist": {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    # A routed link for each pod. On a bridge, kube-proxy's rules would see a packet between two pods
                    # only where the kernel module br_netfilter is loaded, for every bridge of the machine.
                    "type": "ptp",
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": POD_CIDR}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": str(layout.run / "cni"),
                    },
                }
            ],
        },
        "Corefile": (
            ".:53 {\n    errors\n    health 127.0.0.1:8181\n    ready 127.0.0.1:8182\n    cache 10\n"
            "    kubernetes cluster.local in-addr.arpa ip6.arpa {\n"
            f"        kubeconfig {layout.configuration / 'coredns.conf'}\n    }}\n}}\n"
        ),
        "registry.json": {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {
                "filesystem": {"rootdirectory": str(layout.registry_storage)},
                "delete": {"enabled": True},
            },
            "http": {"addr": layout.registry_address},
        },
        # The pods' resolver when they ask not to use the cluster's: there is none.
        "resolv.conf": "",
    }


def _kubeadm(layout: Layout) -> str:
    version = {"apiVersion": "kubeadm.k8s.io/v1beta4"}
    init = version | {
        "kind": "InitConfiguration",
        "localAPIEndpoint": {"advertiseAddress": layout.node_address},
        "nodeRegistration": {"name": NODE_NAME},
    }
    cluster = version | {
        "kind": "ClusterConfiguration",
        "clusterName": NODE_NAME,
        "kubernetesVersion": KUBERNETES_VERSION,
        "certificatesDir": str(layout.pki),
        "controlPlaneEndpoint": f"{layout.node_address}:6443",
        "networking": {"serviceSubnet": SERVICE_CIDR, "podSubnet": POD_CIDR},
        # RSA keys take seconds to make on a small machine.
        "encryptionAlgorithm": "ECDSA-P256",
    }
    return f"{json.dumps(init)}\n---\n{json.dumps(cluster)}\n"


def _kubelet(layout: Layout) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": layout.node_address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [CLUSTER_DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(layout.configuration / "resolv.conf"),
        "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
        "podLogsDir": str(layout.logs / "pods"),
        "volumePluginDir": str(layout.state / "kubelet" / "plugins-exec"),
        # A negative score needs CAP_SYS_RESOURCE, which containers and small virtual machines lack.
        "oomScoreAdj": 0,
        # The kubelet's own rules would need iptables; kube-proxy's nftables mode does not.
        "makeIPTablesUtilChains": False,
        # The disk is shared with everything else on this machine: its being rather full is no reason to evict
        # a pod or to delete an image that cannot be pulled again.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "5s",
        # A rollout on one small node starts several pods of the same image at once.
        "serializeImagePulls": False,
        "shutdownGracePeriod": "0s",
    }


def _containerd(layout: Layout) -> str:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "{layout.containerd_root}"
state = "{layout.run / "containerd"}"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]

[grpc]
  address = "{layout.containerd_socket}"

[{cri}]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE a negative score is refused and no sandbox starts.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [{cri}.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [{cri}.cni]
    bin_dir = "{_CNI_PLUGINS}"
    conf_dir = "{layout.configuration / "cni"}"
  [{cri}.registry]
    config_path = "{layout.configuration / "registries"}"
"""


def storage_processes(layout: Layout) -> list[Process]:
    """What must run before the API server: etcd, the image registry and containerd."""
    etcd = "https://127.0.0.1:2379"  # the namespace's own loopback
    pki = layout.pki / "etcd"
    return [
        Process(
            name="etcd",
            command=(
                "etcd",
                "--name=maas",
                f"--data-dir={layout.state / 'etcd'}",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--initial-advertise-peer-urls=http://127.0.0.1:2380",
                "--initial-cluster=maas=http://127.0.0.1:2380",
                f"--cert-file={pki / 'server.crt'}",
                f"--key-file={pki / 'server.key'}",
                f"--trusted-ca-file={pki / 'ca.crt'}",
                "--client-cert-auth",
                "--logger=zap",
                "--log-level=warn",
                # What is in this cluster can be made again from the stack file.
                "--unsafe-no-fsync",
            ),
        ),
        Process(
            name="registry", command=("docker-registry", "serve", str(layout.configuration / "registry.json"))
        ),
        Process(
            name="containerd",
            command=("containerd", "--config", str(layout.configuration / "containerd.toml")),
        ),
    ]


def api_server(layout: Layout, binaries: Path) -> Process:
    pki = layout.pki
    return Process(
        name="kube-apiserver",
        command=(
            str(binaries / "kube-apiserver"),
            f"--advertise-address={layout.node_address}",
            f"--bind-address={layout.node_address}",
            "--secure-port=6443",
            "--authorization-mode=Node,RBAC",
            "--anonymous-auth=false",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--etcd-servers=https://127.0.0.1:2379",
            f"--etcd-cafile={pki / 'etcd' / 'ca.crt'}",
            f"--etcd-certfile={pki / 'apiserver-etcd-client.crt'}",
            f"--etcd-keyfile={pki / 'apiserver-etcd-client.key'}",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--kubelet-client-certificate={pki / 'apiserver-kubelet-client.crt'}",
            f"--kubelet-client-key={pki / 'apiserver-kubelet-client.key'}",
            # The node's name resolves nowhere.
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki / 'sa.pub'}",
            f"--service-account-signing-key-file={pki / 'sa.key'}",
            # The metrics API is served by a process of the node, reached by its endpoint.
            "--enable-aggregator-routing=true",
            f"--proxy-client-cert-file={pki / 'front-proxy-client.crt'}",
            f"--proxy-client-key-file={pki / 'front-proxy-client.key'}",
            f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            "--profiling=false",
        ),
    )


def cluster_processes(layout: Layout, binaries: Path) -> list[Process]:
    """What needs the API server: controllers, scheduler, node agents, DNS and metrics."""
    pki, configuration = layout.pki, layout.configuration

    def kubeconfigs(name: str) -> list[str]:
        path = configuration / f"{name}.conf"
        return [f"--{kind}kubeconfig={path}" for kind in ("", "authentication-", "authorization-")]

    def component(name: str, *arguments: str) -> Process:
        return Process(name=name, command=(str(binaries / name), *arguments))

    return [
        component(
            "kube-controller-manager",
            *kubeconfigs("controller-manager"),
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={pki / 'sa.key'}",
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--cluster-signing-cert-file={pki / 'ca.crt'}",
            f"--cluster-signing-key-file={pki / 'ca.key'}",
            f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
            # The kubelet writes volume plugins nowhere else, and this must name the same place.
            f"--flex-volume-plugin-dir={layout.state / 'kubelet' / 'plugins-exec'}",
            "--profiling=false",
        ),
        component(
            "kube-scheduler",
            *kubeconfigs("scheduler"),
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--profiling=false",
        ),
        component(
            "kubelet",
            f"--config={configuration / 'kubelet.json'}",
            f"--kubeconfig={configuration / 'kubelet.conf'}",
            f"--root-dir={layout.state / 'kubelet'}",
            f"--cert-dir={layout.state / 'kubelet' / 'pki'}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={layout.node_address}",
        ),
        component("kube-proxy", f"--config={configuration / 'kube-proxy.json'}"),
        component("coredns", "-conf", str(configuration / "Corefile")),
        component(
            "metrics-server",
            *kubeconfigs("metrics-server"),
            f"--bind-address={layout.node_address}",
            "--secure-port=10443",
            f"--cert-dir={layout.run / 'metrics-server'}",
            "--kubelet-preferred-address-types=InternalIP",
            # The kubelet signs its own serving certificate; the two meet only inside the network namespace.
            "--kubelet-insecure-tls",
            "--metric-resolution=15s",
        ),
    ]
