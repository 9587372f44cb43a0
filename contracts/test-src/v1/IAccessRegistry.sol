// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The registry of a private network's nodes
/// @notice One ERC-721 token is one node. Its holder runs the node, and the node's WireGuard key is
/// on the network while the node is active. The interface has the functions and events of the
/// `DstackAccessNFT` contract unchanged, so that one client supports both, and adds what that
/// contract leaves open.
/// @dev Clients distinguish this contract from the other by ERC-165.
interface IAccessRegistry {
    /// @notice The status of a node. A node is minted Active. A transfer makes it AwaitingKey until
    /// the new holder sets a key. Revoked is final.
    enum Status {
        Active,
        AwaitingKey,
        Revoked
    }

    /// @notice All data of a node.
    struct NodeView {
        /// The token's id, counted from 1.
        uint256 tokenId;
        /// The token's holder.
        address owner;
        /// The node's name; of a revoked node, its last name.
        string nodeId;
        /// Canonical base64 of 32 bytes; empty while the node awaits a key; of a revoked node, its
        /// last key.
        string wireguardPublicKey;
        /// The node's endpoint, as set by its holder; may be empty.
        string endpoint;
        /// The token's metadata, as set at mint.
        string tokenURI;
        /// The time of the mint, in Unix seconds.
        uint64 createdAt;
        /// The block in which the key was set; 0 while the node awaits a key.
        uint64 keyUpdatedAtBlock;
        /// The last Unix second in which the node has access; 0 without expiry.
        uint64 expiresAt;
        /// True if the status is Active. It does not include expiry, which the reader compares with
        /// its clock.
        bool active;
        /// True if the status is AwaitingKey.
        bool awaitingKey;
    }

    /// @notice A node was minted.
    /// @param tokenId The token.
    /// @param nodeId The node's name.
    /// @param owner The token's holder.
    /// @param wireguardPublicKey The node's key.
    event NodeAccessGranted(uint256 indexed tokenId, string nodeId, address indexed owner, string wireguardPublicKey);
    /// @notice A node lost its access permanently.
    /// @param tokenId The token.
    /// @param nodeId The node's last name.
    event NodeAccessRevoked(uint256 indexed tokenId, string nodeId);
    /// @notice A node has a new holder. Its key and its endpoint were cleared.
    /// @param tokenId The token.
    /// @param from The previous holder.
    /// @param to The new holder.
    event NodeAccessTransferred(uint256 indexed tokenId, address indexed from, address indexed to);
    /// @notice A holder set the key of a node; `NodeKeyUpdated` has the token.
    /// @param owner The token's holder.
    /// @param wireguardPublicKey The new key.
    event PublicKeyUpdated(address indexed owner, string wireguardPublicKey);
    /// @notice A holder set the key of a node.
    /// @param tokenId The token.
    /// @param wireguardPublicKey The new key.
    event NodeKeyUpdated(uint256 indexed tokenId, string wireguardPublicKey);
    /// @notice A holder set or cleared the endpoint of a node.
    /// @param tokenId The token.
    /// @param endpoint The new endpoint; empty if it was cleared.
    event NodeEndpointUpdated(uint256 indexed tokenId, string endpoint);
    /// @notice The expiry of a node's access was set or removed.
    /// @param tokenId The token.
    /// @param expiresAt The last Unix second with access; 0 if the expiry was removed.
    event NodeExpiryUpdated(uint256 indexed tokenId, uint64 expiresAt);
    /// @notice An account may now mint, revoke and set expiries.
    /// @param account The account.
    event MinterAdded(address indexed account);
    /// @notice An account may no longer mint, revoke or set expiries.
    /// @param account The account.
    event MinterRemoved(address indexed account);
    /// @notice The contract was offered to a new owner, who has not accepted yet.
    /// @param previousOwner The current owner.
    /// @param newOwner The pending owner; zero if the offer was withdrawn.
    event OwnershipTransferInitiated(address indexed previousOwner, address indexed newOwner);

    /// @notice A node id is not a DNS label: 1 to 63 of a-z, 0-9 and '-', without a '-' at either
    /// end.
    error InvalidNodeId();
    /// @notice A key is not the canonical base64 of 32 bytes, or is the all-zero key.
    error InvalidPublicKey();
    /// @notice An endpoint is longer than 262 bytes, or not printable ASCII without spaces.
    error InvalidEndpoint();
    /// @notice A token URI is longer than 2048 bytes.
    /// @param length Its length in bytes.
    error TokenURITooLong(uint256 length);
    /// @notice Another node that is not revoked has this id.
    /// @param nodeId The id.
    /// @param tokenId The node with this id.
    error NodeIdTaken(string nodeId, uint256 tokenId);
    /// @notice A node that is not revoked, possibly the same one, has this key.
    /// @param wireguardPublicKey The key.
    /// @param tokenId The node with this key.
    error PublicKeyTaken(string wireguardPublicKey, uint256 tokenId);
    /// @notice No node has this id, or only revoked ones.
    /// @param nodeId The id.
    error UnknownNodeId(string nodeId);
    /// @notice The node is revoked, which is final.
    /// @param tokenId The node.
    error NodeIsRevoked(uint256 tokenId);
    /// @notice The caller is not the node's holder.
    /// @param tokenId The node.
    /// @param caller The caller.
    error NotHolder(uint256 tokenId, address caller);
    /// @notice The caller is neither the owner nor a minter, or the account to remove is not a
    /// minter.
    /// @param account The caller, or the account to remove.
    error NotMinter(address account);
    /// @notice The account is already a minter.
    /// @param account The account.
    error AlreadyMinter(address account);
    /// @notice The zero address cannot be a minter.
    error InvalidMinter();
    /// @notice The expiry is in the past.
    /// @param expiresAt The expiry, in Unix seconds.
    /// @param blockTimestamp The block's time, in Unix seconds.
    error ExpiryInPast(uint64 expiresAt, uint256 blockTimestamp);
    /// @notice The registry must have an owner; transfer the ownership instead.
    error OwnershipNotRenounceable();

    /// @notice Mint a node. Only for the owner and minters, while minting is not paused.
    /// @dev The receiver is not called, so that minting cannot be re-entered. As with ERC-721's
    /// `transferFrom`, ensure that a contract that receives a node can act as its holder.
    /// @param to The holder.
    /// @param nodeId The node's name.
    /// @param wireguardPublicKey The node's key.
    /// @param uri The token's metadata, at most 2048 bytes; may be empty.
    /// @return tokenId The new token.
    function mintNodeAccess(address to, string calldata nodeId, string calldata wireguardPublicKey, string calldata uri)
        external
        returns (uint256 tokenId);

    /// @notice Revoke a node's access permanently. Only for the owner and minters. The node's id
    /// and key become available again. The token stays.
    /// @param tokenId The node.
    function revokeNodeAccess(uint256 tokenId) external;

    /// @notice Set a node's key. Only for its holder. A node that awaits a key becomes active.
    /// @param tokenId The node.
    /// @param wireguardPublicKey The key, which no node may have that is not revoked.
    function updatePublicKey(uint256 tokenId, string calldata wireguardPublicKey) external;

    /// @notice Set or clear a node's endpoint. Only for its holder.
    /// @param tokenId The node.
    /// @param endpoint The endpoint, such as `vpn.example.org:51820`; empty clears it.
    function setEndpoint(uint256 tokenId, string calldata endpoint) external;

    /// @notice Set or remove the expiry of a node's access. Only for the owner and minters. An
    /// expired node keeps its id and key.
    /// @param tokenId The node.
    /// @param expiresAt_ The last Unix second with access, not in the past; 0 for no expiry.
    function setExpiry(uint256 tokenId, uint64 expiresAt_) external;

    /// @notice Allow an account to mint, revoke and set expiries. Only for the owner.
    /// @param account The account.
    function addMinter(address account) external;

    /// @notice Remove the minter role from an account. Only for the owner.
    /// @param account The account.
    function removeMinter(address account) external;

    /// @notice Pause minting. Only for the owner. All other functions stay available.
    function pause() external;

    /// @notice Allow minting again. Only for the owner.
    function unpause() external;

    /// @notice Offer the contract to a new owner, who accepts by `acceptOwnership`. Only for the
    /// owner.
    /// @param newOwner The pending owner; zero withdraws an offer.
    function transferContractOwnership(address newOwner) external;

    /// @notice Return whether an account has the minter role (the owner does not need it).
    /// @param account The account.
    /// @return True if it has the role.
    function isMinter(address account) external view returns (bool);

    /// @notice Return a node in the form of the `DstackAccessNFT` contract.
    /// @param tokenId The node.
    /// @return nodeId Its name.
    /// @return wireguardPublicKey Its key; empty while it awaits a key.
    /// @return createdAt The time of the mint, in Unix seconds.
    /// @return isActive True if it has access at this block's time.
    function getNodeAccess(uint256 tokenId)
        external
        view
        returns (string memory nodeId, string memory wireguardPublicKey, uint256 createdAt, bool isActive);

    /// @notice Return whether a user holds the node with this id and the node has access at this
    /// block's time.
    /// @param user The account.
    /// @param nodeId The node's name.
    /// @return True if both hold.
    function hasNodeAccess(address user, string calldata nodeId) external view returns (bool);

    /// @notice Another name of `hasNodeAccess`.
    /// @param user The account.
    /// @param nodeId The node's name.
    /// @return True if the user has access.
    function verifyAccess(address user, string calldata nodeId) external view returns (bool);

    /// @notice Return the node with this id that is not revoked; reverts with `UnknownNodeId`
    /// without one.
    /// @param nodeId The node's name.
    /// @return The token.
    function getTokenIdByNodeId(string calldata nodeId) external view returns (uint256);

    /// @notice Return the key of the account's most recently minted node with access at this
    /// block's time.
    /// @dev Reads all nodes of the account. If an account can hold several nodes, query by token
    /// instead.
    /// @param owner The account.
    /// @return The key; empty if the account has no node with access.
    function getPublicKeyByOwner(address owner) external view returns (string memory);

    /// @notice Return a node's key.
    /// @param tokenId The node.
    /// @return The key; empty while the node awaits a key.
    function getPublicKeyByTokenId(uint256 tokenId) external view returns (string memory);

    /// @notice Return the expiry of a node's access.
    /// @param tokenId The node.
    /// @return The last Unix second with access; 0 without expiry.
    function expiresAt(uint256 tokenId) external view returns (uint64);

    /// @notice Return all data of a node.
    /// @param tokenId The node; reverts if it does not exist.
    /// @return The node.
    function getNode(uint256 tokenId) external view returns (NodeView memory);

    /// @notice Return several nodes, in the order of their ids.
    /// @param offset The number of nodes to skip.
    /// @param limit The maximum number of nodes to return.
    /// @return nodes The nodes.
    /// @return total The number of all nodes.
    function getNodes(uint256 offset, uint256 limit) external view returns (NodeView[] memory nodes, uint256 total);
}
