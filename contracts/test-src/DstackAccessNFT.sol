// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";

/// @title A model of the deployed DstackAccessNFT, for tests only
/// @notice The deployed contract's interface is public, but its source is not. This model has only
/// that interface: no enumeration, no ERC-165 id of its own, and no checks of texts. Each behaviour
/// that the interface leaves open is a flag, so that tests cover all of its readings.
contract DstackAccessNFT is ERC721 {
    /// @notice The behaviour that the interface leaves open.
    struct Behaviour {
        /// A revoke burns the token; otherwise the token stays, inactive.
        bool revokeBurns;
        /// A transfer keeps the token's key; otherwise it clears the key.
        bool transferKeepsKey;
        /// A key belongs to the owner and all its tokens; otherwise to one token.
        bool keyPerOwner;
        /// The first token's id.
        uint256 firstId;
    }

    struct Node {
        string nodeId;
        string key;
        uint256 createdAt;
        bool isActive;
    }

    Behaviour private _behaviour;
    address public contractOwner;
    uint256 private _nextId;
    mapping(uint256 => Node) private _nodes;
    mapping(uint256 => string) private _uris;
    mapping(address => string) private _ownerKeys;
    mapping(bytes32 => uint256) private _tokenByNodeId;

    event NodeAccessGranted(uint256 indexed tokenId, string nodeId, address indexed owner, string wireguardPublicKey);
    event NodeAccessRevoked(uint256 indexed tokenId, string nodeId);
    event NodeAccessTransferred(uint256 indexed tokenId, address indexed from, address indexed to);
    event PublicKeyUpdated(address indexed owner, string wireguardPublicKey);
    event OwnershipTransferInitiated(address indexed previousOwner, address indexed newOwner);

    modifier onlyContractOwner() {
        require(msg.sender == contractOwner, "not the owner");
        _;
    }

    constructor(Behaviour memory behaviour) ERC721("DstackAccessNFT", "DSTACK") {
        _behaviour = behaviour;
        _nextId = behaviour.firstId;
        contractOwner = msg.sender;
    }

    function mintNodeAccess(address to, string calldata nodeId, string calldata wireguardPublicKey, string calldata uri)
        external
        onlyContractOwner
        returns (uint256 tokenId)
    {
        tokenId = _nextId++;
        _nodes[tokenId] = Node(nodeId, wireguardPublicKey, block.timestamp, true);
        _uris[tokenId] = uri;
        _ownerKeys[to] = wireguardPublicKey;
        _tokenByNodeId[keccak256(bytes(nodeId))] = tokenId;
        _mint(to, tokenId);
        emit NodeAccessGranted(tokenId, nodeId, to, wireguardPublicKey);
    }

    function revokeNodeAccess(uint256 tokenId) external onlyContractOwner {
        _requireOwned(tokenId);
        string memory nodeId = _nodes[tokenId].nodeId;
        _nodes[tokenId].isActive = false;
        if (_behaviour.revokeBurns) {
            _burn(tokenId);
            delete _nodes[tokenId];
        }
        emit NodeAccessRevoked(tokenId, nodeId);
    }

    /// @dev Not in the known interface. The deployed contract must have a function that emits
    /// PublicKeyUpdated.
    function updatePublicKey(string calldata wireguardPublicKey) external {
        _ownerKeys[msg.sender] = wireguardPublicKey;
        if (!_behaviour.keyPerOwner) {
            for (uint256 id = _behaviour.firstId; id < _nextId; ++id) {
                if (_ownerOf(id) == msg.sender) _nodes[id].key = wireguardPublicKey;
            }
        }
        emit PublicKeyUpdated(msg.sender, wireguardPublicKey);
    }

    function transferContractOwnership(address newOwner) external onlyContractOwner {
        emit OwnershipTransferInitiated(contractOwner, newOwner);
        contractOwner = newOwner;
    }

    function getNodeAccess(uint256 tokenId)
        external
        view
        returns (string memory nodeId, string memory wireguardPublicKey, uint256 createdAt, bool isActive)
    {
        Node storage node = _nodes[tokenId];
        return (node.nodeId, getPublicKeyByTokenId(tokenId), node.createdAt, node.isActive);
    }

    function hasNodeAccess(address user, string calldata nodeId) public view returns (bool) {
        uint256 tokenId = _tokenByNodeId[keccak256(bytes(nodeId))];
        return user != address(0) && _ownerOf(tokenId) == user && _nodes[tokenId].isActive;
    }

    function verifyAccess(address user, string calldata nodeId) external view returns (bool) {
        return hasNodeAccess(user, nodeId);
    }

    function getTokenIdByNodeId(string calldata nodeId) external view returns (uint256) {
        return _tokenByNodeId[keccak256(bytes(nodeId))];
    }

    function getPublicKeyByOwner(address owner) external view returns (string memory) {
        return _ownerKeys[owner];
    }

    function getPublicKeyByTokenId(uint256 tokenId) public view returns (string memory) {
        return _behaviour.keyPerOwner ? _ownerKeys[_ownerOf(tokenId)] : _nodes[tokenId].key;
    }

    function tokenURI(uint256 tokenId) public view override returns (string memory) {
        _requireOwned(tokenId);
        return _uris[tokenId];
    }

    function _update(address to, uint256 tokenId, address auth) internal override returns (address from) {
        from = super._update(to, tokenId, auth);
        if (from != address(0) && to != address(0)) {
            if (!_behaviour.transferKeepsKey) delete _nodes[tokenId].key;
            emit NodeAccessTransferred(tokenId, from, to);
        }
    }
}
