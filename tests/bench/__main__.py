"""`python -m tests.bench NAME`: measurements to run by hand; `NAME --help` shows their options."""

import importlib
import sys

__all__ = ["BENCHMARKS", "main"]

BENCHMARKS = {
    "tunnel": "what the gateway costs beside nginx",
    "http": "what a request costs, proxied or answered, beside other servers",
    "reconnect": "what clients that come back at once wait for",
    "restart": "how clients come back after a restart of the backend, in the time that it tells",
    "jwt": "what a token costs a handshake",
    "handover": "upgrades under thousands of open sockets: what is lost, and how long they pause",
    "restarts": "restarts under a service manager: whether a handshake is refused, and how long it waits",
    "systemd": "the units of nginx/ under a real systemd: reloads, restarts, kills and hangs under chats",
    "prometheus": "a real Prometheus with the alerts and the dashboard's queries of nginx/",
    "start": "how long the commands take to start",
    "chat": "what a chat costs beside a plain server without a log",
    "check": "whether `moorline check` names each fault of its list, and reports what works as healthy",
    "flakes": "how often a test with `moorline.testing` fails by chance: never",
    "why": "what it costs to know why a socket ended, and the inspector",
    "chaos": "what is lost while everything breaks: nothing may be",
    "hostile": "what hostile clients, providers and files cost, each beside its bound",
    "soak": "what grows in hours of chatting while connections break: nothing but the chats may",
    "growth": "what costs more as sockets, messages, clients, backends and workers grow",
    "devserver": "hot reload and cold loads of real dev servers through the gateway",
    "log": "appends per second of the SQLite log",
}
# A module named `http` would be confused with the library's.
_MODULES = {"http": "http_cost", "jwt": "jwt_cost", "log": "eventlog"}


def main(arguments: list[str]) -> int:
    """Run the one that is named; the exit status."""
    name = arguments[0] if arguments else ""
    if name not in BENCHMARKS:
        print("Usage: python -m tests.bench NAME [OPTIONS]\n")
        for known, meaning in BENCHMARKS.items():
            print(f"  {known:11}{meaning}")
        return 0 if name in ("", "-h", "--help") else 2
    # One at a time: each needs much that the others do not.
    module = importlib.import_module(f"tests.bench.{_MODULES.get(name, name)}")
    status: int = module.main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
