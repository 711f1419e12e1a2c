"""nginx/compose.yaml without containers: each service's command and environment, on a loopback address of its own."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import yaml
from compose_spec import PyCompose

from tests.support.nginx import SOURCE

__all__ = ["COMPOSE", "Compose", "Service", "compose"]

COMPOSE = SOURCE / "compose.yaml"
_SUBNET = "172.30.72."
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


@dataclasses.dataclass(frozen=True, slots=True)
class Service:
    """One of the file's services."""

    address: str
    command: tuple[str, ...]
    environ: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Compose:
    """The file, after its variables were filled in."""

    document: Mapping[str, Any]

    def service(self, name: str) -> Service:
        """With every address of its own in the place of all addresses: on this machine others may have the port."""
        found = self.document["services"][name]
        address = found["networks"]["moorline"]["ipv4_address"]
        command = tuple(address if word == "0.0.0.0" else word for word in found["command"])
        return Service(address, command, found["environment"])


def compose(environ: Mapping[str, str], *, text: str | None = None) -> Compose:
    """The file of nginx/ as `docker compose` reads it.

    Raises:
        ValueError: it is not one of the Compose specification, or a variable is missing.
    """
    text = COMPOSE.read_text(encoding="utf-8") if text is None else text
    document = _filled(yaml.safe_load(text.replace(_SUBNET, _loopback())), environ)
    PyCompose.from_json(json.dumps(document)).validate()
    _check_references(document)
    return Compose(document)


def _loopback() -> str:
    """The beginning of addresses that no other run of the tests has: all of 127.0.0.0/8 is this machine."""
    return f"127.{os.getpid() >> 8 & 0x7F | 0x80}.{os.getpid() & 0xFF}."


def _filled(node: Any, environ: Mapping[str, str]) -> Any:
    """The document with its variables' values, which are text whatever they look like."""
    if isinstance(node, dict):
        return {key: _filled(value, environ) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(item, environ) for item in node]
    return _VARIABLE.sub(lambda found: _value(found, environ), node) if isinstance(node, str) else node


def _value(found: re.Match[str], environ: Mapping[str, str]) -> str:
    name, rule, words = found.groups()
    if environ.get(name):
        return environ[name]
    if rule == "-":
        return words
    raise ValueError(f"{name}: {words}")


def _check_references(document: Mapping[str, Any]) -> None:
    """What the library does not: that services and volumes which are named exist."""
    for name, service in document["services"].items():
        if missing := set(service.get("depends_on", ())) - document["services"].keys():
            raise ValueError(f"{name}: there is no service {missing}")
        sources = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        if missing := {source for source in sources if source.isidentifier()} - document["volumes"].keys():
            raise ValueError(f"{name}: there is no volume {missing}")
