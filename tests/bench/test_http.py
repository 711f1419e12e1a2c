"""What the HTTP measurement counts; that of a busy machine says nothing."""

import pytest

from tests.bench.http_cost import FIGURES, Scale, measure
from tests.bench.http_messages import Messages, request
from tests.bench.marks import HTTP_MARKS, verdicts
from tests.bench.peers import HTTP_PEERS
from tests.support import needs

LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@needs.nginx
@pytest.mark.whole_measurement
@pytest.mark.timeout(120)
async def test_the_gateway_nginx_and_aiohttp_are_measured_as_far_as_each_goes() -> None:
    peers = [peer for peer in HTTP_PEERS if peer.name in ("gateway", "nginx", "aiohttp", "aiohttp proxy")]
    results = await measure(Scale(rounds=1, each=2, warm_up=1), peers)
    assert not results.missing
    for figure in FIGURES:
        assert set(results.medians[figure.row]) == {peer.name for peer in peers} & set(figure.peers), figure.row
        assert min(results.medians[figure.row].values()) > 0


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_message_ends_where_its_own_framing_says_however_the_stream_is_cut(step: int) -> None:
    stream = LENGTH + CHUNKS + EMPTY + LENGTH
    messages = Messages()
    pieces = [stream[place : place + step] for place in range(0, len(stream), step)]
    assert [size for piece in pieces for _, size in messages.receive_data(piece)] == [5, 21, 0, 5]


def test_a_message_is_not_there_before_its_last_byte() -> None:
    for message in (LENGTH, CHUNKS, EMPTY):
        messages = Messages()
        assert messages.receive_data(message[:-1]) == []
        ((headers, _),) = messages.receive_data(message[-1:])
        assert headers == message.partition(b"\r\n\r\n")[0]


def test_a_request_with_a_body_is_a_post() -> None:
    messages = Messages()
    found = messages.receive_data(request("/api/1") + request("/api/2", body=9))
    assert [(headers.split(b" ")[:2], size) for headers, size in found] == [
        ([b"GET", b"/api/1"], 0),
        ([b"POST", b"/api/2"], 9),
    ]


def test_a_mark_holds_its_subject_against_its_peer() -> None:
    rows = {"GET /healthz": {"gateway": 300.0, "aiohttp logged": 200.0, "gateway unlogged": 301.0, "aiohttp": 200.0}}
    found = {row[0]: row[3:] for row in verdicts(rows, HTTP_MARKS) if row[1] == "GET /healthz"}
    assert found == {"gateway": ["1.5", "reached"], "gateway unlogged": ["1.5", "MISSED"]}
