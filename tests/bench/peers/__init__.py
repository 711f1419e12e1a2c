"""Who is measured beside whom."""

from tests.bench.peers.bare import BARE
from tests.bench.peers.base import Peer
from tests.bench.peers.caddy import CADDY
from tests.bench.peers.gateway import gateway
from tests.bench.peers.haproxy import HAPROXY
from tests.bench.peers.nginx import NGINX
from tests.bench.peers.node import HTTP_PROXY_3, VITE

__all__ = ["PEERS"]

PEERS: tuple[Peer, ...] = (gateway(), NGINX, HAPROXY, CADDY, VITE, HTTP_PROXY_3, BARE)
