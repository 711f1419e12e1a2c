"""URLs as they may be printed, and what may have been meant as one. Pure."""

__all__ = ["shown_url", "shown_value"]


def shown_url(text: str) -> str:
    """A URL, or what was given for one, as it may be printed: without user, password and parameters."""
    scheme, _, rest = text.partition("://")
    # The last @: one that stands in the password must not show the rest of it.
    shown = (rest or text).rpartition("@")[2].partition("?")[0]
    return f"{scheme}://{shown}" if rest else shown


def shown_value(text: str) -> str:
    """An option's value as it may be printed: with an @ it may be an address that holds a password."""
    return shown_url(text) if "@" in text else text
