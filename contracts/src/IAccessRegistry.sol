// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The registry of a private network's nodes
/// @notice One ERC-721 token is one node: its holder runs it, and its WireGuard key is on the network while the
/// node is active. The functions and events of the `DstackAccessNFT` contract are here unchanged, so that one
/// client speaks to both; what is new answers questions which that contract leaves open.
/// @dev Announced by ERC-165, which is how clients tell this contract from the other.
interface IAccessRegistry {
    /// @notice Where a node is in its life. A node is minted Active; a transfer makes it AwaitingKey until the
    /// new holder sets a key; Revoked is final.
    enum Status {
        Active,
        AwaitingKey,
        Revoked
    }

    /// @notice Everything that the registry knows of a node.
    struct NodeView {
        /// The token's id, from 1 on.
        uint256 tokenId;
        /// The token's holder.
        address owner;
        /// The node's name; of a revoked node the name that it had.
        string nodeId;
        /// Canonical base64 of 32 bytes; empty while the node awaits a key; of a revoked node its last key.
        string wireguardPublicKey;
        /// Where the node says it can be reached; may be empty.
        string endpoint;
        /// The token's metadata, as given at mint.
        string tokenURI;
        /// When the token was minted, in Unix seconds.
        uint64 createdAt;
        /// The block in which the key was set; 0 while the node awaits one.
        uint64 keyUpdatedAtBlock;
        /// The last Unix second in which the node has access; 0 for no end.
        uint64 expiresAt;
        /// Whether the node's status is Active. Expiry is not counted in: that is for the reader's clock.
        bool active;
        /// Whether the node's status is AwaitingKey.
        bool awaitingKey;
    }

    /// @notice A node was minted.
    /// @param tokenId The token.
    /// @param nodeId The node's name.
    /// @param owner The token's holder.
    /// @param wireguardPublicKey The node's key.
    event NodeAccessGranted(uint256 indexed tokenId, string nodeId, address indexed owner, string wireguardPublicKey);
    /// @notice A node lost its access for good.
    /// @param tokenId The token.
    /// @param nodeId The name that it had.
    event NodeAccessRevoked(uint256 indexed tokenId, string nodeId);
    /// @notice A node changed hands and has neither key nor endpoint any more.
    /// @param tokenId The token.
    /// @param from The holder that was.
    /// @param to The holder that is.
    event NodeAccessTransferred(uint256 indexed tokenId, address indexed from, address indexed to);
    /// @notice A holder set a key; see `NodeKeyUpdated` for which node's.
    /// @param owner The token's holder.
    /// @param wireguardPublicKey The new key.
    event PublicKeyUpdated(address indexed owner, string wireguardPublicKey);
    /// @notice A node's key was set by its holder.
    /// @param tokenId The token.
    /// @param wireguardPublicKey The new key.
    event NodeKeyUpdated(uint256 indexed tokenId, string wireguardPublicKey);
    /// @notice A node's endpoint was set by its holder.
    /// @param tokenId The token.
    /// @param endpoint The new endpoint; empty where it was cleared.
    event NodeEndpointUpdated(uint256 indexed tokenId, string endpoint);
    /// @notice A node's access was given an end.
    /// @param tokenId The token.
    /// @param expiresAt The last Unix second with access; 0 where the end was taken away.
    event NodeExpiryUpdated(uint256 indexed tokenId, uint64 expiresAt);
    /// @notice An account may mint, revoke and set expiries from now on.
    /// @param account The account.
    event MinterAdded(address indexed account);
    /// @notice An account may not mint, revoke or set expiries any more.
    /// @param account The account.
    event MinterRemoved(address indexed account);
    /// @notice The contract was offered to a new owner, who has yet to accept.
    /// @param previousOwner The owner, who still is.
    /// @param newOwner The owner to be; zero where an offer was withdrawn.
    event OwnershipTransferInitiated(address indexed previousOwner, address indexed newOwner);

    /// @notice A node id is not a DNS label: 1 to 63 of a-z, 0-9 and '-', with no '-' at either end.
    error InvalidNodeId();
    /// @notice A key is not the canonical base64 of 32 bytes, or is the all-zero key.
    error InvalidPublicKey();
    /// @notice An endpoint is longer than 262 bytes, or not printable ASCII without spaces.
    error InvalidEndpoint();
    /// @notice A token URI is longer than 2048 bytes.
    /// @param length Its length in bytes.
    error TokenURITooLong(uint256 length);
    /// @notice A node that is not revoked has that id.
    /// @param nodeId The id.
    /// @param tokenId The node that has it.
    error NodeIdTaken(string nodeId, uint256 tokenId);
    /// @notice A node that is not revoked has that key; perhaps this very node.
    /// @param wireguardPublicKey The key.
    /// @param tokenId The node that has it.
    error PublicKeyTaken(string wireguardPublicKey, uint256 tokenId);
    /// @notice No node that is not revoked has that id.
    /// @param nodeId The id.
    error UnknownNodeId(string nodeId);
    /// @notice The node was revoked, which is final.
    /// @param tokenId The node.
    error NodeIsRevoked(uint256 tokenId);
    /// @notice Only the node's holder may do that.
    /// @param tokenId The node.
    /// @param caller Who tried.
    error NotHolder(uint256 tokenId, address caller);
    /// @notice Only the contract's owner and minters may do that; or the account to remove is not a minter.
    /// @param account Who is not.
    error NotMinter(address account);
    /// @notice The account is a minter already.
    /// @param account The account.
    error AlreadyMinter(address account);
    /// @notice The zero address can't be a minter.
    error InvalidMinter();
    /// @notice An expiry lies in the past.
    /// @param expiresAt The expiry, in Unix seconds.
    /// @param blockTimestamp The block's time, in Unix seconds.
    error ExpiryInPast(uint64 expiresAt, uint256 blockTimestamp);
    /// @notice The registry always has an owner; hand it over instead.
    error OwnershipNotRenounceable();

    /// @notice Mint a node; for the owner and minters, while minting is not paused.
    /// @dev The receiver is not called back, so that minting can't be re-entered; as with ERC-721's
    /// `transferFrom`, make sure that a contract which receives a node can act for it.
    /// @param to The holder.
    /// @param nodeId The node's name.
    /// @param wireguardPublicKey The node's key.
    /// @param uri The token's metadata, at most 2048 bytes; may be empty.
    /// @return tokenId The new token.
    function mintNodeAccess(address to, string calldata nodeId, string calldata wireguardPublicKey, string calldata uri)
        external
        returns (uint256 tokenId);

    /// @notice Take a node's access away for good; for the owner and minters. Its id and key become free, the
    /// token stays as history.
    /// @param tokenId The node.
    function revokeNodeAccess(uint256 tokenId) external;

    /// @notice Set a node's key; for its holder. A node that awaited one is active again.
    /// @param tokenId The node.
    /// @param wireguardPublicKey The key, which no other node may have.
    function updatePublicKey(uint256 tokenId, string calldata wireguardPublicKey) external;

    /// @notice Set or clear where a node can be reached; for its holder.
    /// @param tokenId The node.
    /// @param endpoint The endpoint, such as `vpn.example.org:51820`; empty clears it.
    function setEndpoint(uint256 tokenId, string calldata endpoint) external;

    /// @notice Let a node's access end by itself; for the owner and minters. Its id and key stay its own.
    /// @param tokenId The node.
    /// @param expiresAt_ The last Unix second with access, not in the past; 0 for no end.
    function setExpiry(uint256 tokenId, uint64 expiresAt_) external;

    /// @notice Let an account mint, revoke and set expiries; for the owner.
    /// @param account The account.
    function addMinter(address account) external;

    /// @notice Take that right away; for the owner.
    /// @param account The account.
    function removeMinter(address account) external;

    /// @notice Stop minting; for the owner. Nothing else stops.
    function pause() external;

    /// @notice Allow minting again; for the owner.
    function unpause() external;

    /// @notice Offer the contract to a new owner, who becomes it by `acceptOwnership`; for the owner.
    /// @param newOwner The owner to be; zero withdraws an offer.
    function transferContractOwnership(address newOwner) external;

    /// @notice Whether an account was given the minter role (the owner needs none).
    /// @param account The account.
    /// @return Whether it was.
    function isMinter(address account) external view returns (bool);

    /// @notice A node in the form of the `DstackAccessNFT` contract.
    /// @param tokenId The node.
    /// @return nodeId Its name.
    /// @return wireguardPublicKey Its key; empty while it awaits one.
    /// @return createdAt When it was minted, in Unix seconds.
    /// @return isActive Whether it has access at this block's time.
    function getNodeAccess(uint256 tokenId)
        external
        view
        returns (string memory nodeId, string memory wireguardPublicKey, uint256 createdAt, bool isActive);

    /// @notice Whether a user holds the node of that id and the node has access at this block's time.
    /// @param user The account.
    /// @param nodeId The node's name.
    /// @return Whether it does.
    function hasNodeAccess(address user, string calldata nodeId) external view returns (bool);

    /// @notice The same as `hasNodeAccess`, under its other name.
    /// @param user The account.
    /// @param nodeId The node's name.
    /// @return Whether it does.
    function verifyAccess(address user, string calldata nodeId) external view returns (bool);

    /// @notice The node of that id that is not revoked; reverts where there is none.
    /// @param nodeId The node's name.
    /// @return The token.
    function getTokenIdByNodeId(string calldata nodeId) external view returns (uint256);

    /// @notice The key of the latest minted node that the account holds and that has access at this block's time.
    /// @dev Reads every node of the account. Where an account may hold several nodes, ask by token instead.
    /// @param owner The account.
    /// @return The key; empty where the account has no such node.
    function getPublicKeyByOwner(address owner) external view returns (string memory);

    /// @notice A node's key.
    /// @param tokenId The node.
    /// @return The key; empty while the node awaits one.
    function getPublicKeyByTokenId(uint256 tokenId) external view returns (string memory);

    /// @notice When a node's access ends.
    /// @param tokenId The node.
    /// @return The last Unix second with access; 0 for no end.
    function expiresAt(uint256 tokenId) external view returns (uint64);

    /// @notice All of a node.
    /// @param tokenId The node; reverts where there is none.
    /// @return The node.
    function getNode(uint256 tokenId) external view returns (NodeView memory);

    /// @notice Many nodes in one call, in the order of their ids.
    /// @param offset How many nodes to skip.
    /// @param limit How many nodes to return at most.
    /// @return nodes The nodes.
    /// @return total How many nodes there are in all.
    function getNodes(uint256 offset, uint256 limit) external view returns (NodeView[] memory nodes, uint256 total);
}
