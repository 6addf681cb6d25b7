"""The shipped set of prompts: the parts that requests are put together from when no user lends one.

All of it is written for this project. It refuses to know how parts are drawn. Invariant: nothing here changes on a running
network, because what a marked task asks follows from these words on every node.
"""

from __future__ import annotations

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
