"""`moorline COMMAND`, which also says what it holds: a client of the Unix socket `WATCHED` gets a JSON object."""

import asyncio
import gc
import json
import os
import socket
import sys
import threading

from moorline.backend.eventlog.tail import Tail
from moorline.gateway.run.cli import main

__all__ = ["WATCHED"]

WATCHED = "BENCH_WATCHED"


def _watch(path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def answer() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                # The tail of the log is a cache, which takes hours to fill. It is emptied while nothing happens.
                for tail in [each for each in gc.get_objects() if type(each) is Tail]:
                    for session in list(tail._sessions):
                        tail.drop(session)
                # What only waits for the collector is not a leak either.
                gc.collect()
                tasks = sum(type(each) is asyncio.Task for each in gc.get_objects())
                connection.sendall(json.dumps({"tasks": tasks, "blocks": sys.getallocatedblocks()}).encode())

    threading.Thread(target=answer, daemon=True).start()


if __name__ == "__main__":
    _watch(os.environ[WATCHED])
    sys.exit(main(sys.argv[1:]))
