"""What a developer and CI run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PYTHON = (sys.executable, "-P", "-m")
_TYPED = (
    "__main__.py",
    "bench",
    "cli",
    "engine",
    "examples",
    "infra",
    "machine",
    "operations",
    "serving_image",
)
_STATIC = (
    (*_PYTHON, "ruff", "check", "--quiet", "."),
    (*_PYTHON, "ruff", "format", "--check", "--quiet", "."),
    (*_PYTHON, "mypy", *_TYPED),
)


def check(root: Path) -> int:
    """Lint, types, unit tests; the first that fails gives the exit code."""
    return _run(root, *_STATIC, (*_PYTHON, "pytest", "--quiet", "tests/unit"))


def test(root: Path, *, long: bool, ci: bool) -> int:
    """Everything. In CI a test that is skipped fails the run, but for those that need the Pulumi CLI."""
    selected = () if long else ("-m", "not long")
    strict = ("--no-skips",) if ci else ()
    return _run(root, *_STATIC, (*_PYTHON, "pytest", "--durations=10", *selected, *strict, "tests"))


def _run(root: Path, *commands: tuple[str, ...]) -> int:
    for command in commands:
        if code := subprocess.run(command, cwd=root, check=False).returncode:
            return code
    return 0
