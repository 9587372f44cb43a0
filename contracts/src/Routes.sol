// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IAccessRegistry} from "./IAccessRegistry.sol";

/// @title The check of a node's routes
/// @notice A route is one word: the family (4 or 6) in the highest byte, the prefix length in the lowest, and
/// the network's address in the 32 or 128 bits above that. All other bits are zero, and so are the address's
/// bits behind the prefix. The order of the words is therefore that of the addresses.
library Routes {
    /// @notice The most routes that a node can have.
    uint256 internal constant MAX_ROUTES = 16;

    /// @notice Revert unless the routes are canonical, ascending and apart from each other.
    /// @param routes The routes.
    function check(bytes32[] calldata routes) internal pure {
        if (routes.length > MAX_ROUTES) revert IAccessRegistry.TooManyRoutes(routes.length);
        uint256 before = 0;
        for (uint256 i = 0; i < routes.length; ++i) {
            uint256 route = uint256(routes[i]);
            uint256 family = route >> 248;
            uint256 bits = family == 4 ? 32 : 128;
            uint256 prefix = route & 0xff;
            if ((family != 4 && family != 6) || prefix > bits) revert IAccessRegistry.InvalidRoute(i);
            uint256 body = route & ((1 << 248) - 1);
            // The host bits, and all bits above the address.
            if (body >> (bits + 8) != 0 || (body >> 8) & ((1 << (bits - prefix)) - 1) != 0) {
                revert IAccessRegistry.InvalidRoute(i);
            }
            // Above the last address of the network before, which is in the same family or in the lower one.
            if (i != 0 && route >> 8 <= before) revert IAccessRegistry.RoutesNotAscending(i);
            before = (route >> 8) | ((1 << (bits - prefix)) - 1);
        }
    }
}
