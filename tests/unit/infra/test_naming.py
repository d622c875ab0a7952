from __future__ import annotations

import re

import pytest

from infra import naming


def test_a_plain_stack_name_is_kept() -> None:
    assert naming.namespace("local") == "model-serving-local"
    assert naming.model_volume("local") == "model-serving-local-models"


@pytest.mark.parametrize("stack", ["Dev", "dev.user", "dev_user", "pr-", 80 * "a"])
def test_any_stack_name_gives_a_dns_label(stack: str) -> None:
    for name in (naming.namespace(stack), naming.model_volume(stack)):
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)


def test_stacks_that_differ_only_in_what_is_not_allowed_stay_apart() -> None:
    stacks = ["dev-user", "dev.user", "dev_user", "Dev-User", 80 * "a", 81 * "a"]
    assert len({naming.namespace(stack) for stack in stacks}) == len(stacks)
    assert len({naming.model_volume(stack) for stack in stacks}) == len(stacks)
