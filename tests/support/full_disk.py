"""A disk without room for more."""

import contextlib
import resource
from collections.abc import Iterator

__all__ = ["largest_file"]


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within this block no file of this process grows beyond `size`, as on a disk that is full then."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
