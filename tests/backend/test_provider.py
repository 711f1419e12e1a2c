"""The provider's key is in the environment, or in a file that it names."""

from pathlib import Path

import pytest

from moorline.backend.provider import api_key
from moorline.gateway.common.errors import UsageError


def key_file(folder: Path, text: bytes) -> dict[str, str]:
    (folder / "key").write_bytes(text)
    return {"OPENAI_API_KEY_FILE": str(folder / "key")}


def test_the_key_may_be_in_a_file(tmp_path: Path) -> None:
    assert api_key({"OPENAI_API_KEY": " sk-1 "}) == "sk-1"
    assert api_key(key_file(tmp_path, b"sk-2\n")) == "sk-2"
    assert api_key({}) == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b" \n", "is empty"),
        (b"\xff", "is not a text"),
        ("sk-gehe\u00efm".encode(), "holds characters"),
        (b"a\nb", "holds"),
    ],
)
def test_a_file_without_a_key_is_one_line_that_does_not_show_it(tmp_path: Path, text: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=rf"^OPENAI_API_KEY_FILE: .*{words}") as refused:
        api_key(key_file(tmp_path, text))
    assert "sk-" not in str(refused.value)


def test_a_file_that_is_missing_and_a_key_beside_it_are_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read \(No such file or directory\)"):
        api_key({"OPENAI_API_KEY_FILE": str(tmp_path / "none")})
    with pytest.raises(UsageError, match="OPENAI_API_KEY is set as well"):
        api_key({"OPENAI_API_KEY": "sk-1", **key_file(tmp_path, b"sk-2")})
