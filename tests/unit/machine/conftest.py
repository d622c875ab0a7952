"""A platform's directories for a test, and a step that notes what it was told."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from machine.layout import Layout


@pytest.fixture
def layout() -> Iterator[Layout]:
    """Below a short path: pytest's own are longer than unix sockets allow."""
    with tempfile.TemporaryDirectory() as directory:
        yield Layout(state=Path(directory, "state"), cache=Path(directory, "cache"))


class NotedStep:
    def __init__(self) -> None:
        self.details: list[str] = []
        self.fractions: list[float] = []

    def update(self, detail: str, *, fraction: float | None = None) -> None:
        self.details.append(detail)
        if fraction is not None:
            self.fractions.append(fraction)


@pytest.fixture
def step() -> NotedStep:
    return NotedStep()


Program = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Put a shell script first on PATH, under a name."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory), prepend=":")

    def install(name: str, script: str) -> Path:
        path = directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return install
