"""The one error of a configuration."""


class ConfigError(ValueError):
    """A configuration that cannot be run; one line that names the key, its value and what is allowed."""
