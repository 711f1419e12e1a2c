"""From the settings and the environment to a responder: a model, or the script where there is no key."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from moorline.backend.offline import OfflineResponder
from moorline.backend.settings import Settings
from moorline.gateway.common.errors import UsageError

if TYPE_CHECKING:
    from moorline.backend.llm import OpenAIResponder

__all__ = ["create_responder"]


def create_responder(settings: Settings, environ: Mapping[str, str]) -> "OpenAIResponder | OfflineResponder":
    """The model behind `OPENAI_API_KEY` and `OPENAI_BASE_URL` of `environ`; without a key the script.

    Raises:
        UsageError: `OPENAI_BASE_URL` is no address, or `OPENAI_API_KEY` cannot be sent in a header.
    """
    key = environ.get("OPENAI_API_KEY", "").strip()
    if not key:
        return OfflineResponder()
    if not key.isascii():
        raise UsageError("OPENAI_API_KEY: holds characters that no key has; copy it again from the provider")
    # Imported here: `openai` takes longer to import than all other modules, and is not needed without a key.
    from moorline.backend.llm import OpenAIResponder, base_url

    return OpenAIResponder(settings, api_key=key, base_url=base_url(environ.get("OPENAI_BASE_URL", "")))
