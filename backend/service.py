"""A responder as the runs call it: checked once, with a name for the start line and a place for messages."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from moorline.backend.events import Finish, Usage
from moorline.backend.parts import Part, encode_part
from moorline.backend.responder import Answer, Done, Responder, Text
from moorline.gateway.common.config.named import described, failure, takes
from moorline.gateway.common.errors import UsageError

__all__ = ["Service", "WrongPiece", "as_service"]

logger = logging.getLogger("moorline.backend.responder")

# A run that fails raises, and one that is cancelled is so from outside.
_FINISHES = (Finish.STOP, Finish.LENGTH, Finish.INTERRUPTED)
_EXAMPLE = "write `async def answer(turn)` with `yield`"

Hook = Callable[[], Awaitable[object]]


class WrongPiece(Exception):
    """The responder yielded what is no piece of an answer. The message names its function."""


@dataclass(frozen=True, slots=True)
class Service:
    """What answers the turns of this process. `name`: the model's name, or the responder's."""

    name: str
    scripted: bool
    place: str
    """The function that answers, for messages: `answer in chat.py, line 4`."""
    answer: Answer
    on_startup: Hook | None = None
    on_shutdown: Hook | None = None

    def checked(self, piece: object) -> str | Part | Done:
        """`piece`, which the responder has yielded; raises WrongPiece."""
        if isinstance(piece, str):
            return piece
        if isinstance(piece, Text):
            return self.checked(piece.text)
        if isinstance(piece, Part):
            try:
                encode_part(piece)
            except (TypeError, ValueError, RecursionError) as error:
                raise WrongPiece(f"{self.place} yielded {type(piece).__name__} that is not JSON: {error}") from error
        elif isinstance(piece, Done):
            return self._checked_end(piece)
        else:
            kind = type(piece).__name__
            raise WrongPiece(f"{self.place} yielded {kind}; yield str, Text, Source, Status, Data or Done")
        return piece

    def _checked_end(self, done: Done) -> Done:
        if done.finish not in _FINISHES:
            raise WrongPiece(f"{self.place} yielded Done({done.finish!r}); its finish is one of {', '.join(_FINISHES)}")
        if not isinstance(done.usage, Usage | None):
            raise WrongPiece(f"{self.place} yielded Done with {type(done.usage).__name__} as usage; write Usage(...)")
        # A str that equals one, as in Done("length"), is none to the log.
        return Done(Finish(done.finish), done.usage)

    async def startup(self, timeout: float) -> None:
        """Before the first turn.

        Raises:
            UsageError: its own startup fails, or does not return in time.
        """
        if self.on_startup is None:
            return
        try:
            async with asyncio.timeout(timeout) as limit:
                await self.on_startup()
        except Exception as error:
            if limit.expired():
                message = f"{described(self.on_startup)} did not return within run_timeout, {timeout:g}s"
                raise UsageError(f"responder: {message}") from error
            raise UsageError(f"responder: startup failed: {failure(error)}") from error

    async def shutdown(self, timeout: float) -> None:
        """After the last turn; what it raises is logged."""
        if self.on_shutdown is None:
            return
        try:
            async with asyncio.timeout(timeout):
                await self.on_shutdown()
        except Exception as error:
            logger.error("responder: shutdown failed: %s", failure(error))


def as_service(responder: Responder | Answer) -> Service:
    """`responder`, an async generator function or an object with one as `answer`, as the runs call it.

    Raises:
        UsageError: it cannot answer; the message names the function and its file.
    """
    if inspect.isclass(responder):
        raise UsageError(
            f"responder: {described(responder)} is a class; name an object of it, as in `chat = {responder.__name__}()`"
        )
    if inspect.isroutine(responder):
        answer: Any = responder
    else:
        answer = getattr(responder, "answer", None)
        if not callable(answer):
            raise UsageError(f"responder: {described(responder)} has no method `answer`; {_EXAMPLE}")
    _check(answer)
    hooks = {} if answer is responder else {f"on_{name}": _hook(responder, name) for name in ("startup", "shutdown")}
    return Service(
        name=_name(responder),
        scripted=bool(getattr(responder, "scripted", False)),
        place=described(answer),
        answer=answer,
        **hooks,
    )


def _check(answer: Any) -> None:
    function = inspect.unwrap(answer)
    if not takes(answer, 1):
        raise UsageError(f"responder: {described(answer)} must take one argument, the turn; {_EXAMPLE}")
    if inspect.isasyncgenfunction(function):
        return
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"responder: {described(answer)} never yields; {_EXAMPLE}")
    # One that only returns a generator says so by its annotation: what it returns is not known before it is called.
    if "Async" not in str(inspect.signature(function).return_annotation):
        raise UsageError(f"responder: {described(answer)} is not asynchronous; {_EXAMPLE}")


def _hook(responder: object, name: str) -> Hook | None:
    hook = getattr(responder, name, None)
    if hook is None:
        return None
    if not inspect.iscoroutinefunction(hook) or not takes(hook, 0):
        raise UsageError(f"responder: {described(hook)} must be `async def {name}(self)`")
    return cast("Hook", hook)


def _name(responder: Any) -> str:
    if isinstance(name := getattr(responder, "name", None), str):
        return name
    named = responder if inspect.isroutine(responder) else type(responder)
    return f"{named.__module__}:{named.__qualname__}"
