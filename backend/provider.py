"""The model's provider as the environment names it: its address and its key."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from moorline.gateway.common.config.urls import shown_url
from moorline.gateway.common.errors import UsageError

__all__ = ["OPENAI", "api_key", "base_url"]

OPENAI = "https://api.openai.com/v1"

_KEY, _KEY_FILE = "OPENAI_API_KEY", "OPENAI_API_KEY_FILE"


def api_key(environ: Mapping[str, str]) -> str:
    """`OPENAI_API_KEY`, or what the file that `OPENAI_API_KEY_FILE` names holds; empty without either.

    Raises:
        UsageError: both are set, the file cannot be read, or the key cannot be sent in a header.
    """
    key, file = environ.get(_KEY, "").strip(), environ.get(_KEY_FILE, "")
    if key and file:
        raise UsageError(f"{_KEY_FILE}: {_KEY} is set as well; leave one of them out")
    if file:
        key = _read(file)
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"{_KEY_FILE if file else _KEY}: holds characters that no key has; copy it again")
    return key


def _read(file: str) -> str:
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UsageError(f'{_KEY_FILE}: "{file}" cannot be read ({error.strerror})') from None
    except UnicodeDecodeError:
        raise UsageError(f'{_KEY_FILE}: "{file}" is not a text') from None
    if not key:
        raise UsageError(f'{_KEY_FILE}: "{file}" is empty')
    return key


def base_url(text: str) -> str:
    """The provider's address as `OPENAI_BASE_URL` has it; empty stands for OpenAI's own.

    Raises:
        UsageError: no http(s) address.
    """
    try:
        parts = urlsplit(text.strip())
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if text.strip() and not valid:
        raise UsageError(
            f'OPENAI_BASE_URL: "{shown_url(text)}" is no http(s) address; write for example http://localhost:11434/v1'
        )
    return text.strip() or OPENAI
