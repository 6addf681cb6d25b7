"""Prompts of the shipped set: requests put together from parts, for dummies when no user lends a prompt.

It knows no traffic. Invariant: there are far more outcomes than anybody could
list, so that a look-up tells nothing; a classifier still may, and `bench/dummy_classifier.py` says how well.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from paceline.protocol.prompt_words import ASIDES, LIMITS, REASONS, TASKS, TOPICS

CODE = (
    "def {name}(items):\n    total = 0\n    for item in items:\n        total += item\n    return total",
    "function {name}(list) {{\n  return list.filter(x => x > 0).map(x => x * 2);\n}}",
    "SELECT {name}, COUNT(*) FROM orders GROUP BY {name} ORDER BY 2 DESC;",
    "for (int {name} = 0; {name} < n; {name}++) {{ sum += a[{name}]; }}",
)
CODE_TASKS = (
    "What does this do?",
    "Is there a bug in this?",
    "Make this faster.",
    "Add comments:",
    "Rewrite this in Go:",
)
NAMES = ("count", "total", "user", "price", "index", "city", "result", "parse")


def compose_prompt(random: Random, chars: int) -> str:
    """A prompt of about so many letters; of any length when 0 is asked for."""
    parts = [random.choice(KINDS)(random)]
    while sum(map(len, parts)) + len(parts) < chars - 30 and len(parts) < 1_000:
        parts.append(_add_aside(random))
    return _roughen(random, " ".join(parts))


def _ask(random: Random) -> str:
    text = random.choice(TASKS).format(random.choice(TOPICS))
    if random.random() < 0.5:
        text += " " + random.choice(LIMITS)
    text += random.choice(("?", ".", "."))
    if random.random() < 0.25:
        text += f" {_raise_first(random.choice(REASONS))}."
    return text


def _ask_code(random: Random) -> str:
    return f"{random.choice(CODE_TASKS)}\n{random.choice(CODE).format(name=random.choice(NAMES))}"


def _ask_pair(random: Random) -> str:
    one, other = random.sample(TOPICS, 2)
    return random.choice(
        ("What links {} and {}?", "Is {} harder than {}?", "Write one paragraph on {} and one on {}.")
    ).format(one, other)


KINDS: tuple[Callable[[Random], str], ...] = (_ask, _ask, _ask, _ask_code, _ask_pair)


def _add_aside(random: Random) -> str:
    if random.random() < 0.3:
        return f"{_raise_first(random.choice(REASONS))}."
    return random.choice(ASIDES).format(random.choice(TOPICS))


def _roughen(random: Random, text: str) -> str:
    """People do not type like books."""
    if random.random() < 0.3:
        text = text[0].lower() + text[1:]
    if random.random() < 0.3:
        text = text.rstrip(".?")
    if random.random() < 0.15:
        text = random.choice(("hi, ", "Hello! ", "please ", "ok so ")) + text
    return text


def _raise_first(text: str) -> str:
    return text[0].upper() + text[1:]
