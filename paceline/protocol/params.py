"""The preset of a network: every number that all nodes share. Hashed into the chain id through genesis.

Block counts are heights, amounts are nicoin, shares are parts per million. Nothing here changes after genesis
but what `paceline/ledger/parameters.py` lists, by vote: read these numbers from the application, not from genesis.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.protocol.codec import Record

NICOIN_PER_COIN = 1_000_000_000


class RaceParams(Record, kw_only=True, frozen=True):
    """The Race and its windows.

    A window ends early only when everybody it waits for has acted; the Race itself, `race_blocks` and `claim_blocks`
    together, never does. The defaults of the checking are the ones that decision 016 derives.
    """

    preset: str
    """Name of the transformer and threshold in the race room."""
    commit_blocks: int
    """Longest wait for the commitments to the seed that open an epoch."""
    race_blocks: int
    """First part of the Race, without claims."""
    claim_blocks: int
    """Last part of the Race: the search goes on, and root and count may be replaced in every block."""
    opening_blocks: int
    """Longest wait for the sampled openings."""
    check_blocks: int
    """Longest wait for the reports and accusations of the drawn checkers."""
    verdict_blocks: int
    """Longest wait for verdicts on accused numbers and reports by previous weights."""
    review_blocks: int = 8
    """How long after the last report false ones may be accused; fewer than the wait for verdicts."""
    review_ppm: int = 15_625
    """Nodes that recompute a report unasked, on average: each draws in secret, by its share of all weight."""
    checker_slots: int = 16
    """Checkers drawn per claim by weight, with replacement."""
    slot_positions: int = 40
    """Positions of the claim that each slot checks."""
    open_whole_below: int = 36
    """A claim with fewer hits is opened and checked whole by every slot."""
    report_slots: int = 8
    """A claim stands only when checkers of this many slots reported."""
    sample_draws: int = 5
    """How often a claim with too few reports is drawn before it stays undecided."""
    bond: int
    """Nicoin that an accuser loses when more than half of all weight finds its accusation false."""
    bounty: int
    """Most nicoin that an accuser gets out of what the cheater forfeits; never more than it earned by work."""
    carried_ppm: int = 500_000
    """Share of each new Race weight that the weights before the Race decide; this Race's hits decide the rest."""
    confirmation_ppm: int = 0
    """Chance per epoch of a surprise Race that can only lower weights."""
    confirmation_draws: int = 8
    """At how many heights of an epoch that chance is drawn."""


class TaskParams(Record, kw_only=True, frozen=True):
    """Who answers a session's tasks, and who checks them (decision 027)."""

    away_blocks: int = 40
    """How long a node that was marked late has to show itself; then it counts as away until it does."""
    late_limit: int = 16
    """Late marks that end a session; beyond twice as many its vouchers are void."""
    late_credit: int = 16
    """Late marks that a relay may have in an epoch above the tasks that it answered, or nobody opens sessions with it."""
    absence_ppm: int = 50_000
    """Share of its drawn work that a node may miss for its maintenance; three deviations and one task come on top."""
    unused_blocks: int = 1_200
    """How long an index may stay unused after a later one has its receipt."""
    unused_tokens: int = 8
    """As many tokens' price an unused index pays to the node that was drawn for it."""
    least_indices: int = 4
    """Indices that a drawn session pays for in any case."""
    reveal_blocks: int = 60
    """Time for the checkers of a task to reveal what they committed to."""
    suspicion_micronats: int = 13_815_511
    """Logarithm of a million: a sum of evidence that an honest node reaches with a chance of a millionth, ever."""
    evidence_low_micronats: int = -20_203
    """Least that one answer adds: what a stake of 2 % loses at most (decision 024)."""
    evidence_high_micronats: int = 5_303_306
    """Most that one answer adds: what this stake wins at most."""
    kept_checks: int = 16
    """Checked tasks kept per node for an inquiry: those that weigh most."""
    inquiry_slots: int = 5
    """Outsiders drawn to confirm a suspicion."""
    inquiry_confirmations: int = 2
    """How many of them bring it before everybody."""
    report_fee: int = 500_000_000
    """Nicoin that a user's report of an answer costs; they come back when it is proven."""
    report_blocks: int = 1_200
    """How long after its receipt an answer may be reported; its epoch's settlement ends the time as well."""
    report_checkers: int = 2
    """Fresh checkers of a reported answer."""
    report_limit: int = 8
    """Reports of one account per epoch."""
    report_reward: int = 100_000_000
    """Most nicoin that a proven report earns out of what the cheater forfeits."""
    forced_error_ppm: int = 1_000
    """Chance that an executor shows its checkers a wrong answer on purpose (decision 032); 0 for never."""
    forced_error_tokens: int = 16
    """Shorter answers are never forced errors: what is wrong with them could escape an honest checker."""
    show_blocks: int = 60
    """Time for an executor to show whether a checked task was a forced error."""
    fooled_limit: int = 1
    """Passed forced errors after which a checker forfeits all pay of the epoch."""
    recheck_ppm: int = 400_000
    """Of a wrong answer's fee, what all who judge it again are paid by race weight: not more than its checkers had been."""
    jackpot: int = 1_000_000_000
    """Most nicoin that one found forced error earns out of what those forfeit who passed theirs."""


class ChannelParams(Record, kw_only=True, frozen=True):
    """Answers of one executor under one escrow, beside the ledger (decision 033)."""

    most_blocks: int = 6_000
    """Longest life of a channel."""
    most_tasks: int = 1_024
    """Answers that one state may count: their executor keeps the payloads of all until the channel is checked."""
    reserve_ppm: int = 50_000
    """Share of the deposit that a drawn channel costs at least, or channels could be opened until the draw suits."""
    pass_blocks: int = 64
    """How long after the draw the next executor may be asked for; work of the first behind it is never lost."""
    dispute_blocks: int = 60
    """How long a later state may be shown once a channel is closed."""
    open_blocks: int = 240
    """Time of the executor to open the drawn leaves; who does not is guilty."""


class DummyParams(Record, kw_only=True, frozen=True):
    """Dummy tasks that relays mix among their users', and marked ones that fill idle time (decision 031)."""

    rate_ppm: int = 30_000
    """Chance of an index to be drawn for a dummy; 0 switches them off."""
    share_ppm: int = 60_000
    """Most of what a relay's tasks cost in an epoch that comes back for dummies."""
    marked_blocks: int = 250
    """Length of the windows of marked tasks: each has chance of its own."""
    marked_per_window: int = 1
    """Marked tasks of a node per window; 0 switches them off."""
    marked_tokens: int = 64
    """Longest answer of a marked task; the shortest limit drawn is a quarter of it."""


class GovernanceParams(Record, kw_only=True, frozen=True):
    """Proposals and votes on them (decision 036)."""

    deposit: int = 100 * NICOIN_PER_COIN
    """Nicoin that stand beside a proposal while it is voted on."""
    voting_blocks: int = 3_000
    """How long a proposal is voted on; the weights of its last height decide."""
    quorum_ppm: int = 334_000
    """Share of all weight that must vote, abstaining included; above the third that may be dishonest."""
    most_open: int = 64
    """Proposals voted on at once."""
    most_open_each: int = 4
    """The same of one account."""
    kept_epochs: int = 16
    """How long an ended proposal can still be read."""
    method_epochs: int = 64
    """How long an approved method may be cited, counted anew from each experiment that cites it."""
    experiment_epochs: int = 64
    """How long an experiment's budget is reserved; what is left then returns to the training fund."""


class FundingParams(Record, kw_only=True, frozen=True):
    """Runs that the network or their participants pay for (decision 042)."""

    pause_blocks: int = 3_000
    """How long a run waits for more coins once its budget no longer covers a round; then it ends with what it reached."""
    gather_blocks: int = 6_000
    """How long a run waits for its participants' coins before it begins; without all of them they return."""
    instalment_ppm: int = 200_000
    """Share of what accepted updates earn that is the last instalment: paid once the run is published."""
    publish_blocks: int = 6_000
    """How long after its end a run may be published; then the last instalment returns to the training fund."""
    publication_slots: int = 31
    """Slots, drawn by weight, whose nodes fetch what is published; more than half of them decide."""
    fetch_blocks: int = 240
    """Time for them to fetch and to commit to what they found."""
    reveal_blocks: int = 60
    """Time for them to show it."""


class PoolParams(Record, kw_only=True, frozen=True):
    """How the coins outside the core reserve come free (decision 037). Days are those of `blocks_per_day`."""

    founders_cliff_days: Annotated[int, Meta(ge=0, le=36_500)] = 365
    """Nothing of the founders' share comes free before; then all that the days so far make up."""
    founders_days: Annotated[int, Meta(ge=1, le=36_500)] = 1_460
    """All of it is free after so many days."""
    top_host_weight: Annotated[int, Meta(ge=0, le=2**48)] = 0
    """Race weight of 1,000 A100: what one seat of the top hosts' reward asks for; 0 leaves the reward locked."""
    top_host_seats: Annotated[int, Meta(ge=1, le=100)] = 10
    """Seats that the reward is shared by."""
    top_host_grace_days: Annotated[int, Meta(ge=0, le=365)] = 7
    """Days below the weight after which a place is lost; none of them is paid."""
    least_coins: Annotated[int, Meta(ge=1, le=10**18)] = 1_000_000
    """Nicoin that a trade with the liquidity pool has at least."""


class BridgeParams(Record, kw_only=True, frozen=True):
    """Where dollars of the test asset come in from another chain, and go out to (decision 039)."""

    chain: Annotated[int, Meta(ge=0, le=2**48)] = 0
    """Chain id of the other chain, as its transactions carry it."""
    contract: Annotated[bytes, Meta(max_length=20)] = b""
    """20 bytes; empty for a network without a bridge."""
    open_votes: Annotated[int, Meta(ge=1, le=1_024)] = 64
    """Headers without a majority that one node may have attested; the oldest vote goes first."""


class NetworkParams(Record, kw_only=True, frozen=True):
    """All shared numbers of a network."""

    epoch_blocks: int
    """Length of an epoch; it opens with a Race and ends with a settlement."""
    blocks_per_day: int
    """How issuance converts days into heights."""
    beacon_interval: int
    """The group signs every height that this divides."""
    fallback_blocks: int
    """How long the current group has for a signature before the former one may give it."""
    reveal_blocks: int
    """Longest wait for reveals of contributions to the seed."""
    slots_per_member: int
    """Slots of the beacon's key per member of the committee, on average."""
    deal_blocks: int
    """Longest wait for the dealings of a ceremony."""
    complain_blocks: int
    """Time for complaints about dealings; never ends early."""
    dealings_per_block: int
    """How many dealings are added up in one block."""
    race: RaceParams
    seats: int
    """Validator seats, filled by race weight."""
    power_total: int
    """What all voting powers add up to."""
    power_cap_ppm: int
    """Largest share of one key (never below an equal share)."""
    power_growth_ppm: int
    """How much of all power may change hands to gainers per epoch."""
    transfer_fee: int
    """Nicoin that a transaction which is no duty pays."""
    node_deposit: int
    """Nicoin that stand beside a registered node until it leaves."""
    duty_window_blocks: int
    duty_limit: int
    """Free duty messages of one key per window."""
    unit_price: int
    """Nicoin a unit of compute until the first epoch ends; then hosts vote. A token is one unit, but for models in the registry."""
    session_blocks: int
    """Life of a session in heights."""
    session_tasks: int
    """Most tasks of one session."""
    check_floor_ppm: int
    """Lowest check rate, reached at full reputation."""
    check_halving_epochs: int
    """Honest epochs in which the check rate above the floor halves."""
    check_blocks: int
    """Time for drawn checkers to judge a task."""
    dispute_blocks: int
    """Time for a majority to judge a flagged piece of work."""
    fund_ppm: int
    """Share of fees and issuance that goes to the training fund first."""
    credit_epochs: int = 8
    """Epochs after the mean purchase in which unused compute credits return as coins."""
    vesting_epochs: int = 4
    """Epochs over which a released reward comes free, in equal parts; until then it can be forfeited."""
    join_blocks: int
    """Longest wait for trainers to join a run."""
    round_blocks: int
    """Longest wait for the updates of a training round."""
    audit_blocks: int
    """Longest wait for the verdicts of drawn auditors."""
    round_report_blocks: int
    """Longest wait for a majority on the new state before the round closes without change."""
    audit_segments: int
    """Segments that are replayed per update."""
    auditors: int
    """Auditors drawn per update."""
    tasks: TaskParams = TaskParams()
    channels: ChannelParams = ChannelParams()
    dummies: DummyParams = DummyParams()
    reduction_ppm: int = 200_000
    """How much the subsidy falls where one batch of issuance ends and the next begins; no batch under way is touched."""
    governance: GovernanceParams = GovernanceParams()
    funding: FundingParams = FundingParams()
    pools: PoolParams = PoolParams()
    bridge: BridgeParams = BridgeParams()


TINY = NetworkParams(
    epoch_blocks=1_500,
    blocks_per_day=345_600,
    beacon_interval=5,
    fallback_blocks=60,
    reveal_blocks=40,
    slots_per_member=10,
    deal_blocks=120,
    complain_blocks=24,
    dealings_per_block=4,
    race=RaceParams(
        preset="tiny",
        commit_blocks=60,
        race_blocks=16,
        claim_blocks=16,
        opening_blocks=60,
        check_blocks=120,
        verdict_blocks=120,
        slot_positions=16,
        bond=100_000_000,
        bounty=50_000_000,
    ),
    seats=100,
    power_total=1_000_000_000,
    power_cap_ppm=300_000,
    power_growth_ppm=250_000,
    transfer_fee=1_000,
    node_deposit=10 * NICOIN_PER_COIN,
    duty_window_blocks=100,
    duty_limit=400,
    unit_price=1_000_000,
    session_blocks=6_000,
    session_tasks=256,
    check_floor_ppm=10_000,
    check_halving_epochs=4,
    check_blocks=240,
    dispute_blocks=480,
    fund_ppm=200_000,
    join_blocks=40,
    round_blocks=600,
    audit_blocks=240,
    round_report_blocks=240,
    audit_segments=2,
    auditors=2,
    tasks=TaskParams(forced_error_ppm=20_000),
    pools=PoolParams(top_host_weight=1_000_000_000),
)

PRESETS = {"tiny": TINY}
