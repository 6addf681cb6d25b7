"""Questions that the demo asks."""

from __future__ import annotations

PROMPTS = (
    "What is the capital of France, and what is it known for?",
    "Explain in two sentences why the sky is blue.",
    "Name three things that make a good team.",
    "How does a bicycle stay upright?",
    "Give me a short recipe for tomato soup.",
    "What is the difference between weather and climate?",
    "Why do leaves change colour in autumn?",
    "Write a friendly greeting for a new neighbour.",
    "What does a compiler do?",
    "Tell me one interesting fact about the ocean.",
    "How can I fall asleep faster?",
    "What is photosynthesis?",
    "Suggest a name for a small bakery and say why.",
    "Explain what a prime number is.",
    "What should I pack for a day in the mountains?",
    "Why is it useful to write tests for software?",
    "Describe the moon to somebody who has never seen it.",
    "What are the main ingredients of bread?",
    "How do bees find flowers?",
    "Give me one tip for learning a new language.",
)
