"""Logging: JSON lines for machines, colours for people, one level for each component.

Every entry has an event name, ``area.what_happened``, that stays the same over versions. What comes from the
chain is only ever a value, and both renderers escape values: no newline or escape sequence gets through.
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
"""The component of the events that are not named after theirs."""

FOLD: Final = 60.0
"""Seconds in which the same warning or error is logged once."""
REMEMBERED: Final = 256
"""Different warnings and errors."""


def configure(level: str, levels: Mapping[str, str], log_format: str) -> None:
    """Set logging up for the whole process; ``log_format`` is json, console or auto."""
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
    """A filter that drops repeated warnings and errors; the next one gives their number."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._told: dict[tuple[object, ...], tuple[float, int]] = {}
        """When each was last logged, and how many were left out since."""

    def __call__(self, _: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """A processor of structlog's."""
        if method not in {"warning", "error"}:
            return event
        key = (method, *sorted((name, repr(value)) for name, value in event.items()))
        now = self._monotonic()
        last, left_out = self._told.pop(key, (-FOLD, 0))
        if now - last < FOLD:
            self._told[key] = last, left_out + 1
            raise structlog.DropEvent
        self._told[key] = now, 0
        while len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        if left_out:
            event["repeated"] = left_out
        return event


def tell_exposed(names: Sequence[str]) -> None:
    """Warn about secrets in the environment, which the engine's API and child processes show."""
    if names:
        log = structlog.get_logger(component="config")
        log.warning("config.secret_in_environment", names=names, better="give its file's path as NAME_FILE")


def tell_unknown(names: Sequence[str]) -> None:
    """Warn about variables that are nearly settings of ours."""
    if names:
        log = structlog.get_logger(component="config")
        log.warning("config.unknown_variable", names=names)


def _in_order(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the common fields first, so that lines can be compared."""
    first = ("timestamp", "level", "component", "event")
    return {**{key: event[key] for key in first if key in event}, **event}


def _number(level: str) -> int:
    number: int = getattr(logging, level.upper())
    return number
