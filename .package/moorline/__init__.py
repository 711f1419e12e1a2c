"""moorline: a gateway (`moorline.gateway`) and a chat backend (`moorline.backend`) for streaming LLM chat."""

__all__ = ["__version__"]

# Read here by the build as well. What the installation's metadata say costs 50 ms of imports.
__version__ = "0.1.0"
