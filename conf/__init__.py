"""The configuration of a run: YAML groups, their schema, and how overrides become a validated :class:`Config`."""

from conf.errors import ConfigError
from conf.loading import compose, config_hash, first_difference, from_yaml, recompose, saved, to_yaml
from conf.overrides import of_run_config, parse_overrides
from conf.preflight import preflight
from conf.schema import Config
from conf.validation import validate

__all__ = [
    "Config",
    "ConfigError",
    "compose",
    "config_hash",
    "first_difference",
    "from_yaml",
    "of_run_config",
    "parse_overrides",
    "preflight",
    "recompose",
    "saved",
    "to_yaml",
    "validate",
]
