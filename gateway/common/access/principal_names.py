"""What a principal may be called. Pure."""

import re

__all__ = ["MOST_NAME_BYTES", "NO_PRINCIPAL", "is_principal"]

#: Who it was before the authorize hook has said so, in the audit log; a principal of this name would be taken for none.
NO_PRINCIPAL = "-"
#: A name is kept beside each message.
MOST_NAME_BYTES = 1024
# PostgreSQL's text holds no NUL, and UTF-8 no half of a surrogate pair. `moorline revoke` sends a name in one line, and
# the other control characters could forge one on a terminal.
_NOT_IN_NAMES = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")


def is_principal(name: str) -> bool:
    """Whether a principal with this name can be kept, logged and revoked.

    Names are compared as they are (RFC 7519 section 2, StringOrURI): two spellings of one text are two principals.
    """
    return (
        name not in ("", NO_PRINCIPAL) and _NOT_IN_NAMES.search(name) is None and len(name.encode()) <= MOST_NAME_BYTES
    )
