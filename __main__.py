"""Entry point of the Pulumi program: reads the stack's configuration, once, and runs it."""

from __future__ import annotations

import pulumi
from pulumi.runtime import get_config_env, get_config_secret_keys_env

from infra import config, program

try:
    values = config.own_values(get_config_env(), get_config_secret_keys_env())
    program.run(config.parse(values), pulumi.get_stack())
except config.ConfigError as error:
    # A RunError is printed without a traceback, under either engine.
    raise pulumi.RunError(str(error)) from None
