"""An open WebSocket between client and upstream: bytes, frames, timers and endings."""
