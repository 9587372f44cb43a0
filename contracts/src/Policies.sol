// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IAccessRegistry} from "./IAccessRegistry.sol";

/// @title A policy's text, kept as the code of a data contract
/// @notice Code costs 200 gas a byte where storage costs 690, and reading it needs one access.
/// @dev The technique is SSTORE2's (0xsequence/sstore2). The code begins with STOP, so it can't be called.
library Policies {
    /// @notice The longest policy, in bytes: a contract's code can have 24,576 (EIP-170).
    uint256 internal constant MAX_POLICY = 24_000;

    /// @notice Deploy a text as a data contract, or revert if it is too long or not UTF-8.
    /// @param text The text; not empty.
    /// @return data The contract.
    function write(string calldata text) internal returns (address data) {
        uint256 length = bytes(text).length;
        if (length > MAX_POLICY) revert IAccessRegistry.PolicyTooLong(length);
        _checkUTF8(bytes(text));
        // PUSH1 11, MSIZE, DUP2, CODESIZE, SUB, DUP1, SWAP3, MSIZE, CODECOPY, RETURN: return all that follows.
        bytes memory creation = abi.encodePacked(hex"600b5981380380925939f3", hex"00", text);
        // slither-disable-next-line assembly
        assembly ("memory-safe") {
            data := create(0, add(creation, 32), mload(creation))
        }
        // It fails only without gas, and then there is none for anything else either.
        assert(data != address(0));
    }

    /// @notice The text of a data contract.
    /// @param data The contract; zero for the empty text.
    /// @return The text.
    function read(address data) internal view returns (string memory) {
        if (data == address(0)) return "";
        bytes memory code = data.code;
        uint256 length = code.length - 1;
        bytes memory text = new bytes(length);
        // slither-disable-next-line assembly
        assembly ("memory-safe") {
            mcopy(add(text, 32), add(code, 33), length)
        }
        return string(text);
    }

    /// @notice Revert unless the text is UTF-8 (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF).
    /// @param text The text.
    function _checkUTF8(bytes calldata text) private pure {
        uint256 length = text.length;
        uint256 i = 0;
        while (i < length) {
            // Plain ASCII passes 32 bytes at a time.
            if (i + 32 <= length && uint256(bytes32(text[i:i + 32])) & ASCII == 0) {
                i += 32;
                continue;
            }
            uint256 size = _sequence(text, i);
            if (size == 0) revert IAccessRegistry.PolicyNotUTF8(i);
            i += size;
        }
    }

    /// @notice The bits that no byte of ASCII has.
    uint256 private constant ASCII = 0x8080808080808080808080808080808080808080808080808080808080808080;

    /// @notice The length of the sequence that begins at a byte.
    /// @param text The text.
    /// @param i The byte.
    /// @return The length, 1 to 4; 0 if the sequence is malformed.
    function _sequence(bytes calldata text, uint256 i) private pure returns (uint256) {
        uint8 first = uint8(text[i]);
        if (first < 0x80) return 1;
        if (first < 0xc2 || first > 0xf4) return 0;
        uint256 size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
        if (i + size > text.length) return 0;
        uint8 second = uint8(text[i + 1]);
        uint8 lowest = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
        uint8 highest = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
        if (second < lowest || second > highest) return 0;
        for (uint256 k = 2; k < size; ++k) {
            uint8 next = uint8(text[i + k]);
            if (next < 0x80 || next > 0xbf) return 0;
        }
        return size;
    }
}
