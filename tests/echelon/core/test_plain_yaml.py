from pathlib import Path

import pytest
import yaml

from echelon.core import plain_yaml

BOMB = "a: &a [x,x]\n" + "".join(
    f"{name}: &{name} [*{before},*{before}]\n" for before, name in zip("abc", "bcd", strict=True)
)
REFUSED = {
    BOMB: r"it must have no anchors and aliases \(line 1\)",
    "a: [*b]": r"it must have no anchors and aliases \(line 1\)",
    "x: 1\na: !!python/object/apply:os.system ['touch owned']\n": r"it must have no tags \(line 2\)",
    "{a: " * 400 + "1" + "}" * 400: r"it must nest at most 20 deep \(line 1\)",
    "[" * 100_000: r"it must nest at most 20 deep \(line 1\)",
    "a: [1": "did not find expected",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_what_expands_or_runs_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError, match=message):
        plain_yaml.check(text)
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(yaml.YAMLError, match=message):
        plain_yaml.read(tmp_path / "x.yaml")


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: " + "1" * (plain_yaml.MAX_BYTES - 3))
    assert len(plain_yaml.read(path)) == plain_yaml.MAX_BYTES
    path.write_text("a: " + "1" * plain_yaml.MAX_BYTES)
    with pytest.raises(yaml.YAMLError, match="it must have at most 1048576 bytes"):
        plain_yaml.read(path)
