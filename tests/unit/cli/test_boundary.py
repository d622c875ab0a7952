"""What reaches a user of any command: one message, an exit code, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.commands import app
from engine.plan import EngineError
from infra.config import ConfigError
from machine.errors import MachineError
from operations.errors import OperationError
from serving_image.manifest import ManifestError

Run = Callable[..., Any]

ROOT = Path(__file__).parents[3]
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]

# Of each command, arguments with which it gets as far as asking for the platform.
ARGUMENTS = {
    "up": (),
    "down": (),
    "preview": (),
    "publish": ("model.skops", "--name", "iris"),
    "models": (),
    "pull": ("iris@1",),
    "deploy": ("iris@1",),
    "predict": ("iris", "[]"),
    "status": (),
    "logs": ("iris",),
}


def fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def choose(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("cli.local.choose", choose)


def test_every_command_that_needs_a_platform_is_among_the_cases() -> None:
    assert set(COMMANDS) == {*ARGUMENTS, "doctor", "check", "test"}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help(command: str, option: str, run: Run) -> None:
    done = run(command, option)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: maas {command} ")


@pytest.mark.parametrize("command", ARGUMENTS)
@pytest.mark.parametrize(
    "error",
    [
        OperationError("model 'iris': no such model"),
        MachineError("user: uid 1000; needed: run as root"),
        EngineError("resource 'iris': not ready"),
        ConfigError(["model-serving:target: is mars", "model-serving:layer: is cellar"]),
        ManifestError("manifest.json: name 'Iris'"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_a_room_is_its_message_alone(
    command: str, error: Exception, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fail(monkeypatch, error)
    done = run(command, *ARGUMENTS[command])
    assert (done.code, done.out, done.err) == (1, "", f"error: {error}\n")
    assert list((tmp_path / "reports").iterdir()) == []


@pytest.mark.parametrize(
    "error", [ValueError("boom"), KeyError("inputs"), AssertionError(), ZeroDivisionError()]
)
def test_a_defect_is_one_line_and_a_report_for_those_who_mend_it(
    error: Exception, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fail(monkeypatch, error)
    done = run("status")
    (report,) = (tmp_path / "reports").iterdir()
    message, where = done.err.splitlines()
    assert (done.code, done.out) == (1, "")
    assert message == f"error: unexpected {type(error).__name__}: {error}"
    assert where.endswith(str(report))
    assert report.read_text().startswith("Traceback ")
    assert type(error).__name__ in report.read_text().splitlines()[-1]


def test_an_interruption_is_told_and_has_its_own_exit_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, KeyboardInterrupt())
    done = run("up")
    assert (done.code, done.out) == (130, "")
    assert done.err.strip().startswith("interrupted; ")
    assert "Traceback" not in done.err


def test_a_reader_that_went_away_is_no_defect(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, BrokenPipeError())
    done = run("models")
    assert (done.code, done.err) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope",), "nope"),
        (("up", "--nope"), "--nope"),
        (("up", "one", "two"), "two"),
        (("publish",), "'path'"),
        (("predict", "iris"), "'data'"),
        (("logs", "iris", "--lines", "many"), "'--lines'"),
        (("logs", "iris", "--lines", "0"), "'--lines'"),
        (("up", "--engine"), "--engine"),
        (("--nope",), "--nope"),
    ],
)
def test_wrong_usage_is_named_and_points_to_the_help(
    arguments: tuple[str, ...], message: str, run: Run
) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert "./maas --help" in line


def test_no_command_at_all_is_answered_with_the_help_and_nothing_else(run: Run) -> None:
    done = run()
    assert done.code in (0, 2)
    assert (done.out + done.err).strip() == run("--help").out.strip()


def test_an_exit_code_of_a_command_is_the_processs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in (0, 1, 5):
        monkeypatch.setattr("cli.checks.check", lambda root, code=code: code)
        assert run("check").code == code


@pytest.mark.parametrize(("ci", "strict"), [("true", True), ("", False), (None, False)])
def test_ci_refuses_skipped_tests(
    ci: str | None, strict: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def test(root: Path, *, long: bool, ci: bool) -> int:
        given.append((root, long, ci))
        return 0

    monkeypatch.setattr("cli.checks.test", test)
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    assert run("test", "--long").code == 0
    assert given == [(ROOT, True, strict)]


# As the launcher runs it. One process for several facts: it takes a while to start.
HELP = """
import runpy, sys
sys.argv = ["maas", "--help"]
try:
    runpy.run_module("cli", run_name="__main__")
except SystemExit as exit_:
    assert exit_.code == 0, exit_.code
heavy = "engine operations machine infra serving_image rich.live httpx obstore msgspec kubernetes pulumi ruamel numpy"
print("\\nimported:", *[name for name in heavy.split() if name in sys.modules])
"""


def test_help_waits_for_no_room_and_no_library_of_one() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported:"
    assert done.stdout.startswith("Usage: maas ")
