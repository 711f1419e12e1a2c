"""`moorline serve`: the gateway, in this process or in workers of it, and the backend and the front end in others.

The backend's process is started before this one imports what the gateway needs: each takes a third of a second.
"""

import asyncio
import dataclasses
import functools
import importlib
import logging
import os
import secrets
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moorline.backend.settings import Settings as BackendSettings
from moorline.gateway.common import logs, tracing
from moorline.gateway.common.collection import no_collection
from moorline.gateway.common.config.options import PREFIX, changed
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.loop import ReloadRequests, run, run_until, stop_signals
from moorline.gateway.common.program import USAGE_ERROR
from moorline.gateway.common.start import print_start
from moorline.gateway.common.systemd import Systemd
from moorline.gateway.common.web.authorities import import_aiohttp
from moorline.gateway.common.web.listen import listen
from moorline.gateway.proxy.routes import Owner
from moorline.gateway.run.backend_port import BackendPort
from moorline.gateway.run.command import NOT_FOUND
from moorline.gateway.run.commands import ServeSettings
from moorline.gateway.run.configuration import Configuration
from moorline.gateway.run.parts import Parts
from moorline.gateway.run.reports import Reports
from moorline.gateway.run.supervisor import Child, Supervisor
from moorline.gateway.run.user_commands import CommandCallbacks, backend_command, free_port, frontend_command
from moorline.gateway.settings import Settings

if TYPE_CHECKING:
    from moorline.gateway.run.generations import Gateway

__all__ = ["main"]

log = logging.getLogger("moorline.serve")

_BACKEND_PORT = 8000
# For the gateway, of whose sockets the backend has closed all by then, where the backend took all of `drain`.
_LEAST_DRAIN = 1.0


def main(
    settings: Settings,
    backend: BackendSettings,
    own: ServeSettings,
    environ: Mapping[str, str],
    configuration: Configuration,
    systemd: Systemd,
) -> int:
    """Run gateway, backend and front end until a signal ends them; the exit status."""
    _check(settings, own)
    # Without a key of the user's, one for both: a chat has the same hash in both parts' lines.
    settings = dataclasses.replace(settings, log_key=settings.log_key or secrets.token_hex())
    sock = None if own.backend_command else _backend_socket(own.backend_port)
    settings, backend = _joined(settings, backend, own, sock)
    follows_output = bool(own.frontend_command) and not settings.frontend
    if follows_output:
        # Until the dev server names another one.
        settings = dataclasses.replace(settings, frontend=f"http://localhost:{free_port()}")
    logs.setup(settings)
    if settings.workers == 1:
        tracing.start("moorline-gateway", environ)
    serve = _Serve(settings, own, backend, sock, environ, configuration, systemd, follows_output=follows_output)
    return run(serve.run())


def _joined(
    settings: Settings, backend: BackendSettings, own: ServeSettings, sock: socket.socket | None
) -> tuple[Settings, BackendSettings]:
    """Both parts' settings, with what each has of the other."""
    if sock is None:
        if own.backend_port is not None:
            settings = dataclasses.replace(settings, upstream=(f"http://127.0.0.1:{own.backend_port}",))
    else:
        host, port = sock.getsockname()[:2]
        settings = dataclasses.replace(settings, upstream=(f"http://{host}:{port}",), backend_asks=True)
        # Where only the backend has one, it is asked about the user's routes as well.
        settings = dataclasses.replace(settings, authorize=settings.authorize or backend.authorize)
        backend = dataclasses.replace(
            backend,
            port=port,
            drain=settings.drain,
            log_key=settings.log_key,
            metrics_port=_backend_metrics_port(settings),
        )
    settings = dataclasses.replace(settings, frontend_command=own.frontend_command, backend_command=own.backend_command)
    return dataclasses.replace(settings, follow_authorize=own.reload and bool(settings.authorize)), backend


def _check(settings: Settings, own: ServeSettings) -> None:
    """Refuse options that contradict each other."""
    if own.backend_command and own.reload and not settings.authorize:
        raise UsageError("reload: it restarts moorline's own backend; give backend_command an option of its own")
    if own.frontend_command and settings.frontend_folder:
        raise UsageError(
            f'frontend_command: frontend is the folder "{settings.frontend}"; leave one of them out, '
            "or name the address of the dev server"
        )


def _backend_metrics_port(settings: Settings) -> int | None:
    """The one behind those of the gateway's workers."""
    return settings.metrics_port and settings.metrics_port + settings.workers


def _backend_socket(wanted: int | None) -> socket.socket:
    """A socket that listens for the backend; UsageError where the user named one and it is taken."""
    try:
        (sock,) = listen("127.0.0.1", _BACKEND_PORT if wanted is None else wanted, option="backend_port")
    except UsageError:
        if wanted is not None:
            raise
        (sock,) = listen("127.0.0.1", 0)
    return sock


def _import_generations() -> Any:
    import_aiohttp()
    return importlib.import_module("moorline.gateway.run.generations")


class _Serve:
    """One run of `moorline serve`."""

    def __init__(
        self,
        settings: Settings,
        own: ServeSettings,
        backend: BackendSettings,
        sock: socket.socket | None,
        environ: Mapping[str, str],
        configuration: Configuration,
        systemd: Systemd,
        *,
        follows_output: bool,
    ) -> None:
        self._settings = settings
        self._own = own
        self._environ = environ
        self._own_sources = bool(backend.responder or backend.authorize)
        self._follows_output = follows_output
        # Else the address is the one that the command reports.
        self._is_frontend_named = not follows_output
        self._frontend = settings.frontend
        self._parts = Parts()
        self._reports = Reports(["frontend", "backend"] if own.frontend_command else ["backend"])
        self._port = BackendPort(sock, settings.connect_retry or 0.0) if sock is not None else None
        self._sock = sock
        self._configuration = configuration
        self._systemd = systemd
        self._backend_settings = backend
        self._backend = Supervisor(self._backend_child(backend, settings))
        self._gateway: Gateway | None = None
        # Whose command has ended at its start: requests do not wait for it. All parts of the gateway look here.
        self._unexpected: set[Owner] = set()
        self._requests = ReloadRequests()

    async def run(self) -> int:
        with stop_signals(log, self._settings.drain, before_exit=self._kill, reload=self._requests) as stop:
            self._parts.start(self._backend)
            try:
                await self._run(stop)
            finally:
                status = await self._parts.stop()
                if self._port is not None:
                    await self._port.close()
        status = USAGE_ERROR if status in NOT_FOUND else status
        return status or (self._gateway.status if self._gateway is not None else 0)

    async def _run(self, stop: asyncio.Event) -> None:
        # In a thread, so that the loop can start the backend meanwhile.
        with no_collection():
            generations = await asyncio.to_thread(_import_generations)
        gateway: Gateway = generations.Gateway(
            self._settings, self._environ, systemd=self._systemd, unexpected=self._unexpected
        )
        self._gateway = gateway
        async with gateway.running(stop):
            # Not earlier: a dev server whose usual port is the gateway's takes another one.
            self._start_frontend()
            # Before the start block is printed: a change from then on must not be missed.
            work = [self._reload()] if self._own.reload and self._port is not None else []
            work += [
                self._announce(gateway),
                generations.keep_reloading(self._requests, self._reload_all, self._systemd),
                self._systemd.beat(),
                self._end_with_parts(stop),
            ]
            await run_until(stop, *work)
            self._systemd.stopping()
            began = asyncio.get_running_loop().time()
            await gateway.finish_requests()
            # The backend first, so that it ends its sockets itself, with its own Close frames, through a gateway
            # that still relays. What is left drains as this block is left, in what is left of the time.
            await self._parts.stop()
            left = self._settings.drain - (asyncio.get_running_loop().time() - began)
            gateway.drain(max(left, _LEAST_DRAIN))
            # Connections that wait in its queue are reset, so that the gateway's drain does not wait for them.
            if self._port is not None:
                await self._port.close()

    async def _end_with_parts(self, stop: asyncio.Event) -> None:
        """End the program where a part of it refused its options."""
        await self._parts.wait()
        stop.set()

    def _kill(self) -> None:
        self._parts.kill()
        if self._gateway is not None:
            self._gateway.kill()

    # The backend -----------------------------------------------------------------------------------------------------

    def _backend_child(self, settings: BackendSettings, gateway: Settings) -> Child:
        if self._port is None:
            return backend_command(
                self._own.backend_command,
                self._settings,
                self._environ,
                CommandCallbacks(
                    on_ready=lambda address: self._reports.ready("backend", {"backend": address}),
                    on_failed_start=lambda: self._reports.failed("backend", os.getcwd()),
                    expect=functools.partial(self._expect, Owner.BACKEND),
                ),
            )
        port = self._port

        def on_ready(facts: Mapping[str, str]) -> None:
            port.up()
            self._reports.ready("backend", facts)

        return Child(
            name="the backend",
            command="backend",
            message={"settings": changed(settings)},
            # Options reach it as settings. The rest is for the provider's and the database's libraries.
            environ={name: value for name, value in self._environ.items() if not name.startswith(PREFIX)},
            drain=settings.drain,
            # A debugger may hold a backend that is being worked on.
            watchdog=None if self._own.reload else gateway.watchdog,
            start_timeout=None if self._own.reload else gateway.start_timeout,
            on_ready=on_ready,
            on_failed_start=lambda: self._reports.failed("backend"),
            spawn_context=port.life,
            waits_for_changes=self._own.reload,
        )

    async def _reload(self) -> None:
        from moorline.gateway.run.reload import changes

        async for path in changes(own_sources=self._own_sources):
            log.info("%s changed; starting the backend again", path)
            self._backend.restart()

    async def _reload_all(self, upgrade: bool) -> None:  # noqa: FBT001 - the only one there is
        """Read the configuration again. The backend stays where nothing of it has changed."""
        assert self._gateway is not None, "it is asked for while the gateway runs"
        sections = await self._configuration.read()
        own = sections[ServeSettings]
        _check(sections[Settings], own)
        if own != self._own:
            log.warning("the options of [serve] take effect at the next start")
        settings = dataclasses.replace(sections[Settings], log_key=sections[Settings].log_key or self._settings.log_key)
        settings, backend = _joined(settings, sections[BackendSettings], self._own, self._sock)
        is_frontend_named = bool(settings.frontend) or not self._own.frontend_command
        if not is_frontend_named:
            settings = dataclasses.replace(settings, frontend=self._frontend)
        restarts_backend = self._port is not None and (upgrade or backend != self._backend_settings)
        if restarts_backend:
            await self._replace_backend(backend, settings)
        try:
            await self._gateway.reload(settings)
        except Exception:
            if restarts_backend:
                await self._replace_backend(self._backend_settings, self._settings)
            raise
        self._is_frontend_named = is_frontend_named
        # The dev server may have moved meanwhile, which all processes were told.
        self._settings, self._backend_settings = self._followed(settings), backend

    async def _replace_backend(self, settings: BackendSettings, gateway: Settings) -> None:
        log.info("starting the backend again")
        if not await self._backend.replace(self._backend_child(settings, gateway)):
            raise UsageError("the backend does not start with it, and is started as before; its own lines say why")

    # The front end ---------------------------------------------------------------------------------------------------

    def _start_frontend(self) -> None:
        if not self._own.frontend_command:
            return

        def on_ready(address: str) -> None:
            self._frontend = address
            self._settings = self._followed(self._settings)
            if self._gateway is not None and not self._is_frontend_named:
                self._gateway.move_frontend(address)
            self._reports.ready("frontend", {"frontend": address})

        child = frontend_command(
            self._own.frontend_command,
            self._settings,
            self._environ,
            CommandCallbacks(
                on_ready=on_ready,
                on_failed_start=lambda: self._reports.failed("frontend", os.getcwd()),
                expect=functools.partial(self._expect, Owner.FRONTEND),
            ),
            follows_output=self._follows_output,
        )
        self._parts.start(Supervisor(child))

    def _followed(self, settings: Settings) -> Settings:
        """With the front end's address, where the command reports it."""
        return settings if self._is_frontend_named else dataclasses.replace(settings, frontend=self._frontend)

    def _expect(self, owner: Owner, expected: bool) -> None:  # noqa: FBT001 - the only one there is
        (self._unexpected.discard if expected else self._unexpected.add)(owner)
        if self._gateway is not None:
            self._gateway.expect(owner, expected=expected)

    # The gateway -----------------------------------------------------------------------------------------------------

    async def _announce(self, gateway: "Gateway") -> None:
        """Print the start block, and once more where a part that had failed is ready."""
        from moorline.gateway.run import server

        await gateway.ready()
        async for facts in self._reports.facts():
            self._systemd.ready()
            await print_start(self._settings, {**server.where(self._settings, gateway.addresses), **facts})
