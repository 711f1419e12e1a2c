"""The state machine on nginx's clock: events and times in, closings and deadlines out, without a loop."""

import pytest
from moorline.gateway.tunnel.endings import Outcome, Reason, Side, Teardown
from moorline.gateway.tunnel.machine import Phase, Tunnel

from tests.support.tunnels import CLIENT, NOTHING, UPSTREAM, opened

# Bytes ----------------------------------------------------------------------------------------------------------------


def test_bytes_pass_as_they_are_and_are_counted() -> None:
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
def test_a_reset_is_a_fin_to_the_other(side: Side, closing: tuple[Side, Teardown]) -> None:
    tunnel = opened()
    tunnel.connection_lost(side, 101)
    assert tunnel.outcome == Outcome(side, Reason.RESET)
    assert tunnel.teardowns() == [closing]


def test_closings_are_told_once() -> None:
    tunnel = opened()
    tunnel.receive_eof(CLIENT, 101)
    assert tunnel.teardowns()
    assert tunnel.teardowns() == []


def test_who_ended_first_is_who_ended_it() -> None:
    tunnel = opened()
    tunnel.receive_eof(UPSTREAM, 101)
    tunnel.receive_eof(CLIENT, 102)
    tunnel.shut_down(103)
    assert tunnel.outcome == Outcome(UPSTREAM, Reason.FIN)


def test_it_is_over_when_both_are_gone() -> None:
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


def test_bytes_of_either_side_set_the_idle_clock_anew() -> None:
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
    assert tunnel.outcome == Outcome(None, Reason.PROXY_READ_TIMEOUT)
    assert tunnel.teardowns() == [(CLIENT, Teardown.LINGER_IF_UNREAD), (UPSTREAM, Teardown.ABORT)]


def test_a_client_that_does_not_read_has_send_timeout_and_the_read_timer_rests() -> None:
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


def test_it_looks_often_enough_to_cut_a_stalled_client_in_time() -> None:
    tunnel = opened()
    tunnel.writing_paused(CLIENT, 101, 500)
    now, unsent = 101.0, {CLIENT: 400, UPSTREAM: 0}
    while tunnel.outcome is None:
        now = tunnel.next_timeout() or 0
        tunnel.handle_timeout(now, unsent.__getitem__)
    assert 109 <= now <= 110


def test_a_client_that_reads_again_is_on_the_idle_clock_again() -> None:
    tunnel = opened()
    tunnel.writing_paused(CLIENT, 101, 500)
    tunnel.writing_resumed(CLIENT, 105)
    assert tunnel.next_timeout() == 125


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


def test_the_lingering_begins_when_the_last_bytes_are_taken() -> None:
    tunnel = opened()
    tunnel.writing_paused(CLIENT, 999, 500)
    tunnel.receive_eof(UPSTREAM, 1000)
    tunnel.connection_lost(UPSTREAM, 1000)
    tunnel.writing_resumed(CLIENT, 1006)
    assert tunnel.next_timeout() == 1011


def test_the_clients_own_fin_ends_the_lingering_behind_what_still_waits_for_it() -> None:
    tunnel = ending()
    tunnel.receive_eof(CLIENT, 1001)
    assert tunnel.teardowns() == [(CLIENT, Teardown.FLUSH)]
