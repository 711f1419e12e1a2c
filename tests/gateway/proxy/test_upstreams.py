"""The choice among several backends, without any of them."""

from moorline.gateway.proxy.upstreams import Upstream, Upstreams

A, B, C = "http://a:1", "http://b", "http://[::1]:3"


def of(*urls: str, max_fails: int = 1, fail_timeout: float = 10.0) -> Upstreams:
    return Upstreams(urls, max_fails=max_fails, fail_timeout=fail_timeout)


def chosen(upstreams: Upstreams, now: float, *besides: Upstream) -> Upstream:
    upstream = upstreams.choose(now, besides=besides)
    assert upstream is not None
    return upstream


def turns(upstreams: Upstreams, now: float, count: int) -> list[str]:
    return [chosen(upstreams, now).url for _ in range(count)]


def test_an_upstream_is_the_host_and_port_of_its_url() -> None:
    upstreams = of(A, B, C)
    found = [chosen(upstreams, 0) for _ in range(3)]
    assert [(each.host, each.port) for each in found] == [("a", 1), ("b", 80), ("::1", 3)]


def test_equals_take_turns() -> None:
    assert turns(of(A, B, C), 0, 6) == [A, B, C, A, B, C]


def test_the_one_with_the_fewest_connections_is_next() -> None:
    upstreams = of(A, B)
    chosen(upstreams, 0).connections += 1
    assert turns(upstreams, 0, 3) == [B, B, B]


def test_those_that_were_tried_are_not_chosen_again() -> None:
    upstreams = of(A, B)
    first = chosen(upstreams, 0)
    second = chosen(upstreams, 0, first)
    assert second is not first
    assert upstreams.choose(0, besides=[first, second]) is None


def test_one_that_failed_is_down_for_fail_timeout() -> None:
    upstreams = of(A, B)
    assert upstreams.failed(chosen(upstreams, 100), 100)
    assert turns(upstreams, 110, 3) == [B, B, B]
    assert A in turns(upstreams, 110.1, 2)


def test_one_request_tries_it_then_and_the_others_wait_for_what_becomes_of_it() -> None:
    upstreams = of(A, B)
    a = chosen(upstreams, 100)
    upstreams.failed(a, 100)
    assert turns(upstreams, 111, 4).count(A) == 1
    upstreams.responded(a)
    assert A in turns(upstreams, 111, 2)


def test_one_that_fails_again_is_marked_down_again() -> None:
    upstreams = of(A, B)
    a = chosen(upstreams, 100)
    upstreams.failed(a, 100)
    while chosen(upstreams, 111) is not a:
        pass
    assert not upstreams.failed(a, 111)
    assert turns(upstreams, 121, 3) == [B, B, B]


def test_max_fails_failures_mark_it_down() -> None:
    upstreams = of(A, B, max_fails=3)
    a = chosen(upstreams, 100)
    assert [upstreams.failed(a, 100 + second) for second in range(3)] == [False, False, True]
    assert upstreams.is_down(a, 105)


def test_an_answer_long_after_the_failures_forgets_them() -> None:
    upstreams = of(A, B, max_fails=2)
    a = chosen(upstreams, 100)
    upstreams.failed(a, 100)
    upstreams.responded(a)
    assert upstreams.failed(a, 101)  # as in nginx: an answer in the same fail_timeout does not count
    upstreams.responded(a)
    upstreams.failed(a, 102)
    while chosen(upstreams, 113) is not a:
        pass
    upstreams.responded(a)
    assert not upstreams.failed(a, 114)


def test_where_all_are_down_all_are_tried() -> None:
    upstreams = of(A, B)
    for _ in range(2):
        upstreams.failed(chosen(upstreams, 100), 100)
    assert sorted(turns(upstreams, 101, 2)) == [A, B]


def test_one_that_is_down_is_better_than_none() -> None:
    upstreams = of(A, B)
    a = chosen(upstreams, 100)
    upstreams.failed(a, 100)
    b = chosen(upstreams, 101)
    assert chosen(upstreams, 101, b) is a


def test_one_that_responds_while_it_is_down_is_up_again() -> None:
    upstreams = of(A, B)
    a = chosen(upstreams, 100)
    upstreams.failed(a, 100)
    upstreams.responded(a)
    assert not upstreams.is_down(a, 101)


def test_a_single_one_is_never_marked_down() -> None:
    upstreams = of(A)
    assert not upstreams.failed(chosen(upstreams, 100), 100)
    assert not upstreams.is_down(chosen(upstreams, 100), 100)


def test_with_max_fails_0_none_is_marked_down() -> None:
    upstreams = of(A, B, max_fails=0)
    assert not upstreams.failed(chosen(upstreams, 100), 100)
    assert A in turns(upstreams, 100, 2)
