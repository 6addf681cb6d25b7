"""Methods that the papers say are one: the same numbers to 1e-9 after three rounds in float64; and plain loops as twins."""

from __future__ import annotations

import pytest
import torch
from method_setup import ADAMW, SGD, Toy, get_batch, make_strategy, measure_gap, play

from paceline.lab.training.fleet import make_fleet
from paceline.training.codecs.quantisers import Int8
from paceline.training.methods.exchanges import Neighbours
from paceline.training.methods.local import LocalOptimizer, Schedule
from paceline.training.methods.outer_optimizers import Nesterov, Sgd
from paceline.training.methods.presets.registry import build_strategy
from paceline.training.methods.strategy import Mixer, Rule, Subject, Trigger

NEAR = 1e-9
STEPS, INTERVAL = 24, 8
RAW = {"name": "raw"}
LINEAR = LocalOptimizer(name="adamw", rate=0.01, schedule=Schedule(kind="linear", warmup_steps=3))


def run(name, *, trainers=4, local=LINEAR, steps=STEPS, **settings):
    return play(build_strategy(name, settings, trainers=trainers, local=local), trainers=trainers, steps=steps)


def flatten(module):
    found = dict(module.named_parameters())
    return torch.cat([found[name].detach().reshape(-1) for name in sorted(found)])


class Twin:
    """One trainer of a plain loop: a module, torch's own optimiser, the rate set by hand."""

    def __init__(self, trainer, steps=STEPS):
        self.module, self.trainer, self.step, self.steps = Toy(), trainer, 0, steps
        self.optimizer = torch.optim.AdamW(self.module.parameters())

    def walk(self, count):
        for _ in range(count):
            share = (self.step + 1) / 3 if self.step < 3 else 1 - 0.9 * (self.step - 3) / (self.steps - 3)
            self.optimizer.param_groups[0]["lr"] = 0.01 * share
            self.optimizer.zero_grad()
            self.module(get_batch(self.trainer, self.step)).backward()
            self.optimizer.step()
            self.step += 1

    def get(self, names):
        found = dict(self.module.named_parameters())
        return torch.cat([found[name].detach().reshape(-1) for name in names])

    def set(self, names, vector):
        found = dict(self.module.named_parameters())
        with torch.no_grad():
            for name in names:
                size = found[name].numel()
                found[name].copy_(vector[:size].view(found[name].shape))
                vector = vector[size:]


NAMES = sorted(dict(Toy().named_parameters()))


def assert_near(one, other):
    assert float((one - other).abs().max()) < NEAR


# What the issue lists


def test_diloco_without_momentum_at_rate_one_is_federated_averaging():
    averaged = run("fedavg", inner_steps=INTERVAL)
    assert measure_gap(run("diloco", inner_steps=INTERVAL, outer_rate=1.0, outer_momentum=0.0), averaged) < NEAR
    plain = make_strategy(Rule(subject=Subject.PARAMS, trigger=Trigger(interval=INTERVAL)), local=LINEAR)
    assert measure_gap(play(plain), averaged) < NEAR
    assert measure_gap(run("diloco", inner_steps=INTERVAL), averaged) > 1e-3


def test_streaming_of_one_fragment_at_once_is_diloco():
    whole = {"inner_steps": INTERVAL, "outer_momentum": 0.6}
    streamed = run("streaming-diloco", fragments=1, delay=0, keep=0.0, codec=RAW, **whole)
    assert measure_gap(streamed, run("diloco", **whole)) < NEAR


def test_sparta_of_every_parameter_is_federated_averaging_each_step():
    assert measure_gap(run("sparta", share=1.0), run("fedavg", inner_steps=1)) < NEAR


@pytest.mark.parametrize("decay", [0.5, 0.95])
def test_sparseloco_that_sends_everything_is_diloco_without_momentum(decay):
    everything = {"name": "top_k", "k": 64, "chunk": 64}
    sparse = run("sparseloco", inner_steps=INTERVAL, decay=decay, outer_rate=0.8, codec=everything)
    assert measure_gap(sparse, run("diloco", inner_steps=INTERVAL, outer_rate=0.8, outer_momentum=0.0)) < NEAR


def test_a_round_of_one_sgd_step_is_data_parallel():
    single = run("diloco", local=SGD, inner_steps=1, outer_rate=1.0, outer_momentum=0.0)
    assert measure_gap(single, run("ddp", local=SGD)) < NEAR


def test_noloco_of_two_is_diloco_with_a_heavy_ball():
    pair = run("noloco", trainers=2, inner_steps=INTERVAL, outer_rate=0.7, outer_momentum=0.5, pull=0.7)
    ball = {"name": "sgd", "rate": 0.7, "momentum": 0.5}
    assert measure_gap(pair, run("diloco", trainers=2, inner_steps=INTERVAL, outer=ball)) < NEAR


def test_decoupled_with_everyone_is_diloco():
    for by_tokens in (True, False):
        full = run("decoupled-diloco", inner_steps=INTERVAL, quorum_share=1.0, by_tokens=by_tokens)
        assert measure_gap(full, run("diloco", inner_steps=INTERVAL)) < NEAR


# Others that follow from the definitions


def test_asynchronous_with_one_trainer_is_diloco_with_one():
    alone = run("async-diloco", trainers=1, inner_steps=INTERVAL)
    assert measure_gap(alone, run("diloco", trainers=1, inner_steps=INTERVAL)) < NEAR


def test_fedopt_with_plain_sgd_is_federated_averaging():
    for name in ("fedadam", "fedyogi", "fedadagrad"):
        plain = run(name, inner_steps=INTERVAL, outer={"name": "sgd", "rate": 1.0})
        assert measure_gap(plain, run("fedavg", inner_steps=INTERVAL)) < NEAR


def test_trimming_nothing_is_the_mean():
    trimmed = run("diloco", inner_steps=INTERVAL, combine={"name": "trimmed_mean", "share": 0.0})
    assert measure_gap(trimmed, run("diloco", inner_steps=INTERVAL)) < NEAR


def test_all_gather_and_all_reduce_combine_alike():
    gathered = run("diloco", inner_steps=INTERVAL, exchange={"name": "all_gather", "relay": True})
    assert measure_gap(gathered, run("diloco", inner_steps=INTERVAL)) < NEAR


def test_a_ring_of_three_knows_everyone():
    assert measure_gap(run("gossip-ring", trainers=3), run("fedavg", trainers=3, inner_steps=1)) < NEAR


def test_sparta_between_rounds_that_never_come_is_sparta():
    both = run("sparta-diloco", share=0.3, inner_steps=STEPS * 2)
    assert measure_gap(both, run("sparta", share=0.3)) < NEAR


def test_looking_ahead_alone_knows_the_next_step_exactly():
    """One trainer's own message is all there is: its delayed gradient is taken where the step will have led."""
    local = LocalOptimizer(name="sgd", rate=0.01, schedule=Schedule(kind="cosine", warmup_steps=5))
    ahead = run("distro", trainers=1, local=local, k=4, block=3)
    assert measure_gap(ahead, run("distro", trainers=1, local=local, k=4, block=3, look_ahead=False)) < NEAR
    assert len(ahead.result.params) == 187


def test_looking_ahead_works_through_an_all_reduce_too():
    rules = [
        Rule(subject=Subject.GRADIENT, sign=True, look_ahead=ahead, trigger=Trigger(delay=int(ahead)))
        for ahead in (False, True)
    ]
    now, ahead = (play(make_strategy(rule, local=SGD), trainers=1) for rule in rules)
    assert measure_gap(now, ahead) < NEAR
    assert measure_gap(*(play(make_strategy(rule, local=SGD)) for rule in rules)) > 1e-6


def test_demo_that_sends_everything_steps_by_the_sign_of_the_mean_gradient():
    found = run("demo", local=SGD, k=9, block=3)
    module = Toy()
    for step in range(STEPS):
        gradients = []
        for trainer in range(4):
            module.zero_grad()
            module(get_batch(trainer, step)).backward()
            gradients.append([param.grad.clone() for param in module.parameters()])
        with torch.no_grad():
            for param, *parts in zip(module.parameters(), *gradients, strict=True):
                param.sub_(SGD.rate * torch.sign(sum(parts) / 4))
    assert_near(found.params, flatten(module))


# Plain loops


def test_data_parallel_matches_a_plain_loop():
    found = run("ddp")
    twin = Twin(0)
    for step in range(STEPS):
        share = (step + 1) / 3 if step < 3 else 1 - 0.9 * (step - 3) / (STEPS - 3)
        twin.optimizer.param_groups[0]["lr"] = 0.01 * share
        twin.optimizer.zero_grad()
        for trainer in range(4):
            (twin.module(get_batch(trainer, step)) / 4).backward()
        twin.optimizer.step()
    assert_near(found.params, flatten(twin.module))


def test_diloco_matches_a_plain_loop_with_torch_as_outer_optimiser():
    found = run("diloco", inner_steps=INTERVAL)
    twins = [Twin(trainer) for trainer in range(4)]
    anchor = torch.nn.Parameter(flatten(Toy()))
    outer = torch.optim.SGD([anchor], lr=0.7, momentum=0.9, nesterov=True)
    for _ in range(STEPS // INTERVAL):
        for twin in twins:
            twin.walk(INTERVAL)
        anchor.grad = torch.stack([anchor.detach() - twin.get(NAMES) for twin in twins]).mean(0)
        outer.step()
        for twin in twins:
            twin.set(NAMES, anchor.detach())
    assert_near(found.params, anchor.detach())


def test_streaming_matches_a_plain_loop():
    """Two fragments: layers 0 and 2 with nothing before them, layers 1 and 3 with all that comes after."""
    keep, delay, rate = 0.25, 2, 0.8
    outer = {"name": "sgd", "rate": rate}
    settings = {"fragments": 2, "delay": delay, "keep": keep, "codec": RAW, "outer": outer}
    found = run("streaming-diloco", trainers=2, inner_steps=INTERVAL, **settings)
    even = [name for name in NAMES if name.startswith(("layers.0", "layers.2"))]
    first = even + [name for name in ("norm", "shift", "gain") if name in find_leading_names()]
    parts = [first, [name for name in NAMES if name not in first]]
    twins = [Twin(trainer) for trainer in range(2)]
    anchors = [twins[0].get(names) for names in parts]
    sent = {}
    for step in range(1, STEPS + 1):
        for twin in twins:
            twin.walk(1)
        if step % (INTERVAL // 2) == 0:
            index = (step // (INTERVAL // 2) - 1) % 2
            sent[step] = (index, sum(anchors[index] - twin.get(parts[index]) for twin in twins) / 2)
        for when in sorted(sent):
            if when + delay == step or step == STEPS:
                index, update = sent.pop(when)
                anchors[index] = anchors[index] - rate * update
                for twin in twins:
                    twin.set(parts[index], keep * twin.get(parts[index]) + (1 - keep) * anchors[index])
    assert_near(found.params, sum(twin.get(NAMES) for twin in twins) / 2)


def find_leading_names():
    """Parameters that the module lists before its layers."""
    listed = [name for name, _ in Toy().named_parameters()]
    return listed[: next(place for place, name in enumerate(listed) if name.startswith("layers"))]


@pytest.mark.parametrize("eager", [False, True])
def test_overlapped_rounds_match_a_plain_loop(eager):
    """Every delta reaches everyone one round late; an eager trainer counts a share of its own newest one at once."""
    rate, count = 0.6, 3
    outer = {"name": "sgd", "rate": rate}
    found = run("overlapped-diloco", trainers=count, inner_steps=INTERVAL, eager=eager, outer=outer)
    twins = [Twin(trainer) for trainer in range(count)]
    anchors = [flatten(Toy()) for _ in twins]
    before = None
    for number in range(STEPS // INTERVAL + 1):
        if number < STEPS // INTERVAL:
            for twin in twins:
                twin.walk(INTERVAL)
            deltas = [anchor - twin.get(NAMES) for anchor, twin in zip(anchors, twins, strict=True)]
        else:
            deltas = [torch.zeros_like(anchor) for anchor in anchors]
        for place, twin in enumerate(twins):
            if before is not None:
                update = sum(before) / count
                ahead = before[place] / count if number > 1 else 0
                if eager:
                    update = update - ahead + deltas[place] / count
                anchors[place] = anchors[place] - rate * update
            twin.set(NAMES, anchors[place])
        before = deltas
    for place, actor in enumerate(found.run.actors):
        assert_near(found.sort(actor.replica.desk.keep()), anchors[place])


def test_eager_trainers_agree_once_every_delta_has_arrived():
    """Each own share that was counted early is taken back, so a run's end leaves no trainer with more than the others."""
    found = run("overlapped-diloco", inner_steps=INTERVAL, outer={"name": "sgd", "rate": 0.7})
    vectors = [actor.replica.desk.keep() for actor in found.run.actors]
    for vector in vectors[1:]:
        assert_near(vector, vectors[0])


def test_noloco_of_four_matches_a_plain_loop():
    found = run("noloco", inner_steps=INTERVAL)
    twins = [Twin(trainer) for trainer in range(4)]
    anchors = [flatten(Toy()) for _ in twins]
    momenta = [torch.zeros_like(anchor) for anchor in anchors]
    exchange = build_strategy("noloco", {}, trainers=4).rules[0].exchange
    for number in range(STEPS // INTERVAL):
        for twin in twins:
            twin.walk(INTERVAL)
        deltas = [anchor - twin.get(NAMES) for anchor, twin in zip(anchors, twins, strict=True)]
        pairs = [
            exchange.get_sources(place, range(4), found.run.course.derive_seed((0, 0, number))) for place in range(4)
        ]
        middles = [sum(anchors[other] for other in pair) / 2 for pair in pairs]
        for place, pair in enumerate(pairs):
            mean = sum(deltas[other] for other in pair) / 2
            momenta[place] = 0.5 * momenta[place] + 0.7 * mean + 0.7 * (anchors[place] - middles[place])
        anchors = [anchor - moved for anchor, moved in zip(anchors, momenta, strict=True)]
        for twin, anchor in zip(twins, anchors, strict=True):
            twin.set(NAMES, anchor)
    assert_near(found.params, sum(anchors) / 4)


def test_gossip_matches_the_matrix_of_shares():
    exchange = Neighbours(graph="small-world", degree=2, rewire=0.5)
    shares = torch.zeros(6, 6, dtype=torch.float64)
    for trainer in range(6):
        for source, share in exchange.get_sources(trainer, range(6), b"").items():
            shares[trainer, source] = share
    ones = torch.ones(6, dtype=torch.float64)
    torch.testing.assert_close(shares.sum(0), ones)
    torch.testing.assert_close(shares.sum(1), ones)
    found = run("gossip-small-world", trainers=6, steps=3, inner_steps=1, degree=2, rewire=0.5)
    twins = [Twin(trainer, steps=3) for trainer in range(6)]
    for _ in range(3):
        for twin in twins:
            twin.walk(1)
        mixed = shares @ torch.stack([twin.get(NAMES) for twin in twins])
        for twin, vector in zip(twins, mixed, strict=True):
            twin.set(NAMES, vector)
    assert_near(found.params, torch.stack([twin.get(NAMES) for twin in twins]).mean(0))


def test_asynchronous_pushes_match_a_plain_loop():
    """Two trainers, one twice as slow with half the steps: pushes arrive together, the lower number first."""
    strategy = build_strategy("async-diloco", {"inner_steps": 4}, trainers=2, local=SGD)
    found = play(strategy, trainers=2, steps=9, fleet=make_fleet(2, speed_skew=2))
    twins = [Twin(trainer) for trainer in range(2)]
    for twin in twins:
        twin.optimizer = torch.optim.SGD(twin.module.parameters(), lr=SGD.rate)
        twin.walk = lambda count, twin=twin: walk_plain(twin, count)
    server, held = flatten(Toy()), [flatten(Toy())] * 2
    momentum, summed, arrivals = torch.zeros_like(server), torch.zeros_like(server), 0
    for _ in range(3):
        for place, (twin, count) in enumerate(zip(twins, (4, 2), strict=True)):
            twin.walk(count)
            update = held[place] - twin.get(NAMES)
            summed, arrivals = summed + update, arrivals + 1
            share = 0.0
            if arrivals % 2 == 0:
                momentum, summed, share = 0.9 * momentum + summed / 2, torch.zeros_like(summed), 1.0
            server = server - 0.7 * (update / 2 + share * 0.9 * momentum)
            held[place] = server
            twin.set(NAMES, server)
    assert [meter.steps for meter in found.meters] == [twin.step for twin in twins]
    assert_near(found.params, server)


def walk_plain(twin, count):
    for _ in range(count):
        twin.optimizer.zero_grad()
        twin.module(get_batch(twin.trainer, twin.step)).backward()
        twin.optimizer.step()
        twin.step += 1


# Sanity of what no identity covers


def test_replicas_of_gradient_methods_never_differ():
    for name in ("ddp", "demo", "distro"):
        found = run(name, local=SGD)
        assert len({id(actor.replica.desk.keep()) for actor in found.run.actors}) == 1


def test_an_8_bit_all_reduce_keeps_replicas_bit_equal():
    rule = Rule(
        subject=Subject.DELTA, trigger=Trigger(interval=4, delay=4), codec=Int8(chunk=16), outer=Nesterov(rate=0.5)
    )
    found = play(make_strategy(rule, local=ADAMW))
    first, *others = [actor.replica.anchors[0][0] for actor in found.run.actors]
    assert all(torch.equal(first, other) for other in others)


def test_an_eager_update_differs_from_a_late_one_and_trains_as_well():
    rules = [
        Rule(subject=Subject.DELTA, trigger=Trigger(interval=4, delay=4), outer=Sgd(rate=0.7), mixer=Mixer(eager=eager))
        for eager in (False, True)
    ]
    late, eager = (play(make_strategy(rule, local=ADAMW), steps=60) for rule in rules)
    start = play(make_strategy(local=ADAMW), steps=1)
    assert measure_gap(late, eager) > 1e-6
    assert max(late.result.loss, eager.result.loss) < start.result.loss
