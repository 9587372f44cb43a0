// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The function of Multicall3 that clients use, for tests on chains without the real
/// contract
/// @dev Signature and behaviour are those of `aggregate3` of the contract at the well-known
/// address.
contract Multicall3 {
    struct Call3 {
        address target;
        bool allowFailure;
        bytes callData;
    }

    struct Result {
        bool success;
        bytes returnData;
    }

    function aggregate3(Call3[] calldata calls) external payable returns (Result[] memory results) {
        results = new Result[](calls.length);
        for (uint256 i = 0; i < calls.length; ++i) {
            (bool success, bytes memory data) = calls[i].target.call(calls[i].callData);
            require(success || calls[i].allowFailure, "Multicall3: call failed");
            results[i] = Result(success, data);
        }
    }
}
