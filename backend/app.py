"""The backend as an aiohttp application: routes and what lives as long as it does."""

import asyncio
import contextlib
import functools
import logging
import os
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from aiohttp import web

from moorline.backend.api import Api, answer
from moorline.backend.audit import Audit
from moorline.backend.eventlog.base import DatabaseState, LogUnavailable
from moorline.backend.eventlog.factory import open_log
from moorline.backend.eventlog.log import EventLog
from moorline.backend.gate import PAGES_AT_ONCE, Gate
from moorline.backend.metrics import Gauges, Metrics
from moorline.backend.patients import Patients
from moorline.backend.principal_limits import PrincipalLimits
from moorline.backend.problems import bad_request_handler, problem_middleware
from moorline.backend.protocol.codec import frame_limit
from moorline.backend.protocol.docs import docs_page, openapi_document
from moorline.backend.responder import Answer, Responder
from moorline.backend.retention import run_pruning, run_retention
from moorline.backend.rights import RIGHTS, Rights
from moorline.backend.runs import Runs
from moorline.backend.service import Service, as_service
from moorline.backend.settings import Settings
from moorline.backend.tickets import LIFE_SECONDS, Tickets
from moorline.backend.websocket import V1_PING_SECONDS, Sockets
from moorline.gateway.common.access.authorize import Authorize, hook_of, warn_if_open
from moorline.gateway.common.access.jwt import jwt_authorize
from moorline.gateway.common.access.middleware import access_middleware, add_cors_headers, add_security_headers
from moorline.gateway.common.access.rules import AccessRules
from moorline.gateway.common.config.named import load_named
from moorline.gateway.common.single_flight import SingleFlight
from moorline.gateway.common.web.connection import BAD_REQUEST_HANDLER, CONNECTION_TIMEOUTS, ConnectionTimeouts
from moorline.gateway.common.web.draining import DRAINING, Draining
from moorline.gateway.common.web.messages import MESSAGE_LIMITS, MessageLimits
from moorline.gateway.common.web.metrics_port import METRICS_SOCKET, metrics_port
from moorline.gateway.common.web.request_limits import REQUEST_LIMITS, RequestLimits, limited
from moorline.gateway.common.web.traced import add_tracing

__all__ = ["LOG", "RUNS", "SERVICE", "SETTINGS", "close_principal", "create_app"]

logger = logging.getLogger("moorline.backend")

SETTINGS = web.AppKey("settings", Settings)
LOG: web.AppKey[EventLog] = web.AppKey("log")
# One at a time, however many ask /readyz.
LOG_CHECK: web.AppKey[SingleFlight[None]] = web.AppKey("log_check")
SERVICE = web.AppKey("service", Service)
RUNS = web.AppKey("runs", Runs)
METRICS = web.AppKey("metrics", Metrics)
AUDIT = web.AppKey("audit", Audit)
API = web.AppKey("api", Api)
PATIENTS = web.AppKey("patients", Patients)
TICKETS = web.AppKey("tickets", Tickets)
SOCKETS = web.AppKey("sockets", Sockets)
DRAIN: web.AppKey[asyncio.Task[None]] = web.AppKey("drain")

# A database that does not answer within this time is not ready.
_READY_TIMEOUT = 5.0


def create_app(
    settings: Settings,
    *,
    authorize: Authorize | None = None,
    responder: Responder | Answer | None = None,
    v1_ping: float = V1_PING_SECONDS,
) -> web.Application:
    """The backend. `responder`, a function or a `Responder`, answers instead of the model that the environment names,
    and `authorize` decides who may use a chat; otherwise what the options of these names say.

    Raises:
        UsageError: one of them cannot work, see `as_service` and `as_authorize`.
    """
    authorize = hook_of(settings, authorize) or jwt_authorize(settings)
    warn_if_open(logger, settings.host, authorize)
    app = web.Application(
        middlewares=[problem_middleware, access_middleware(settings)], client_max_size=frame_limit(settings.max_bytes)
    )
    add_tracing(app, settings)
    app.on_response_prepare.append(add_cors_headers(settings))
    app.on_response_prepare.append(add_security_headers)
    app[SETTINGS] = settings
    app[RIGHTS] = Rights(
        authorize,
        AccessRules.of(settings),
        again=settings.authorize_again,
        closed_within=LIFE_SECONDS,
        limits=PrincipalLimits(
            held=settings.max_connections_per_principal, handshakes=settings.handshakes_per_principal
        ),
    )
    app[SERVICE] = as_service(_responder(settings) if responder is None else responder)
    app[LOG] = open_log(settings.database, pool_size=settings.database_pool)
    app[LOG_CHECK] = SingleFlight(functools.partial(_check, app[LOG]))
    app[LOG].on_revoked(app[RIGHTS].revoke)
    app[METRICS] = metrics = Metrics(functools.partial(_gauges, app))
    app[RUNS] = Runs(app[LOG], app[SERVICE], settings, metrics.run_ended)
    app[AUDIT] = Audit(settings.audit_log)
    pages = Gate(PAGES_AT_ONCE)
    app[API] = Api(app[LOG], app[RUNS], app[AUDIT], app[RIGHTS], pages, settings)
    app[PATIENTS] = Patients(app[LOG], app[AUDIT], app[RIGHTS])
    app[TICKETS] = Tickets(app[LOG], app[AUDIT], app[RIGHTS], settings)
    app[SOCKETS] = Sockets(app[LOG], app[RUNS], app[AUDIT], app[RIGHTS], app[TICKETS], pages, settings, v1_ping=v1_ping)
    app[REQUEST_LIMITS] = RequestLimits(settings)
    app[MESSAGE_LIMITS] = MessageLimits(timeout=settings.message_timeout, most=settings.max_unfinished)
    app[DRAINING] = Draining()
    app[CONNECTION_TIMEOUTS] = ConnectionTimeouts(send=settings.send_timeout)
    app[BAD_REQUEST_HANDLER] = bad_request_handler
    # Before the log opens: it may take runs over from a process that is gone.
    app.cleanup_ctx.append(_service)
    app.cleanup_ctx.append(_resources)
    app.cleanup_ctx.append(_pruning)
    app.cleanup_ctx.append(_retention)
    app.cleanup_ctx.append(_metrics)
    app.on_startup.append(_watch_for_drain)
    app.on_shutdown.append(_drained)
    _add_routes(app)
    return app


def close_principal(app: web.Application, name: str) -> None:
    """End the sockets (4503) and held polls (403) of the principal called `name`, in this process and at once."""
    app[RIGHTS].close(name)


def _responder(settings: Settings) -> Responder | Answer:
    # Imported here: `openai` takes longer to import than all other modules, and a given responder does not need it.
    from moorline.backend.responder_factory import create_responder

    if settings.responder:
        found: Responder | Answer = load_named(settings.responder, "responder")
        return found
    return create_responder(settings, os.environ)


def _add_routes(app: web.Application) -> None:
    api, limits = app[API], app[REQUEST_LIMITS]
    # A HEAD has no 101 for an answer.
    app.router.add_get("/ws/chat/{patient_id}/{session_id}", app[SOCKETS].handle, allow_head=False)
    app.router.add_get("/api/chat/{session_id}/messages", limited(api.read, limits))
    app.router.add_post("/api/chat/{session_id}/messages", limited(api.send, limits))
    app.router.add_post("/api/chat/{session_id}/retry", limited(api.retry, limits))
    app.router.add_post("/api/chat/{session_id}/cancel", limited(api.cancel, limits))
    app.router.add_delete("/api/chat/{session_id}", limited(api.erase, limits))
    app.router.add_get("/api/patients/{patient_id}/sessions", limited(app[PATIENTS].sessions, limits))
    app.router.add_post("/api/ticket", limited(app[TICKETS].issue, limits))
    app.router.add_get("/docs", _docs)
    app.router.add_get("/openapi.json", _openapi)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _readyz)


async def _service(app: web.Application) -> AsyncIterator[None]:
    await app[SERVICE].startup(app[SETTINGS].run_timeout)
    yield
    await app[SERVICE].shutdown(app[SETTINGS].drain)


async def _resources(app: web.Application) -> AsyncIterator[None]:
    app[AUDIT].open()
    try:
        await app[LOG].open()
        yield
    finally:
        await app[LOG].close()
        app[AUDIT].close()


async def _pruning(app: web.Application) -> AsyncIterator[None]:
    async with _beside(run_pruning(app[LOG], app[RIGHTS])):
        yield


async def _retention(app: web.Application) -> AsyncIterator[None]:
    retention = app[SETTINGS].retention
    if retention is None:
        yield
        return
    async with _beside(run_retention(retention, app[LOG], app[AUDIT])):
        yield


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _metrics(app: web.Application) -> AsyncIterator[None]:
    settings = app[SETTINGS]
    if settings.metrics_port is None:
        yield
        return

    async def render(accept: str) -> tuple[str, bytes]:
        return app[METRICS].render(accept, database_is_up=await _is_up(app[LOG]))

    async with metrics_port(settings, settings.metrics_port, render, logger, sock=app.get(METRICS_SOCKET)):
        yield


def _gauges(app: web.Application) -> Gauges:
    answering, waiting = app[RUNS].count()
    return Gauges(answering, waiting, len(app[LOG].watched()), app[LOG].commits)


async def _is_up(log: EventLog) -> bool:
    try:
        await _check(log)
    except LogUnavailable:
        return False
    return True


async def _check(log: EventLog) -> None:
    """Return if the database answers, and in time.

    Raises:
        LogUnavailable
    """
    try:
        async with asyncio.timeout(_READY_TIMEOUT):
            await log.check()
    except TimeoutError:
        raise LogUnavailable(f"no answer within {_READY_TIMEOUT:g} s", state=DatabaseState.DOWN) from None


# Draining -------------------------------------------------------------------------------------------------------------


async def _watch_for_drain(app: web.Application) -> None:
    app[DRAIN] = asyncio.create_task(_drain(app))


async def _drain(app: web.Application) -> None:
    """Close the sockets at once, since another backend may accept them already; runs get the remaining time."""
    await app[DRAINING].wait()
    app[SOCKETS].close_all()
    app[API].close()
    await app[RUNS].drain(app[DRAINING].remaining())


async def _drained(app: web.Application) -> None:
    # Where the application runs in another server, in tests for example, the drain begins here.
    if not app[DRAINING].is_set():
        app[DRAINING].begin(app[SETTINGS].drain)
    await app[DRAIN]


# Small responses ------------------------------------------------------------------------------------------------------


async def _docs(request: web.Request) -> web.Response:
    return web.Response(text=docs_page(), content_type="text/html", charset="utf-8")


async def _openapi(request: web.Request) -> web.Response:
    return answer(openapi_document())


async def _healthz(request: web.Request) -> web.Response:
    return answer({"status": "ok"})


async def _readyz(request: web.Request) -> web.Response:
    """Ready when the database answers. Chats can be read without the model, and while nothing can be written: those
    states are only in the body.
    """
    app = request.app
    if app[DRAINING].is_set():
        return answer({"status": "draining"}, status=503)
    try:
        await app[LOG_CHECK].result()
    except LogUnavailable as error:
        logger.debug("event log unavailable: %s", error)
        return answer({"status": "not ready", "database": error.state}, status=503)
    model = {"name": app[SERVICE].name, "state": app[RUNS].model_state}
    return answer({"status": "ready", "database": app[LOG].database, "model": model})
