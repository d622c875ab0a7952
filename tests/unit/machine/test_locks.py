"""Turns at a shared cache."""

from __future__ import annotations

import threading
from pathlib import Path

from machine.locks import turn


def test_who_comes_second_waits_for_the_first(tmp_path: Path) -> None:
    directory = tmp_path / "not yet there"
    order: list[str] = []
    arrived = threading.Event()

    def second() -> None:
        arrived.set()
        with turn(directory):
            order.append("second")

    thread = threading.Thread(target=second)
    with turn(directory):
        thread.start()
        assert arrived.wait(timeout=10)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]


def test_two_directories_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with turn(tmp_path / "one"), turn(tmp_path / "two"):
        assert (tmp_path / "two").is_dir()
