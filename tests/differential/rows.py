"""Every row, in the order in which they are played: those that take longest begin."""

from tests.differential import (
    rows_answers,
    rows_endings,
    rows_failures,
    rows_payload,
    rows_requests,
    rows_stalls,
    rows_timers,
)

__all__ = ["ROWS"]

ROWS = [
    *rows_stalls.ROWS,
    *rows_timers.ROWS,
    *rows_failures.ROWS,
    *rows_answers.ROWS,
    *rows_endings.ROWS,
    *rows_requests.ROWS,
    *rows_payload.ROWS,
]
