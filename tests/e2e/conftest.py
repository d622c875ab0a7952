"""A platform of the tests' own: a copy of the checkout, a state directory and ports that nobody else uses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STATE = Path("/var/lib/maas-e2e")
IRIS_PORT, FLASK_PORT = 31080, 31081


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """A copy of the checkout whose `./maas` acts on the tests' own platform."""

    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def stack_file(self) -> Path:
        return self.root / "stacks" / "Pulumi.local.yaml"

    def maas(self, *arguments: str, expect: int | None = 0, timeout_seconds: float = 900) -> str:
        """Run a command; returns all that it printed. Fails the test on a traceback, or on another exit code."""
        with self.start(*arguments) as process:
            printed, _ = process.communicate(timeout=timeout_seconds)
        assert expect in (process.returncode, None), (
            f"maas {' '.join(arguments)}: exit code {process.returncode}\n{printed}"
        )
        assert "Traceback (most recent call last)" not in printed.replace("    | ", ""), printed
        return printed

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        return subprocess.Popen(
            [self.root / "maas", *arguments],
            env=os.environ | {"MAAS_STATE_DIR": str(STATE)} | dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def edit(self, pattern: str, replacement: str) -> None:
        """Replace the one place in the stack file that matches."""
        text, count = re.subn(pattern, replacement, self.stack_file.read_text())
        assert count == 1, f"{pattern!r} matches {count} places"
        self.stack_file.write_text(text)


def copy_checkout(target: Path) -> Checkout:
    """What git would check out, changes that are not committed included."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, files):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    checkout = Checkout(root=target)
    checkout.edit("nodePort: 30080", f"nodePort: {IRIS_PORT}")
    checkout.edit("nodePort: 30081", f"nodePort: {FLASK_PORT}")
    return checkout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    if os.geteuid() != 0:
        pytest.skip("the built-in Kubernetes needs root")
    made = copy_checkout(tmp_path_factory.mktemp("checkout", numbered=False))
    made.maas("down")  # what an interrupted run has left behind
    shutil.rmtree(STATE, ignore_errors=True)
    yield made
    made.maas("down")
    shutil.rmtree(STATE, ignore_errors=True)


@pytest.fixture(scope="session")
def first_up(checkout: Checkout) -> str:
    """What the first `up` printed; the platform runs from here on."""
    return checkout.maas("up", timeout_seconds=1800)


@pytest.fixture
def platform(checkout: Checkout, first_up: str) -> Iterator[Checkout]:
    """The running platform with the quick start's stack file, whatever the test before has made of it."""
    assert first_up
    before = checkout.stack_file.read_text()
    yield checkout
    checkout.stack_file.write_text(before)


def wait_until(condition: object, *, timeout_seconds: float, what: str) -> None:
    """Ask again and again until the condition holds; fail the test at the deadline."""
    assert callable(condition)
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_seconds:g} s: {what}"
        time.sleep(0.2)
