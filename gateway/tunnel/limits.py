"""What bounds a tunnel. Pure."""

import dataclasses

from moorline.gateway.settings import Settings

__all__ = ["Limits"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """See the settings of the same names."""

    proxy_read_timeout: float
    proxy_send_timeout: float
    send_timeout: float
    client_heartbeat: float | None
    upstream_heartbeat: float | None
    heartbeat_timeout: float
    close_frames: bool
    close_timeout: float
    max_frame_size: int | None

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        return cls(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(cls)})
