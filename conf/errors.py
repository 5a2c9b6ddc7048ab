"""The error of the configuration package."""


class ConfigError(ValueError):
    """An invalid configuration; the message is one line with the key, its value and the allowed values."""
