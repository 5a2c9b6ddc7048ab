import pytest

from echelon.core.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [red]text[/red]", "plain [red]text[/red]"),
        ("jörg 数 😀", "jörg 数 😀"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\x9b31m\u2028\ud83d", r"\x9b31m\u2028\ud83d"),
    ],
)
def test_no_character_controls_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
