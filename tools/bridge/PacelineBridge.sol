// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

interface IToken {
    function transfer(address to, uint256 amount) external returns (bool);
    function transferFrom(address from, address to, uint256 amount) external returns (bool);
}

/// The other end of Paceline's bridge. It holds a token of six decimals, writes an event for each deposit, and pays what
/// attesters with more than two thirds of all power signed. Paceline credits an event once, under a header that its nodes
/// attested; it burns before attesters sign. Each payment is made once, by its number.
contract PacelineBridge {
    IToken public immutable token;
    mapping(address => uint256) public power;
    uint256 public totalPower;
    uint256 public turn;
    mapping(uint256 => bool) public released;
    address[] private attesters;

    event Deposit(address indexed from, bytes20 indexed to, uint256 amount);
    event Release(uint256 indexed number, address indexed to, uint256 amount);
    event Rotation(uint256 indexed turn, uint256 totalPower);

    error NothingToMove();
    error TransferFailed();
    error AlreadyReleased(uint256 number);
    error BadSignatures();
    error TooLittlePower(uint256 found, uint256 total);

    constructor(IToken token_, address[] memory attesters_, uint256[] memory powers) {
        token = token_;
        seat(attesters_, powers);
    }

    /// Take tokens in for an account of Paceline.
    function deposit(bytes20 to, uint256 amount) external {
        if (amount == 0) revert NothingToMove();
        if (!token.transferFrom(msg.sender, address(this), amount)) revert TransferFailed();
        emit Deposit(msg.sender, to, amount);
    }

    /// Pay a withdrawal. Signatures come in the order of their signers' addresses, so that none counts twice.
    function release(uint256 number, address to, uint256 amount, bytes[] calldata signatures) external {
        if (released[number]) revert AlreadyReleased(number);
        requirePower(withdrawalDigest(number, to, amount), signatures);
        released[number] = true;
        if (!token.transfer(to, amount)) revert TransferFailed();
        emit Release(number, to, amount);
    }

    /// Hand over to other attesters, by the word of the present ones.
    function rotate(address[] calldata attesters_, uint256[] calldata powers, bytes[] calldata signatures) external {
        requirePower(rotationDigest(attesters_, powers), signatures);
        for (uint256 i = 0; i < attesters.length; i++) power[attesters[i]] = 0;
        delete attesters;
        totalPower = 0;
        turn += 1;
        seat(attesters_, powers);
        emit Rotation(turn, totalPower);
    }

    function withdrawalDigest(uint256 number, address to, uint256 amount) public view returns (bytes32) {
        return keccak256(
            abi.encode(bytes32("paceline-withdrawal"), block.chainid, address(this), number, to, amount)
        );
    }

    function rotationDigest(address[] calldata attesters_, uint256[] calldata powers) public view returns (bytes32) {
        return keccak256(
            abi.encode(bytes32("paceline-rotation"), block.chainid, address(this), turn, attesters_, powers)
        );
    }

    function seat(address[] memory attesters_, uint256[] memory powers) private {
        if (attesters_.length == 0 || attesters_.length != powers.length) revert BadSignatures();
        for (uint256 i = 0; i < attesters_.length; i++) {
            address attester = attesters_[i];
            if (attester == address(0) || power[attester] != 0 || powers[i] == 0) revert BadSignatures();
            power[attester] = powers[i];
            totalPower += powers[i];
        }
        attesters = attesters_;
    }

    function requirePower(bytes32 digest, bytes[] calldata signatures) private view {
        bytes32 signed = keccak256(abi.encodePacked("\x19Ethereum Signed Message:\n32", digest));
        uint256 found = 0;
        address last = address(0);
        for (uint256 i = 0; i < signatures.length; i++) {
            address signer = recover(signed, signatures[i]);
            if (signer <= last) revert BadSignatures();
            last = signer;
            found += power[signer];
        }
        if (3 * found <= 2 * totalPower) revert TooLittlePower(found, totalPower);
    }

    function recover(bytes32 signed, bytes calldata signature) private pure returns (address) {
        if (signature.length != 65) revert BadSignatures();
        bytes32 r = bytes32(signature[0:32]);
        bytes32 s = bytes32(signature[32:64]);
        // The upper half of s would give a second signature for the same text.
        if (uint256(s) > 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0) revert BadSignatures();
        return ecrecover(signed, uint8(signature[64]), r, s);
    }
}
