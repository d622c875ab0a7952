from __future__ import annotations

import pkgutil

from infra import targets
from infra.config import Target


def test_every_target_of_the_vocabulary_has_a_module_and_every_module_is_a_target() -> None:
    assert {module.name for module in pkgutil.iter_modules(targets.__path__)} == set(Target)
