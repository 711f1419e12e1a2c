"""What the gateway's modules find in the application and in a request, each under a typed key."""

from typing import TYPE_CHECKING

from aiohttp import web

from moorline.gateway.cause import Cause
from moorline.gateway.common.access.rights import Rights
from moorline.gateway.common.access.rules import AccessRules
from moorline.gateway.common.web.draining import DRAINING
from moorline.gateway.common.web.time_limit import TimeLimits
from moorline.gateway.proxy.held_right import HeldRight
from moorline.gateway.proxy.routes import Destination, Routes
from moorline.gateway.proxy.upstreams import Upstreams
from moorline.gateway.settings import Settings
from moorline.gateway.siblings import Siblings

# A gateway without the options `faults` and `metrics_port` starts without them.
if TYPE_CHECKING:
    from moorline.gateway.faults.live import LiveFaults
    from moorline.gateway.metrics import Metrics

__all__ = [
    "ACCESS_RULES",
    "CAUSE",
    "DESTINATION",
    "DRAINING",
    "GATEWAY_ID",
    "HELD_RIGHT",
    "LIVE_FAULTS",
    "METRICS",
    "OUTCOME",
    "REQUEST_ID",
    "RIGHTS",
    "ROUTES",
    "SETTINGS",
    "SIBLINGS",
    "TIME_LIMITS",
    "TRUSTED",
    "UPSTREAM",
    "UPSTREAMS",
]

SETTINGS = web.AppKey("settings", Settings)
ACCESS_RULES = web.AppKey("access_rules", AccessRules)
ROUTES = web.AppKey("routes", Routes)
GATEWAY_ID = web.AppKey("gateway_id", str)
"""Sent to upstreams, to know a request that comes back; new at each start."""
UPSTREAMS = web.AppKey("upstreams", Upstreams)
"""The chat backend's: the option `upstream`."""
RIGHTS = web.AppKey("rights", Rights)
"""Only with an authorize hook."""
METRICS: "web.AppKey[Metrics]" = web.AppKey("metrics")
"""Only with `metrics_port`."""
LIVE_FAULTS: "web.AppKey[LiveFaults]" = web.AppKey("live_faults")
"""Only with `faults`."""
TIME_LIMITS = web.AppKey("time_limits", TimeLimits)
"""Of handshakes."""
SIBLINGS = web.AppKey("siblings", Siblings)
"""Only in a worker: the others."""

DESTINATION = web.RequestKey("destination", Destination)
"""Set by `route_middleware`, unless the gateway answers the request itself."""
REQUEST_ID = web.RequestKey("request_id", str)
"""Set by `access_log` for every request: its id in the gateway's and the upstream's logs."""
TRUSTED = web.RequestKey("trusted", bool)
"""Set by `access_log`: whether the peer is one of `trusted_proxies`, and believed about the client."""
CAUSE = web.RequestKey("cause", Cause)
"""Why the request failed, where the gateway knows it."""
OUTCOME = web.RequestKey("outcome", str)
"""What became of a handshake, where its status does not say it."""
UPSTREAM = web.RequestKey("upstream", str)
"""The address of the upstream that failed, for the log."""
HELD_RIGHT = web.RequestKey("held_right", HeldRight)
"""Only with an authorize hook: the right by which the request is handled."""
