// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The registry of a private network's nodes
/// @notice One ERC-721 token is one node: its holder runs it, and its WireGuard key is on the network while the
/// node is active. The functions and events of the `DstackAccessNFT` contract are here unchanged, so that one
/// client speaks to both; what is new answers questions which that contract leaves open.
/// @dev Announced by ERC-165, by which clients identify this contract and its version.
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
        /// The node's tags: bit i stands for the i-th tag of `tags()`.
        uint256 tags;
        /// The networks behind the node; see `setRoutes` for the encoding.
        bytes32[] routes;
    }

    /// @notice A minter's offer to mint a node, signed off chain (EIP-712).
    struct Invitation {
        /// The node's name.
        string nodeId;
        /// The node's tags.
        uint256 tags;
        /// The networks behind the node.
        bytes32[] routes;
        /// The last Unix second of the node's access; 0 for no end.
        uint64 expiresAt;
        /// The last Unix second in which the invitation can be redeemed.
        uint64 deadline;
        /// The signer: the contract's owner or a minter, an account or a contract (ERC-1271).
        address minter;
        /// The only account that may redeem; zero: any account with a proof by `claimant`.
        address holder;
        /// The address of the one-time key whose private part the code carries; unused with a holder.
        address claimant;
        /// Distinguishes invitations that are otherwise equal.
        uint256 salt;
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
    /// @notice A node changed hands and has no key, endpoint, tags or routes any more.
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
    /// @notice The owner defined a tag.
    /// @param index Its bit in a node's tags.
    /// @param name Its name.
    event TagDefined(uint256 indexed index, string name);
    /// @notice A node's tags were set.
    /// @param tokenId The token.
    /// @param mask A bit for each tag.
    event NodeTagsUpdated(uint256 indexed tokenId, uint256 mask);
    /// @notice The networks behind a node were set.
    /// @param tokenId The token.
    /// @param routes The routes, in ascending order.
    event NodeRoutesUpdated(uint256 indexed tokenId, bytes32[] routes);
    /// @notice The policy was set or removed.
    /// @param hash The Keccak-256 hash of its text; zero if it was removed.
    event PolicyUpdated(bytes32 hash);
    /// @notice An invitation was redeemed.
    /// @param hash Its EIP-712 hash.
    /// @param tokenId The token that was minted.
    event InvitationRedeemed(bytes32 indexed hash, uint256 indexed tokenId);
    /// @notice An invitation can no longer be redeemed.
    /// @param hash Its EIP-712 hash.
    event InvitationCancelled(bytes32 indexed hash);
    /// @notice An account may set the policy from now on.
    /// @param account The account.
    event PolicyAdministratorAdded(address indexed account);
    /// @notice An account may no longer set the policy.
    /// @param account The account.
    event PolicyAdministratorRemoved(address indexed account);
    /// @notice An account may mint, revoke and set expiries from now on.
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
    /// @notice No node that is not revoked has that id.
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
    /// @notice A tag's name is not a DNS label.
    error InvalidTag();
    /// @notice A tag of that name exists.
    /// @param name The name.
    /// @param index Its index.
    error TagExists(string name, uint256 index);
    /// @notice There are 256 tags already.
    error TooManyTags();
    /// @notice A mask has bits without a tag.
    /// @param mask Those bits.
    error UndefinedTags(uint256 mask);
    /// @notice A node can have 16 routes.
    /// @param count The number given.
    error TooManyRoutes(uint256 count);
    /// @notice A route has an unknown family, too long a prefix, bits behind its prefix, or unused bits.
    /// @param index Its place in the list.
    error InvalidRoute(uint256 index);
    /// @notice A route is not above the one before, or overlaps it.
    /// @param index Its place in the list.
    error RoutesNotAscending(uint256 index);
    /// @notice A policy is longer than 24,000 bytes.
    /// @param length Its length in bytes.
    error PolicyTooLong(uint256 length);
    /// @notice A policy is not UTF-8.
    /// @param index The byte at which a malformed sequence begins.
    error PolicyNotUTF8(uint256 index);
    /// @notice Only the contract's owner and policy administrators may do that; or the account to remove
    /// is not a policy administrator.
    /// @param account The account without the role.
    error NotPolicyAdministrator(address account);
    /// @notice The account is a policy administrator already.
    /// @param account The account.
    error AlreadyPolicyAdministrator(address account);
    /// @notice The zero address can't be a policy administrator.
    error InvalidPolicyAdministrator();
    /// @notice The invitation's time is over.
    /// @param deadline Its last second.
    /// @param blockTimestamp The block's time, in Unix seconds.
    error InvitationExpired(uint64 deadline, uint256 blockTimestamp);
    /// @notice The invitation was redeemed or cancelled.
    /// @param hash Its EIP-712 hash.
    error InvitationUsed(bytes32 hash);
    /// @notice The invitation is for another account.
    /// @param holder The account that may redeem it.
    /// @param caller The account that tried.
    error InvitationForAnother(address holder, address caller);
    /// @notice The invitation's signature is not its minter's: it was altered, or is of another chain or registry.
    error InvalidInvitation();
    /// @notice The proof is not by the invitation's one-time key for this caller, key and endpoint.
    error InvalidClaim();
    /// @notice The registry always has an owner; hand it over instead.
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

    /// @notice Take a node's access away for good; for the owner and minters. Its id becomes free, the token
    /// stays as history.
    /// @param tokenId The node.
    function revokeNodeAccess(uint256 tokenId) external;

    /// @notice Set a node's key; for its holder. A node that awaited one is active again.
    /// @dev Several nodes may have one key: whoever sees a key in a pending transaction can register it first,
    /// and must not lock its owner out by that.
    /// @param tokenId The node.
    /// @param wireguardPublicKey The key.
    function updatePublicKey(uint256 tokenId, string calldata wireguardPublicKey) external;

    /// @notice Set or clear a node's endpoint. Only for its holder.
    /// @param tokenId The node.
    /// @param endpoint The endpoint, such as `vpn.example.org:51820`; empty clears it.
    function setEndpoint(uint256 tokenId, string calldata endpoint) external;

    /// @notice Let a node's access end by itself; for the owner and minters. Its id stays its own.
    /// @param tokenId The node.
    /// @param expiresAt_ The last Unix second with access, not in the past; 0 for no expiry.
    function setExpiry(uint256 tokenId, uint64 expiresAt_) external;

    /// @notice Define a tag, for good; for the owner.
    /// @param name A DNS label that no tag has.
    /// @return index Its bit in a node's tags.
    function defineTag(string calldata name) external returns (uint256 index);

    /// @notice Set a node's tags; for the owner and minters.
    /// @param tokenId The node.
    /// @param mask A bit for each tag, of defined tags only.
    function setTags(uint256 tokenId, uint256 mask) external;

    /// @notice Set the networks behind a node; for the owner and minters.
    /// @dev A route is one word: the family (4 or 6) in the highest byte, the prefix length in the lowest,
    /// and the network's address in the bits above that (32 or 128 of them).
    /// @param tokenId The node.
    /// @param routes At most 16, ascending, none inside another, without bits behind their prefixes.
    function setRoutes(uint256 tokenId, bytes32[] calldata routes) external;

    /// @notice Set the policy; for the owner and policy administrators.
    /// @param text UTF-8 of at most 24,000 bytes; its grammar is left to the clients; empty removes the policy.
    function setPolicy(string calldata text) external;

    /// @notice Mint a node by an invitation; for the account that it names, or for any account with the
    /// proof of its one-time key. Reverts while minting is paused.
    /// @param invitation The invitation.
    /// @param signature Its minter's signature (EIP-712).
    /// @param wireguardPublicKey The node's key.
    /// @param endpoint The node's endpoint; may be empty.
    /// @param claim The one-time key's signature of `claimHash(...)`; empty with a holder.
    /// @return tokenId The new token, which the caller holds.
    function redeem(
        Invitation calldata invitation,
        bytes calldata signature,
        string calldata wireguardPublicKey,
        string calldata endpoint,
        bytes calldata claim
    ) external returns (uint256 tokenId);

    /// @notice Make an invitation useless; for the owner and minters.
    /// @param hash Its EIP-712 hash, as by `invitationHash`.
    function cancelInvitation(bytes32 hash) external;

    /// @notice Let an account set the policy; for the owner.
    /// @param account The account.
    function addPolicyAdministrator(address account) external;

    /// @notice Take that right away; for the owner.
    /// @param account The account.
    function removePolicyAdministrator(address account) external;

    /// @notice Let an account mint, revoke and set expiries; for the owner.
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

    /// @notice The number of changes so far. It rises by one with each event of this interface except
    /// `PublicKeyUpdated`, and with `Paused`, `Unpaused` and `OwnershipTransferred`.
    /// @return The revision.
    function revision() external view returns (uint64);

    /// @notice The tags, in the order of their bits.
    /// @return Their names.
    function tags() external view returns (string[] memory);

    /// @notice The policy.
    /// @return Its text; empty without one.
    function policy() external view returns (string memory);

    /// @notice The policy's hash.
    /// @return The Keccak-256 hash of its text; zero without one.
    function policyHash() external view returns (bytes32);

    /// @notice The accounts with the minter role, in no order (the owner needs none).
    /// @return The accounts.
    function minters() external view returns (address[] memory);

    /// @notice The policy administrators, in no order (the owner needs no role).
    /// @return The accounts.
    function policyAdministrators() external view returns (address[] memory);

    /// @notice An invitation's EIP-712 hash on this chain and registry.
    /// @param invitation The invitation.
    /// @return The hash, which its minter signs.
    function invitationHash(Invitation calldata invitation) external view returns (bytes32);

    /// @notice What the one-time key of an invitation signs (EIP-712).
    /// @param invitation The invitation's hash.
    /// @param redeemer The account that redeems.
    /// @param wireguardPublicKey The node's key.
    /// @param endpoint The node's endpoint.
    /// @return The hash.
    function claimHash(bytes32 invitation, address redeemer, string calldata wireguardPublicKey, string calldata endpoint)
        external
        view
        returns (bytes32);

    /// @notice Whether an invitation was redeemed or cancelled.
    /// @param hash Its EIP-712 hash.
    /// @return Whether it was.
    function isInvitationUsed(bytes32 hash) external view returns (bool);

    /// @notice Whether an account was given the minter role (the owner needs none).
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
