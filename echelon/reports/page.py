"""What all pages share: the document around their sections, tables and figures."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from echelon.reports import run_groups
from echelon.reports.run_groups import Flat

_HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


def document(title: str, main: str, scripts: Sequence[str], policy: str) -> str:
    """Return a page.

    Parameters
    ----------
    title : str
        Plain text.
    main : str
        HTML of the sections.
    scripts : sequence of str
        Names of the scripts' files beside this one.
    policy : str
        What the page may load beside its own style and script, as directives of a content security policy.
    """
    parts = {
        "title": escape(title),
        "policy": f"{_POLICY}; {policy}",
        "style": _read("page.css"),
        "script": lines(map(_read, scripts)),
        "main": main,
    }
    return fill("page.html", parts)


def fill(name: str, parts: Mapping[str, str]) -> str:
    """Return the file ``name`` beside this one with HTML in the places ``<!-- part -->``."""
    text = _read(name)
    for part, html in parts.items():
        text = text.replace(f"<!-- {part} -->", html)
    return text


def figure(source: str, caption: str) -> str:
    """Return an image with its caption."""
    shown = escape(caption)
    image = f'<img alt="{shown}" src="{escape(source)}">'
    region = f'<div class="image" role="region" aria-label="{shown}" tabindex="0">{image}</div>'
    return f"<figure>{region}<figcaption>{shown}</figcaption></figure>"


def choices(config: Flat) -> str:
    """Return the choices of a flat configuration in one line."""
    named = run_groups.choices(config).items()
    return ", ".join(f"{escape(key)} <strong>{escape(str(value))}</strong>" for key, value in named) or "–"


def keys(config: Mapping[str, Any]) -> str:
    """Return the rows of a table of keys and values."""
    rows = [
        f'<tr><th scope="row"><code>{escape(key)}</code></th><td>{escape(str(value))}</td></tr>'
        for key, value in config.items()
    ]
    return f"<tbody>\n{lines(rows)}\n</tbody>"


def lines(rows: Iterable[str]) -> str:
    """Return rows on lines of their own."""
    return "\n".join(rows)


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
