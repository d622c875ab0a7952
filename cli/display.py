"""How long work is shown: live on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

_SECONDS_BETWEEN_LINES = 20


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3:05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"


class _Step:
    def __init__(self, title: str, last_seconds: float | None, console: Console, *, live: bool) -> None:
        self.title = title
        self.started = time.monotonic()
        self._last_seconds = last_seconds
        self._console = console
        self._live = live
        self._line_at = self.started
        self._detail = ""
        self._fraction: float | None = None
        self._spinner = Spinner("dots")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def update(self, detail: str, *, fraction: float | None = None) -> None:
        self._detail, self._fraction = detail, fraction
        if not self._live and time.monotonic() - self._line_at > _SECONDS_BETWEEN_LINES:
            self._line_at = time.monotonic()
            done = f"{fraction:.0%}, " if fraction is not None else ""
            self._console.print(f"  {self.title}: {done}{detail} ({duration(self.seconds)})", markup=False)

    def __rich__(self) -> RenderableType:
        row = Table.grid(padding=(0, 1))
        last = (
            f"(last time {duration(self._last_seconds)})"
            if self._last_seconds and self._last_seconds > 5
            else ""
        )
        cells: list[RenderableType] = [
            self._spinner,
            Text(self.title),
            Text(duration(self.seconds), style="cyan"),
        ]
        if self._fraction is not None:
            cells += [ProgressBar(total=1, completed=self._fraction, width=20), Text(f"{self._fraction:.0%}")]
        cells += [Text(last, style="dim"), Text(self._detail, style="dim", overflow="ellipsis", no_wrap=True)]
        row.add_row(*cells)
        return row


class Display:
    """Shows steps as they happen; remembers how long each took, to say so the next time."""

    def __init__(self, console: Console, durations: Path) -> None:
        self._console = console
        self._durations = durations

    @contextmanager
    def step(self, title: str) -> Iterator[_Step]:
        """A step that is under way; a step that ends at once leaves no line."""
        live = self._console.is_terminal
        step = _Step(title, self._remembered().get(title), self._console, live=live)
        if live:
            with Live(Group(step), console=self._console, transient=True, refresh_per_second=8):
                yield step
        else:
            yield step
        if step.seconds > 0.5:
            self._console.print(f"[green]✓[/] {title} [dim]{duration(step.seconds)}[/]", highlight=False)
            self._remember(title, step.seconds)

    def _remembered(self) -> dict[str, float]:
        try:
            loaded = json.loads(self._durations.read_text())
        except (OSError, ValueError):  # a convenience: never a reason to fail
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def _remember(self, title: str, seconds: float) -> None:
        longest = self._remembered() | {title: round(seconds, 1)}
        try:
            self._durations.parent.mkdir(parents=True, exist_ok=True)
            self._durations.write_text(json.dumps(longest))
        except OSError:
            return
