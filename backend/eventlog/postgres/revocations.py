"""Whose credentials were revoked, and when, in PostgreSQL, by its clock."""

import math

import psycopg

from moorline.backend.eventlog.postgres.connection import NOW, Connection, Timing, connect_first, first_line
from moorline.backend.settings import shown_database
from moorline.gateway.common.errors import UsageError

__all__ = ["prune", "revocations", "revoke", "revoke_at"]

_REVOKE = f"""
INSERT INTO revocations (principal, at) VALUES (%s, {NOW})
ON CONFLICT (principal) DO UPDATE SET at = excluded.at RETURNING at
"""
_LATEST = f"SELECT principal, at FROM revocations WHERE at > {NOW} - %s"


async def revoke(db: Connection, principal: str) -> float:
    """Note that what the principal has until now is revoked; the time."""
    row = await (await db.execute(_REVOKE, (principal,))).fetchone()
    assert row is not None  # RETURNING
    return float(row[0])


async def revocations(db: Connection, *, within: float = math.inf) -> dict[str, float]:
    """Those of the last seconds."""
    found = await db.execute(_LATEST, (within,))
    return dict(await found.fetchall())


async def prune(db: Connection, within: float) -> None:
    """Remove those that are older than so many seconds."""
    await db.execute(f"DELETE FROM revocations WHERE at < {NOW} - %s", (within,))


async def revoke_at(url: str, principal: str) -> float:
    """The same from a program that is no backend.

    Raises:
        UsageError: the database cannot be used, or no backend of this version has opened it.
    """
    connection = await connect_first(url, Timing(start=0.0))
    try:
        return await revoke(connection, principal)
    except psycopg.errors.UndefinedTable as error:
        raise UsageError(
            f'database: "{shown_database(url)}" was not opened by this version yet; start the backend first'
        ) from error
    except psycopg.Error as error:
        raise UsageError(f'database: "{shown_database(url)}" cannot be used ({first_line(error)})') from error
    finally:
        await connection.close()
