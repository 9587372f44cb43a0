"""The base of all published events: name, level, fields and advice in one definition.

An event is a frozen dataclass. Its name is the same in the log, in `/events`, in the audit log and
in the metrics. The first paragraph of its docstring is its meaning in docs/logs.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, TypeAlias

from dstack_vpn.core.wireguard.keys import PublicKey

Scalar: TypeAlias = str | int | float | bool | None
_OF_THE_CLASS: Final = frozenset({"name", "level", "logger", "action", "unnamed"})
Level: TypeAlias = Literal["debug", "info", "warning", "error"]


class Event:
    """An event in this node. Durations are in seconds, blocks are heights."""

    __slots__ = ()
    name: ClassVar[str]
    level: ClassVar[Level]
    logger: ClassVar[str]
    """The component that logs it: LOG_LEVEL_<COMPONENT> applies."""
    action: ClassVar[str]
    """The action for the operator; empty if there is nothing to do."""
    unnamed: ClassVar[frozenset[str]]
    """Fields that are not shown."""

    def __init_subclass__(
        cls,
        *,
        name: str = "",
        level: Level = "info",
        logger: str = "",
        action: str = "",
        unnamed: frozenset[str] = frozenset(),
    ) -> None:
        if name:  # `dataclass(slots=True)` makes the class a second time, without these arguments
            cls.name, cls.level, cls.logger = name, level, logger
            cls.action, cls.unnamed = action, unnamed

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Return the names of the fields that are shown, in their order."""
        names: Mapping[str, object] = getattr(cls, "__dataclass_fields__", {})
        return tuple(each for each in names if each not in cls.unnamed and each not in _OF_THE_CLASS)

    def shown(self) -> dict[str, Scalar]:
        """Return the fields as JSON can hold them; ``latency`` becomes ``latency_ms``."""
        found: dict[str, Scalar] = {}
        for name in self.field_names():
            value = getattr(self, name)
            if name == "latency":
                found["latency_ms"] = None if value is None else round(value * 1000, 3)
            else:
                found[name] = str(value) if isinstance(value, PublicKey) else value
        return found


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in the event log. Numbers begin with 1 at the start; ``at`` is in Unix seconds."""

    number: int
    at: float
    event: Event

    def shown(self) -> dict[str, Scalar]:
        """Return the event's name as ``kind``, and its fields."""
        return {"kind": self.event.name, **self.event.shown()}
