"""The distribution's packages that the platform is made of.

`python3 -m machine.packages [NAME...]` installs what is missing with nothing but the standard library: the launcher
calls it where Python cannot make a virtual environment yet.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from machine.errors import MachineError


@dataclass(frozen=True, kw_only=True)
class Package:
    """A Debian package, the file that shows it is there, and what it is needed for."""

    name: str
    provides: str
    reason: str
    service: str | None = None

    @property
    def installed(self) -> bool:
        # Elsewhere on PATH will do: Docker's own packages bring a runc that conflicts with Debian's.
        return Path(self.provides).exists() or shutil.which(Path(self.provides).name) is not None


# Of the Python that runs this; Debian splits it off.
_ENSUREPIP = str(Path(sysconfig.get_path("stdlib"), "ensurepip", "__init__.py"))

PACKAGES = (
    Package(name="buildah", provides="/usr/bin/buildah", reason="builds images without a daemon"),
    Package(
        name="ca-certificates",
        provides="/etc/ssl/certs/ca-certificates.crt",
        reason="package registries over TLS",
    ),
    Package(
        name="conntrack",
        provides="/usr/sbin/conntrack",
        reason="kube-proxy ends UDP flows of pods that are gone",
    ),
    Package(
        name="containerd",
        provides="/usr/bin/containerd",
        reason="runs containers",
        service="containerd.service",
    ),
    Package(name="containernetworking-plugins", provides="/usr/lib/cni/ptp", reason="connects pods"),
    Package(name="curl", provides="/usr/bin/curl", reason="the line that `up` ends with"),
    Package(
        name="docker-registry",
        provides="/usr/bin/docker-registry",
        reason="serves images",
        service="docker-registry.service",
    ),
    Package(
        name="etcd-server", provides="/usr/bin/etcd", reason="the cluster's database", service="etcd.service"
    ),
    Package(name="iproute2", provides="/usr/sbin/ip", reason="the platform's network namespace"),
    Package(name="mmdebstrap", provides="/usr/bin/mmdebstrap", reason="makes the base image"),
    Package(name="nftables", provides="/usr/sbin/nft", reason="kube-proxy's rules"),
    Package(name="python3-venv", provides=_ENSUREPIP, reason="makes the virtual environment"),
    Package(name="runc", provides="/usr/sbin/runc", reason="runs containers"),
)


def missing() -> list[Package]:
    return [package for package in PACKAGES if not package.installed]


def ensure(*, only: Collection[str] = ()) -> None:
    """Install what is missing, `only` these if any are named: listed first, and asked about once on a terminal.

    Raises MachineError when the answer is no.
    """
    wanted = [package for package in missing() if not only or package.name in only]
    if not wanted:
        return
    print("These distribution packages are needed and will be installed:", file=sys.stderr)
    for package in wanted:
        print(f"  {package.name}: {package.reason}", file=sys.stderr)
    if sys.stdin.isatty():
        print("Install them? [Y/n] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in {"", "y", "yes"}:
            raise MachineError(
                f"distribution packages {' '.join(package.name for package in wanted)}: not installed, as you said;"
                " to do without them, use a cluster that you have: --context NAME --registry HOST --store URL"
            )
    print("Installing them with apt-get; this takes about half a minute.", file=sys.stderr)
    install(wanted)


def install(packages: Sequence[Package]) -> None:
    """Install with apt-get; services that come with a package are neither started nor enabled.

    Raises MachineError with apt's last words.
    """
    if shutil.which("apt-get") is None:
        names = " ".join(package.name for package in packages)
        raise MachineError(
            f"packages {names}: missing, and there is no apt-get to install them; the built-in Kubernetes"
            " needs Debian 12. Use a cluster that you have: --context NAME --registry HOST --store URL"
        )
    _apt("update")
    services = [package.service for package in packages if package.service]
    with tempfile.TemporaryDirectory() as directory:
        # The platform runs these programs itself, with its own data: the distribution's services stay off.
        # `policy-rc.d` is how Debian asks whether a package may start one.
        policy = Path("/usr/sbin/policy-rc.d")
        kept = Path(directory, "policy-rc.d")
        if policy.exists():
            shutil.move(policy, kept)
        try:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
            _apt(
                "install",
                "--yes",
                "--no-remove",
                "--no-install-recommends",
                *(package.name for package in packages),
            )
        finally:
            policy.unlink(missing_ok=True)
            if kept.exists():
                shutil.move(kept, policy)
    if services and shutil.which("systemctl") and Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "--quiet", "disable", *services], check=False, capture_output=True)


def _apt(*arguments: str) -> None:
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=120", *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode != 0:
        raise MachineError(
            f"{' '.join(command[:1] + list(arguments))} failed:\n{(done.stderr or done.stdout)[-2000:].strip()}"
        )


if __name__ == "__main__":
    try:
        ensure(only=sys.argv[1:])
    except MachineError as error:
        sys.exit(f"error: {error}")
