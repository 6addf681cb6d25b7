"""What every role of a node shares: its key, the chain, the peers, the blobs, the threads, whether it serves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from paceline.base.keys import AccountKey
from paceline.node.answers.serving import Serving
from paceline.node.chains.chain import ChainService
from paceline.node.duties import Duties, Threads
from paceline.node.metrics import Metrics
from paceline.node.peers import Peers
from paceline.node.settings import NodeSettings
from paceline.node.tracing import Tracing
from paceline.protocol.params import NetworkParams
from paceline.store.blobs import BlobStore


@dataclass(frozen=True, kw_only=True)
class Context:
    """One node's things. `work_path` keeps what a role must find again after a crash."""

    settings: NodeSettings
    key: AccountKey
    chain: ChainService
    peers: Peers
    blobs: BlobStore
    duties: Duties
    threads: Threads
    serving: Serving
    work_path: Path
    metrics: Metrics = field(default_factory=Metrics)
    tracing: Tracing = field(default_factory=Tracing)

    @property
    def address(self) -> bytes:
        """Address of the own node."""
        return self.key.address

    @property
    def params(self) -> NetworkParams:
        """The network's shared numbers."""
        return self.chain.application.params
