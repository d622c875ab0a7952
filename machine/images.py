"""Container images without a daemon and without a registry to pull from: built here, served by the platform's own.

The base is made from the distribution's packages. Python packages are resolved on the host, where the certificates
and index settings are, against the hashes of the image's lock file; the build itself needs no network.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from machine import python_packages
from machine.errors import MachineError
from machine.layout import NODE_NETWORKS, Layout
from machine.locks import turn
from machine.progress import Step

_SUITE = "bookworm"
# libstdc++: what compiled Python packages expect of every distribution.
_BASE_PACKAGES = ("ca-certificates", "libstdc++6", "python3")
_BASE_PYTHON = "3.11"
_BASE_GLIBC = "2_36"
_DOCUMENTATION = ("doc", "info", "locale", "man")
# One date for every file: the same inputs give the same digest.
_EPOCH = "1700000000"


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A registry to push to. `name` is the first part of image references, `address` where it answers."""

    name: str
    address: str

    @property
    def plain_http(self) -> bool:
        """Whether it is on this machine: on its loopback, or in a platform's network."""
        host = self.address.partition("/")[0].partition(":")[0]
        try:
            address = ipaddress.IPv4Address(host)
        except ValueError:
            return host == "localhost"
        return address.is_loopback or address in NODE_NETWORKS


class ImageBuilder:
    """Builds folders with a Dockerfile and pushes them; knows by content what is built already."""

    def __init__(self, layout: Layout, registry: Registry) -> None:
        self._layout = layout
        self._registry = registry
        self._work = layout.cache / "images"
        self._digests = self._work / "digests" / registry.name.replace("/", "_")

    def built(self, folder: Path) -> str | None:
        """The reference of the image that this folder's content gives, if the registry has it."""
        name = _repository(folder)
        base = self._digests / f"base-{_base_key()}"
        if not base.exists():
            return None
        return self._known(name, self._digests / f"{name}-{_folder_key(folder, base.read_text())}")

    def build(self, folder: Path, step: Step) -> str:
        """Build unless built; returns `registry/name@sha256:...`.

        Raises MachineError with the build's last lines.
        """
        if not (folder / "Dockerfile").is_file():
            raise MachineError(f"image folder {folder}: has no Dockerfile")
        _require_tools(folder)
        with turn(self._work):
            return self._build(folder, _repository(folder), step)

    def _build(self, folder: Path, name: str, step: Step) -> str:
        base = self._base(step)
        record = self._digests / f"{name}-{_folder_key(folder, base)}"
        if known := self._known(name, record):
            return known
        with tempfile.TemporaryDirectory(prefix="context-", dir=self._work) as directory:
            context = Path(directory, "context")
            shutil.copytree(folder, context, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            if (context / "requirements.txt").exists():
                step.update("resolving Python packages")
                _install_packages(context / "requirements.txt", context / "site-packages")
            _make_readable(context)
            step.update("building")
            local = f"localhost/{name}"
            # chroot: no daemon and no network set-up; the build needs neither.
            how = ["--quiet", "--layers", "--isolation=chroot", f"--timestamp={_EPOCH}", self._tls]
            self._buildah("build", *how, "--build-arg", f"BASE={base}", "--tag", local, str(context))
        return self._push(local, name, record, step)

    def import_binary(self, binary: Path, name: str) -> None:
        """Push an image of nothing but one static program, tagged 1."""
        reference = f"{name}-{hashlib.sha256(binary.read_bytes()).hexdigest()[:12]}"
        record = self._digests / reference
        if self._known(name, record):
            return
        with turn(self._work):
            self._import_binary(binary, name, record)

    def _import_binary(self, binary: Path, name: str, record: Path) -> None:
        container = self._buildah("from", "scratch")
        try:
            self._buildah("copy", "--quiet", container, str(binary), f"/{binary.name}")
            self._buildah(
                "config", "--entrypoint", json.dumps([f"/{binary.name}"]), "--user", "65535:65535", container
            )
            self._buildah("commit", "--quiet", f"--timestamp={_EPOCH}", container, f"localhost/{name}")
        finally:
            self._buildah("rm", container)
        self._push(f"localhost/{name}", name, record, None, tag="1")

    def _base(self, step: Step) -> str:
        """Digest reference of the base image, made from the distribution's packages when it is not there."""
        record = self._digests / f"base-{_base_key()}"
        if known := self._known("base", record):
            return self._pullable(known)
        step.update(f"making the base image from {_SUITE}'s packages")
        with tempfile.TemporaryDirectory(prefix="base-", dir=self._work) as directory:
            archive = Path(directory, "base.tar")
            _bootstrap(archive)
            container = self._buildah("from", "scratch")
            try:
                self._buildah("add", "--quiet", container, str(archive), "/")
                self._buildah("config", "--cmd", '["python3"]', container)
                self._buildah("commit", "--quiet", f"--timestamp={_EPOCH}", container, "localhost/base")
            finally:
                self._buildah("rm", container)
        return self._pullable(self._push("localhost/base", "base", record, step))

    def _pullable(self, reference: str) -> str:
        # buildah runs outside the platform's network and knows the registry by its address.
        return reference.replace(self._registry.name, self._registry.address, 1)

    def _push(self, local: str, name: str, record: Path, step: Step | None, *, tag: str | None = None) -> str:
        if step:
            step.update("pushing")
        with tempfile.TemporaryDirectory(dir=self._work) as directory:
            digest_file = Path(directory, "digest")
            destination = f"docker://{self._registry.address}/{name}{f':{tag}' if tag else ''}"
            self._buildah("push", "--quiet", self._tls, f"--digestfile={digest_file}", local, destination)
            digest = digest_file.read_text().strip()
        reference = f"{self._registry.name}/{name}@{digest}"
        record.parent.mkdir(parents=True, exist_ok=True)
        partial = record.with_suffix(".partial")
        partial.write_text(reference)
        partial.replace(record)
        return reference

    def _known(self, name: str, record: Path) -> str | None:
        """The recorded reference, if the registry still has it."""
        try:
            reference = record.read_text()
        except FileNotFoundError:
            return None
        digest = reference.rpartition("@")[2]
        scheme = "http" if self._registry.plain_http else "https"
        host, _, path = f"{self._registry.address}/{name}".partition("/")
        request = urllib.request.Request(
            f"{scheme}://{host}/v2/{path}/manifests/{digest}",
            method="HEAD",
            headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10):
                return reference
        except urllib.error.HTTPError as error:
            # One that asks for a login took the image when it was pushed with one.
            return reference if error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) else None
        except OSError as error:
            raise MachineError(f"image registry {self._registry.address}: {error}") from error

    @property
    def _tls(self) -> str:
        return f"--tls-verify={str(not self._registry.plain_http).lower()}"

    def _buildah(self, *arguments: str) -> str:
        roots = [f"--root={self._layout.image_storage}", f"--runroot={self._layout.run / 'buildah'}"]
        command = ["buildah", *roots, "--storage-driver=overlay", *arguments]
        return _run(command, f"buildah {arguments[0]}")


def _require_tools(folder: Path) -> None:
    missing = [name for name in ("buildah", "mmdebstrap") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        reason = f"{' and '.join(missing)} missing" if missing else "not root"
        raise MachineError(
            f"image folder {folder}: cannot be built here: {reason}; or build it elsewhere and name it in the stack"
            " file: image: HOST/NAME@sha256:DIGEST"
        )


def _run(command: Sequence[str], title: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | (environment or {}),
    )
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise MachineError(f"{title} failed, its last lines:\n{last}")
    return done.stdout.strip()


def _repository(folder: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")


def _base_key() -> str:
    parts = (_SUITE, platform.machine(), *_BASE_PACKAGES, *_DOCUMENTATION, _EPOCH)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _folder_key(folder: Path, base: str) -> str:
    digest = hashlib.sha256(base.partition("@")[2].encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            executable = bool(path.stat().st_mode & 0o100)
            digest.update(f"\0{path.relative_to(folder)}\0{executable}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _bootstrap(archive: Path) -> None:
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    mirror = [str(sources)] if sources.exists() and _host_suite() == _SUITE else []
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _DOCUMENTATION]
    command = ["mmdebstrap", "--variant=essential", f"--include={','.join(_BASE_PACKAGES)}", *excluded]
    _run([*command, _SUITE, str(archive), *mirror], "mmdebstrap", {"SOURCE_DATE_EPOCH": _EPOCH})


def _host_suite() -> str:
    release = platform.freedesktop_os_release()
    return release.get("VERSION_CODENAME", "")


def _make_readable(context: Path) -> None:
    """Image content is read by another user than its builder, whatever the umask of checkout and build was."""
    for path in context.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _install_packages(requirements: Path, target: Path) -> None:
    """Install the locked packages for the image's Python and C library, whatever the host's are."""
    image_platform = f"{platform.machine()}-manylinux_{_BASE_GLIBC}"
    python_packages.install(
        requirements, target, "--python-version", _BASE_PYTHON, "--python-platform", image_platform
    )
    for leftover in (".lock", "bin"):
        path = target / leftover
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
