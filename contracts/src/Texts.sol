// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Base64} from "@openzeppelin/contracts/utils/Base64.sol";

/// @title Checks of the registry's texts
/// @notice Node ids and endpoints pass one of these checks before they are stored. Clients can
/// therefore show them, log them or write them into a file without meeting a control character or a
/// space.
/// @dev A WireGuard key is stored as its 32 bytes (one slot instead of three). Only canonical
/// base64 is accepted, so that encoding returns exactly the decoded text.
library Texts {
    /// @notice The longest node id, in bytes: a DNS label (RFC 1035).
    uint256 internal constant MAX_NODE_ID = 63;
    /// @notice The longest endpoint, in bytes: a host name, brackets, a colon and a port.
    uint256 internal constant MAX_ENDPOINT = 262;
    /// @notice The longest token URI, in bytes.
    uint256 internal constant MAX_TOKEN_URI = 2048;
    /// @notice The length of 32 bytes in padded base64.
    uint256 private constant KEY_CHARACTERS = 44;
    /// @notice The result of `_sextet` for a character outside of the base64 alphabet.
    uint256 private constant NO_SEXTET = 64;

    /// @notice Return whether the text is a DNS label: 1 to 63 of a-z, 0-9 and '-', without a '-'
    /// at either end.
    /// @param text The node id.
    /// @return True if it is a DNS label.
    function isNodeId(string memory text) internal pure returns (bool) {
        bytes memory raw = bytes(text);
        uint256 length = raw.length;
        if (length == 0 || length > MAX_NODE_ID || raw[0] == "-" || raw[length - 1] == "-") return false;
        for (uint256 i = 0; i < length; ++i) {
            bytes1 c = raw[i];
            if (!((c >= "a" && c <= "z") || (c >= "0" && c <= "9") || c == "-")) return false;
        }
        return true;
    }

    /// @notice Return whether the text can be an endpoint: at most 262 printable ASCII characters,
    /// without spaces. The empty text, which clears an endpoint, is valid.
    /// @param text The endpoint, such as `vpn.example.org:51820`; the clients check its grammar.
    /// @return True if it can be an endpoint.
    function isEndpoint(string memory text) internal pure returns (bool) {
        bytes memory raw = bytes(text);
        if (raw.length > MAX_ENDPOINT) return false;
        for (uint256 i = 0; i < raw.length; ++i) {
            if (raw[i] < 0x21 || raw[i] > 0x7e) return false;
        }
        return true;
    }

    /// @notice Return the 32 bytes of a key in canonical base64, or zero if the text is invalid.
    /// @dev Zero can mark an invalid text because the all-zero key is invalid as well.
    /// @param text The key as `wg pubkey` prints it.
    /// @return key The key's bytes.
    function decodeKey(string memory text) internal pure returns (bytes32 key) {
        bytes memory raw = bytes(text);
        if (raw.length != KEY_CHARACTERS || raw[KEY_CHARACTERS - 1] != "=") return 0;
        uint256 bits = 0;
        for (uint256 i = 0; i < KEY_CHARACTERS - 2; ++i) {
            uint256 sextet = _sextet(uint8(raw[i]));
            if (sextet == NO_SEXTET) return 0;
            bits = (bits << 6) | sextet;
        }
        // The last character has four bits of the key. In canonical base64 the other two are zero.
        uint256 last = _sextet(uint8(raw[KEY_CHARACTERS - 2]));
        if (last == NO_SEXTET || last & 3 != 0) return 0;
        return bytes32((bits << 4) | (last >> 2));
    }

    /// @notice Return a key in canonical base64; the empty text for the zero key, which marks a
    /// missing key.
    /// @param key The key's bytes.
    /// @return The text.
    function encodeKey(bytes32 key) internal pure returns (string memory) {
        return key == 0 ? "" : Base64.encode(abi.encodePacked(key));
    }

    /// @notice Return the value of one base64 character.
    /// @param c The character.
    /// @return Its six bits, or `NO_SEXTET`.
    function _sextet(uint8 c) private pure returns (uint256) {
        unchecked {
            if (c >= 0x61) return c <= 0x7a ? c - 71 : NO_SEXTET; // a-z: 26 to 51
            if (c >= 0x41) return c <= 0x5a ? c - 65 : NO_SEXTET; // A-Z: 0 to 25
            if (c >= 0x30) return c <= 0x39 ? c + 4 : NO_SEXTET; // 0-9: 52 to 61
            if (c == 0x2b) return 62; // +
            return c == 0x2f ? 63 : NO_SEXTET; // /
        }
    }
}
