"""What the gateway's modules find in the application, each under a typed key."""

from aiohttp import ClientSession, web

from gateway.common.authorize import Authorize
from gateway.settings import Settings

__all__ = ["AUTHORIZE", "SESSION", "SETTINGS"]

SETTINGS = web.AppKey("settings", Settings)
AUTHORIZE = web.AppKey[Authorize]("authorize")
SESSION = web.AppKey("session", ClientSession)
"""The proxy's connections to the backend; `api.session` opens and closes it."""
