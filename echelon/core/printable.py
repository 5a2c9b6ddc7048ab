"""Text of others, made safe to print: no character moves the cursor, or changes colours or the reading order."""

import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # control, format, surrogate, line and paragraph separators


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


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
