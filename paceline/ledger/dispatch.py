"""From a message to the rule that executes it."""

from __future__ import annotations

from paceline.ledger import (
    accounts,
    asset,
    beacon,
    bridge,
    ceremony,
    channel_closes,
    channels,
    checks,
    clock,
    compute_credits,
    dummies,
    grants,
    inquiries,
    liquidity,
    marked,
    network_runs,
    nodes,
    prices,
    proposals,
    publications,
    quotes,
    race,
    race_checks,
    race_claims,
    race_reviews,
    registration,
    sessions,
    shares,
    task_reports,
    tasks,
    training,
    traps,
    upgrades,
    vouchers,
)
from paceline.ledger.admission import Admitted
from paceline.ledger.state import State
from paceline.protocol import bridge as b
from paceline.protocol import channels as c
from paceline.protocol import credits as k
from paceline.protocol import funding as f
from paceline.protocol import messages as m
from paceline.protocol import pools as p
from paceline.protocol.dummies import RevealDummies, SubmitMarked
from paceline.protocol.grants import GrantScope, RevokeScope
from paceline.protocol.openings import OpenRun, OpenSession
from paceline.protocol.params import NetworkParams
from paceline.protocol.prices import VotePrice
from paceline.protocol.proposals import SubmitProposal, VoteProposal
from paceline.protocol.traps import ShowDraws


def execute_message(state: State, params: NetworkParams, chain_id: str, admitted: Admitted) -> None:
    """Execute an admitted transaction's message.

    Errors: InvalidTransaction with the code of the rule it breaks; the caller drops the layer then.
    """
    if _execute_on_power(state, params, chain_id, admitted) or _execute_on_channels(state, params, chain_id, admitted):
        return
    if _execute_on_proposals(state, params, admitted) or _execute_on_pools(state, params, admitted):
        return
    if _execute_on_openings(state, params, admitted) or _execute_on_funding(state, params, admitted):
        return
    if not _execute_on_grants(state, admitted):
        _execute_on_work(state, params, chain_id, admitted)


def _execute_on_power(  # noqa: C901, PLR0912 - one arm per message
    state: State, params: NetworkParams, chain_id: str, admitted: Admitted
) -> bool:
    """Messages on who belongs to the network and who decides in it; False for any other."""
    sender, message = admitted.sender, admitted.body.message
    epoch = clock.compute_epoch(params, state.height)
    match message:
        case m.CommitSeed():
            race.apply_seed_commit(state, sender, message)
        case m.RevealSeed():
            race.apply_seed_reveal(state, sender, message)
        case m.PostPartials(kind=beacon.HEIGHT):
            beacon.apply_partials(state, params, chain_id, sender, message, epoch)
        case m.PostPartials():
            race.apply_seed_partials(state, params, chain_id, sender, message)
        case m.PostDealing():
            ceremony.apply_dealing(state, chain_id, sender, message)
        case m.PostComplaint():
            ceremony.apply_complaint(state, chain_id, sender, message)
        case m.RegisterGroupKey():
            nodes.apply_group_key(state, chain_id, sender, message, epoch)
        case m.RegisterNode():
            registration.apply_registration(state, params, chain_id, sender, message.registration, epoch)
        case m.DescribeNode():
            registration.apply_description(state, params, sender, message)
        case m.LeaveNetwork():
            registration.apply_leave(state, sender, message, epoch)
        case m.PlanUpgrade():
            upgrades.apply_plan_vote(state, params, sender, message)
        case m.CancelUpgrade():
            upgrades.apply_cancel_vote(state, sender, message)
        case m.CommitRace():
            race_claims.apply_claim(state, sender, message)
        case m.OpenRace():
            race_claims.apply_openings(state, params, sender, message)
        case m.ReportRace():
            race_checks.apply_report(state, params, sender, message)
        case m.AccuseRace():
            race_checks.apply_accusation(state, params, sender, message)
        case m.AccuseReport():
            race_reviews.apply_report_accusation(state, params, sender, message)
        case m.JudgeReport():
            race_reviews.apply_report_verdict(state, sender, message)
        case m.JudgeRace():
            race_checks.apply_verdict(state, sender, message)
        case _:
            return False
    return True


def _execute_on_channels(state: State, params: NetworkParams, chain_id: str, admitted: Admitted) -> bool:
    """Messages on answers beside the ledger; False for any other."""
    sender, message = admitted.sender, admitted.body.message
    epoch = clock.compute_epoch(params, state.height)
    match message:
        case c.PassChannel():
            channels.apply_pass(state, params, chain_id, sender, message, epoch)
        case c.CloseChannel():
            channel_closes.apply_close(state, params, chain_id, sender, message)
        case c.ClaimChannel():
            channel_closes.apply_claim(state, params, chain_id, sender, message)
        case c.ProveChannel():
            channel_closes.apply_proof(state, params, chain_id, sender, message)
        case c.OpenLeaves():
            channel_closes.apply_leaves(state, sender, message, epoch)
        case _:
            return False
    return True


def _execute_on_openings(state: State, params: NetworkParams, admitted: Admitted) -> bool:
    """Messages that put coins in escrow for work, from the sender's account or its compute credits; False for any other."""
    sender, message = admitted.sender, admitted.body.message
    match message:
        case OpenSession() | OpenRun() | c.OpenChannel():
            _open(state, params, admitted, message)
        case k.BuyCredits():
            compute_credits.apply_buy(state, params, sender, message, clock.compute_epoch(params, state.height))
        case k.ReturnCredits():
            compute_credits.apply_return(state, sender)
        case k.UseCredits():
            unit_price = compute_credits.take_for(state, sender, message)
            _open(state, params, admitted, message.opening)
            compute_credits.keep_price(state, sender, admitted.transaction_hash, message, unit_price)
        case _:
            return False
    return True


def _execute_on_funding(state: State, params: NetworkParams, admitted: Admitted) -> bool:
    """Messages on runs that their opener does not pay for; False for any other."""
    sender, digest, message = admitted.sender, admitted.transaction_hash, admitted.body.message
    match message:
        case f.OpenExperiment():
            network_runs.apply_open(state, params, sender, digest, message)
        case f.OpenSharedRun():
            network_runs.apply_open_shared(state, params, sender, digest, message)
        case f.TransferShares():
            shares.apply_transfer(state, sender, message)
        case f.FundRun():
            network_runs.apply_fund(state, params, sender, message)
        case f.PublishRun():
            publications.apply_publish(state, sender, message)
        case f.CommitPublication():
            publications.apply_commitment(state, sender, message)
        case f.JudgePublication():
            publications.apply_verdict(state, sender, message)
        case _:
            return False
    return True


def _open(
    state: State, params: NetworkParams, admitted: Admitted, message: OpenSession | OpenRun | c.OpenChannel
) -> None:
    sender, digest = admitted.sender, admitted.transaction_hash
    match message:
        case OpenSession():
            sessions.apply_open(state, params, sender, admitted.key, digest, message)
            dummies.note_session(state, sender, digest, message, clock.compute_epoch(params, state.height))
        case c.OpenChannel():
            channels.apply_open(state, params, sender, admitted.key, digest, message)
        case OpenRun():
            training.apply_open(state, params, sender, digest, message)


def _execute_on_proposals(state: State, params: NetworkParams, admitted: Admitted) -> bool:
    """Messages on what the network decides by vote; False for any other."""
    match admitted.body.message:
        case SubmitProposal() as message:
            proposals.apply_submission(state, params, admitted.sender, message)
        case VoteProposal() as message:
            proposals.apply_vote(state, admitted.sender, message)
        case VotePrice() as message:
            prices.apply_vote(state, admitted.sender, message)
        case _:
            return False
    return True


def _execute_on_pools(state: State, params: NetworkParams, admitted: Admitted) -> bool:
    """Messages on the liquidity pool, the test asset and the bridge; False for any other."""
    sender, message = admitted.sender, admitted.body.message
    match message:
        case p.TransferAsset():
            asset.apply_transfer(state, sender, message)
        case p.BuyCoins():
            liquidity.apply_buy(state, params, sender, message)
        case p.RedeemCoins():
            liquidity.apply_redeem(state, params, sender, message)
        case p.VoteQuote():
            quotes.apply_vote(state, sender, message)
        case b.AttestHeader():
            bridge.apply_attestation(state, params, sender, message)
        case b.ClaimDeposit():
            bridge.apply_claim(state, params, message)
        case b.WithdrawAsset():
            bridge.apply_withdrawal(state, params, sender, message)
        case _:
            return False
    return True


def _execute_on_grants(state: State, admitted: Admitted) -> bool:
    """Messages on who may act for an account; False for any other."""
    match admitted.body.message:
        case GrantScope() as message:
            grants.apply_grant(state, admitted.sender, message)
        case RevokeScope() as message:
            grants.apply_revocation(state, admitted.sender, message)
        case _:
            return False
    return True


def _execute_on_work(  # noqa: C901, PLR0912 - one arm per message
    state: State, params: NetworkParams, chain_id: str, admitted: Admitted
) -> None:
    """Messages on coins and on work for coins."""
    sender, message = admitted.sender, admitted.body.message
    epoch = clock.compute_epoch(params, state.height)
    match message:
        case m.Transfer():
            accounts.apply_transfer(state, sender, message)
        case m.CloseSession():
            sessions.apply_close(state, sender, message)
        case m.SubmitReceipts():
            tasks.apply_receipts(state, params, chain_id, sender, message.receipts, epoch)
        case m.ProveVouchers():
            vouchers.apply_proof(state, chain_id, sender, message)
        case RevealDummies():
            dummies.apply_reveal(state, params, chain_id, sender, message)
        case SubmitMarked():
            marked.apply_submission(state, params, sender, message, epoch)
        case m.CommitVerdict():
            checks.apply_commitment(state, sender, message)
        case m.JudgeTask():
            checks.apply_verdict(state, sender, message)
        case ShowDraws():
            traps.apply_showings(state, params, chain_id, sender, message)
        case m.JudgeNode():
            inquiries.apply_verdict(state, sender, message)
        case m.ReportTask():
            task_reports.apply_report(state, params, sender, message)
        case m.JoinRun():
            training.apply_join(state, sender, message)
        case m.CommitUpdate():
            training.apply_update(state, sender, message)
        case m.JudgeUpdate():
            training.apply_verdict(state, params, sender, message)
        case m.ReportState():
            training.apply_report(state, sender, message)
        case _:
            raise AssertionError(f"no rule for {type(message).__name__}")
