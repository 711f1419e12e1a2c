"""A patient with a token of their own reaches nothing of another's, whatever the request names, repeats or hides."""

import json
import time
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import jwt
import pytest
from aiohttp.test_utils import make_mocked_request

from moorline.backend.settings import Settings
from moorline.gateway.common.access.jwt import jwt_authorize
from tests.support.backends import Backend, Script, backend, hello, receive_until, say
from tests.support.faulty_upstream import dial

SECRET = "0123456789abcdef0123456789abcdef"
OPTIONS: dict[str, Any] = {"jwt_key": SECRET, "jwt_cookie": "session", "jwt_patients_claim": "patients"}
#: In the chat s1 of the patient p1.
PRIVATE = "what no other patient may read"


def token(name: str, *patients: object, **claims: Any) -> str:
    return jwt.encode({"sub": name, "patients": patients, "exp": time.time() + 3600, **claims}, SECRET, "HS256")


ALICE, BOB = token("alice", "p1"), token("bob", "p2")


class Chats(NamedTuple):
    """The chat s1 of alice's patient, with an answer under way, and s2 of bob's, which has begun."""

    server: Backend
    epoch: str
    run_id: str
    audit: Path

    async def ask(self, given: str, method: str, path: str, body: Any = None) -> tuple[int, str, dict[str, str]]:
        """Status, body and headers."""
        headers = {"Authorization": f"Bearer {given}"}
        async with aiohttp.request(method, self.server.http + path, json=body, headers=headers) as answer:
            found = dict(answer.headers)
            found.pop("Date", None)
            return answer.status, await answer.text(), found

    def socket(self, given: str, session: str, patient: str, *more: str) -> Any:
        return self.server.socket(session, patient, subprotocols=["moorline", f"moorline.jwt.{given}", *more])

    @property
    def who(self) -> list[str]:
        """Of each access."""
        return [json.loads(line)["who"] for line in self.audit.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
async def chats(tmp_path: Path) -> AsyncIterator[Chats]:
    script, audit = Script("partial"), tmp_path / "audit.jsonl"
    async with backend(tmp_path, script, audit_log=str(audit), **OPTIONS) as server:
        chats = Chats(server, "", "", audit)
        async with chats.socket(ALICE, "s1", "p1") as socket:
            epoch = (await hello(socket))[0]["epoch"]
            await say(socket, type="send", message=PRIVATE, client_msg_id="c1")
            run_id = (await receive_until(socket, "delta"))[-1]["run_id"]
        body = {"patient_id": "p2", "message": "Hello", "client_msg_id": "c1"}
        assert (await chats.ask(BOB, "POST", "/api/chat/s2/messages", body))[0] == 202
        yield chats._replace(epoch=epoch, run_id=run_id)


# What a request names -------------------------------------------------------------------------------------------------


REQUESTS: tuple[tuple[str, str, dict[str, str] | None], ...] = (
    ("GET", "/api/chat/s1/messages?before=9&limit=500", None),
    ("GET", "/api/chat/s1/messages?after=0&epoch={epoch}", None),
    ("GET", "/api/chat/s2/messages?after=0&epoch={epoch}&patient_id=p2", None),
    ("GET", "/api/chat/s1/messages?patient_id=p2&patient_id=p1", None),
    ("GET", "/api/chat/s1/messages?patient_id=p2&Patient_id=p1", None),
    ("GET", "/api/chat/s1/messages?patient_id=P1", None),
    ("GET", "/api/chat/s1/messages?patient_id[]=p1", None),
    ("GET", "/api/patients/p2/sessions?before=9999999999~s1", None),
    ("GET", "/api/patients/p1/sessions", None),
    ("POST", "/api/chat/s1/messages", {"patient_id": "p2", "message": "x", "client_msg_id": "c1"}),
    ("POST", "/api/chat/s1/messages?patient_id=p1", {"patient_id": "p2", "message": "x", "client_msg_id": "c1"}),
    ("POST", "/api/chat/s2/retry", {"patient_id": "p2", "run_id": "{run_id}", "client_msg_id": "c2"}),
    ("POST", "/api/chat/s2/cancel", {"patient_id": "p2", "run_id": "{run_id}"}),
    ("DELETE", "/api/chat/s1?patient_id=p2", None),
    ("DELETE", "/api/chat/s1", {"patient_id": "p2"}),
    ("POST", "/api/ticket", {"patient_id": "p1"}),
)


async def test_no_request_reads_or_changes_the_chat_of_another(chats: Chats) -> None:
    values = {"epoch": chats.epoch, "run_id": chats.run_id}
    for method, path, body in REQUESTS:
        filled = body and {name: value.format(**values) for name, value in body.items()}
        _, text, headers = await chats.ask(BOB, method, path.format(**values), filled)
        told = [word for word in (PRIVATE, "partial", chats.epoch, chats.run_id, "s1") if word in f"{text}{headers}"]
        assert told == [], path
    info = await chats.server.log.find_session("s1")
    assert info is not None
    assert (info.patient_id, info.active_run_id, info.head.epoch) == ("p1", chats.run_id, chats.epoch)
    assert [row.content for row in await chats.server.log.rows("s1", before=None, limit=9)] == [PRIVATE]


async def test_not_even_a_header_tells_a_chat_of_another_from_none(chats: Chats) -> None:
    for path in ("/messages", "/messages?after=1&epoch=x", "/messages?before=1"):
        answers = [await chats.ask(BOB, "GET", f"/api/chat/{session}{path}") for session in ("s1", "none")]
        assert answers[0] == answers[1]


async def test_a_ticket_for_ones_own_patient_opens_no_session_of_another(chats: Chats) -> None:
    _, issued, _ = await chats.ask(BOB, "POST", "/api/ticket", {"patient_id": "p2", "session_id": "s1"})
    with pytest.raises(Exception, match="HTTP 403"):
        await chats.server.socket("s1", "p2", subprotocols=[f"moorline.ticket.{json.loads(issued)['ticket']}"])


async def test_a_socket_that_resumes_at_the_epoch_of_another_chat_gets_its_own(chats: Chats) -> None:
    async with chats.socket(BOB, "s2", "p2") as socket:
        frames = await hello(socket, resume={"epoch": chats.epoch, "seq": 1})
        assert (frames[0]["recovered"], frames[1]["messages"][0]["content"]) == (False, "Hello")
        await say(socket, type="cancel", run_id=chats.run_id)
        await say(socket, type="retry", run_id=chats.run_id, client_msg_id="c2")
        assert (await receive_until(socket, "error"))[-1]["code"] == "not_found"
    info = await chats.server.log.find_session("s1")
    assert info is not None
    assert info.active_run_id == chats.run_id


async def test_the_author_is_whom_the_token_names_whatever_the_message_says(chats: Chats) -> None:
    spoofed = {"author": "alice", "principal": "alice", "sub": "alice", "seq": 1, "at": "1970-01-01T00:00:00Z"}
    async with chats.socket(BOB, "s3", "p2") as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1", **spoofed)
        event = (await receive_until(socket, "user"))[-1]
    body = {"patient_id": "p2", "message": "Hi", "client_msg_id": "c1", **spoofed}
    assert (await chats.ask(BOB, "POST", "/api/chat/s4/messages", body))[0] == 202
    (row,) = await chats.server.log.rows("s4", before=None, limit=9)
    assert (event["author"], row.author, row.at > 0) == ("bob", "bob", True)


# Who the token names --------------------------------------------------------------------------------------------------


async def opens(claim: object, patient: str) -> bool:
    """Whether a token with this claim opens the patient's chats, by the hook alone."""
    authorize = jwt_authorize(Settings(**OPTIONS))
    assert authorize is not None
    given = jwt.encode({"sub": "bob", "patients": claim, "exp": time.time() + 60}, SECRET, "HS256")
    try:
        await authorize(make_mocked_request("GET", "/", headers={"Authorization": f"Bearer {given}"}), patient, None)
    except aiohttp.web.HTTPForbidden:
        return False
    return True


@pytest.mark.parametrize(
    "claim",
    [
        [],
        "",
        [""],
        None,
        True,
        7,
        {"p1": True},
        [["p1"]],
        [{"id": "p1"}],
        "p1,p2",
        "p2 p1",
        ["P1"],
        ["p1 "],
        ["p1\0"],
        ["p\uff11"],  # a full-width digit
        ["\ud800"],
        ["*"],
        ["p"],
        ["p11"],
        [f"p{number}" for number in range(2, 10_000)],
    ],
)
async def test_a_claim_opens_the_patients_that_it_spells_out_and_no_other(claim: object) -> None:
    assert not await opens(claim, "p1")


@pytest.mark.parametrize("claim", ["p1", ["p1"], ["p1", "p1"], [None, ["p1"], "p1"], ["\ud800", "p1"]])
async def test_what_else_is_in_a_claim_takes_nothing_from_it(claim: object) -> None:
    assert await opens(claim, "p1")


#: "-" is none in the audit log.
UNUSABLE = ("-", "a\0b", "a\nb", "\x1b[2K", "\x85", "\ud800", "x" * 1025, "\N{EURO SIGN}" * 342)


async def test_a_subject_that_could_not_be_kept_or_revoked_is_refused(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with backend(tmp_path, Script(), database=database, **OPTIONS) as server:
        chats = Chats(server, "", "", tmp_path)
        body = {"patient_id": "p1", "message": "Hi", "client_msg_id": "c1"}
        for path in ("/api/chat/s1/messages", "/api/ticket"):
            statuses = [(await chats.ask(token(name, "p1"), "POST", path, body))[0] for name in UNUSABLE]
            assert statuses == [401] * len(UNUSABLE)
        assert (await chats.ask(token("x" * 1024, "p1"), "POST", "/api/ticket", body))[0] == 200
    assert "`sub` is no text of 1 to 1024 bytes" in caplog.text
    assert "Traceback" not in caplog.text


NAMES = [unicodedata.normalize(form, "Jos\N{LATIN SMALL LETTER E WITH ACUTE}") for form in ("NFC", "NFD")]


async def test_two_spellings_of_a_name_are_two_principals(database: str, tmp_path: Path) -> None:
    """RFC 7519 section 2, StringOrURI: for limits, revocations and authors."""
    limits: dict[str, Any] = {"rate_limit_per_principal": 1, "new_sessions_per_address": None}
    async with backend(tmp_path, Script(), database=database, **OPTIONS, **limits) as server:
        chats = Chats(server, "", "", tmp_path)
        tokens = [token(name, "p1") for name in NAMES]
        for session, given in zip(("s1", "s2"), tokens, strict=True):
            body = {"patient_id": "p1", "message": "Hi", "client_msg_id": "c1"}
            assert (await chats.ask(given, "POST", f"/api/chat/{session}/messages", body))[0] == 202
        authors = [(await server.log.rows(each, before=None, limit=1))[0].author for each in ("s1", "s2")]
        await server.log.revoke(NAMES[1])
        statuses = [(await chats.ask(given, "GET", "/api/chat/s1/messages"))[0] for given in tokens]
    assert (authors, statuses) == (NAMES, [200, 401])


# Several credentials at once ------------------------------------------------------------------------------------------


#: Headers of a request, and the principal; None: it is refused.
GIVEN = (
    ("Authorization: Bearer {alice}\r\nCookie: session={bob}", "alice"),
    ("Sec-WebSocket-Protocol: moorline.jwt.{alice}\r\nCookie: session={bob}", "alice"),
    ("Authorization: Bearer {alice}\r\nSec-WebSocket-Protocol: moorline.jwt.{bob}", "alice"),
    ("Authorization: Basic YTpi\r\nCookie: session={alice}", "alice"),
    ('Cookie: other={bob}; session="{alice}"; session2={bob}', "alice"),
    ("Cookie: session={alice}; session={alice}", "alice"),
    ("Cookie: session={alice}; session={bob}", None),
    ("Cookie: session={alice}\r\nCookie: session={bob}", None),
    ("Cookie: session={alice}; session=", None),
    ("Cookie: Session={alice}", None),
    ("Cookie: session={alice},{bob}", None),
    ("Authorization: Bearer {alice}\r\nAuthorization: Bearer {bob}", None),
    ("Authorization: Bearer {alice}, Bearer {bob}", None),
    ("Sec-WebSocket-Protocol: moorline.jwt.{alice}, moorline.jwt.{bob}", None),
    ("Sec-WebSocket-Protocol: moorline.jwt.{alice}\r\nSec-WebSocket-Protocol: moorline.jwt.{bob}", None),
)


async def test_of_several_credentials_the_one_of_the_first_kind_counts_and_never_a_guess(chats: Chats) -> None:
    asked = "GET /api/chat/s1/messages?patient_id=p1 HTTP/1.1\r\nHost: localhost\r\n"
    for lines, who in GIVEN:
        async with dial(chats.server.port) as peer:
            await peer.send((asked + lines.format(alice=ALICE, bob=BOB) + "\r\n\r\n").encode())
            status = (await peer.head()).split()[1]
        assert (status, chats.who[-1]) == ((b"401", "-") if who is None else (b"200", who)), lines


async def test_a_ticket_counts_and_not_the_cookie_beside_it(chats: Chats) -> None:
    _, issued, _ = await chats.ask(BOB, "POST", "/api/ticket", {"patient_id": "p2"})
    offered = ["moorline", f"moorline.ticket.{json.loads(issued)['ticket']}"]
    cookie = {"Cookie": f"session={ALICE}"}
    with pytest.raises(Exception, match="HTTP 401"):
        await chats.server.socket("s1", "p1", subprotocols=["moorline.ticket.none"], additional_headers=cookie)
    async with chats.server.socket("s2", "p2", subprotocols=offered, additional_headers=cookie) as socket:
        await hello(socket)
    assert chats.who[-1] == "bob"


# Two people in one chat -----------------------------------------------------------------------------------------------


async def test_two_principals_of_one_chat_are_told_apart(tmp_path: Path) -> None:
    script = Script("one", None, "two", None)
    async with backend(tmp_path, script, **OPTIONS) as server:
        chats = Chats(server, "", "", tmp_path)
        async with chats.socket(ALICE, "s1", "p1") as one, chats.socket(token("nurse", "p1"), "s1", "p1") as two:
            for socket, name in ((one, "c1"), (two, "c2")):
                await hello(socket)
                await say(socket, type="send", message=name, client_msg_id=name)
                await receive_until(socket, "message")
            await server.log.revoke("nurse")
            await two.wait_closed()
            await say(one, type="ping")
            authors = [frame["author"] for frame in await receive_until(one, "pong") if frame["type"] == "user"]
    assert (authors, two.close_code) == (["nurse"], 4401)


async def test_a_renewed_token_with_fewer_patients_opens_fewer_and_leaves_what_the_former_opened(chats: Chats) -> None:
    given = token("bob", "p1", "p2", iat=int(time.time()) - 9)
    async with chats.socket(given, "s1", "p1") as socket:
        await hello(socket)
        renewed = token("bob", "p2", iat=int(time.time()))
        assert (await chats.ask(renewed, "GET", "/api/chat/s1/messages?patient_id=p1"))[0] == 403
        await say(socket, type="ping")
        await receive_until(socket, "pong")
        await chats.server.log.revoke("bob")
        await socket.wait_closed()
    assert socket.close_code == 4401


# Pages of other sites, in the browser of a patient whose cookie is the token ------------------------------------------


ORIGINS = (
    "null",  # of a sandboxed frame, and of a file
    "https://evil.example",
    "http://localhost:9",
    "http://[::1]:9",
    "http://localhost.evil.example",
    "http://evil.example@localhost",
    "https://localhost, http://localhost",
    "",
)
#: What a form, or a page without a preflight, can send.
SIMPLE = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
FORGED = (
    *((f"Origin: {origin}\r\nContent-Type: application/json", 403) for origin in ORIGINS),
    *((f"Content-Type: {kind}", 415) for kind in SIMPLE),
    ("Accept: */*", 415),
)


async def test_a_page_of_another_site_writes_nothing_with_the_cookie(chats: Chats) -> None:
    body = json.dumps({"patient_id": "p2", "message": PRIVATE, "client_msg_id": "c9"})
    start = f"POST /api/chat/s2/messages HTTP/1.1\r\nHost: localhost:{chats.server.port}\r\nCookie: session={BOB}\r\n"
    for headers, status in FORGED:
        async with dial(chats.server.port) as peer:
            await peer.send(f"{start}{headers}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            assert (await peer.head()).split()[1] == str(status).encode(), headers
    rows = await chats.server.log.rows("s2", before=None, limit=9)
    assert PRIVATE not in [row.content for row in rows]


#: Host and Origin of a handshake.
ELSEWHERE = (
    ("localhost", "null", 403),
    ("localhost", "https://evil.example", 403),
    ("localhost", "http://localhost:9", 403),
    ("rebound.example", "http://rebound.example", 421),
    ("rebound.example", None, 421),
)


async def test_a_page_of_another_site_opens_no_socket_with_the_cookie(chats: Chats) -> None:
    accesses = len(chats.who)
    async with aiohttp.ClientSession(headers={"Cookie": f"session={BOB}"}) as http:
        for host, origin, status in ELSEWHERE:
            headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(f"{chats.server.http}/ws/chat/p2/s2", headers=headers)
            assert refused.value.status == status, headers
    assert len(chats.who) == accesses
