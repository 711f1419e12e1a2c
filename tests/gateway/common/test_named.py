"""What an option names as MODULE:NAME is found, or said to be missing in one line."""

import fnmatch
from pathlib import Path
from typing import Any

import pytest

from moorline.gateway.common.config.named import described, failure, load_named, takes
from moorline.gateway.common.errors import UsageError
from tests.support.own_modules import own_folder

__all__ = ["own_folder"]

pytestmark = pytest.mark.usefixtures("own_folder")


def load(text: str, source: str, name: str = "chat_of_mine") -> Any:
    Path(f"{name}.py").write_text(source, encoding="utf-8")
    return load_named(text, "responder")


def test_a_module_of_the_current_folder_is_found() -> None:
    assert load("chat_of_mine:answer", "answer = 7") == 7


def test_an_attribute_of_an_object_is_found() -> None:
    assert load("chat_of_mine:chat.answer", "class chat:\n    answer = 7") == 7


def test_a_file_of_the_current_folder_does_not_take_the_place_of_a_library() -> None:
    Path("wave.py").write_text("answer = 7", encoding="utf-8")
    assert isinstance(load_named("wave:open", "responder"), type(described))


@pytest.mark.parametrize(
    ("text", "source", "line"),
    [
        ("chat_of_mine:anser", "answer = 7", 'chat_of_mine.py has no "anser"; did you mean answer?'),
        ("chat_of_mine:answer.x", "answer = 7", 'chat_of_mine.py has no "answer.x"*'),
        ("chat:answer", "", 'there is no module "chat" in * or among the installed packages'),
        ("chat_of_mine.x:y", "", "there is no module *"),
        (
            "chat_of_mine:answer",
            "import asyncio\nimport langgraph_of_mine\n",
            "ModuleNotFoundError: No module named 'langgraph_of_mine' (<module> in chat_of_mine.py, line 2)",
        ),
        (
            "chat_of_mine:answer",
            "\ndef answer(turn:\n    pass",
            "SyntaxError: '(' was never closed (chat_of_mine.py, line 2)",
        ),
        (
            "chat_of_mine:answer",
            "raise ValueError('two\\nlines')",
            "ValueError: two lines (<module> in chat_of_mine.py, line 1)",
        ),
        ("chat_of_mine:answer", "exit(3)", "SystemExit: 3 (<module> in chat_of_mine.py, line 1)"),
        (".chat:answer", "", "TypeError: *"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_with_its_place(text: str, source: str, line: str) -> None:
    with pytest.raises(UsageError) as refused:
        load(text, source)
    words = str(refused.value).removeprefix(f'responder: "{text}": ')
    assert "\n" not in words
    assert fnmatch.fnmatchcase(words, line.replace("[", "[[]")), words


def test_a_failure_is_named_by_the_users_own_code_and_not_by_the_library_that_raised_it() -> None:
    module = load("chat_of_mine:answer", "import json\ndef answer():\n    return json.loads('private')\n")
    with pytest.raises(ValueError, match="Expecting value") as raised:
        module()
    assert failure(raised.value) == (
        "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (answer in chat_of_mine.py, line 3)"
    )
    assert failure(raised.value, private=True) == "JSONDecodeError (answer in chat_of_mine.py, line 3)"


def test_what_has_no_source_is_described_by_its_module() -> None:
    assert (described(7), described(len)) == ("int in builtins", "len in builtins")


@pytest.mark.parametrize(
    ("function", "count", "expected"),
    [
        (lambda: 0, 0, True),
        (lambda a: 0, 0, False),
        (lambda a, b=1: 0, 1, True),
        (lambda *a: 0, 5, True),
        (7, 0, False),
    ],
)
def test_the_arguments_that_a_function_takes_are_counted(function: Any, count: int, *, expected: bool) -> None:
    assert takes(function, count) is expected
