"""Selectors and topics, compared with the artifact."""

from dstack_vpn.adapters.contracts import load_artifact, signatures

NO_FUNCTION = {"ACCESS_REGISTRY_ID", "ACCESS_REGISTRY_V1_ID", "NO_INTERFACE_ID", "ERROR", "PANIC"}


def screaming(name: str) -> str:
    return "".join("_" + c if c.isupper() else c for c in name.replace("URI", "Uri")).upper().lstrip("_")


def constants(kind: type) -> dict[str, object]:
    names = [name for name in vars(signatures) if name.isupper() and name not in NO_FUNCTION]
    return {name: value for name in names if isinstance(value := getattr(signatures, name), kind)}


def test_selectors_are_those_of_the_artifact() -> None:
    functions = {
        screaming(text.partition("(")[0]): value for text, value in load_artifact().functions.items()
    }
    assert constants(bytes) == {name: functions[name] for name in constants(bytes)}


def test_topics_are_those_of_the_artifact() -> None:
    events = {screaming(text.partition("(")[0]): value for text, value in load_artifact().events.items()}
    # A function and an event are named alike.
    events |= {f"{name}_LOG": events[name] for name in ("PAUSED", "UNPAUSED")}
    assert constants(str) == {name: events[name] for name in constants(str)}
