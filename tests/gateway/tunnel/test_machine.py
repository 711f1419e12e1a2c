"""The state machine on nginx's clock: events and times in, teardowns and deadlines out, without a loop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.gateway.cause import Moment, Reason
from moorline.gateway.explain import codes
from moorline.gateway.tunnel.endings import Outcome, Side, Teardown, cause_of
from moorline.gateway.tunnel.machine import Phase, Tunnel
from moorline.gateway.tunnel.tcp_info import TcpInfo
from tests.support.tunnels import CLIENT, NOTHING, UPSTREAM, close_frames, opened, receive
from tests.support.websocket_frames import BINARY, PONG, TEXT, close_frame, frame, parse

# Bytes ----------------------------------------------------------------------------------------------------------------


def test_bytes_pass_unchanged_and_are_counted() -> None:
    tunnel = opened()
    assert tunnel.client.receive_data(b"abc", 101) == b"abc"
    assert tunnel.upstream.receive_data(b"defgh", 101) == b"defgh"
    assert (tunnel.client.size, tunnel.upstream.size) == (3, 5)


def test_after_the_end_nothing_passes_and_nothing_counts() -> None:
    tunnel = opened()
    tunnel.receive_eof(UPSTREAM, 101)
    assert tunnel.client.receive_late(b"late", 102) == b""
    assert tunnel.client.size == 0


# Ends -----------------------------------------------------------------------------------------------------------------


def test_the_clients_fin_ends_both() -> None:
    tunnel = opened()
    tunnel.receive_eof(CLIENT, 101)
    assert tunnel.outcome == Outcome(CLIENT, Reason.FIN)
    assert tunnel.teardowns() == [(CLIENT, Teardown.ABORT), (UPSTREAM, Teardown.FLUSH)]


def test_the_backends_fin_reaches_the_client_behind_its_last_bytes() -> None:
    tunnel = opened()
    tunnel.receive_eof(UPSTREAM, 101)
    assert tunnel.outcome == Outcome(UPSTREAM, Reason.FIN)
    assert tunnel.teardowns() == [(UPSTREAM, Teardown.ABORT), (CLIENT, Teardown.LINGER_IF_UNREAD)]


@pytest.mark.parametrize(
    ("side", "closing"),
    [(CLIENT, (UPSTREAM, Teardown.FLUSH)), (UPSTREAM, (CLIENT, Teardown.LINGER_IF_UNREAD))],
    ids=["client", "backend"],
)
def test_the_reset_of_one_side_is_a_fin_to_the_other(side: Side, closing: tuple[Side, Teardown]) -> None:
    tunnel = opened()
    tunnel.connection_lost(side, 101)
    assert tunnel.outcome == Outcome(side, Reason.RESET)
    assert tunnel.teardowns() == [closing]


def test_teardowns_are_returned_once() -> None:
    tunnel = opened()
    tunnel.receive_eof(CLIENT, 101)
    assert tunnel.teardowns()
    assert tunnel.teardowns() == []


def test_what_was_returned_is_the_callers() -> None:
    tunnel = opened(close_frames=True)
    sent, torn_down = tunnel.data_to_send(), tunnel.teardowns()
    tunnel.shut_down(101)
    assert (sent, torn_down) == ([], [])
    assert tunnel.data_to_send()
    assert tunnel.teardowns()


def test_the_first_side_to_end_is_the_outcome() -> None:
    tunnel = opened()
    tunnel.receive_eof(UPSTREAM, 101)
    tunnel.receive_eof(CLIENT, 102)
    tunnel.shut_down(103)
    assert tunnel.outcome == Outcome(UPSTREAM, Reason.FIN)


def test_it_is_over_when_both_connections_are_gone() -> None:
    tunnel = opened()
    tunnel.receive_eof(UPSTREAM, 101)
    tunnel.connection_lost(UPSTREAM, 101)
    assert tunnel.phase is Phase.LINGERING
    tunnel.connection_lost(CLIENT, 102)
    assert (tunnel.phase, tunnel.next_timeout()) == (Phase.OVER, None)


def test_a_shutdown_ends_both_behind_their_last_bytes() -> None:
    tunnel = opened()
    tunnel.shut_down(101)
    assert tunnel.outcome is not None
    assert (tunnel.outcome.ended_by, tunnel.outcome.reason) == ("gateway", "shutdown")
    assert tunnel.teardowns() == [(CLIENT, Teardown.LINGER_IF_UNREAD), (UPSTREAM, Teardown.FLUSH)]


# nginx's clock --------------------------------------------------------------------------------------------------------


def test_bytes_of_either_side_restart_the_idle_timer() -> None:
    tunnel = opened()
    assert tunnel.next_timeout() == 120
    tunnel.client.receive_data(b"x", 105)
    assert tunnel.next_timeout() == 125
    tunnel.upstream.receive_data(b"x", 107)
    assert tunnel.next_timeout() == 127


def test_a_timer_that_fires_too_early_ends_nothing() -> None:
    tunnel = opened()
    tunnel.client.receive_data(b"x", 105)
    tunnel.handle_timeout(120, NOTHING)
    assert tunnel.outcome is None
    assert tunnel.next_timeout() == 125


def test_silence_ends_it_after_proxy_read_timeout() -> None:
    tunnel = opened()
    tunnel.handle_timeout(120, NOTHING)
    assert tunnel.ended_at == 120
    assert tunnel.outcome == Outcome(None, Reason.PROXY_READ_TIMEOUT)
    assert tunnel.teardowns() == [(CLIENT, Teardown.LINGER_IF_UNREAD), (UPSTREAM, Teardown.ABORT)]


def test_a_client_that_does_not_read_ends_by_send_timeout_and_not_by_the_read_timer() -> None:
    tunnel = opened(proxy_read_timeout=2)
    tunnel.writing_paused(CLIENT, 101, 500)
    tunnel.handle_timeout(108, {CLIENT: 500, UPSTREAM: 0}.__getitem__)
    assert tunnel.teardowns() == []
    tunnel.handle_timeout(109, {CLIENT: 500, UPSTREAM: 0}.__getitem__)
    assert tunnel.outcome == Outcome(None, Reason.SEND_TIMEOUT)
    assert tunnel.teardowns() == [(CLIENT, Teardown.ABORT), (UPSTREAM, Teardown.ABORT)]


def test_a_backend_that_does_not_read_has_proxy_send_timeout() -> None:
    tunnel = opened()
    tunnel.writing_paused(UPSTREAM, 101, 500)
    tunnel.handle_timeout(111, {CLIENT: 0, UPSTREAM: 500}.__getitem__)
    assert tunnel.outcome == Outcome(None, Reason.PROXY_SEND_TIMEOUT)
    assert tunnel.teardowns() == [(CLIENT, Teardown.LINGER_IF_UNREAD), (UPSTREAM, Teardown.ABORT)]


def test_a_stalled_client_that_goes_on_sending_is_not_cut() -> None:
    tunnel = opened()
    tunnel.writing_paused(CLIENT, 101, 500)
    tunnel.client.receive_data(b"ping", 108)
    tunnel.handle_timeout(109, {CLIENT: 500, UPSTREAM: 0}.__getitem__)
    assert tunnel.outcome is None


def test_a_slow_reader_is_not_a_stalled_one() -> None:
    tunnel = opened()
    tunnel.writing_paused(CLIENT, 101, 500)
    for now, unsent in ((105, 400), (110, 300), (115, 200), (120, 100)):
        due = tunnel.next_timeout()
        assert due is not None
        assert due <= now
        tunnel.handle_timeout(now, {CLIENT: unsent, UPSTREAM: 0}.__getitem__)
        assert tunnel.outcome is None


def test_a_stalled_client_is_cut_in_time() -> None:
    tunnel = opened()
    tunnel.writing_paused(CLIENT, 101, 500)
    now, unsent = 101.0, {CLIENT: 400, UPSTREAM: 0}
    while tunnel.outcome is None:
        now = tunnel.next_timeout() or 0
        tunnel.handle_timeout(now, unsent.__getitem__)
    assert 109 <= now <= 110


def test_a_stalled_client_is_checked_at_growing_intervals_up_to_an_eighth_of_its_timeout() -> None:
    tunnel = opened()
    tunnel.writing_paused(CLIENT, 101, 500)
    checks, now = [], 101.0
    for unsent in (500, 500, 500, 500, 500, 400, 400):
        due = tunnel.next_timeout()
        assert due is not None
        checks.append(due - now)
        now = due
        tunnel.handle_timeout(now, {CLIENT: unsent, UPSTREAM: 0}.__getitem__)
    # 8 s / 64, and again from there after the progress in the sixth.
    assert checks == [0.125, 0.25, 0.5, 1, 1, 1, 0.125]


def test_a_client_that_reads_again_is_bounded_by_the_idle_timer_again() -> None:
    tunnel = opened()
    tunnel.writing_paused(CLIENT, 101, 500)
    tunnel.writing_resumed(CLIENT, 105)
    assert tunnel.next_timeout() == 125


# Unfinished messages --------------------------------------------------------------------------------------------------

UNFINISHED = {
    "half a header": b"\x81",
    "half a frame": frame(TEXT, b"half of it", key=b"mask")[:9],
    "a first fragment": frame(TEXT, b"half of it", key=b"mask", fin=False),
}
HEARTBEATS = {"close_frames": True, "client_heartbeat": 5, "upstream_heartbeat": None}


@pytest.mark.parametrize("data", UNFINISHED.values(), ids=UNFINISHED.keys())
def test_a_client_that_falls_silent_in_a_message_is_found_by_its_heartbeat(data: bytes) -> None:
    tunnel = opened(**HEARTBEATS)
    receive(tunnel, CLIENT, data, 101)
    for now in (106, 108, 110):
        tunnel.handle_timeout(now, NOTHING)
    assert tunnel.outcome == Outcome(CLIENT, Reason.HEARTBEAT_TIMEOUT)


@pytest.mark.parametrize("data", UNFINISHED.values(), ids=UNFINISHED.keys())
def test_without_heartbeats_an_unfinished_message_ends_by_proxy_read_timeout(data: bytes) -> None:
    tunnel = opened()
    receive(tunnel, CLIENT, data, 101)
    tunnel.handle_timeout(121, NOTHING)
    assert tunnel.outcome == Outcome(None, Reason.PROXY_READ_TIMEOUT)


def test_between_two_fragments_a_client_may_take_as_long_as_it_answers_pings() -> None:
    tunnel = opened(**HEARTBEATS)
    receive(tunnel, CLIENT, UNFINISHED["a first fragment"], 101)
    for now in range(106, 1000, 5):
        tunnel.handle_timeout(now, NOTHING)
        ((side, ping),) = tunnel.data_to_send()
        assert side is CLIENT
        receive(tunnel, CLIENT, frame(PONG, parse(ping)[0].payload, key=b"mask"), now)
    assert tunnel.phase is Phase.OPEN


# Phases ---------------------------------------------------------------------------------------------------------------

EVENTS = ("receive_eof", "connection_lost", "writing_paused", "writing_resumed", "shut_down", "close", "large", "time")
LIVES = st.lists(st.tuples(st.sampled_from(EVENTS), st.sampled_from(list(Side))), max_size=12)


def happen(tunnel: Tunnel, event: str, side: Side, now: float) -> None:
    match event:
        case "close" | "large" if tunnel.relaying:
            receive(tunnel, side, close_frame(1000) if event == "close" else frame(BINARY, bytes(1001)), now)
        case "time":
            tunnel.handle_timeout(tunnel.next_timeout() or now, NOTHING)
        case "shut_down":
            tunnel.shut_down(now)
        case "writing_paused":
            tunnel.writing_paused(side, now, 500)
        case "receive_eof" | "writing_resumed":
            getattr(tunnel, event)(side, now)


@given(life=LIVES, close_frames=st.booleans())
def test_whatever_happens_there_is_a_deadline_until_it_is_over(
    *, life: list[tuple[str, Side]], close_frames: bool
) -> None:
    tunnel, gone = opened(close_frames=close_frames), set[Side]()
    for now, (event, side) in enumerate(life, start=101):
        if side not in gone and event == "connection_lost":
            gone.add(side)
            tunnel.connection_lost(side, now)
        elif side not in gone:
            happen(tunnel, event, side, now)
        assert (tunnel.outcome is None) == tunnel.relaying == (tunnel.phase in (Phase.OPEN, Phase.CLOSING))
        assert (tunnel.phase is Phase.OVER) == (len(gone) == 2)
        # An upstream's connection that has nothing buffered closes at once.
        closes = tunnel.phase is Phase.LINGERING and CLIENT in gone and not tunnel.stalls(UPSTREAM)
        assert (tunnel.next_timeout() is None) == (closes or tunnel.phase is Phase.OVER)


TCP = st.none() | st.builds(TcpInfo, *[st.sampled_from((0, 1))] * 3, since_ack=st.just(1.0), rtt=st.just(0.1))


@given(life=LIVES, close_frames=st.booleans(), tcp=TCP)
def test_however_a_tunnel_ends_its_cause_has_a_sentence(
    *, life: list[tuple[str, Side]], close_frames: bool, tcp: TcpInfo | None
) -> None:
    tunnel, gone = opened(close_frames=close_frames, client_heartbeat=1), set[Side]()
    for now, (event, side) in enumerate(life, start=101):
        if event == "connection_lost" and side not in gone:
            gone.add(side)
            tunnel.connection_lost(side, now, Reason.UNREACHABLE if now % 2 else Reason.RESET)
        elif side not in gone:
            happen(tunnel, event, side, now)
    if tunnel.outcome is not None:
        cause = cause_of(tunnel.outcome.reason, tunnel.culprit, tunnel.moment, tcp, tunnel.code)
        assert cause.code in set(codes())
        assert 1 <= len(tunnel.order) <= 4


def test_the_order_of_an_end_is_that_of_its_events() -> None:
    tunnel = opened(close_frames=True)
    receive(tunnel, CLIENT, close_frame(1000, key=b"mask"), 101)
    receive(tunnel, UPSTREAM, close_frame(1000), 102)
    tunnel.receive_eof(UPSTREAM, 103)
    tunnel.receive_eof(CLIENT, 104)
    assert tunnel.order == ("client:closed", "upstream:closed", "upstream:fin", "client:fin")


@pytest.mark.parametrize(
    ("data", "moment"),
    [
        (b"", Moment.IDLE),
        (UNFINISHED["half a header"], Moment.MID_FRAME),
        (UNFINISHED["half a frame"], Moment.MID_FRAME),
    ],
    ids=["no frame", "half a header", "half a frame"],
)
def test_an_end_tells_whether_a_frame_was_cut(data: bytes, moment: Moment) -> None:
    tunnel = opened(close_frames=True)
    if data:
        receive(tunnel, CLIENT, data, 101)
    tunnel.connection_lost(UPSTREAM, 102)
    assert tunnel.moment is moment


@pytest.mark.parametrize("code", [1002, 1007, 1009])
def test_data_that_a_side_refuses_is_put_down_to_the_side_that_sent_it(code: int) -> None:
    tunnel = opened(close_frames=True)
    receive(tunnel, CLIENT, close_frame(code, key=b"mask"), 101)
    tunnel.receive_eof(CLIENT, 102)
    assert tunnel.outcome == Outcome(CLIENT, Reason.CLOSED)
    assert cause_of(Reason.CLOSED, tunnel.culprit, tunnel.moment, None, tunnel.code).code == "UV-closing"
    assert cause_of(Reason.CLOSED, UPSTREAM, tunnel.moment, None, code).code == "CV-closing"


@pytest.mark.parametrize(
    ("answers", "late"), [(False, UPSTREAM), (True, UPSTREAM)], ids=["no Close frame", "no end of TCP"]
)
def test_an_upstream_that_does_not_close_in_time_is_the_culprit(*, answers: bool, late: Side) -> None:
    tunnel = opened(close_frames=True)
    receive(tunnel, CLIENT, close_frame(1000, key=b"mask"), 101)
    if answers:
        receive(tunnel, UPSTREAM, close_frame(1000), 102)
    tunnel.handle_timeout(104, NOTHING)
    assert (tunnel.outcome, tunnel.culprit) == (Outcome(None, Reason.CLOSE_TIMEOUT), late)


def test_a_client_that_does_not_answer_a_close_frame_is_the_culprit() -> None:
    tunnel = opened(close_frames=True)
    receive(tunnel, UPSTREAM, close_frame(1000), 101)
    tunnel.handle_timeout(104, NOTHING)
    assert tunnel.culprit is CLIENT


@pytest.mark.parametrize("side", [CLIENT, UPSTREAM])
def test_a_side_that_has_got_a_close_frame_gets_no_second_one(side: Side) -> None:
    tunnel = opened(close_frames=True)
    receive(tunnel, side, close_frame(1000, key=b"mask" if side is CLIENT else b""), 101)
    assert list(close_frames(tunnel)) == [side.other]
    tunnel.shut_down(102)
    assert close_frames(tunnel) == {side: (1001, "gateway restarting")}


# The time after the end -----------------------------------------------------------------------------------------------


def ending() -> Tunnel:
    tunnel = opened()
    tunnel.receive_eof(UPSTREAM, 1000)
    tunnel.teardowns()
    tunnel.connection_lost(UPSTREAM, 1000)
    return tunnel


def test_a_client_that_does_not_end_is_cut_after_five_seconds_of_silence() -> None:
    tunnel = ending()
    assert tunnel.next_timeout() == 1005
    tunnel.handle_timeout(1005, NOTHING)
    assert tunnel.teardowns() == [(CLIENT, Teardown.ABORT)]


def test_a_timer_that_fires_where_none_runs_does_nothing() -> None:
    tunnel = opened()
    tunnel.connection_lost(CLIENT, 1000)
    tunnel.teardowns()
    tunnel.handle_timeout(1100, NOTHING)
    assert tunnel.teardowns() == []


def test_a_client_that_goes_on_sending_is_cut_after_thirty_seconds() -> None:
    tunnel = ending()
    for now in range(1001, 1030):
        tunnel.client.receive_late(b"x", now)
        tunnel.handle_timeout(now, NOTHING)
        assert tunnel.teardowns() == []
    assert tunnel.next_timeout() == 1030
    tunnel.handle_timeout(1030, NOTHING)
    assert tunnel.teardowns() == [(CLIENT, Teardown.ABORT)]


def test_a_client_that_does_not_take_the_last_bytes_is_cut_after_send_timeout() -> None:
    tunnel = opened()
    tunnel.writing_paused(CLIENT, 999, 500)
    tunnel.receive_eof(UPSTREAM, 1000)
    tunnel.teardowns()
    tunnel.connection_lost(UPSTREAM, 1000)
    tunnel.handle_timeout(1008, {CLIENT: 500, UPSTREAM: 0}.__getitem__)
    assert tunnel.teardowns() == [(CLIENT, Teardown.ABORT)]


def test_lingering_begins_when_the_last_bytes_are_taken() -> None:
    tunnel = opened()
    tunnel.writing_paused(CLIENT, 999, 500)
    tunnel.receive_eof(UPSTREAM, 1000)
    tunnel.connection_lost(UPSTREAM, 1000)
    tunnel.writing_resumed(CLIENT, 1006)
    assert tunnel.next_timeout() == 1011


def test_the_clients_own_fin_ends_the_lingering_once_its_buffer_is_flushed() -> None:
    tunnel = ending()
    tunnel.receive_eof(CLIENT, 1001)
    assert tunnel.teardowns() == [(CLIENT, Teardown.FLUSH)]
