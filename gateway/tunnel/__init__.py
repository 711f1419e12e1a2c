"""An open WebSocket between client and backend: bytes, frames, timers and endings."""
