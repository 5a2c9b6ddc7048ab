"""Limits on YAML that comes from others: a small file must not expand or nest without bound."""

from pathlib import Path

import yaml

MAX_BYTES = 1 << 20
_MAX_DEPTH = 20
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path: Path) -> str:
    """Return the text of a YAML file of at most 1 MiB without aliases, tags or deep nesting.

    Our own files have none of these.

    Raises
    ------
    yaml.YAMLError
        If it is larger, is no YAML, or has one of them.
    OSError, UnicodeDecodeError
        If it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise yaml.YAMLError(f"it must have at most {MAX_BYTES} bytes")
    text = content.decode("utf-8")
    check(text)
    return text


def check(text: str) -> None:
    """Raise yaml.YAMLError if a text is no YAML, or has aliases, tags or deep nesting."""
    depth = 0
    for event in yaml.parse(text, _LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        for rule, broken in (
            ("have no anchors and aliases", getattr(event, "anchor", None) is not None),
            ("have no tags", getattr(event, "tag", None) is not None),
            (f"nest at most {_MAX_DEPTH} deep", depth > _MAX_DEPTH),
        ):
            if broken:
                line = "" if event.start_mark is None else f" (line {event.start_mark.line + 1})"
                raise yaml.YAMLError(f"it must {rule}{line}")
