// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title A contract that signs, for tests (ERC-1271)
contract ContractSigner {
    enum Mode {
        Honest,
        Refuses,
        Reverts,
        BurnsGas,
        RepliesShort,
        RepliesLong
    }

    bytes4 private constant VALID = 0x1626ba7e;
    address private immutable _account;
    Mode private immutable _mode;

    constructor(address account, Mode mode) {
        _account = account;
        _mode = mode;
    }

    /// @notice Sign for an account, or misbehave as the mode says.
    /// @param hash The signed hash.
    /// @param signature The account's signature.
    /// @return The magic value if it is valid.
    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        if (_mode == Mode.Reverts) revert("no");
        if (_mode == Mode.BurnsGas) while (true) {}
        if (_mode == Mode.RepliesShort) {
            assembly ("memory-safe") {
                mstore(0, shl(224, 0x1626ba7e))
                return(0, 4)
            }
        }
        if (_mode == Mode.RepliesLong) {
            assembly ("memory-safe") {
                return(0, 1000000)
            }
        }
        return _mode == Mode.Honest && ECDSA.recover(hash, signature) == _account ? VALID : bytes4(0xffffffff);
    }
}
