"""README.md against the commands that there are: neither names one that the other lacks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.commands import app

README = (Path(__file__).parents[3] / "README.md").read_text()
GROUP: Any = typer.main.get_command(app)
HELP = {name: " ".join(command.help.split()) for name, command in GROUP.commands.items()}
CODE = re.findall(r"```(?:\w*)\n(.*?)```", README, re.DOTALL) + re.findall(r"`([^`\n]+)`", README)
CALLS = [call for code in CODE for call in re.findall(r"\./maas +([^\n#|;]+)", code)]


def test_the_table_lists_every_command_with_its_help_and_no_other() -> None:
    table = README.partition("| Command | What it does |\n|---|---|\n")[2].partition("\n\n")[0]
    rows = [re.fullmatch(r"\| `([a-z-]+)` \| (.*) \|", line) for line in table.splitlines()]
    assert {row[1]: row[2] for row in rows if row} == HELP
    assert len(rows) == len(HELP)


def test_the_two_commands_of_the_quick_start_come_first() -> None:
    assert [call.split()[0] for call in CALLS[:2]] == ["up", "test"]


@pytest.mark.parametrize("call", sorted(set(CALLS)))
def test_every_call_in_the_readme_is_one_that_is_understood(call: str) -> None:
    """Parsed as a user's would be, and not run."""
    name, *arguments = re.findall(r"'[^']*'|\S+", call.replace("...", ""))
    if name in {"COMMAND", "--help"}:
        return
    command = GROUP.commands[name]
    arguments = [argument.strip("'").replace("pulumi|offline", "offline") for argument in arguments]
    given = {option for option in arguments if option.startswith("--")}
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert given <= known
    # A call that is shown without arguments is about the command, so only what is shown is checked.
    if arguments and "--help" not in given:
        command.make_context(name, list(arguments))
