"""Locked Python packages, installed by uv into a directory: their hashes checked, nothing built from source."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from machine.errors import MachineError


def install(requirements: Path, target: Path, *options: str) -> None:
    """Install what the lock file lists. Raises MachineError with uv's last words."""
    command = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--target", str(target)]
    strict = ["--require-hashes", "--only-binary", ":all:", "--no-deps", "--requirements", str(requirements)]
    done = subprocess.run(
        [*command, *options, *strict],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | _index(),
    )
    if done.returncode != 0:
        raise MachineError(
            f"installing the packages of {requirements} failed:\n{done.stderr.strip()[-2000:]}"
        )


def _index() -> dict[str, str]:
    """uv reads neither pip's configuration, where a company names its package index, nor the system's certificates."""
    environment = {"UV_SYSTEM_CERTS": "true"}
    if "UV_DEFAULT_INDEX" not in os.environ:
        pip = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
        configured = subprocess.run(pip, capture_output=True, text=True, check=False).stdout.strip()
        if index := os.environ.get("PIP_INDEX_URL") or configured:
            environment["UV_DEFAULT_INDEX"] = index
    return environment
