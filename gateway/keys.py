"""What the gateway's modules find in the application and in a request, each under a typed key."""

from aiohttp import ClientSession, web

from gateway.common.admission import Admission
from gateway.common.authorize import Authorize
from gateway.common.draining import DRAINING
from gateway.settings import Settings

__all__ = ["ADMISSION", "AUTHORIZE", "DRAINING", "REQUEST_ID", "SESSION", "SETTINGS"]

SETTINGS = web.AppKey("settings", Settings)
ADMISSION = web.AppKey("admission", Admission)
AUTHORIZE = web.AppKey[Authorize]("authorize")
SESSION = web.AppKey("session", ClientSession)
"""The proxy's way to the backend; `api.session` opens and closes it."""

REQUEST_ID = web.RequestKey("request_id", str)
"""Set by `access` for every request: its name in all logs, ours and the backend's."""
