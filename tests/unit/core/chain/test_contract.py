"""The names of tags."""

from dstack_vpn.core.chain.contract import ContractState, Policy, tag_texts

STATE = ContractState(tag_names=("web", "", "5"))


def test_a_bit_without_a_name_is_its_number() -> None:
    assert list(STATE.tags_of(0b101111)) == ["web", 1, "5", 3, 5]
    assert list(STATE.tags_of(0)) == []
    assert list(STATE.tags_of(1 << 255)) == [255]


def test_in_a_text_a_number_is_never_taken_for_a_name() -> None:
    assert tag_texts(STATE.tags_of(0b100100)) == ["5", "#5"]


def test_a_policy_lacks_its_text_until_it_was_read() -> None:
    assert not ContractState().lacks_text
    assert ContractState(policy=Policy("0x")).lacks_text
    assert not ContractState(policy=Policy("0x", text="")).lacks_text
