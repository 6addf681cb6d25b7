"""Nodes come and go: a registration signed by the node, a deposit that anybody may pay for it, and the way out.

A new node has no weight; its first Race is that of the epoch after its registration, so that its group key was known
before any ceremony that deals to it. A leaving node races no more and is removed when nothing on the ledger names it.
Invariant: the pool of deposits holds exactly what stands beside the nodes; a name and a consensus key have one owner.
"""

from __future__ import annotations

import msgspec

from paceline.base.bls import verify_possession
from paceline.base.errors import InvalidTransaction
from paceline.base.keys import ADDRESS_BYTES, compute_address, verify_signature
from paceline.ledger import attendance, ceremony, evidence, groups, nodes, seeds, suspicion
from paceline.ledger.accounts import NODE_DEPOSITS, move_coins
from paceline.ledger.channel_records import CHANNELS
from paceline.ledger.nodes import DESCRIBED, NAMES, NODES, Node
from paceline.ledger.race_claims import CLAIMS_TABLE
from paceline.ledger.state import State
from paceline.ledger.tasks import TASKS
from paceline.ledger.training import UPDATES, list_running
from paceline.ledger.vesting import get_vesting
from paceline.protocol.messages import DescribeNode, LeaveNetwork, Registration
from paceline.protocol.params import NetworkParams

LEAVE_EPOCHS = 2
"""Settlements that a leaving node stays for: its last claim, checks and pay end within them."""
LONGEST_EXPIRY = 20_000
"""How many heights ahead a registration may expire: time enough to find a sponsor, not for ever."""


def compute_consensus_statement(chain_id: str, address: bytes) -> bytes:
    """What a consensus key signs to show that it works for a node; no vote of an engine looks like it."""
    return b"paceline-consensus-key" + chain_id.encode("ascii") + address


def apply_registration(
    state: State, params: NetworkParams, chain_id: str, sponsor: bytes, registration: Registration, epoch: int
) -> None:
    """A node enters with weight 0, its deposit paid by whoever sends this.

    Errors: InvalidTransaction expired, far-expiry, bad-consent, already-registered, name-taken, consensus-key-taken,
    bad-consensus-key, bad-possession, over-balance.
    """
    address = compute_address(registration.public_key)
    _require_free(state, registration, address)
    verify_registration(registration, chain_id)
    move_coins(state, sponsor, NODE_DEPOSITS, params.node_deposit)
    node = Node(
        name=registration.name,
        public_key=registration.public_key,
        consensus_key=registration.consensus_key,
        group_key=registration.group_key,
        weight=0,
        voting_power=0,
        serves=registration.serves,
        url=registration.url,
        link=registration.link,
        sponsor=sponsor,
        deposit=params.node_deposit,
        since=epoch,
        serves_since=state.height,
        # What it earned before it left may not be free yet.
        vesting=get_vesting(state, address),
    )
    NODES.put(state, address, node)
    NAMES.put(state, node.name.encode("ascii"), address)
    DESCRIBED.put(state, b"", state.height)
    evidence.register_owner(state, node.consensus_key, address)
    state.emit("registered", node=address.hex(), name=node.name, sponsor=sponsor.hex())


def verify_registration(registration: Registration, chain_id: str) -> None:
    """All three keys agree to it, whatever the ledger says; a sponsor may look before it pays.

    Errors: InvalidTransaction bad-consent, bad-consensus-key, bad-possession.
    """
    address = compute_address(registration.public_key)
    if not verify_signature(registration.public_key, registration.signed_bytes(chain_id), registration.signature):
        raise InvalidTransaction("bad-consent", "the account key did not sign this registration for this chain")
    statement = compute_consensus_statement(chain_id, address)
    if not verify_signature(registration.consensus_key, statement, registration.consensus_proof):
        raise InvalidTransaction("bad-consensus-key", "the consensus key did not sign for this node")
    context = nodes.compute_possession_context(chain_id, address)
    if not verify_possession(registration.group_key, context, registration.possession):
        raise InvalidTransaction("bad-possession", "the proof does not show that this node holds the group key")


def apply_description(state: State, params: NetworkParams, sender: bytes, message: DescribeNode) -> None:
    """A node moved, serves other models, or shows itself. Errors: InvalidTransaction not-a-node, unchanged."""
    node = NODES.get(state, sender)
    if node is None:
        raise InvalidTransaction("not-a-node", "only nodes describe themselves")
    changed = msgspec.structs.replace(node, url=message.url, link=message.link, serves=message.serves)
    if changed == node and not attendance.is_marked(state, sender):
        raise InvalidTransaction("unchanged", "the ledger says so already")
    if changed.serves != node.serves:
        changed = msgspec.structs.replace(changed, serves_since=state.height)
    NODES.put(state, sender, changed)
    attendance.note_present(state, params, sender)
    DESCRIBED.put(state, b"", state.height)


def apply_leave(state: State, sender: bytes, message: LeaveNetwork, epoch: int) -> None:
    """Begin a node's way out.

    A sponsor may end what earns no weight, but not before the node had a Race of its own.
    Errors: InvalidTransaction not-a-node, not-yours, has-weight, already-leaving.
    """
    node = NODES.get(state, message.node)
    if node is None:
        raise InvalidTransaction("not-a-node", "no node has this address")
    if sender not in {message.node, node.sponsor}:
        raise InvalidTransaction("not-yours", "only the node itself or its sponsor takes it out")
    if node.leaves >= 0:
        raise InvalidTransaction("already-leaving", f"it is gone after epoch {node.leaves}")
    if sender != message.node and (node.weight > 0 or epoch <= node.since + 1):
        raise InvalidTransaction("has-weight", "a sponsor takes out only what had a Race and has no weight")
    NODES.put(state, message.node, msgspec.structs.replace(node, leaves=epoch + LEAVE_EPOCHS))
    state.emit("leaving", node=message.node.hex(), after_epoch=epoch + LEAVE_EPOCHS)


def remove_left(state: State, epoch: int) -> None:
    """At the end of an epoch: nodes whose time is over and that nothing names go, their deposits go back."""
    leaving = [(a, node) for a, node in NODES.items(state) if 0 <= node.leaves <= epoch and node.weight == 0]
    if not leaving:
        return
    named = _find_named(state)
    for address, node in leaving:
        if address in named or node.voting_power > 0:
            continue
        NODES.delete(state, address)
        suspicion.clear(state, address)
        NAMES.delete(state, node.name.encode("ascii"))
        DESCRIBED.put(state, b"", state.height)
        move_coins(state, NODE_DEPOSITS, node.sponsor, node.deposit)
        state.emit("left", node=address.hex(), name=node.name)


def _require_free(state: State, registration: Registration, address: bytes) -> None:
    if registration.expires_at < state.height:
        raise InvalidTransaction("expired", f"the registration expired at height {registration.expires_at}")
    if registration.expires_at > state.height + LONGEST_EXPIRY:
        raise InvalidTransaction("far-expiry", f"a registration may expire at most {LONGEST_EXPIRY} heights ahead")
    if NODES.get(state, address) is not None:
        raise InvalidTransaction("already-registered", "this account key is a node's already")
    if NAMES.get(state, registration.name.encode("ascii")) is not None:
        raise InvalidTransaction("name-taken", f"another node is called {registration.name}")
    owner = evidence.get_owner(state, registration.consensus_key)
    # Owners are remembered for good; a node that comes back may bring the key it had.
    if owner not in {None, address}:
        raise InvalidTransaction("consensus-key-taken", "another node signs, or signed, blocks with this key")


def _find_named(state: State) -> dict[bytes, None]:
    """Addresses that unfinished work or a group that may sign still rests on."""
    named: dict[bytes, None] = {}
    for _, group in groups.GROUPS.items(state):
        named.update(dict.fromkeys(address for address, _ in group.members))
    running = ceremony.CEREMONY.get(state)
    if running is not None:
        named.update(dict.fromkeys(address for address, _ in running.members))
    named.update(dict.fromkeys(address for address, _ in seeds.CONTRIBUTIONS.items(state)))
    for _, task in TASKS.items(state):
        named[task.executor] = None
    named.update(dict.fromkeys(channel.executor for _, channel in CHANNELS.items(state)))
    named.update(dict.fromkeys(address for address, _ in suspicion.INQUIRIES.items(state)))
    for _, run in list_running(state):
        named.update(dict.fromkeys((*run.joined, *run.trainers)))
    # The key of an update ends with its trainer.
    named.update(dict.fromkeys(key[-ADDRESS_BYTES:] for key, _ in UPDATES.items(state)))
    named.update(dict.fromkeys(address for address, _ in CLAIMS_TABLE.items(state)))
    return named
