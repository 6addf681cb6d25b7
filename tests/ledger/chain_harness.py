"""A network of nodes without processes: one sequencer and one replica over memory stores, every block checked."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.base.range_tree import RangeTree
from paceline.engine.solo import Replica, Sequencer
from paceline.ledger import beacon, ceremony, groups, nodes, race, race_checks, race_claims, seeds
from paceline.ledger.accounts import get_account
from paceline.ledger.admission import compute_transaction_hash, signed_bytes
from paceline.ledger.application import Application
from paceline.ledger.invariants import find_violations
from paceline.ledger.sessions import SESSIONS, compute_session_id, compute_task_id, get_executors
from paceline.ledger.tasks import DISPUTED, FINAL, REVEALING, TASKS
from paceline.ledger.vesting import get_vesting
from paceline.node.ceremony import CeremonyKey, get_member_keys
from paceline.node.chains.founding import Founder, Founding, build_genesis
from paceline.protocol import messages as m
from paceline.protocol import transactions as t
from paceline.protocol.codec import encode
from paceline.protocol.genesis import GenesisAccount
from paceline.protocol.params import TINY
from paceline.store.state import MemoryStateStore

MODEL = "test-model"
FUNDS = 10**13
PARAMS = msgspec.structs.replace(
    TINY,
    epoch_blocks=400,
    reveal_blocks=6,
    fallback_blocks=12,
    deal_blocks=8,
    complain_blocks=4,
    check_blocks=20,
    dispute_blocks=30,
    race=msgspec.structs.replace(
        TINY.race,
        commit_blocks=6,
        race_blocks=4,
        claim_blocks=6,
        opening_blocks=6,
        check_blocks=6,
        verdict_blocks=8,
        review_blocks=2,
    ),
    round_blocks=20,
    audit_blocks=20,
    round_report_blocks=20,
    join_blocks=6,
    # Tests of forced errors turn them on: every executor would have to show its draws.
    tasks=msgspec.structs.replace(TINY.tasks, forced_error_ppm=0),
)


def make_group_key(key):
    return CeremonyKey(key.address, hash_parts("test-group-key", key.secret))


@lru_cache(maxsize=64)
def make_genesis(secrets, user, weights, params):
    keys = [AccountKey.from_secret(secret) for secret in secrets]
    founders = [
        Founder(
            name=f"node-{index + 1}",
            key=key,
            consensus_key=key.public_key,
            ceremony_key=make_group_key(key),
            weight=weights[index],
            serves=(MODEL,),
        )
        for index, key in enumerate(keys)
    ]
    accounts = (GenesisAccount(user.address, FUNDS),)
    return build_genesis(
        Founding(network="test", params=params, founders=founders, accounts=accounts, bootstrap=bytes(32))
    )


def get_wealth(state, address):
    """Nicoin that an account holds, and what vests for it."""
    return get_account(state, address).balance + get_vesting(state, address)


class Chain:
    """Drives messages and blocks; after each block the replica must agree and every invariant hold."""

    def __init__(self, count=5, params=PARAMS, weights=None, handlers=None):
        self.params = params
        self.keys = [AccountKey.from_secret(hash_parts("test-node", bytes([index]))) for index in range(count)]
        self.user = AccountKey.from_secret(hash_parts("test-user"))
        weights = weights or [1_000] * count
        self.group_keys = {key.address: make_group_key(key) for key in self.keys}
        self.genesis = make_genesis(tuple(key.secret for key in self.keys), self.user, tuple(weights), params)
        store = MemoryStateStore()
        self.application = Application(self.genesis, store, handlers)
        self.sequencer = Sequencer(self.application, store, self.keys[0])
        self.replica_store = MemoryStateStore()
        self.replica = Replica(Application(self.genesis, self.replica_store, handlers), self.replica_store)
        self.silent = set()
        self._salt = 0

    @property
    def height(self):
        return self.sequencer.height

    @property
    def state(self):
        return self.application.read()

    def sign(self, key, message, *, sequence=None, expires_at=None, chain_id=None):
        self._salt += 1
        body = encode(
            t.TransactionBody(
                chain_id=chain_id or self.application.chain_id,
                sequence=sequence,
                # Distinct expiries keep equal unordered messages apart.
                expires_at=expires_at if expires_at is not None else self.height + 100 + self._salt % 400,
                message=message,
            )
        )
        return encode(t.Transaction(body, key.public_key, key.sign(signed_bytes(body))))

    def send(self, key, message, **options):
        """Queue a transaction; raises what the ledger refuses. Returns its hash."""
        data = self.sign(key, message, **options)
        self.sequencer.add_transaction(data)
        return compute_transaction_hash(data)

    def refuse(self, key, message):
        """The code with which a message is refused."""
        try:
            self.send(key, message)
        except InvalidTransaction as problem:
            return problem.code
        raise AssertionError(f"the ledger took {message}")

    def key_of(self, address):
        return next(key for key in self.keys if key.address == address)

    def block(self):
        data, result = self.sequencer.produce_block(0)
        self.replica.apply_block(data)
        assert find_violations(self.state, self.params) == []
        assert [found.code for found in result.results if found.code != "ok"] == []
        return result

    def tick(self):
        """One block in which every node does its beacon duties."""
        self._do_beacon()
        return self.block()

    def run_until(self, ready, limit=300):
        for _ in range(limit):
            if ready():
                return
            self.tick()
        raise AssertionError("it never came about")

    def node(self, index):
        found = nodes.NODES.get(self.state, self.keys[index].address)
        assert found is not None
        return found

    def phase(self):
        found = race.get_race(self.state)
        return found.phase if found else ""

    def run_race(self, counts, *, rejected=(), silent_openings=()):
        """A whole Race with synthetic hits; `counts[i]` None means that node does not race."""
        self.run_until(lambda: self.phase() == race.CLAIMS)
        trees = {i: RangeTree(range(0, 7 * count, 7)) for i, count in enumerate(counts) if count}
        self.claim_all(trees)
        self.run_until(lambda: self.phase() == race.OPENINGS)
        for index, tree in trees.items():
            if index not in silent_openings:
                self.send(self.keys[index], self.open_race(index, tree))
        self.run_until(lambda: self.phase() in {race.CHECKS, race.VERDICTS})
        self.act_on_claims(rejected=rejected)
        self.run_until(lambda: self.phase() == race.VERDICTS)
        self.judge_accusations(m.REJECTED)
        self.run_until(lambda: self.phase() == race.DONE)

    def claim_all(self, trees):
        number = race.get_race(self.state).number
        for index, tree in trees.items():
            self.send(self.keys[index], m.CommitRace(number, tree.root, tree.count))

    def act_on_claims(self, *, rejected=(), silent=()):
        """Every drawn checker reports, or accuses the first position of a claim that is to be rejected."""
        number = race.get_race(self.state).number
        for prover, record in race_claims.get_open_claims(self.state):
            for index, key in enumerate(self.keys):
                if key.address in record.checkers and index not in silent:
                    wrong = prover in [self.keys[other].address for other in rejected]
                    self.send(key, self.accuse(number, prover) if wrong else self.report(number, prover, key))

    def report(self, number, prover, key):
        current = race.get_race(self.state)
        own = race_claims.get_own_positions(self.state, self.params, current, prover, key.address)
        return m.ReportRace(number, prover, len(own), hash_parts("test-report", prover, key.address))

    def accuse(self, number, prover, place=0):
        current, record = race.get_race(self.state), race.CLAIMS_TABLE.get(self.state, prover)
        sample = race_claims.get_sample(self.state, self.params, current, prover, record)
        return m.AccuseRace(number, prover, sample[place])

    def judge_accusations(self, outcome, voters=None):
        """Everybody who may votes the same way on every accused number, until a majority is reached."""
        number, voided = race.get_race(self.state).number, []
        for prover, position, _ in race_checks.get_accusations(self.state):
            if prover in voided:
                continue
            reached = 0
            for index in range(len(self.keys)) if voters is None else voters:
                weight = self.node(index).weight
                if weight and self.keys[index].address != prover and 2 * reached <= self.total_weight():
                    verdict = m.Verdict(outcome, "test", ())
                    self.send(self.keys[index], m.JudgeRace(number, prover, position, verdict))
                    reached += weight
            if outcome == m.REJECTED and 2 * reached > self.total_weight():
                voided.append(prover)

    def total_weight(self):
        return sum(nodes.get_weights(self.state).values())

    def open_race(self, index, tree, *, first=0, last=None):
        """The openings of a claim's sample, or a stretch of them."""
        current, prover = race.get_race(self.state), self.keys[index].address
        record = race.CLAIMS_TABLE.get(self.state, prover)
        sample = race_claims.get_sample(self.state, self.params, current, prover, record)
        openings = []
        for position in sample[first:last]:
            opened = tree.open(position)
            siblings = tuple(m.RangeSibling(s.size, s.low, s.high, s.digest) for s in opened.siblings)
            openings.append(m.Opening(position, opened.value, siblings))
        return m.OpenRace(current.number, tuple(openings))

    def open_session(self, relay=0, deposit=10**11):
        digest = self.send(self.user, m.OpenSession(self.keys[relay].address, MODEL, deposit))
        session_id = compute_session_id(self.user.address, digest)

        def ready():
            found = SESSIONS.get(self.state, session_id)
            return found is not None and bool(found.seed)

        self.run_until(ready)
        return session_id

    def first_executor(self, session_id, index):
        session = SESSIONS.get(self.state, session_id)
        address = get_executors(self.state, session, compute_task_id(session_id, index))[0]
        return next(key for key in self.keys if key.address == address)

    def voucher(
        self, session_id, index, executor, *, max_cost=10**8, total=None, skips=(), signer=None, prompt=bytes(32)
    ):
        unsigned = m.Voucher(
            session=session_id,
            index=index,
            executor=executor.address,
            prompt_hash=prompt,
            max_cost=max_cost,
            total=max_cost * (index + 1) if total is None else total,
            skips=tuple(skips),
            signature=bytes(64),
        )
        signature = (signer or self.user).sign(unsigned.signed_bytes(self.application.chain_id))
        return msgspec.structs.replace(unsigned, signature=signature)

    def skip(self, session_id, index, address, kind=m.LATE, *, signer=None, height=None):
        """A mark against a drawn node, signed by itself when busy and by the first node, the relay, when late."""
        node = next(key for key in self.keys if key.address == address)
        unsigned = m.Skip(address, kind, self.height if height is None else height, bytes(64))
        signer = signer or (node if kind == m.BUSY else self.keys[0])
        text = unsigned.signed_bytes(self.application.chain_id, session_id, index)
        return msgspec.structs.replace(unsigned, signature=signer.sign(text))

    def order(self, session_id, index):
        session = SESSIONS.get(self.state, session_id)
        return get_executors(self.state, session, compute_task_id(session_id, index))

    def receipt(self, session_id, index, executor, *, prompt=10, completion=20, **options):
        voucher = self.voucher(session_id, index, executor, **options)
        return m.Receipt(voucher, hash_parts("payload", session_id, index.to_bytes(4, "big")), prompt, completion)

    def answer(self, session_id, index, **options):
        """The receipt of the node that is drawn for an index; the task's id, and that node."""
        executor = self.first_executor(session_id, index)
        self.send(executor, m.SubmitReceipts((self.receipt(session_id, index, executor, **options),)))
        self.tick()
        return compute_task_id(session_id, index), executor

    def run_to(self, task_id, *statuses):
        """Until a task has one of these; the task."""
        self.run_until(lambda: TASKS.get(self.state, task_id).status in statuses)
        return TASKS.get(self.state, task_id)

    def check_alike(self, task_id, verdict):
        """All checkers of the draw under way commit to one verdict and reveal it."""
        message = m.JudgeTask(task_id, verdict)
        asked = TASKS.get(self.state, task_id).asked
        for address in asked:
            self.send(self.key_of(address), m.CommitVerdict(task_id, message.compute_commitment(address)))
        self.run_to(task_id, REVEALING)
        for address in asked:
            self.send(self.key_of(address), message)
        self.run_to(task_id, FINAL, DISPUTED)

    def _do_beacon(self):
        state = self.state
        current = race.get_race(state)
        for index, key in enumerate(self.keys):
            if index in self.silent:
                continue
            self._do_seed(state, current, key)
            for due in beacon.get_due(state):
                self.sign_beacon(key, beacon.HEIGHT, due)
            self._do_ceremony(state, key)

    def _do_seed(self, state, current, key):
        if current is None:
            return
        mine = seeds.CONTRIBUTIONS.get(state, key.address)
        chain_id = self.application.chain_id
        contribution = self.group_keys[key.address].make_contribution(chain_id, current.epoch)
        if current.phase == race.COMMIT and mine is None and key.address in nodes.get_weights(state):
            digest = seeds.hash_contribution(key.address, current.epoch, contribution)
            self.send(key, m.CommitSeed(current.epoch, digest))
        elif current.phase == race.REVEAL and mine is not None and not mine.revealed:
            self.send(key, m.RevealSeed(current.epoch, contribution))
        elif current.phase == race.SEED:
            self.sign_beacon(key, beacon.RACE, current.epoch)

    def make_partials(self, key, kind, number, group=None):
        group = group or groups.get_current(self.state)
        message = beacon.compute_message(self.application.chain_id, kind, number, group.number)
        return m.PostPartials(kind, number, group.number, self.group_keys[key.address].sign(self.state, group, message))

    def group_in_charge(self, kind, number):
        state = self.state
        asked_at = number * self.params.beacon_interval if kind == beacon.HEIGHT else seeds.CLOSED.get(state)
        return groups.list_signers(state, asked_at, late=False)[0]

    def sign_beacon(self, key, kind, number):
        """Post partials unless this node has none to post, or enough others were quicker."""
        group = self.group_in_charge(kind, number)
        if not group.get_slots(key.address) or beacon.has_posted(self.state, kind, number, group.number, key.address):
            return
        try:
            self.send(key, self.make_partials(key, kind, number, group))
        except InvalidTransaction as problem:
            if problem.code != "already-signed":
                raise

    def _do_ceremony(self, state, key):
        running = ceremony.get_ceremony(state)
        if running is None or not groups.compute_slots(running.members, key.address):
            return
        dealt = groups.DEALINGS.get(state, groups.dealing_key(running.number, key.address)) is not None
        if running.phase == ceremony.DEAL and not dealt:
            for part in self.deal(key):
                self.send(key, part)

    def deal(self, key):
        running = ceremony.get_ceremony(self.state)
        keys = get_member_keys(self.state, running)
        return self.group_keys[key.address].deal(running, keys, self.application.chain_id)
