// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {IERC721Enumerable} from "@openzeppelin/contracts/token/ERC721/extensions/IERC721Enumerable.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";
import {EnumerableSet} from "@openzeppelin/contracts/utils/structs/EnumerableSet.sol";

import {IAccessRegistry} from "./IAccessRegistry.sol";
import {Policies} from "./Policies.sol";
import {Routes} from "./Routes.sol";
import {Texts} from "./Texts.sol";

/// @title The registry of a private network's nodes
/// @notice See `IAccessRegistry`.
/// @dev Invariants, which the tests check against a model:
/// - Tokens are never burned and count from 1, so the i-th token is i + 1 and enumeration of all is free.
/// - `_tokenByNodeId` names a token exactly while it is not revoked, so ids are unique among those.
/// - `_owned[holder]` lists the holder's tokens in no order, and `Node.ownedIndex` is a token's place in it.
/// - `_revision` rises by one with each event that `revision()` names.
contract AccessRegistry is IAccessRegistry, IERC721Enumerable, ERC721, Ownable2Step, Pausable, EIP712, Multicall {
    using EnumerableSet for EnumerableSet.AddressSet;

    /// @notice A node as it is stored: the fixed fields share one slot.
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
        uint256 tags;
        bytes32[] routes;
    }

    /// @notice The most tags: a bit each in one word.
    uint256 private constant MAX_TAGS = 256;
    bytes32 private constant INVITATION_TYPE = keccak256(
        "Invitation(string nodeId,uint256 tags,bytes32[] routes,uint64 expiresAt,uint64 deadline,address minter,"
        "address holder,address claimant,uint256 salt)"
    );
    bytes32 private constant CLAIM_TYPE =
        keccak256("Claim(bytes32 invitation,address redeemer,string wireguardPublicKey,string endpoint)");

    /// @dev The total and the revision share a slot, so that a mint pays for one.
    uint128 private _total;
    uint64 private _revision;
    mapping(uint256 tokenId => Node) private _nodes;
    mapping(bytes32 nodeIdHash => uint256 tokenId) private _tokenByNodeId;
    mapping(address holder => uint256[] tokenIds) private _owned;
    EnumerableSet.AddressSet private _minters;
    EnumerableSet.AddressSet private _policyAdministrators;
    string[] private _tags;
    /// @dev One more than a tag's index; 0 for no tag.
    mapping(bytes32 nameHash => uint256 number) private _tagNumbers;
    address private _policy;
    bytes32 private _policyHash;
    mapping(bytes32 hash => bool) private _usedInvitations;

    /// @notice Admits the contract's owner and minters only.
    modifier onlyMinter() {
        if (!_isMinter(msg.sender)) revert NotMinter(msg.sender);
        _;
    }

    /// @notice Lets the contract's owner and policy administrators pass.
    modifier onlyPolicyAdministrator() {
        if (!_policyAdministrators.contains(msg.sender) && msg.sender != owner()) {
            revert NotPolicyAdministrator(msg.sender);
        }
        _;
    }

    /// @notice Create a registry without nodes.
    /// @param initialOwner The contract's owner.
    constructor(address initialOwner)
        ERC721("dstack-vpn access", "DVPN")
        Ownable(initialOwner)
        EIP712("dstack-vpn access", "2")
    {}

    // -- for the owner and minters ------------------------------------------------------------------------

    /// @inheritdoc IAccessRegistry
    function mintNodeAccess(address to, string calldata nodeId, string calldata wireguardPublicKey, string calldata uri)
        external
        onlyMinter
        whenNotPaused
        returns (uint256 tokenId)
    {
        if (bytes(uri).length > Texts.MAX_TOKEN_URI) revert TokenURITooLong(bytes(uri).length);
        tokenId = _mintNode(to, nodeId, wireguardPublicKey);
        if (bytes(uri).length != 0) _nodes[tokenId].uri = uri;
    }

    /// @inheritdoc IAccessRegistry
    function revokeNodeAccess(uint256 tokenId) external onlyMinter {
        Node storage node = _liveNode(tokenId);
        node.status = Status.Revoked;
        delete _tokenByNodeId[keccak256(bytes(node.nodeId))];
        _raise();
        emit NodeAccessRevoked(tokenId, node.nodeId);
    }

    /// @inheritdoc IAccessRegistry
    function setExpiry(uint256 tokenId, uint64 expiresAt_) external onlyMinter {
        _liveNode(tokenId);
        _setExpiry(tokenId, expiresAt_);
    }

    /// @inheritdoc IAccessRegistry
    function setTags(uint256 tokenId, uint256 mask) external onlyMinter {
        _liveNode(tokenId);
        _setTags(tokenId, mask);
    }

    /// @inheritdoc IAccessRegistry
    function setRoutes(uint256 tokenId, bytes32[] calldata routes) external onlyMinter {
        _liveNode(tokenId);
        _setRoutes(tokenId, routes);
    }

    /// @inheritdoc IAccessRegistry
    function cancelInvitation(bytes32 hash) external onlyMinter {
        _use(hash);
        _raise();
        emit InvitationCancelled(hash);
    }

    // -- for an invited node ------------------------------------------------------------------------------

    /// @inheritdoc IAccessRegistry
    function redeem(
        Invitation calldata invitation,
        bytes calldata signature,
        string calldata wireguardPublicKey,
        string calldata endpoint,
        bytes calldata claim
    ) external whenNotPaused returns (uint256 tokenId) {
        bytes32 hash = invitationHash(invitation);
        // slither-disable-next-line timestamp
        if (block.timestamp > invitation.deadline) revert InvitationExpired(invitation.deadline, block.timestamp);
        if (invitation.holder == address(0)) {
            bytes32 claimed = claimHash(hash, msg.sender, wireguardPublicKey, endpoint);
            if (!SignatureChecker.isValidSignatureNow(invitation.claimant, claimed, claim)) revert InvalidClaim();
        } else if (invitation.holder != msg.sender) {
            revert InvitationForAnother(invitation.holder, msg.sender);
        }
        _use(hash);
        if (!_isMinter(invitation.minter)) revert NotMinter(invitation.minter);
        if (!SignatureChecker.isValidSignatureNow(invitation.minter, hash, signature)) revert InvalidInvitation();
        tokenId = _mintNode(msg.sender, invitation.nodeId, wireguardPublicKey);
        if (invitation.tags != 0) _setTags(tokenId, invitation.tags);
        if (invitation.routes.length != 0) _setRoutes(tokenId, invitation.routes);
        if (invitation.expiresAt != 0) _setExpiry(tokenId, invitation.expiresAt);
        if (bytes(endpoint).length != 0) _setEndpoint(tokenId, endpoint);
        _raise();
        emit InvitationRedeemed(hash, tokenId);
    }

    // -- for a node's holder ------------------------------------------------------------------------------

    /// @inheritdoc IAccessRegistry
    function updatePublicKey(uint256 tokenId, string calldata wireguardPublicKey) external {
        Node storage node = _heldNode(tokenId);
        _setKey(node, wireguardPublicKey);
        node.status = Status.Active;
        _raise();
        emit NodeKeyUpdated(tokenId, wireguardPublicKey);
        emit PublicKeyUpdated(msg.sender, wireguardPublicKey);
    }

    /// @inheritdoc IAccessRegistry
    function setEndpoint(uint256 tokenId, string calldata endpoint) external {
        _heldNode(tokenId);
        _setEndpoint(tokenId, endpoint);
    }

    // -- for the contract's owner and policy administrators -----------------------------------------------

    /// @inheritdoc IAccessRegistry
    function setPolicy(string calldata text) external onlyPolicyAdministrator {
        bool removed = bytes(text).length == 0;
        _policy = removed ? address(0) : Policies.write(text);
        _policyHash = removed ? bytes32(0) : keccak256(bytes(text));
        _raise();
        emit PolicyUpdated(_policyHash);
    }

    // -- for the contract's owner -------------------------------------------------------------------------

    /// @inheritdoc IAccessRegistry
    function defineTag(string calldata name) external onlyOwner returns (uint256 index) {
        if (!Texts.isNodeId(name)) revert InvalidTag();
        bytes32 hash = keccak256(bytes(name));
        uint256 number = _tagNumbers[hash];
        if (number != 0) revert TagExists(name, number - 1);
        index = _tags.length;
        if (index == MAX_TAGS) revert TooManyTags();
        _tags.push(name);
        _tagNumbers[hash] = index + 1;
        _raise();
        emit TagDefined(index, name);
    }

    /// @inheritdoc IAccessRegistry
    function addPolicyAdministrator(address account) external onlyOwner {
        if (account == address(0)) revert InvalidPolicyAdministrator();
        if (!_policyAdministrators.add(account)) revert AlreadyPolicyAdministrator(account);
        _raise();
        emit PolicyAdministratorAdded(account);
    }

    /// @inheritdoc IAccessRegistry
    function removePolicyAdministrator(address account) external onlyOwner {
        if (!_policyAdministrators.remove(account)) revert NotPolicyAdministrator(account);
        _raise();
        emit PolicyAdministratorRemoved(account);
    }

    /// @inheritdoc IAccessRegistry
    function addMinter(address account) external onlyOwner {
        if (account == address(0)) revert InvalidMinter();
        if (!_minters.add(account)) revert AlreadyMinter(account);
        _raise();
        emit MinterAdded(account);
    }

    /// @inheritdoc IAccessRegistry
    function removeMinter(address account) external onlyOwner {
        if (!_minters.remove(account)) revert NotMinter(account);
        _raise();
        emit MinterRemoved(account);
    }

    /// @inheritdoc IAccessRegistry
    function pause() external onlyOwner {
        _pause();
        _raise();
    }

    /// @inheritdoc IAccessRegistry
    function unpause() external onlyOwner {
        _unpause();
        _raise();
    }

    /// @inheritdoc IAccessRegistry
    function transferContractOwnership(address newOwner) external {
        transferOwnership(newOwner);
    }

    /// @notice OpenZeppelin's name of `transferContractOwnership`.
    /// @param newOwner The pending owner; zero withdraws an offer.
    function transferOwnership(address newOwner) public override onlyOwner {
        super.transferOwnership(newOwner);
        _raise();
        emit OwnershipTransferInitiated(owner(), newOwner);
    }

    /// @notice Always reverts, because only an owner can remove the minter role from an account.
    function renounceOwnership() public view override onlyOwner {
        revert OwnershipNotRenounceable();
    }

    // -- reading ------------------------------------------------------------------------------------------

    /// @inheritdoc IAccessRegistry
    function isMinter(address account) external view returns (bool) {
        return _minters.contains(account);
    }

    /// @inheritdoc IAccessRegistry
    function minters() external view returns (address[] memory) {
        return _minters.values();
    }

    /// @inheritdoc IAccessRegistry
    function policyAdministrators() external view returns (address[] memory) {
        return _policyAdministrators.values();
    }

    /// @inheritdoc IAccessRegistry
    function revision() external view returns (uint64) {
        return _revision;
    }

    /// @inheritdoc IAccessRegistry
    function tags() external view returns (string[] memory) {
        return _tags;
    }

    /// @inheritdoc IAccessRegistry
    function policy() external view returns (string memory) {
        return Policies.read(_policy);
    }

    /// @inheritdoc IAccessRegistry
    function policyHash() external view returns (bytes32) {
        return _policyHash;
    }

    /// @inheritdoc IAccessRegistry
    function isInvitationUsed(bytes32 hash) external view returns (bool) {
        return _usedInvitations[hash];
    }

    /// @inheritdoc IAccessRegistry
    function invitationHash(Invitation calldata invitation) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    INVITATION_TYPE,
                    keccak256(bytes(invitation.nodeId)),
                    invitation.tags,
                    keccak256(abi.encodePacked(invitation.routes)),
                    invitation.expiresAt,
                    invitation.deadline,
                    invitation.minter,
                    invitation.holder,
                    invitation.claimant,
                    invitation.salt
                )
            )
        );
    }

    /// @inheritdoc IAccessRegistry
    function claimHash(bytes32 invitation, address redeemer, string calldata wireguardPublicKey, string calldata endpoint)
        public
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    CLAIM_TYPE,
                    invitation,
                    redeemer,
                    keccak256(bytes(wireguardPublicKey)),
                    keccak256(bytes(endpoint))
                )
            )
        );
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
        uint256 latest = 0;
        for (uint256 i = 0; i < length; ++i) {
            uint256 tokenId = tokenIds[i];
            // slither-disable-next-line timestamp
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

    /// @notice Mint or transfer: keep the holders' lists, and clear a node that changes hands.
    /// @param to The holder to be.
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
            _raise();
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

    /// @notice Take off a node what its holder set or was granted; it has to wait for its new holder's key.
    /// @param node The node.
    function _clear(Node storage node) private {
        delete node.publicKey;
        delete node.keyUpdatedAtBlock;
        delete node.endpoint;
        delete node.tags;
        delete node.routes;
        node.status = Status.AwaitingKey;
    }

    /// @notice Mint a node, or revert.
    /// @param to The holder.
    /// @param nodeId The node's name, which no node has that is not revoked.
    /// @param wireguardPublicKey The node's key.
    /// @return tokenId The token.
    function _mintNode(address to, string calldata nodeId, string calldata wireguardPublicKey)
        private
        returns (uint256 tokenId)
    {
        if (!Texts.isNodeId(nodeId)) revert InvalidNodeId();
        tokenId = ++_total;
        bytes32 hash = keccak256(bytes(nodeId));
        uint256 taken = _tokenByNodeId[hash];
        if (taken != 0) revert NodeIdTaken(nodeId, taken);
        _tokenByNodeId[hash] = tokenId;
        Node storage node = _nodes[tokenId];
        node.createdAt = uint64(block.timestamp);
        node.nodeId = nodeId;
        _setKey(node, wireguardPublicKey);
        _mint(to, tokenId);
        _raise();
        emit NodeAccessGranted(tokenId, nodeId, to, wireguardPublicKey);
    }

    /// @notice Set a node's key, or revert.
    /// @param node The node.
    /// @param text The key.
    function _setKey(Node storage node, string calldata text) private {
        bytes32 key = Texts.decodeKey(text);
        if (key == 0) revert InvalidPublicKey();
        node.publicKey = key;
        node.keyUpdatedAtBlock = uint64(block.number);
    }

    /// @notice Set a node's endpoint, or revert.
    /// @param tokenId The node.
    /// @param endpoint The endpoint.
    function _setEndpoint(uint256 tokenId, string calldata endpoint) private {
        if (!Texts.isEndpoint(endpoint)) revert InvalidEndpoint();
        _nodes[tokenId].endpoint = endpoint;
        _raise();
        emit NodeEndpointUpdated(tokenId, endpoint);
    }

    /// @notice Set the end of a node's access, or revert.
    /// @param tokenId The node.
    /// @param end The last Unix second with access; 0 for no end.
    function _setExpiry(uint256 tokenId, uint64 end) private {
        // slither-disable-next-line timestamp
        if (end != 0 && end < block.timestamp) revert ExpiryInPast(end, block.timestamp);
        _nodes[tokenId].expiresAt = end;
        _raise();
        emit NodeExpiryUpdated(tokenId, end);
    }

    /// @notice Set a node's tags, or revert.
    /// @param tokenId The node.
    /// @param mask The tags.
    function _setTags(uint256 tokenId, uint256 mask) private {
        // A shift by 256 gives 0: with all tags defined, no bit is undefined.
        uint256 undefined = mask >> _tags.length << _tags.length;
        if (undefined != 0) revert UndefinedTags(undefined);
        _nodes[tokenId].tags = mask;
        _raise();
        emit NodeTagsUpdated(tokenId, mask);
    }

    /// @notice Set the networks behind a node, or revert.
    /// @param tokenId The node.
    /// @param routes The routes.
    function _setRoutes(uint256 tokenId, bytes32[] calldata routes) private {
        Routes.check(routes);
        _nodes[tokenId].routes = routes;
        _raise();
        emit NodeRoutesUpdated(tokenId, routes);
    }

    /// @notice Mark an invitation as used, or revert.
    /// @param hash The invitation's hash.
    function _use(bytes32 hash) private {
        if (_usedInvitations[hash]) revert InvitationUsed(hash);
        _usedInvitations[hash] = true;
    }

    /// @notice Count a change.
    function _raise() private {
        // 2^64 transactions do not fit into any chain's lifetime.
        unchecked {
            ++_revision;
        }
    }

    /// @notice Change the owner, also in the constructor.
    /// @param newOwner The owner.
    function _transferOwnership(address newOwner) internal override {
        super._transferOwnership(newOwner);
        _raise();
    }

    /// @notice Whether an account may mint.
    /// @param account The account.
    /// @return Whether it may.
    function _isMinter(address account) private view returns (bool) {
        return _minters.contains(account) || account == owner();
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
        // slither-disable-next-line timestamp
        return node.status == Status.Active && (node.expiresAt == 0 || block.timestamp <= node.expiresAt);
    }

    /// @notice Return whether a user holds the node with this id and the node has access at this
    /// block's time.
    /// @param user The account.
    /// @param nodeId The node's name.
    /// @return True if both hold.
    function _userHasAccess(address user, string calldata nodeId) private view returns (bool) {
        uint256 tokenId = _tokenByNodeId[keccak256(bytes(nodeId))];
        // slither-disable-next-line timestamp
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
            awaitingKey: node.status == Status.AwaitingKey,
            tags: node.tags,
            routes: node.routes
        });
    }
}
