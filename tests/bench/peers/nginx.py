"""nginx, with the directives of nginx/ that bear on a request, in one worker process."""

from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers.base import HTTP, SITE, Peer, connections, installed
from tests.support.nginx import configuration

__all__ = ["NGINX", "NGINX_HTTP"]

_HTTP = """
    access_log {folder}/access.log;
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
"""


async def _command(folder: Path, port: int, backend_port: int) -> Sequence[str]:
    path = installed("nginx")
    http = _HTTP.format(folder=folder, site=folder / SITE, port=port, backend_port=backend_port)
    files = 2 * connections()  # Two descriptors a tunnel.
    main = f"daemon off;\nworker_rlimit_nofile {files};"
    text = configuration(folder, http, main=main, connections=files)
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    return [path, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


NGINX = Peer("nginx", _command)
NGINX_HTTP = Peer("nginx", _command, HTTP)
