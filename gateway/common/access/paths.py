"""Which request paths are refused because a backend may read them as another path. Pure.

A gateway passes a path on as it came, and decides by it: which route it takes, whether the `authorize` hook is asked,
and about which session. Frameworks differ in what they do to a path before they decide: some merge `..` segments, some
decode twice, some drop `;parameters` (RFC 3986 section 3.3) or take a backslash for a slash. A path that reads as one
thing here and as another thing there would get past the decision, so that it is refused here.
"""

import re
from urllib.parse import unquote

__all__ = ["dots", "is_chat", "is_for_backend", "refusal", "segments"]

# The first segments of the paths that go to the backend.
_BACKENDS = ("api", "ws")
# The second segments below /api of the chat's own addresses.
_CHATS = ("chat", "patients", "ticket")
# `/api/chat/{session_id}/…` and `/ws/chat/{patient_id}/{session_id}`: these segments choose the route and the session.
_CHAT_SEGMENTS = 4
# Of other paths only these choose; what follows may be any text, a per cent sign included.
_ROUTE_SEGMENTS = 2
_AMBIGUOUS = re.compile(r"[;\\%\x00-\x1f\x7f]")
# No client encodes more often for a reason; each round costs time in the length of the path.
_DECODINGS = 3
# Of the overlong UTF-8 of a dot and a slash, which decoders accepted before RFC 3629, as Latin-1.
_OVERLONG = {"\xc0\xae": ".", "\xc0\xaf": "/"}
_IGNORED = "".join(map(chr, range(33))) + "\x7f"
# Nothing of this can be read in two ways: no encoded character, no parameter, no segment that begins with a dot. Most
# requests have such a path, and to match it costs a tenth of what the rules cost.
_UNAMBIGUOUS = re.compile(r"/[\w!$&'()*+,:=@~/.-]*+(?:\?.*+)?", re.ASCII | re.DOTALL)
_DOT_SEGMENT = "/."


def segments(target: str) -> list[str]:
    """The segments of a request target's path, decoded once: an encoded slash separates as well."""
    return unquote(_path(target), "latin-1").split("/")[1:]


def is_for_backend(target: str) -> bool:
    """Whether a lenient backend reads this as a path under /api or /ws."""
    return _plain(segments(target)[:1]) in _BACKENDS


def is_chat(target: str) -> bool:
    """Whether a lenient backend reads this as an address of the chat under /api."""
    names = segments(target)
    return _plain(names[:1]) == "api" and _plain(names[1:2]) in _CHATS


def refusal(target: str) -> str | None:
    """Why a request for this target is refused, as a sentence for its sender; None where it is not.

    Only for paths that go to the backend. `//` and `/a%2Fb` are left to the backend, as nginx does.
    """
    if (_DOT_SEGMENT not in target and _UNAMBIGUOUS.fullmatch(target)) or not is_for_backend(target):
        return None
    names = segments(target)
    count = _CHAT_SEGMENTS if _plain(names[1:2]) == "chat" else _ROUTE_SEGMENTS
    if any(map(_AMBIGUOUS.search, names[:count])):
        return "The first segments of the path must not hold ; or \\ or an encoded % or control characters."
    return dots(target)


def dots(target: str) -> str | None:
    """Why a path with `.` or `..` segments is refused; None where it has none in any spelling."""
    decoded = _decoded(_path(target))
    if decoded is None:
        return f"The path is percent-encoded more than {_DECODINGS} times."
    if any(map(_is_dots, re.split(r"[/\\]", decoded))):
        return "The path must not hold the segments . or .. in any spelling."
    return None


def _plain(segment: list[str]) -> str:
    """The segment, if there is one, without what makes it ambiguous."""
    return _AMBIGUOUS.split(segment[0], maxsplit=1)[0].lower() if segment else ""


def _path(target: str) -> str:
    """The path of an origin-form or absolute-form target (RFC 9112 section 3.2)."""
    path = target.partition("?")[0]
    if path.startswith("/"):
        return path
    return "/" + path.partition("://")[2].partition("/")[2]


def _decoded(path: str) -> str | None:
    """The path as the most lenient backend reads it; None where more decoding would change it still."""
    for _ in range(_DECODINGS):
        again = unquote(path, "latin-1")
        if again == path:
            break
        path = again
    else:
        if unquote(path, "latin-1") != path:
            return None
    for overlong, character in _OVERLONG.items():
        path = path.replace(overlong, character)
    return path


def _is_dots(segment: str) -> bool:
    return segment.partition(";")[0].strip(_IGNORED) in (".", "..")
