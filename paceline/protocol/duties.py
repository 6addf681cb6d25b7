"""Which messages the protocol asks of nodes: they pay no fee, and are limited for each key and window."""

from __future__ import annotations

from paceline.protocol.channels import CHANNEL_DUTIES
from paceline.protocol.dummies import RevealDummies, SubmitMarked
from paceline.protocol.funding import FUNDING_DUTIES
from paceline.protocol.messages import (
    AccuseRace,
    AccuseReport,
    CancelUpgrade,
    CommitRace,
    CommitSeed,
    CommitUpdate,
    CommitVerdict,
    DescribeNode,
    JoinRun,
    JudgeNode,
    JudgeRace,
    JudgeReport,
    JudgeTask,
    JudgeUpdate,
    OpenRace,
    PlanUpgrade,
    PostComplaint,
    PostDealing,
    PostPartials,
    RegisterGroupKey,
    ReportRace,
    ReportState,
    RevealSeed,
    SubmitReceipts,
)
from paceline.protocol.pools import POOL_DUTIES
from paceline.protocol.prices import VotePrice
from paceline.protocol.proposals import VoteProposal
from paceline.protocol.traps import ShowDraws

DUTIES = (
    CommitSeed,
    RevealSeed,
    PostPartials,
    PostDealing,
    PostComplaint,
    RegisterGroupKey,
    DescribeNode,
    PlanUpgrade,
    CancelUpgrade,
    CommitRace,
    OpenRace,
    ReportRace,
    AccuseRace,
    JudgeRace,
    AccuseReport,
    JudgeReport,
    SubmitReceipts,
    RevealDummies,
    SubmitMarked,
    CommitVerdict,
    JudgeTask,
    ShowDraws,
    JudgeNode,
    *CHANNEL_DUTIES,
    *POOL_DUTIES,
    *FUNDING_DUTIES,
    JoinRun,
    CommitUpdate,
    JudgeUpdate,
    ReportState,
    VoteProposal,
    VotePrice,
)

BACKGROUND = (PostPartials, PostDealing, PostComplaint)
"""Duties that hurry nobody by themselves: whoever waits for what they bring about has left a mark on the ledger."""
