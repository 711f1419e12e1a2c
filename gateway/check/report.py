"""`moorline check`: probes of the gateway and of its backend, printed for people or as JSON, and the conclusion."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from moorline.gateway.check.address import ProbeOptions
from moorline.gateway.check.hops import follow
from moorline.gateway.check.verdicts import Hop, Side, Step, conclusion, verdict

__all__ = ["check"]

_FOREIGN = "What this server answers to a message is not known here: a socket was opened, and a Ping answered."


def check(
    url: str,
    backend: str | None,
    *,
    backend_is_named: bool,
    options: ProbeOptions | None = None,
    as_json: bool = False,
) -> int:
    """`moorline check`: print what each hop did; the exit status, 0 where the question was answered, else 1.

    A backend at a guessed address may be elsewhere: that it is not reached there is no fault if the gateway answers.
    """
    options = options or ProbeOptions()
    of_backend = dataclasses.replace(options, idle=None, certificate="")
    probes = [(Side.GATEWAY, url), *([(Side.BACKEND, backend)] if backend else [])]
    reports = []
    for side, address in probes:
        if not as_json:
            print(f"{side}: {address}")
        steps = follow(
            address,
            (lambda step: None) if as_json else (lambda step: print(_line(step), flush=True)),
            options=options if side is Side.GATEWAY else of_backend,
            moorline=side is Side.GATEWAY,
        )
        if not as_json:
            print()
        reports.append((side, address, steps))
    through, straight = reports[0][2], reports[1][2] if len(reports) > 1 else None
    broken = conclusion(through, straight, backend_is_named=backend_is_named)
    print(_as_json(reports, broken) if as_json else _sentence(url, through, straight, broken))
    return 0 if broken is None else 1


def _line(step: Step) -> str:
    said = f"FAILED: {step.failure}" if step.failure else step.detail
    return f"  {step.hop:<14}{step.seconds * 1000:9.1f} ms  {said}"


def _sentence(
    url: str, through: Sequence[Step], straight: Sequence[Step] | None, broken: tuple[Side, Step] | None
) -> str:
    if broken is not None:
        side, step = broken
        assert step.failure is not None
        found = verdict(side, step.hop, step.failure)
        cause, following = f"  usual cause: {found.cause}", f"  next step:   {found.next_step}"
        return f"Broken: {step.hop}, {side}: {step.failure}\n{cause}\n{following}"
    if straight is not None and straight[-1].failure is not None:
        return f"{url} answers. Its backend is at another address than the one tried; name it with --backend URL."
    has_asked = any(step.hop is Hop.ANSWER for step in through)
    # What both probes tell is told once.
    notes = dict.fromkeys(step.note for step in (*through, *(straight or ())) if step.note)
    return " ".join(("Everything answers." if has_asked else f"The socket opens. {_FOREIGN}", *notes))


def _as_json(reports: Sequence[tuple[Side, str, Sequence[Step]]], broken: tuple[Side, Step] | None) -> str:
    document: dict[str, Any] = {
        "ok": broken is None,
        "probes": [
            {"side": side.value, "url": address, "steps": [_step(step) for step in steps]}
            for side, address, steps in reports
        ],
        "broken": None,
    }
    if broken is not None:
        side, step = broken
        assert step.failure is not None
        found = verdict(side, step.hop, step.failure)
        document["broken"] = {
            "side": side.value,
            **_step(step),
            "usual_cause": found.cause,
            "next_step": found.next_step,
        }
    # Its modules take a twentieth of the time of a check that finds no server.
    import json

    return json.dumps(document, indent=2)


def _step(step: Step) -> dict[str, Any]:
    found: dict[str, Any] = {"hop": step.hop.value, "ms": round(step.seconds * 1000, 1)}
    if step.failure is None:
        return {**found, "detail": step.detail} | ({"note": step.note} if step.note else {})
    told = {"gateway_cause": step.failure.gateway_cause} if step.failure.gateway_cause else {}
    return {**found, "failure": step.failure.kind.name.lower(), "said": str(step.failure), **told}
