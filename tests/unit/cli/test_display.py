"""How long work is shown: lines where nobody looks at a terminal."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from cli.display import Display, duration


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("cli.display.time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def display(output: io.StringIO, tmp_path: Path) -> Display:
    console = Console(file=output, force_terminal=False, soft_wrap=True, no_color=True)
    return Display(console, tmp_path / "cache" / "durations.json")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (60, "1:00 min"),
        (185.9, "3:05 min"),
        (3700, "61:40 min"),
    ],
)
def test_a_duration_is_as_exact_as_a_person_needs(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_step_leaves_a_line_with_its_time(display: Display, output: io.StringIO, clock: Clock) -> None:
    with display.step("build Kubernetes"):
        clock.now += 185
    assert output.getvalue() == "✓ build Kubernetes 3:05 min\n"


def test_a_step_that_had_nothing_to_do_leaves_no_line(
    display: Display, output: io.StringIO, clock: Clock
) -> None:
    with display.step("build Kubernetes") as step:
        step.update("looking")
        clock.now += 0.4
    assert output.getvalue() == ""


def test_a_long_step_says_now_and_then_how_far_it_is(
    display: Display, output: io.StringIO, clock: Clock
) -> None:
    with display.step("build Kubernetes") as step:
        for second in range(60):
            step.update(f"compiling [red]p{second}", fraction=second / 60)
            clock.now += 1
    *lines, last = output.getvalue().splitlines()
    assert lines == [
        "  build Kubernetes: 35%, compiling [red]p21 (21 s)",
        "  build Kubernetes: 70%, compiling [red]p42 (42 s)",
    ]
    assert last == "✓ build Kubernetes 1:00 min"


def test_a_step_of_unknown_length_says_what_it_does(
    display: Display, output: io.StringIO, clock: Clock
) -> None:
    with display.step("deploy") as step:
        clock.now += 21
        step.update("iris waits")
    assert output.getvalue().splitlines()[0] == "  deploy: iris waits (21 s)"


def test_a_step_that_fails_does_not_claim_to_be_done(
    display: Display, output: io.StringIO, clock: Clock
) -> None:
    def work() -> None:
        with display.step("deploy"):
            clock.now += 21
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert "✓" not in output.getvalue()


def test_on_a_terminal_a_step_shows_how_far_it_is_and_how_long_it_took_last_time(
    tmp_path: Path, clock: Clock
) -> None:
    screen = io.StringIO()
    for _ in range(2):
        console = Console(file=screen, force_terminal=True, width=120, color_system=None)
        with Display(console, tmp_path / "durations.json").step("build Kubernetes") as step:
            step.update("compiling x", fraction=0.5)
            clock.now += 100
    text = screen.getvalue()
    assert "50%" in text
    assert "compiling x" in text
    assert "(last time 1:40 min)" in text
    assert "✓ build Kubernetes 1:40 min" in text


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_forgotten_times_are_no_reason_to_fail(
    content: str, display: Display, tmp_path: Path, clock: Clock
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "durations.json").write_text(content)
    with display.step("deploy"):
        clock.now += 7
    assert (tmp_path / "cache" / "durations.json").read_text() == '{"deploy": 7.0}'


def test_times_that_cannot_be_remembered_are_no_reason_to_fail(
    display: Display, output: io.StringIO, tmp_path: Path, clock: Clock
) -> None:
    (tmp_path / "cache").write_text("a file where a directory would be")
    with display.step("deploy"):
        clock.now += 7
    assert output.getvalue() == "✓ deploy 7.0 s\n"
