"""URLs as they may be printed. Pure."""

__all__ = ["shown_url"]


def shown_url(text: str) -> str:
    """A URL, or what was given for one, as it may be printed: without user, password and parameters."""
    scheme, _, rest = text.partition("://")
    # The last @: one that stands in the password must not show the rest of it.
    shown = (rest or text).rpartition("@")[2].partition("?")[0]
    return f"{scheme}://{shown}" if rest else shown
