"""The configuration of a run: YAML groups, their schema, and how overrides become a validated :class:`Config`."""

from conf.errors import ConfigError
from conf.loading import compose, config_hash, from_yaml, recompose, saved_yaml, to_yaml
from conf.overrides import parse_overrides
from conf.preflight import preflight
from conf.schema import Config
from conf.validation import validate

__all__ = [
    "Config",
    "ConfigError",
    "compose",
    "config_hash",
    "from_yaml",
    "parse_overrides",
    "preflight",
    "recompose",
    "saved_yaml",
    "to_yaml",
    "validate",
]
