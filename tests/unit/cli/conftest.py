"""Commands in this process, with a state directory of their own."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.__main__ import main


@dataclass(frozen=True, kw_only=True)
class Done:
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture(autouse=True)
def own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test meets a platform of this machine, and reports of defects are found below tmp_path."""
    monkeypatch.setenv("MAAS_STATE_DIR", f"/nonexistent/{tmp_path.name[-30:]}")
    monkeypatch.setenv("MAAS_CACHE_DIR", str(tmp_path / "cache"))
    reports = tmp_path / "reports"
    reports.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(reports))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["maas", *arguments])
        code = main()
        out, err = capsys.readouterr()
        return Done(code=code, out=out, err=err)

    return run
