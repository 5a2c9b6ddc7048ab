"""Text of others, made safe to print: no character moves the cursor, or changes colours or the reading order."""

import re
import shutil
import textwrap
import unicodedata
from typing import TextIO

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # control, format, surrogate, line and paragraph separators

_COMMAND = re.compile(r"(?:python run_sim\.py|pip install) (?:\"[^\"]*\"|'[^']*'|\S+)")
_SPACE = "\x00"  # no text has it: `printable` escapes it


def printable(text: str) -> str:
    r"""Return a text in one line, its control characters written as escapes.

    Examples
    --------
    >>> from echelon.core.printable import printable
    >>> print(printable("\x1b[2Jrun\n1"))
    \x1b[2Jrun\n1
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escaped(character) if unicodedata.category(character) in _HIDDEN else character for character in text
    )


def wrapped(text: str, width: int) -> str:
    r"""Return a line broken at words; a command that may be copied from it stays whole.

    Examples
    --------
    >>> from echelon.core.printable import wrapped
    >>> print(wrapped("interrupted; to continue: python run_sim.py resume=runs/a", 24))
    interrupted; to
    continue:
    python run_sim.py resume=runs/a
    """
    kept = _COMMAND.sub(lambda command: command[0].replace(" ", _SPACE), text)
    return textwrap.fill(kept, width, break_long_words=False, break_on_hyphens=False).replace(_SPACE, " ")


def fitted(line: str, stream: TextIO) -> str:
    """Return a line as `wrapped` for the width of a terminal, and as it is for any other stream."""
    return wrapped(line, shutil.get_terminal_size().columns) if stream.isatty() else line


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
