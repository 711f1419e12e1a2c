"""The time limits of one exchange with an upstream, under nginx's names. Pure."""

import dataclasses
from typing import Protocol, Self

__all__ = ["Timeouts"]


class _Settings(Protocol):
    @property
    def proxy_connect_timeout(self) -> float: ...
    @property
    def proxy_read_timeout(self) -> float: ...
    @property
    def proxy_send_timeout(self) -> float: ...
    @property
    def send_timeout(self) -> float: ...
    @property
    def client_body_timeout(self) -> float: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """See the settings of the same names. The defaults are nginx's."""

    proxy_connect_timeout: float = 60.0
    proxy_read_timeout: float = 60.0
    proxy_send_timeout: float = 60.0
    send_timeout: float = 60.0
    client_body_timeout: float = 60.0

    @classmethod
    def of(cls, settings: _Settings) -> Self:
        return cls(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(cls)})
