"""The store's text format of nodes and events."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.property.strategies import contracts, events, nodes

from dstack_vpn.adapters.store.records import (
    dump_contract,
    dump_event,
    dump_node,
    load_contract,
    load_event,
    load_node,
)
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import RegistryEvent, TokenState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Endpoint, Malformed
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.errors import FormatError

NODE = Node(2**200, "0xa", "web", None, PeerEndpoint(Endpoint("192.0.2.1", 1)))


@given(nodes)
def test_nodes_survive_a_round_trip(node: Node) -> None:
    assert load_node(dump_node(node)) == node


@given(events)
def test_events_survive_a_round_trip(event: RegistryEvent) -> None:
    assert load_event(dump_event(event)) == event


@given(contracts)
def test_the_state_of_a_contract_survives_a_round_trip(state: ContractState) -> None:
    assert load_contract(dump_contract(state)) == state


def test_a_state_is_stored_under_its_first_name() -> None:
    """Earlier releases write this name, and read the stores of this release."""
    text = '{"type":"Observed","token_id":1,"node":null}'
    assert load_event(text) == TokenState(1, None)
    assert dump_event(TokenState(1, None)) == text


def test_what_was_stored_before_there_were_relays_is_still_read() -> None:
    old = dump_node(NODE).replace(
        '{"reach":"192.0.2.1:1"}', '{"type":"Endpoint","host":"192.0.2.1","port":1}'
    )
    assert old != dump_node(NODE)
    assert load_node(old) == NODE


def test_a_stored_endpoint_that_is_refused_by_now_is_malformed_and_the_rest_is_read() -> None:
    old = dump_node(NODE).replace("192.0.2.1:1", "169.254.169.254:1")
    assert old != dump_node(NODE)
    refused = load_node(old).endpoint
    assert isinstance(refused, Malformed)
    assert replace(load_node(old), endpoint=NODE.endpoint) == NODE


@given(st.one_of(st.text(), st.recursive(st.none() | st.integers(), st.lists).map(repr)))
def test_only_format_errors_escape_the_records(text: str) -> None:
    for load in (load_node, load_event, load_contract):
        with pytest.raises(FormatError):
            load(text)
