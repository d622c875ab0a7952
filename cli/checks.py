"""What a developer and CI run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_CODE = ("cli", "engine", "infra", "machine", "operations", "serving_image", "__main__.py")


def check(root: Path) -> int:
    """Lint, types, unit tests; the first that fails gives the exit code."""
    python = [sys.executable, "-P", "-m"]
    return _run(
        root,
        [*python, "ruff", "check", "--quiet", "."],
        [*python, "ruff", "format", "--check", "--quiet", "."],
        [*python, "mypy", *_CODE],
        [*python, "pytest", "--quiet", "tests/unit"],
    )


def test(root: Path, *, long: bool, ci: bool) -> int:
    """`check`, then every other test. In CI a test that is skipped for want of a platform is a failure."""
    marks = [] if long else ["-m", "not long"]
    pytest = [sys.executable, "-P", "-m", "pytest", *marks]
    if ci:
        pytest.append("--no-skips")
    return check(root) or _run(root, [*pytest, "--durations=10", "tests"])


def _run(root: Path, *commands: list[str]) -> int:
    for command in commands:
        if code := subprocess.run(command, cwd=root, check=False).returncode:
            return code
    return 0
