"""Logging: JSON lines or coloured console lines, with one level for each component.

Every entry has an event name, ``area.what_happened``, which stays the same in later versions. Data
from the chain is only used as a value, and both renderers escape values, including newlines and
escape sequences.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

import structlog

AREAS: Final = {
    "peer": "device",
    "peers": "device",
    "plan": "device",
    "brake": "device",
    "membership": "registry",
    "endpoint": "endpoints",
    "config": "store",
    "link": "device",
    "wireguard": "device",
}
"""The components of events that are not named after them."""

FOLD: Final = 60.0
"""Seconds in which the same warning or error is logged once."""
REMEMBERED: Final = 256
"""The limit of different warnings and errors that are remembered."""


def configure(level: str, levels: Mapping[str, str], log_format: str) -> None:
    """Configure logging for the whole process. ``log_format`` is json, console or auto."""
    thresholds = {component: _number(name) for component, name in levels.items()}
    default = _number(level)

    def select(_: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        area = str(event.get("event", "")).partition(".")[0]
        component = event.setdefault("component", AREAS.get(area, area))
        if _number(method) < thresholds.get(component, default):
            raise structlog.DropEvent
        return event

    fold = Folding()
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            select,
            fold,
            structlog.processors.add_log_level,
            structlog.processors.MaybeTimeStamper(fmt="iso", utc=True),
            _in_order,
            structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(min([default, *thresholds.values()])),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr if console else sys.stdout),
        cache_logger_on_first_use=True,
    )


class Folding:
    """A structlog processor that drops repeated warnings and errors.

    The next entry reports their number.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._logged: dict[tuple[object, ...], tuple[float, int]] = {}
        """The time of the last entry, and the number of entries dropped since."""

    def __call__(self, _: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Process an entry."""
        if method not in {"warning", "error"}:
            return event
        key = (method, *sorted((name, repr(value)) for name, value in event.items()))
        now = self._monotonic()
        last, dropped = self._logged.pop(key, (-FOLD, 0))
        if now - last < FOLD:
            self._logged[key] = last, dropped + 1
            raise structlog.DropEvent
        self._logged[key] = now, 0
        while len(self._logged) > REMEMBERED:
            del self._logged[next(iter(self._logged))]
        if dropped:
            event["repeated"] = dropped
        return event


def warn_exposed(names: Sequence[str]) -> None:
    """Warn about secrets in the environment, visible to child processes and the engine's API."""
    if names:
        log = structlog.get_logger(component="config")
        log.warning("config.secret_in_environment", names=names, better="pass its file as NAME_FILE")


def warn_unknown(names: Sequence[str]) -> None:
    """Warn about variables whose names resemble settings."""
    if names:
        log = structlog.get_logger(component="config")
        log.warning("config.unknown_variable", names=names)


def _in_order(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the common fields first, so that lines are easy to compare."""
    first = ("timestamp", "level", "component", "event")
    return {**{key: event[key] for key in first if key in event}, **event}


def _number(level: str) -> int:
    number: int = getattr(logging, level.upper())
    return number
