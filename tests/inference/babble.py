"""A model without weights that babbles: logits follow from the last tokens, so that sampling has something to choose."""

from __future__ import annotations

import codecs

import torch

ALPHABET = '{}[]":, abcdefghijklmnopqrstuvwxyz0123456789'


class Detokeniser:
    def __init__(self, pieces):
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id):
        return self._decoder.decode(self._pieces[token_id])


class BabbleModel:
    """Token 0 ends an answer; every other token is one character. `heat`: spread of the logits in nats."""

    model_id = "babble"
    content_hash = bytes(32)
    engine = "babble-1"
    eos_token_ids = (0,)
    context_tokens = 512
    traced_states = 0

    def __init__(self, heat=2.0, end=-8.0):
        self.token_bytes = [b"", *(character.encode() for character in ALPHABET)]
        self.vocab_size = len(self.token_bytes)
        self._heat = heat
        self._end = end

    def encode(self, text):
        return [ALPHABET.index(character) + 1 for character in text if character in ALPHABET]

    def encode_chat(self, messages):
        return [1, *self.encode("".join(message["content"] for message in messages))]

    def open_detokeniser(self):
        return Detokeniser(self.token_bytes)

    def open_cache(self, capacity_tokens):
        return []

    def compute_next_logits(self, token_ids, cache):
        cache += token_ids
        return self._score(cache)

    def iterate_logits(self, token_ids, start):
        for position in range(start, len(token_ids)):
            yield self._score(token_ids[: position + 1])

    def _score(self, tokens):
        number = sum(token * 67**place for place, token in enumerate(reversed(tokens[-3:])))
        logits = torch.randn(self.vocab_size, generator=torch.Generator().manual_seed(number)) * self._heat
        logits[0] = self._end
        return logits
