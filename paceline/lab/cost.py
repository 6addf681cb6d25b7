"""What a piece of work costs on a rented cloud and on this network, part by part.

Plain arithmetic on values that `cost_inputs` names; it refuses to know files, prices' sources and printing. Invariant: the parts of a
bill add up to it, and no bill falls when an input moves to its dearer side (but the unit of billing, which has one value).
Units: US dollars, hours, tokens, bytes; shares are of one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from paceline.lab.cost_inputs import FINE_TUNE, TOKENS

Values = Mapping[str, float]
SECONDS_PER_HOUR = 3600.0
TRAINED_BYTES = 16
"""Memory for each trained parameter: bf16 weight and gradient, fp32 copy and Adam's two moments. Activations come on top."""
FROZEN_BYTES = 2
TRAINED_FLOPS = 6
"""For each parameter and token: two forwards, two for gradients of activations, two for those of weights."""
FROZEN_FLOPS = 4
ALONE = {"network_checking": 0.0, "network_audits": 0.0, "network_race": 0.0, "network_fund": 0.0, "subsidy": 0.0}
"""What falls away for somebody who rents the same machines, trusts them, and shares them with nobody."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """What one trainer sends and receives every so many inner steps; it may arrive `delay` steps late without a wait."""

    every: int
    sent: float
    received: float
    delay: int = 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done. `params` 0: not known (answers only); `adapter_params` 0: every parameter is trained."""

    kind: str
    params: float = 0.0
    adapter_params: float = 0.0
    machines: int = 1
    gpus: int = 1
    """Of one machine; the cloud takes as many GPUs in all."""
    messages: tuple[Message, ...] = ()

    @property
    def all_gpus(self) -> int:
        """Of all machines."""
        return self.machines * self.gpus

    @property
    def flops_per_token(self) -> float:
        """Of training."""
        if not self.adapter_params:
            return TRAINED_FLOPS * self.params
        return FROZEN_FLOPS * self.params + TRAINED_FLOPS * self.adapter_params

    @property
    def memory_bytes(self) -> float:
        """That the work takes at least, on one machine."""
        if self.kind == TOKENS:
            return FROZEN_BYTES * self.params
        if self.kind == FINE_TUNE and self.adapter_params:
            return FROZEN_BYTES * self.params + TRAINED_BYTES * self.adapter_params
        return TRAINED_BYTES * self.params


@dataclass(kw_only=True)
class Bill:
    """A cost and what it is made of. An infinite one belongs to a run that loses as much as it does."""

    dollars: float = 0.0
    parts: list[tuple[str, float]] = field(default_factory=list)
    hours: float = 0.0
    """From the start to the end of the run; 0 for answers."""
    restarts: float = 0.0
    bytes_sent: float = 0.0
    """By all trainers."""

    def plus(self, name: str, dollars: float) -> None:
        """One part more."""
        self.parts.append((name, dollars))
        self.dollars += dollars

    def times(self, name: str, factor: float) -> None:
        """All that stands there so far, made dearer or cheaper; a factor of one is no part."""
        if math.isinf(self.dollars):
            return
        if math.isinf(factor):
            self.plus(name, math.inf)
        elif factor != 1:
            self.plus(name, self.dollars * (factor - 1))


def bill_cloud(work: Work, values: Values) -> Bill:
    """The work on GPUs that are rented for it."""
    bill = Bill()
    gpu_hours = values["tokens"] / values["cloud_speed"] / SECONDS_PER_HOUR
    bill.plus("GPU-hours at full load", gpu_hours * values["cloud_price"])
    if work.kind == TOKENS:
        bill.times("hours without enough requests", 1 / values["cloud_utilisation"])
    else:
        _add_cloud_run(bill, work, values, gpu_hours)
    bill.times("storage, egress, idle disks", 1 + values["cloud_extra"])
    return bill


def bill_network(work: Work, values: Values) -> Bill:
    """The work on this network: what its hosts ask for, its checks, its Race, its fund, less what new coins pay."""
    bill = Bill()
    gpu_hours = values["tokens"] / values["network_speed"] / SECONDS_PER_HOUR
    bill.plus("GPU-hours at full load", gpu_hours * values["network_price"])
    if work.kind == TOKENS:
        bill.times("slower through the network", 1 / values["network_efficiency"])
        bill.times("hours without enough requests", 1 / values["network_utilisation"])
        bill.times("answers computed again", 1 + values["network_retries"])
        bill.times("checks", 1 / (1 - values["network_checking"]))
    else:
        _add_network_run(bill, work, values, gpu_hours)
    bill.times("the Race", 1 / (1 - values["network_race"]))
    bill.times("training fund", 1 / (1 - values["network_fund"]))
    bill.times("paid by new coins", 1 - values["subsidy"])
    return bill


def bill_alone(work: Work, values: Values) -> Bill:
    """The network's machines and method for somebody who rents them from a market and trusts them."""
    changed = {**values, **ALONE}
    if work.kind == TOKENS:
        changed |= {
            "network_utilisation": values["cloud_utilisation"],
            "network_efficiency": 1.0,
            "network_retries": 0.0,
        }
    return bill_network(work, changed)


def compute_step_seconds(work: Work, values: Values) -> float:
    """Of one inner step of one machine."""
    return values["network_batch_tokens"] / (values["network_speed"] * work.gpus * values["network_efficiency"])


def compute_wait_share(work: Work, values: Values) -> float:
    """Seconds that a trainer waits for messages, for each second that it computes."""
    step = compute_step_seconds(work, values)
    bytes_per_second = values["network_link_mbits"] * 1e6 / 8 * values["network_link_share"]
    waits = 0.0
    for message in work.messages:
        seconds = max(message.sent, message.received) / bytes_per_second
        waits += max(0.0, seconds - message.delay * step) / (message.every * step)
    return waits


def compute_loss_factor(interruptions: float, lost_hours: float) -> float:
    """Hours for each useful one when every hour brings so many interruptions; infinite when no work would remain."""
    loss = interruptions * lost_hours
    return 1 / (1 - loss) if loss < 1 else math.inf


def _add_cloud_run(bill: Bill, work: Work, values: Values, gpu_hours: float) -> None:
    """One interruption stops all GPUs of a run, since they step together."""
    rate = values["cloud_interruptions"] * work.all_gpus
    factor = compute_loss_factor(rate, values["cloud_lost_hours"])
    bill.times("interruptions", factor)
    run_hours = gpu_hours / work.all_gpus * factor
    bill.restarts = rate * run_hours
    bill.hours = run_hours + values["cloud_setup_hours"]
    bill.plus("set-up", values["cloud_setup_hours"] * work.all_gpus * values["cloud_price"])
    unit = values["cloud_billing_seconds"] / SECONDS_PER_HOUR
    billed = math.ceil(bill.hours / unit) * unit if math.isfinite(bill.hours) else bill.hours
    if billed > bill.hours:
        bill.plus("started hours", (billed - bill.hours) * work.all_gpus * values["cloud_price"])


def _add_network_run(bill: Bill, work: Work, values: Values, gpu_hours: float) -> None:
    """One interruption costs the machine that left, since trainers meet once a round. Auditors wait for nobody."""
    price, more = values["network_price"], 1 + values["network_extra_tokens"]
    factor = compute_loss_factor(values["network_interruptions"], values["network_lost_hours"])
    waits = 1 + compute_wait_share(work, values)
    bill.times("tokens more for the same loss", more)
    bill.times("slower through the network", 1 / values["network_efficiency"])
    audited = bill.dollars * values["network_audits"]
    bill.times("waits for messages", waits)
    bill.times("interruptions", factor)
    busy = gpu_hours / work.all_gpus * more / values["network_efficiency"] * waits * factor
    bill.restarts = values["network_interruptions"] * work.machines * busy
    bill.hours = (busy + values["network_setup_hours"]) / (1 - values["network_race"])
    steps = values["tokens"] * more / values["network_batch_tokens"]
    bill.bytes_sent = steps * sum(message.sent / message.every for message in work.messages)
    bill.plus("set-up", values["network_setup_hours"] * work.all_gpus * price)
    bill.plus("audits", audited)
