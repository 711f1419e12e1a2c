"""What is removed in time: sessions without a new message for `retention`, as by a DELETE, and credentials of old.

Every backend sweeps for itself: with several on one database the first to come finds the most to do.
"""

import asyncio
import contextlib
import logging

from moorline.backend.audit import Audit
from moorline.backend.eventlog.base import LogUnavailable
from moorline.backend.eventlog.log import EventLog
from moorline.backend.rights import Rights
from moorline.gateway.common.access.rights import REVOKED_SECONDS
from moorline.gateway.common.config.units import counted

__all__ = ["run_pruning", "run_retention"]

logger = logging.getLogger("moorline.backend.retention")

# Sessions in one transaction: appends wait for it.
_BATCH = 100
# A tenth of the retention lies between two sweeps, within these bounds: what is erased too late is late by a tenth.
_EVERY_AT_LEAST = 0.1
_EVERY_AT_MOST = 3600.0
# Tickets are valid for half of it. Where there is nothing to remove, nothing is written.
_PRUNE_SECONDS = 60.0


async def run_retention(retention: float, log: EventLog, audit: Audit) -> None:
    """Erase what is older than `retention` seconds, now and from time to time, until cancelled."""
    every = min(max(retention / 10, _EVERY_AT_LEAST), _EVERY_AT_MOST)
    while True:
        try:
            # A process whose clock is ahead must not erase what is young.
            await _sweep(await log.now() - retention, log, audit)
        except LogUnavailable as error:
            logger.warning("nothing was erased: event log unavailable: %s", error)
        await asyncio.sleep(every)


async def _sweep(before: float, log: EventLog, audit: Audit) -> None:
    erased = 0
    while found := await log.expire(before, limit=_BATCH):
        for session_id in found:
            audit.record("expire", session_id, "retention", "ok")
        erased += len(found)
    if erased:
        logger.info("%s erased", counted(erased, "session"))


async def run_pruning(log: EventLog, rights: Rights) -> None:
    """Remove tickets and revocations that can no longer count, now and from time to time, until cancelled."""
    while True:
        rights.prune()
        # At the next turn, when the database is restored; those who use it say what is wrong.
        with contextlib.suppress(LogUnavailable):
            await log.prune(revoked_within=REVOKED_SECONDS)
        await asyncio.sleep(_PRUNE_SECONDS)
