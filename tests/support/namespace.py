"""Another machine, as far as the network goes: a namespace of its own at the other end of a cable that can be cut."""

import contextlib
import dataclasses
import os
import subprocess
from collections.abc import Iterator

from tests.support.needs import program

__all__ = ["Machine", "machine", "permitted"]


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """It sees us at `ours`, and we see it at `its`."""

    name: str
    ours: str
    its: str

    @property
    def run(self) -> tuple[str, ...]:
        """What a command has to begin with to run there."""
        return (program("ip"), "netns", "exec", self.name)

    def vanish(self) -> None:
        """Every packet is lost from now on, and neither side is told."""
        _ip("-n", self.name, "link", "set", "cable", "down")


def permitted() -> bool:
    """False only where this is root, the program is there, and the system forbids it all the same."""
    if os.geteuid() != 0 or program("ip") == "ip":
        return True
    try:
        with machine():
            return True
    except subprocess.CalledProcessError:
        return False


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    # The range for benchmarks of RFC 2544 is in use nowhere; tests that run at the same time get networks of their own.
    net = f"198.18.{os.getpid() % 256}"
    here = Machine(f"moorline-{os.getpid()}", f"{net}.1", f"{net}.2")
    cable = f"moor{os.getpid()}"
    _ip("netns", "add", here.name)
    try:
        _ip("link", "add", cable, "type", "veth", "peer", "name", "cable", "netns", here.name)
        _ip("address", "add", f"{here.ours}/30", "dev", cable)
        _ip("link", "set", cable, "up")
        _ip("-n", here.name, "address", "add", f"{here.its}/30", "dev", "cable")
        _ip("-n", here.name, "link", "set", "cable", "up")
        yield here
    finally:
        _ip("netns", "delete", here.name)
        # It goes with the namespace, but later.
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "delete", cable)


def _ip(*arguments: str) -> None:
    subprocess.run([program("ip"), *arguments], check=True, capture_output=True)
