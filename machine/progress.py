"""How this room tells what it is doing; the command line draws it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


class Step(Protocol):
    def update(self, detail: str, *, fraction: float | None = None) -> None:
        """Say what is being done now and, where it is known, how far it is (0 to 1)."""


class Progress(Protocol):
    def step(self, title: str) -> AbstractContextManager[Step]:
        """Open a step; leaving the context ends it. A title names the same work in every run."""
