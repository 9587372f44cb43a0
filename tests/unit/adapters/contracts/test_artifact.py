from tests.unit.adapters.contracts.oracle import artifact

from dstack_vpn.adapters.contracts import load_artifact


def test_the_artifact_is_package_data() -> None:
    loaded = load_artifact()
    assert loaded.bytecode.hex() == artifact()["bytecode"][2:]
    assert list(loaded.abi) == artifact()["abi"]
    assert loaded.errors[bytes.fromhex("1105d3cb")].types == ("string", "uint256")
