"""The numbers of docs/choosing.md are those of the pages that it cites."""

import re

import pytest

from tests.repository import ROOT

PAGE = ROOT / "docs" / "choosing.md"
LINES = PAGE.read_text(encoding="utf-8").splitlines()
CITING = [line for line in LINES if line.startswith("| ") and "](" in line]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in CITING]
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?: ± \d+\.\d+)?")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_quotes_its_page(row: list[str]) -> None:
    _, _, measured, by = row
    cited = "\n".join((PAGE.parent / target).read_text(encoding="utf-8") for target in re.findall(r"\]\(([^)]+)\)", by))
    (command,) = re.findall(r"`(python -m [^`]+)`", by)
    assert command in cited
    numbers = _NUMBER.findall(re.sub(r"\bG0\b|Dirichlet 0\.3", "", measured))
    assert numbers
    assert [n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}(?![\d.])", cited)] == []


def test_numbers_stand_in_rows_that_cite_a_page() -> None:
    assert [line for line in LINES if line not in CITING and re.search(r"\d\.\d|\d %|±.*\d", line)] == []


def test_every_question_has_rows() -> None:
    text = "\n".join(LINES)
    assert len(ROWS) >= 15
    assert re.findall(r"^## (.*)", text, flags=re.MULTILINE) == [
        "1. Are the shards alike?",
        "2. How unequal are the devices?",
        "3. What does communication cost?",
        "Not measured yet",
    ]
