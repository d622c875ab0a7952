"""The one exception of this room."""

from __future__ import annotations


class OperationError(RuntimeError):
    """An operation cannot be done; the message says what, with which value, and how to mend it."""
