"""The shipped set of prompts: requests put together from parts, for dummies when no user lends a prompt.

All of it is written for this project. It knows no traffic. Invariant: there are far more outcomes than anybody could
list, so that a look-up tells nothing; a classifier still may, and `bench/dummy_classifier.py` says how well.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

TOPICS = (
    "the history of bicycles", "sourdough bread", "photosynthesis", "binary search", "interest rates", "the French Revolution",
    "a sore back", "moving to another city", "black holes", "my job interview", "learning Spanish", "solar panels",
    "a birthday party for a six year old", "unit tests", "the water cycle", "climate change", "a leaking tap", "vaccines",
    "chess openings", "houseplants", "the stock market", "public speaking", "sleep", "recursion", "the Roman Empire",
    "electric cars", "vegetarian cooking", "poetry", "regular expressions", "time zones", "the immune system", "budgeting",
    "a long train journey", "dog training", "machine learning", "tides", "the guitar", "writing a cover letter", "earthquakes",
    "database indexes", "coffee", "gravity", "negotiating a salary", "running a marathon", "HTTP caching", "volcanoes",
    "making friends as an adult", "spreadsheets", "the Moon landing", "knitting", "inflation", "the human heart", "noise in flats",
)  # fmt: skip
TASKS = (
    "Explain {}", "Tell me about {}", "Write a short text about {}", "What should I know about {}", "Give me an overview of {}",
    "Summarise what matters about {}", "How would you teach {}", "List common mistakes with {}", "What are good questions about {}",
    "Make a plan for {}", "Write a poem about {}", "Help me understand {}", "Give me three facts about {}", "Why does {} matter",
    "What do people get wrong about {}", "Write an email about {}", "Compare two ways of looking at {}", "I need help with {}",
    "What is new about {}", "Write a dialogue about {}", "Where do I start with {}", "Draft a blog post on {}",
)  # fmt: skip
LIMITS = (
    "in simple words", "in two sentences", "for a beginner", "for a child of ten", "with an example", "step by step", "as a list",
    "without jargon", "in about 100 words", "for my colleagues", "with pros and cons", "as a table", "in a friendly tone", "briefly",
    "in detail", "with numbers where you can", "for somebody in a hurry", "as if I knew nothing",
)  # fmt: skip
REASONS = (
    "I have a test tomorrow", "my boss asked me", "I read something about it yesterday", "it came up at dinner", "I am just curious",
    "my daughter wants to know", "I have to give a talk", "we argued about it", "it is for a newsletter", "I never understood it",
    "I tried twice already", "it is for a school project", "I only have ten minutes", "English is not my first language",
    "I am writing a story about it", "my notes are a mess", "the book I have is too hard",
)  # fmt: skip
ASIDES = (
    "What I know so far: it has something to do with {}.", "Somebody told me that {} is related.", "Please do not talk about {}.",
    "I already know a bit about {}.", "Last week I looked at {} and it was easier.", "Use {} as a comparison if it helps.",
    "I am not sure how that goes together with {}.", "My notes say: first {}, then the rest.", "If {} is part of it, skip that.",
    "I care more about the practical side than about {}.", "The deadline is close and {} has to be in it.",
)  # fmt: skip
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
