"""The parser of an upstream's HTTP/1.1 response: status line, headers, and where the body ends. Pure.

    parser = ResponseParser("GET")
    body = parser.receive_data(data)     # then look at `response` and `complete`

It accepts what RFC 9112 defines and nothing that it tolerates. A connection serves one user after another, so that two
readings of where a response ends would hand one user's bytes to the next: lines end with CRLF, names are tokens, there
is one Content-Length or one Transfer-Encoding, which is chunked, and folded lines are refused. aiohttp's own parser is
lenient with responses, and keeps what follows one for the next.
"""

import enum
import functools
import re

from multidict import CIMultiDict

from moorline.gateway.common.web.statuses import SWITCHING_PROTOCOLS
from moorline.gateway.errors import BadUpstreamResponse

__all__ = ["Response", "ResponseParser"]

# Four times nginx's proxy_buffer_size, because cookies are long; interim responses count.
_MAX_HEADER_BYTES = 32 << 10
# aiohttp's max_headers.
_MAX_HEADER_LINES = 128
# Of a chunk's size and its extensions, which are ignored.
_MAX_CHUNK_LINE = 256
_MAX_LENGTH_DIGITS = 18
# What follows the headers is looked at where it is, not copied, if there is so much of it.
_LARGE_PART = 8 << 10
_FIRST_FINAL_STATUS = 200
# RFC 9112 section 6.3: these end with their headers, as every response to HEAD does.
_WITHOUT_BODY = frozenset({204, 304})

_CONNECTION = b"connection"
_CONTENT_LENGTH = b"content-length"
_TRANSFER_ENCODING = b"transfer-encoding"
_FRAMED_TWICE = "more than one Content-Length or Transfer-Encoding"
_START = b"HTTP/1."
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: (%b))?\r\n" % _VALUE)
# Each match begins where a line does and takes all of it.
_HEADER = re.compile(rb"(?m)^(%b):[\t ]*+(%b)(?<![\t ])\r\n" % (_TOKEN, _VALUE))
_PADDED_HEADER = re.compile(rb"(?m)^(%b):[\t ]*+(%b)\r\n" % (_TOKEN, _VALUE))
_HEADER_LINE = re.compile(rb"%b:%b" % (_TOKEN, _VALUE))
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*+(?:;%b)?" % _VALUE)


class Response:
    """Status line and headers, as the upstream sent them."""

    __slots__ = ("_headers", "fields", "lines", "names", "reason", "status")

    def __init__(self, status: int, reason: str, fields: list[tuple[bytes, bytes]], lines: bytes = b"") -> None:
        self.status = status
        self.reason = reason
        self.fields = fields
        """Name and value of each header line."""
        self.lines = lines
        """All of them as they came, each with its CRLF."""
        self.names: dict[bytes, bytes] = {}
        """The names in lower case, each with its last value."""
        names = self.names
        # Each response pays for it: a comprehension would be a function that is made and called.
        for name, value in fields:
            names[name.lower()] = value
        self._headers: CIMultiDict[str] | None = None

    @property
    def headers(self) -> CIMultiDict[str]:
        """The headers as text: bytes that are not UTF-8 are surrogates, which `headers.encoded` turns back."""
        if self._headers is None:
            self._headers = CIMultiDict((_decoded(name), _decoded(value)) for name, value in self.fields)
        return self._headers

    def all(self, name: bytes) -> list[bytes]:
        """The values of the headers of this name, which is in lower case."""
        if name not in self.names:
            return []
        if len(self.names) == len(self.fields):
            return [self.names[name]]
        return [value for each, value in self.fields if each.lower() == name]


class _Phase(enum.Enum):
    HEADERS = "status line and headers, of interim responses as well"
    LENGTH = "a body of Content-Length bytes"
    UNTIL_EOF = "a body that the end of the connection ends"
    CHUNK_SIZE = "the line before a chunk"
    CHUNK_DATA = "a chunk"
    CHUNK_END = "the CRLF behind a chunk"
    TRAILERS = "the lines behind the last chunk, which are dropped"


# Each response asks for these. In Python 3.11 a member of an enum takes three times a call to be found in its class.
_HEADERS, _LENGTH = _Phase.HEADERS, _Phase.LENGTH


class ResponseParser:
    """One response, to one request."""

    __slots__ = (
        "_buffer",
        "_header_bytes",
        "_method",
        "_phase",
        "_remaining",
        "complete",
        "excess",
        "persistent",
        "response",
    )

    def __init__(self, method: str) -> None:
        self._method = method
        self._phase = _HEADERS
        self._buffer = b""
        self._header_bytes = 0
        self._remaining = 0
        self.response: Response | None = None
        """The final response, once its headers are complete."""
        self.complete = False
        """Whether the response ended by its own framing, or with the connection where that is its framing."""
        self.excess = b""
        """What came behind the response: early bytes of a tunnel behind a 101, else not to be used for anything."""
        self.persistent = False
        """Whether the upstream keeps the connection open behind this response."""

    def receive_data(self, data: bytes) -> bytes | memoryview:
        """Take the next bytes, not behind the end; the part of the body that is in them.

        Raises:
            BadUpstreamResponse: this is not an HTTP/1.1 response, or not one whose end is beyond doubt.
        """
        part: bytes | memoryview = data
        if self._phase is _HEADERS:
            part = self._receive_headers(data)
            if self.response is None:
                return b""
        if self.complete:
            self.excess = bytes(part)
            return b""
        if self._phase is _LENGTH:
            left = self._remaining - len(part)
            self._remaining = left
            if left <= 0:
                self.complete = True
                if left:
                    self.excess = bytes(part[left:])
                    return part[:left]
            return part
        if self._phase is _Phase.UNTIL_EOF:
            return part
        return self._receive_chunked(part)

    def receive_eof(self) -> bool:
        """Take the end of the connection; whether that completes the response. One that is not complete afterwards
        never will be.
        """
        self.persistent = False
        if self.complete or self._phase is not _Phase.UNTIL_EOF:
            return False
        self.complete = True
        return True

    # Status line and headers ------------------------------------------------------------------------------------------

    def _receive_headers(self, data: bytes) -> bytes | memoryview:
        """What follows the final response's headers."""
        data = self._buffer + data
        while True:
            end = data.find(b"\r\n\r\n")
            size = len(data) if end < 0 else end + 4
            if self._header_bytes + size > _MAX_HEADER_BYTES:
                raise BadUpstreamResponse("the headers are too large")
            if end < 0:
                if data[: len(_START)] != _START[: len(data)]:
                    raise BadUpstreamResponse("not HTTP/1.x")
                if data.count(b"\n") > data.count(b"\r\n"):
                    # Their end would be waited for in vain.
                    raise BadUpstreamResponse("a line of the headers ends with LF alone")
                self._buffer = data
                return b""
            self._header_bytes += size
            response, minor = _parse(data, end + 2)
            if response.status >= _FIRST_FINAL_STATUS or response.status == SWITCHING_PROTOCOLS:
                break
            data = data[size:]
        self._buffer = b""
        if response.status == SWITCHING_PROTOCOLS:
            # Whatever its headers say of a body: it has none, and what follows is the other protocol's.
            self.complete = self.persistent = True
        else:
            self._begin_body(response, minor)
        self.response = response
        return data[size:] if len(data) - size < _LARGE_PART else memoryview(data)[size:]

    def _begin_body(self, response: Response, minor: bytes) -> None:
        names = response.names
        length, coding = names.get(_CONTENT_LENGTH), names.get(_TRANSFER_ENCODING)
        if len(names) < len(response.fields) and (
            len(response.all(_CONTENT_LENGTH)) > 1 or len(response.all(_TRANSFER_ENCODING)) > 1
        ):
            raise BadUpstreamResponse(_FRAMED_TWICE)
        if coding is not None:
            if length is not None:
                raise BadUpstreamResponse(_FRAMED_TWICE)
            if coding.lower() != b"chunked":
                raise BadUpstreamResponse("a Transfer-Encoding other than chunked")
            self._phase = _Phase.CHUNK_SIZE
        elif length is not None:
            if not (length.isdigit() and len(length) <= _MAX_LENGTH_DIGITS):
                raise BadUpstreamResponse("a malformed Content-Length")
            self._remaining = int(length)
            self._phase, self.complete = _LENGTH, not self._remaining
        if response.status in _WITHOUT_BODY or self._method == "HEAD":
            self.complete = True
        elif self._phase is _HEADERS:
            self._phase = _Phase.UNTIL_EOF
            return
        # HTTP/1.0's keep-alive is not used: RFC 9112 appendix C.2.2 has the reasons.
        self.persistent = minor == b"1" and not (_CONNECTION in names and _says_close(response))

    # Body -------------------------------------------------------------------------------------------------------------

    def _receive_chunked(self, part: bytes | memoryview) -> bytes:
        data = self._buffer + part
        pieces: list[bytes] = []
        position = 0
        while not self.complete:
            if self._phase is _Phase.CHUNK_DATA:
                piece = data[position : position + self._remaining]
                pieces.append(piece)
                position += len(piece)
                self._remaining -= len(piece)
                if self._remaining:
                    break
                self._phase = _Phase.CHUNK_END
            following = self._receive_line(data, position)
            if following is None:
                break
            position = following
        if self.complete:
            self._buffer, self.excess = b"", data[position:]
        else:
            self._buffer = data[position:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _receive_line(self, data: bytes, position: int) -> int | None:
        """Where the line between two chunks or behind the last one ends; None: it is not complete."""
        end = data.find(b"\r\n", position)
        if (len(data) if end < 0 else end) - position > _MAX_CHUNK_LINE and self._phase is not _Phase.TRAILERS:
            raise BadUpstreamResponse("a malformed chunk")
        if self._phase is _Phase.CHUNK_END and len(data) - position > 1 and end != position:
            raise BadUpstreamResponse("a chunk that is longer than its size")
        if end < 0:
            if data.find(b"\n", position) >= 0:
                raise BadUpstreamResponse("a line of the chunks ends with LF alone")
            if self._phase is _Phase.TRAILERS:
                self._check_trailers(len(data) - position)
            return None
        if self._phase is _Phase.CHUNK_END:
            self._phase = _Phase.CHUNK_SIZE
        elif self._phase is _Phase.CHUNK_SIZE:
            self._begin_chunk(data, position, end)
        elif end == position:
            self.complete = True
        else:
            self._header_bytes += end + 2 - position
            self._check_trailers(0)
            if not _HEADER_LINE.fullmatch(data, position, end):
                raise BadUpstreamResponse("a malformed trailer")
        return end + 2

    def _begin_chunk(self, data: bytes, position: int, end: int) -> None:
        match = _CHUNK_LINE.fullmatch(data, position, end)
        if match is None:
            raise BadUpstreamResponse("a malformed chunk size")
        self._remaining = int(match[1], 16)
        self._phase = _Phase.CHUNK_DATA if self._remaining else _Phase.TRAILERS

    def _check_trailers(self, size: int) -> None:
        if self._header_bytes + size > _MAX_HEADER_BYTES:
            raise BadUpstreamResponse("the trailers are too large")


def _parse(data: bytes, end: int) -> tuple[Response, bytes]:
    """The response of the status line and header lines, each with its CRLF, before `end`; and the minor version."""
    begin = data.find(b"\n", 0, end) + 1
    minor, status, reason = _status(data[:begin])
    lines = data[begin:end]
    count = lines.count(b"\n")
    if count >= _MAX_HEADER_LINES:
        raise BadUpstreamResponse("too many headers")
    fields: list[tuple[bytes, bytes]] = _HEADER.findall(lines)
    if len(fields) != count:
        fields = [(name, value.rstrip(b" \t")) for name, value in _PADDED_HEADER.findall(lines)]
        if len(fields) != count:
            raise BadUpstreamResponse("a malformed header")
    return Response(status, reason, fields, lines), minor


# Of the few that upstreams send.
@functools.lru_cache(maxsize=64)
def _status(line: bytes) -> tuple[bytes, int, str]:
    """The minor version, the status and the reason."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise BadUpstreamResponse("a malformed status line")
    minor, status, reason = match.groups(b"")
    return minor, int(status), _decoded(reason)


def _says_close(response: Response) -> bool:
    return any(b"close" in map(bytes.strip, line.lower().split(b",")) for line in response.all(_CONNECTION))


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
