"""docs/configuration.md against the dataclasses that define the configuration."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from infra import config
from infra.schema import keys

DOCUMENT = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
TABLE = DOCUMENT.partition("## Keys")[2].partition("\n## ")[0]
EXAMPLES = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)]


def test_the_table_has_every_key_with_what_is_allowed_and_its_default_and_no_other() -> None:
    documented = re.findall(r"^(\| `.*? \| .*? \| .*? \|)", TABLE, re.MULTILINE)
    assert documented == [
        f"| `{key.path}` | {key.allowed} | {key.default} |" for key in keys(config.Settings)
    ]


def test_the_postures_are_documented_as_they_are() -> None:
    shared, production = (
        config.POSTURES[config.Posture.DEVELOPMENT],
        config.POSTURES[config.Posture.PRODUCTION],
    )
    assert config.POSTURES[config.Posture.EPHEMERAL] == shared
    ranges = [f"{each.replicas.min} to {each.replicas.max}" for each in (shared, production)]
    factors = [f"{each.cpu_limit_factor} times the request" for each in (shared, production)]
    deadlines = [f"{each.progress_deadline_seconds // 60} minutes" for each in (shared, production)]
    assert f"| `replicas` | {' | '.join(ranges)} |" in DOCUMENT
    assert f"| CPU limit | {' | '.join(factors)} |" in DOCUMENT
    assert f"| A rollout without progress fails after | {' | '.join(deadlines)} |" in DOCUMENT


def test_the_examples_are_valid() -> None:
    stack_file, local = EXAMPLES
    settings = config.parse(config.own_values(stack_file["config"] | local))
    assert settings.local is not None
    assert settings.services.keys() == {"iris", "scorer"}
