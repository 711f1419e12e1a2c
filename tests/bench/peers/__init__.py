"""Who is measured beside whom."""

from tests.bench.peers.aiohttp_peers import AIOHTTP, AIOHTTP_LOGGED, AIOHTTP_PROXY
from tests.bench.peers.bare import BARE, BARE_ASYNCIO
from tests.bench.peers.base import Peer
from tests.bench.peers.caddy import CADDY, CADDY_HTTP
from tests.bench.peers.gateway import gateway, with_site
from tests.bench.peers.haproxy import HAPROXY
from tests.bench.peers.nginx import NGINX, NGINX_HTTP
from tests.bench.peers.node import HTTP_PROXY_3, HTTP_PROXY_3_POOLED, HTTP_PROXY_3_UNPOOLED, SIRV, VITE

__all__ = ["HTTP_PEERS", "PEERS"]

PEERS: tuple[Peer, ...] = (gateway(), NGINX, HAPROXY, CADDY, VITE, HTTP_PROXY_3, BARE, BARE_ASYNCIO)
HTTP_PEERS: tuple[Peer, ...] = (
    with_site(),
    with_site("gateway unlogged", log_level="warning"),
    NGINX_HTTP,
    CADDY_HTTP,
    HTTP_PROXY_3_POOLED,
    HTTP_PROXY_3_UNPOOLED,
    AIOHTTP_PROXY,
    SIRV,
    AIOHTTP,
    AIOHTTP_LOGGED,
)
