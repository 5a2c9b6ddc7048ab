from conf.reference import markdown
from conf.schema import CHOICES, ROOT, entries


def test_page_is_up_to_date() -> None:
    page = (ROOT.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == markdown(), "run: python -m conf.reference > docs/configuration.md"


def test_page_has_every_key() -> None:
    page = markdown()
    default = {group: next(iter(choices)) for group, choices in CHOICES.items()}
    for group, choices in CHOICES.items():
        for choice in choices:
            for name in entries({**default, group: choice}):
                assert f"| `{name}` |" in page
