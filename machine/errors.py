"""The one exception of this room."""

from __future__ import annotations


class MachineError(RuntimeError):
    """Something about this machine stands in the way; the message says what, and how to mend it."""
