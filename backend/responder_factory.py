"""From the settings and the environment to a responder: a model, or the script where there is no key."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from moorline.backend.offline import OfflineResponder
from moorline.backend.provider import api_key
from moorline.backend.settings import Settings

if TYPE_CHECKING:
    from moorline.backend.llm import OpenAIResponder

__all__ = ["create_responder"]


def create_responder(settings: Settings, environ: Mapping[str, str]) -> "OpenAIResponder | OfflineResponder":
    """The model behind the key and the address in `environ`, see `provider.py`; without a key the script.

    Raises:
        UsageError: either of them cannot be used.
    """
    key = api_key(environ)
    if not key:
        return OfflineResponder()
    # Imported here: `openai` takes longer to import than all other modules, and is not needed without a key.
    from moorline.backend.llm import OpenAIResponder

    return OpenAIResponder(settings, api_key=key, base_url=environ.get("OPENAI_BASE_URL", ""))
