// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {IERC721Enumerable} from "@openzeppelin/contracts/token/ERC721/extensions/IERC721Enumerable.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";

import {IAccessRegistry} from "./IAccessRegistry.sol";
import {Texts} from "./Texts.sol";

/// @title The registry of a private network's nodes
/// @notice `IAccessRegistry` describes it.
/// @dev Three invariants, which the tests compare with a model:
/// - Tokens are never burned and count from 1. The token at index i is therefore i + 1, and the
///   enumeration of all tokens needs no storage.
/// - `_tokenByNodeId` has a token exactly while it is not revoked, `_tokenByKey` while it also has
///   a key. Ids and keys are therefore unique among these tokens.
/// - `_owned[holder]` lists the holder's tokens without order. `Node.ownedIndex` is a token's index
///   in it.
contract AccessRegistry is IAccessRegistry, IERC721Enumerable, ERC721, Ownable2Step, Pausable {
    /// @notice A stored node. The fixed-size fields, except the key, share one slot.
    struct Node {
        uint64 createdAt;
        uint64 keyUpdatedAtBlock;
        uint64 expiresAt;
        uint48 ownedIndex;
        Status status;
        bytes32 publicKey;
        string nodeId;
        string endpoint;
        string uri;
    }

    uint256 private _total;
    mapping(uint256 tokenId => Node) private _nodes;
    mapping(bytes32 nodeIdHash => uint256 tokenId) private _tokenByNodeId;
    mapping(bytes32 publicKey => uint256 tokenId) private _tokenByKey;
    mapping(address holder => uint256[] tokenIds) private _owned;
    mapping(address account => bool) private _minters;

    /// @notice Admits the contract's owner and minters only.
    modifier onlyMinter() {
        if (!_minters[msg.sender] && msg.sender != owner()) revert NotMinter(msg.sender);
        _;
    }

    /// @notice Create a registry without nodes.
    /// @param initialOwner The contract's owner.
    constructor(address initialOwner) ERC721("dstack-vpn access", "DVPN") Ownable(initialOwner) {}

    // -- for the owner and minters ------------------------------------------------------------------------

    /// @inheritdoc IAccessRegistry
    function mintNodeAccess(address to, string calldata nodeId, string calldata wireguardPublicKey, string calldata uri)
        external
        onlyMinter
        whenNotPaused
        returns (uint256 tokenId)
    {
        if (!Texts.isNodeId(nodeId)) revert InvalidNodeId();
        if (bytes(uri).length > Texts.MAX_TOKEN_URI) revert TokenURITooLong(bytes(uri).length);
        tokenId = ++_total;
        _claimNodeId(tokenId, nodeId);
        Node storage node = _nodes[tokenId];
        node.createdAt = uint64(block.timestamp);
        node.nodeId = nodeId;
        if (bytes(uri).length != 0) node.uri = uri;
        _setKey(tokenId, wireguardPublicKey);
        _mint(to, tokenId);
        emit NodeAccessGranted(tokenId, nodeId, to, wireguardPublicKey);
    }

    /// @inheritdoc IAccessRegistry
    function revokeNodeAccess(uint256 tokenId) external onlyMinter {
        Node storage node = _liveNode(tokenId);
        node.status = Status.Revoked;
        delete _tokenByNodeId[keccak256(bytes(node.nodeId))];
        delete _tokenByKey[node.publicKey];
        emit NodeAccessRevoked(tokenId, node.nodeId);
    }

    /// @inheritdoc IAccessRegistry
    function setExpiry(uint256 tokenId, uint64 expiresAt_) external onlyMinter {
        if (expiresAt_ != 0 && expiresAt_ < block.timestamp) revert ExpiryInPast(expiresAt_, block.timestamp);
        _liveNode(tokenId).expiresAt = expiresAt_;
        emit NodeExpiryUpdated(tokenId, expiresAt_);
    }

    // -- for a node's holder ------------------------------------------------------------------------------

    /// @inheritdoc IAccessRegistry
    function updatePublicKey(uint256 tokenId, string calldata wireguardPublicKey) external {
        Node storage node = _heldNode(tokenId);
        bytes32 old = node.publicKey;
        _setKey(tokenId, wireguardPublicKey);
        delete _tokenByKey[old];
        node.status = Status.Active;
        emit NodeKeyUpdated(tokenId, wireguardPublicKey);
        emit PublicKeyUpdated(msg.sender, wireguardPublicKey);
    }

    /// @inheritdoc IAccessRegistry
    function setEndpoint(uint256 tokenId, string calldata endpoint) external {
        Node storage node = _heldNode(tokenId);
        if (!Texts.isEndpoint(endpoint)) revert InvalidEndpoint();
        node.endpoint = endpoint;
        emit NodeEndpointUpdated(tokenId, endpoint);
    }

    // -- for the contract's owner -------------------------------------------------------------------------

    /// @inheritdoc IAccessRegistry
    function addMinter(address account) external onlyOwner {
        if (account == address(0)) revert InvalidMinter();
        if (_minters[account]) revert AlreadyMinter(account);
        _minters[account] = true;
        emit MinterAdded(account);
    }

    /// @inheritdoc IAccessRegistry
    function removeMinter(address account) external onlyOwner {
        if (!_minters[account]) revert NotMinter(account);
        delete _minters[account];
        emit MinterRemoved(account);
    }

    /// @inheritdoc IAccessRegistry
    function pause() external onlyOwner {
        _pause();
    }

    /// @inheritdoc IAccessRegistry
    function unpause() external onlyOwner {
        _unpause();
    }

    /// @inheritdoc IAccessRegistry
    function transferContractOwnership(address newOwner) external {
        transferOwnership(newOwner);
    }

    /// @notice OpenZeppelin's name of `transferContractOwnership`.
    /// @param newOwner The pending owner; zero withdraws an offer.
    function transferOwnership(address newOwner) public override onlyOwner {
        super.transferOwnership(newOwner);
        emit OwnershipTransferInitiated(owner(), newOwner);
    }

    /// @notice Always reverts, because only an owner can remove the minter role from an account.
    function renounceOwnership() public view override onlyOwner {
        revert OwnershipNotRenounceable();
    }

    // -- reading ------------------------------------------------------------------------------------------

    /// @inheritdoc IAccessRegistry
    function isMinter(address account) external view returns (bool) {
        return _minters[account];
    }

    /// @inheritdoc IAccessRegistry
    function getNodeAccess(uint256 tokenId)
        external
        view
        returns (string memory nodeId, string memory wireguardPublicKey, uint256 createdAt, bool isActive)
    {
        Node storage node = _node(tokenId);
        return (node.nodeId, Texts.encodeKey(node.publicKey), node.createdAt, _hasAccess(node));
    }

    /// @inheritdoc IAccessRegistry
    function hasNodeAccess(address user, string calldata nodeId) external view returns (bool) {
        return _userHasAccess(user, nodeId);
    }

    /// @inheritdoc IAccessRegistry
    function verifyAccess(address user, string calldata nodeId) external view returns (bool) {
        return _userHasAccess(user, nodeId);
    }

    /// @inheritdoc IAccessRegistry
    function getTokenIdByNodeId(string calldata nodeId) external view returns (uint256) {
        uint256 tokenId = _tokenByNodeId[keccak256(bytes(nodeId))];
        if (tokenId == 0) revert UnknownNodeId(nodeId);
        return tokenId;
    }

    /// @inheritdoc IAccessRegistry
    function getPublicKeyByOwner(address owner) external view returns (string memory) {
        uint256[] storage tokenIds = _owned[owner];
        uint256 length = tokenIds.length;
        uint256 latest;
        for (uint256 i = 0; i < length; ++i) {
            uint256 tokenId = tokenIds[i];
            if (tokenId > latest && _hasAccess(_nodes[tokenId])) latest = tokenId;
        }
        return Texts.encodeKey(_nodes[latest].publicKey);
    }

    /// @inheritdoc IAccessRegistry
    function getPublicKeyByTokenId(uint256 tokenId) external view returns (string memory) {
        return Texts.encodeKey(_node(tokenId).publicKey);
    }

    /// @inheritdoc IAccessRegistry
    function expiresAt(uint256 tokenId) external view returns (uint64) {
        return _node(tokenId).expiresAt;
    }

    /// @inheritdoc IAccessRegistry
    function getNode(uint256 tokenId) external view returns (NodeView memory) {
        return _view(tokenId, _requireOwned(tokenId));
    }

    /// @inheritdoc IAccessRegistry
    function getNodes(uint256 offset, uint256 limit) external view returns (NodeView[] memory nodes, uint256 total) {
        total = _total;
        uint256 left = offset < total ? total - offset : 0;
        nodes = new NodeView[](limit < left ? limit : left);
        for (uint256 i = 0; i < nodes.length; ++i) {
            uint256 tokenId = offset + i + 1;
            nodes[i] = _view(tokenId, _ownerOf(tokenId));
        }
    }

    /// @notice Return a token's metadata, as set at mint.
    /// @param tokenId The token.
    /// @return The URI; may be empty.
    function tokenURI(uint256 tokenId) public view override returns (string memory) {
        return _node(tokenId).uri;
    }

    /// @inheritdoc IERC721Enumerable
    function totalSupply() external view returns (uint256) {
        return _total;
    }

    /// @inheritdoc IERC721Enumerable
    function tokenByIndex(uint256 index) external view returns (uint256) {
        if (index >= _total) revert ERC721OutOfBoundsIndex(address(0), index);
        return index + 1;
    }

    /// @inheritdoc IERC721Enumerable
    function tokenOfOwnerByIndex(address owner, uint256 index) external view returns (uint256) {
        if (index >= _owned[owner].length) revert ERC721OutOfBoundsIndex(owner, index);
        return _owned[owner][index];
    }

    /// @notice Return whether the contract has an interface (ERC-165).
    /// @param interfaceId The interface.
    /// @return True if it has the interface.
    function supportsInterface(bytes4 interfaceId) public view override(ERC721, IERC165) returns (bool) {
        return interfaceId == type(IAccessRegistry).interfaceId || interfaceId == type(IERC721Enumerable).interfaceId
            || super.supportsInterface(interfaceId);
    }

    // -- internal -----------------------------------------------------------------------------------------

    /// @notice An index into an owner's tokens, or into all tokens, is out of bounds
    /// (OpenZeppelin's error).
    /// @param owner The owner; zero for all tokens.
    /// @param index The index.
    error ERC721OutOfBoundsIndex(address owner, uint256 index);

    /// @notice Mint or transfer: update the holders' lists, and clear key and endpoint of a
    /// transferred node.
    /// @param to The new holder.
    /// @param tokenId The token.
    /// @param auth The account whose approval is checked; zero for no check.
    /// @return from The previous holder; zero at mint.
    function _update(address to, uint256 tokenId, address auth) internal override returns (address from) {
        from = super._update(to, tokenId, auth);
        Node storage node = _nodes[tokenId];
        if (from != address(0)) {
            if (node.status == Status.Revoked) revert NodeIsRevoked(tokenId);
            _disown(from, node);
            _clear(node);
            emit NodeAccessTransferred(tokenId, from, to);
        }
        node.ownedIndex = uint48(_owned[to].length);
        _owned[to].push(tokenId);
    }

    /// @notice Remove a node from its holder's list; the list's last token takes its place.
    /// @param from The holder.
    /// @param node The node.
    function _disown(address from, Node storage node) private {
        uint256[] storage tokenIds = _owned[from];
        uint48 index = node.ownedIndex;
        uint256 last = tokenIds[tokenIds.length - 1];
        tokenIds[index] = last;
        _nodes[last].ownedIndex = index;
        tokenIds.pop();
    }

    /// @notice Clear key and endpoint of a node, which then awaits its new holder's key.
    /// @param node The node.
    function _clear(Node storage node) private {
        delete _tokenByKey[node.publicKey];
        delete node.publicKey;
        delete node.keyUpdatedAtBlock;
        delete node.endpoint;
        node.status = Status.AwaitingKey;
    }

    /// @notice Reserve a node id, or revert.
    /// @param tokenId The node.
    /// @param nodeId The id.
    function _claimNodeId(uint256 tokenId, string calldata nodeId) private {
        bytes32 hash = keccak256(bytes(nodeId));
        uint256 holder = _tokenByNodeId[hash];
        if (holder != 0) revert NodeIdTaken(nodeId, holder);
        _tokenByNodeId[hash] = tokenId;
    }

    /// @notice Set a node's key, or revert if another node has it. The old key stays reserved.
    /// @param tokenId The node.
    /// @param text The key.
    function _setKey(uint256 tokenId, string calldata text) private {
        bytes32 key = Texts.decodeKey(text);
        if (key == 0) revert InvalidPublicKey();
        uint256 holder = _tokenByKey[key];
        if (holder != 0) revert PublicKeyTaken(text, holder);
        _tokenByKey[key] = tokenId;
        _nodes[tokenId].publicKey = key;
        _nodes[tokenId].keyUpdatedAtBlock = uint64(block.number);
    }

    /// @notice Return a node, or revert if it does not exist.
    /// @param tokenId The node.
    /// @return The node.
    function _node(uint256 tokenId) private view returns (Node storage) {
        _requireOwned(tokenId);
        return _nodes[tokenId];
    }

    /// @notice Return a node, or revert if it is revoked.
    /// @param tokenId The node.
    /// @return node The node.
    function _liveNode(uint256 tokenId) private view returns (Node storage node) {
        node = _node(tokenId);
        if (node.status == Status.Revoked) revert NodeIsRevoked(tokenId);
    }

    /// @notice Return a node, or revert if it is revoked or the caller does not hold it.
    /// @param tokenId The node.
    /// @return The node.
    function _heldNode(uint256 tokenId) private view returns (Node storage) {
        if (_requireOwned(tokenId) != msg.sender) revert NotHolder(tokenId, msg.sender);
        return _liveNode(tokenId);
    }

    /// @notice Return whether a node has access at this block's time.
    /// @param node The node.
    /// @return True if it has access.
    function _hasAccess(Node storage node) private view returns (bool) {
        return node.status == Status.Active && (node.expiresAt == 0 || block.timestamp <= node.expiresAt);
    }

    /// @notice Return whether a user holds the node with this id and the node has access at this
    /// block's time.
    /// @param user The account.
    /// @param nodeId The node's name.
    /// @return True if both hold.
    function _userHasAccess(address user, string calldata nodeId) private view returns (bool) {
        uint256 tokenId = _tokenByNodeId[keccak256(bytes(nodeId))];
        return tokenId != 0 && _ownerOf(tokenId) == user && _hasAccess(_nodes[tokenId]);
    }

    /// @notice Return all data of a node.
    /// @param tokenId The node.
    /// @param owner Its holder.
    /// @return The view.
    function _view(uint256 tokenId, address owner) private view returns (NodeView memory) {
        Node storage node = _nodes[tokenId];
        return NodeView({
            tokenId: tokenId,
            owner: owner,
            nodeId: node.nodeId,
            wireguardPublicKey: Texts.encodeKey(node.publicKey),
            endpoint: node.endpoint,
            tokenURI: node.uri,
            createdAt: node.createdAt,
            keyUpdatedAtBlock: node.keyUpdatedAtBlock,
            expiresAt: node.expiresAt,
            active: node.status == Status.Active,
            awaitingKey: node.status == Status.AwaitingKey
        });
    }
}
