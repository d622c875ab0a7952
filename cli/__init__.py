"""The `maas` commands: arguments in, one of the rooms called, answers and errors out.

It is for what a person types and reads. It is not for logic: whatever could be asked without a terminal
is in operations, engine or machine.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository: the commands work on it from whatever directory they are called."""

STACKS = ROOT / "stacks"
