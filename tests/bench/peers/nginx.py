"""nginx, with the directives of nginx/ that bear on a request, in one worker process."""

import os
from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers.base import HTTP, SITE, Peer, connections, installed

__all__ = ["NGINX", "NGINX_HTTP"]

_CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections {files}; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream backend {{
        server 127.0.0.1:{backend_port};
        keepalive 64;
    }}
    types {{ text/javascript js; application/octet-stream bin; }}
    sendfile on;
    tcp_nopush on;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location /ws/ {{
            proxy_pass http://127.0.0.1:{backend_port};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $http_host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_read_timeout 86400s;
            proxy_send_timeout 86400s;
        }}
        location /api/ {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_buffering off;
        }}
        location / {{
            root {site};
        }}
    }}
}}
"""


async def _command(folder: Path, port: int, backend_port: int) -> Sequence[str]:
    path = installed("nginx")
    text = _CONFIGURATION.format(
        user="user root;" if os.geteuid() == 0 else "",
        folder=folder,
        site=folder / SITE,
        port=port,
        backend_port=backend_port,
        # Two descriptors a tunnel.
        files=2 * connections(),
    )
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    return [path, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


NGINX = Peer("nginx", _command)
NGINX_HTTP = Peer("nginx", _command, HTTP)
