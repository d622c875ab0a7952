"""Steady load on an endpoint, every answer kept: what a user sees while something changes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Answers:
    """`failures` has the words of every request that was not answered with the right thing."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.counts.total() + len(self.failures)


@contextmanager
def steady_load(
    url: str,
    body: dict[str, Any],
    classify: Callable[[dict[str, Any]], str],
    *,
    clients: int = 4,
    pause_seconds: float = 0.01,
) -> Iterator[Answers]:
    """Requests from `clients` threads, half on kept connections and half each on a new one, until the block ends.

    `classify` names a right answer and raises AssertionError for a wrong one. No request is retried.
    """
    answers, stop, lock = Answers(), threading.Event(), threading.Lock()

    def note(outcome: str | None, failure: str | None) -> None:
        with lock:
            if failure is None:
                assert outcome is not None
                answers.counts[outcome] += 1
            else:
                answers.failures.append(failure)

    def ask(client: httpx.Client) -> None:
        started = time.monotonic()
        try:
            response = client.post(url, json=body)
            response.raise_for_status()
            note(classify(response.json()), None)
        except (httpx.HTTPError, AssertionError) as error:
            note(None, f"after {time.monotonic() - started:.2f} s: {type(error).__name__}: {error}")

    def keep_alive() -> None:
        with httpx.Client(trust_env=False, timeout=10) as client:
            while not stop.wait(pause_seconds):
                ask(client)

    def new_connections() -> None:
        while not stop.wait(pause_seconds):
            with httpx.Client(trust_env=False, timeout=10) as client:
                ask(client)

    threads = [threading.Thread(target=keep_alive if i % 2 else new_connections) for i in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()
