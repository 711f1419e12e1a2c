"""A principal's right while its request is handled and, where that becomes a tunnel, until the tunnel has ended."""

import asyncio
import dataclasses
import json
import math
import random
from collections.abc import Callable

from aiohttp import web

from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.access.middleware import CLIENT
from moorline.gateway.common.access.rights import Rights
from moorline.gateway.common.web.aiohttp_private import rebuilt

__all__ = ["HeldRight", "RightState"]

# The time over which a new process asks the hook about all sockets that it took over, not at once.
_ASKED_WITHIN = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RightState:
    """A right, and the request that the hook is asked about, for another process. It holds the client's credentials: it
    goes from one process to another of this gateway, and nowhere else."""

    name: str
    expires: float | None
    issued: float | None
    metadata: str
    """JSON."""
    method: str
    target: str
    headers: tuple[bytes, ...]
    """Names and values in turn."""
    peer: str | None
    patient_id: str | None
    session_id: str | None
    ask_by: float | None
    """When the hook is due: processes that follow one another fast would never ask it otherwise."""


class HeldRight:
    """A principal's right and the request that the hook is asked about again. Release it once nothing uses it any more.

    `ids`: those of the patient and the session that it is for.
    """

    def __init__(
        self,
        rights: Rights,
        principal: Principal,
        request: web.Request,
        ids: tuple[str | None, str | None],
        *,
        ask_by: float | None = None,
    ) -> None:
        self._rights = rights
        self._request = request
        self._ids = ids
        self._right = rights.take(principal, lambda: rights.ask(request, *ids), ask_by=ask_by)
        self.kept = False
        """Whether a tunnel keeps it beyond its request."""

    @classmethod
    async def restored(cls, app: web.Application, rights: Rights, state: RightState, client: str) -> "HeldRight":
        """A right that another process held, of the client with this address. The hook may be a new one: it is asked
        soon."""
        headers = list(zip(state.headers[::2], state.headers[1::2], strict=True))
        request = await rebuilt(app, state.method, state.target, headers, state.peer)
        request[CLIENT] = client
        soon = asyncio.get_running_loop().time() + random.uniform(0, _ASKED_WITHIN)
        due = math.inf if state.ask_by is None else state.ask_by
        principal = Principal(state.name, state.expires, json.loads(state.metadata), state.issued)
        return cls(rights, principal, request, (state.patient_id, state.session_id), ask_by=min(soon, due))

    def state(self) -> RightState | None:
        """None where it cannot go to another process, since its metadata have no form as JSON."""
        principal, request = self._right.principal, self._request
        try:
            metadata = json.dumps(dict(principal.metadata))
        except (TypeError, ValueError):
            return None
        return RightState(
            name=principal.name,
            expires=principal.expires,
            issued=principal.issued,
            metadata=metadata,
            method=request.method,
            target=request.raw_path,
            headers=tuple(part for header in request.raw_headers for part in header),
            peer=request.remote,
            patient_id=self._ids[0],
            session_id=self._ids[1],
            ask_by=self._right.ask_by,
        )

    @property
    def expired(self) -> bool:
        """Whether it has ended by its time alone."""
        return self._right.expired

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` in place of an earlier one when the right ends; at once where it has ended already."""
        self._right.on_end(callback)

    def keep(self, callback: Callable[[], None]) -> None:
        """The same, for a tunnel that keeps it."""
        self.kept = True
        self.on_end(callback)

    def release(self) -> None:
        """Ask no more."""
        self._rights.release(self._right)
