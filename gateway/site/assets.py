"""What a request for a static asset may mean: its path, type, caching and encodings. Pure."""

import functools
import itertools
import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

__all__ = ["SIBLINGS", "cache_control", "content_type", "encodings", "is_asset", "is_private", "segments"]

# The system's table differs from machine to machine; a page must not. WHATWG's names, RFC 9239 for JavaScript.
_TYPES = {
    "avif": "image/avif",
    "css": "text/css; charset=utf-8",
    "gif": "image/gif",
    "htm": "text/html; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "ico": "image/x-icon",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "map": "application/json",
    "md": "text/markdown; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "otf": "font/otf",
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml",
    "ttf": "font/ttf",
    "txt": "text/plain; charset=utf-8",
    "wasm": "application/wasm",
    "wav": "audio/wav",
    "webm": "video/webm",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "xml": "application/xml",
}
# Best first. The names that the folder's build wrote beside the file, and the coding each stands for.
SIBLINGS = ((".br", "br"), (".gz", "gzip"))

# What builds name their folders: Vite; webpack; and with an underscore Astro, Next, Nuxt, SvelteKit and Expo.
_BUILD_FOLDER = re.compile(r"assets|static|_[a-z]+")
_EXTENSION = re.compile(r"[^.].*\.([A-Za-z0-9]{1,11})")
_SUFFIX = r"(?:\.[a-z0-9]+)*\.[a-z0-9]+"
# Hexadecimal digits: `main.3f2a9c1b.chunk.css` of webpack, `4bd1b696-182b6b13bdad92e3.js` of Next; as the whole name
# they have to be more, as in `f4dd5a5a1c7d1a3d.css` and `4cf2300e9c8272f7-s.p.woff2`.
_HEX_HASH = re.compile(rf"(?:.+[-.]([0-9a-f]{{8,64}})|([0-9a-f]{{16,64}}))(?:-[a-z]{{1,2}})?{_SUFFIX}")
# base64url: `index-BxY3k2_a.js` of Vite, `Chat.D8sU4xQK.js` of Astro, whose images have a second hash behind it, and
# `BxY3k2_a.js` of SvelteKit and Nuxt.
_BASE64_HASH = re.compile(rf"(.+[-.])?([A-Za-z0-9_-]{{8}})(?:_[A-Za-z0-9]{{4,8}})?{_SUFFIX}")
# Base 32: `main-5INURTSO.js` of Angular and esbuild, beside the page.
_BASE32_HASH = re.compile(r"[a-z-]+-(?=[A-Z]*[2-7])([A-Z2-7]{8})\.(?:js|css)")
# Half of all hashes of eight characters change that often between small letters, capitals and digits; `MacBook2` and
# `IMG_2041` do not.
_LEAST_CHANGES = 5

# Databases (SQLite's journals beside them) and moorline's configuration, with the endings of backups and of compressed
# siblings. In any case: macOS and Windows open moorline.db as MOORLINE.DB, too.
_PRIVATE = re.compile(
    r"(?:moorline\.toml|.*\.(?:db|sqlite\w*)(?:-\w+)*)(?:~|\.(?:bak|old|orig|br|gz|bz2|xz|zip|zst))?", re.IGNORECASE
)

_IMMUTABLE = "public, max-age=31536000, immutable"
# The browser keeps the file and asks each time whether it is still the one; a 304 answers.
_REVALIDATE = "no-cache"


def segments(raw_path: str) -> tuple[str, ...] | None:
    """The names along a request's path, decoded; None where it is none that a file of the folder can have.

    That are `..`, dot-files, and what decodes to a separator, a control character or no UTF-8. The last name is empty
    where the path ends in a slash.
    """
    names = []
    for part in raw_path.removeprefix("/").split("/"):
        try:
            name = unquote_to_bytes(part).decode()
        except UnicodeError:
            return None
        if name.startswith(".") or "/" in name or "\\" in name or not (name == "" or name.isprintable()):
            return None
        names.append(name)
    return tuple(names)


def is_private(name: str) -> bool:
    """Whether a file of this name is served to no client, even where it is in the folder: a dot-file, database or
    configuration.
    """
    return name.startswith(".") or _PRIVATE.fullmatch(name) is not None


def is_asset(names: Sequence[str]) -> bool:
    """Whether a path without a file can only have meant a file, so that the index page would be a wrong answer.

    Under /chat/ the last name is a patient's id, which may have a dot in it; there the extension must be a known one.
    """
    if _is_built(names):
        return True
    match = _EXTENSION.fullmatch(names[-1])
    if match is None:
        # `moorline.db-wal` has no extension, and is no page either.
        return names[0] != "chat" and is_private(names[-1])
    return match[1].lower() in _TYPES or names[0] != "chat"


def content_type(name: str) -> str:
    """The media type of a file by its name."""
    return _TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")


def cache_control(names: Sequence[str]) -> str:
    """How long a browser may keep a file: a year where its name changes with its content, else until it asks."""
    name = names[-1]
    if name.endswith((".html", ".htm")):
        return _REVALIDATE
    return _IMMUTABLE if _has_hash(name, is_built=_is_built(names)) else _REVALIDATE


# Browsers have a handful of values; the limit is for clients that invent them.
@functools.lru_cache(maxsize=64)
def encodings(accept_encoding: str) -> Sequence[tuple[str, str]]:
    """The siblings that a client takes, best first, as (file extension, content coding); RFC 9110 section 12.5.3."""
    taken: dict[str, bool] = {}
    for item in accept_encoding.lower().split(","):
        coding, _, parameters = item.partition(";")
        weight = parameters.strip().removeprefix("q=").strip()
        taken[coding.strip()] = not re.fullmatch(r"0(\.0{0,3})?", weight)
    anything = taken.get("*", False)
    return tuple((extension, coding) for extension, coding in SIBLINGS if taken.get(coding, anything))


def _is_built(names: Sequence[str]) -> bool:
    """Whether it is in a folder that holds nothing but what a build wrote."""
    return any(map(_BUILD_FOLDER.fullmatch, names[:-1]))


def _has_hash(name: str, *, is_built: bool) -> bool:
    """Whether the name holds a hash of the content. Beside files that were built there may be any others, where a word
    or a date must not be taken for one: a browser would keep the file for a year.
    """
    hexadecimal = _HEX_HASH.fullmatch(name)
    if hexadecimal is not None and _is_mixed(hexadecimal[1] or hexadecimal[2]):
        return True
    base64 = _BASE64_HASH.fullmatch(name)
    if base64 is not None and (_is_random(base64[2]) or (is_built and base64[1] and _is_mixed(base64[2]))):
        return True
    return _BASE32_HASH.fullmatch(name) is not None


def _is_mixed(text: str) -> bool:
    """Neither a word nor a date: it has digits among letters, or capitals among small letters."""
    return not text.isdigit() and (any(map(str.isdigit, text)) or text not in (text.lower(), text.upper()))


def _is_random(text: str) -> bool:
    """A hash, and neither a word nor a name with a number."""
    kinds = [(c.islower(), c.isupper(), c.isdigit()) for c in text]
    return sum(one != other for one, other in itertools.pairwise(kinds)) >= _LEAST_CHANGES
