"""A prepared language model in memory: token ids, hidden states and logits.

It refuses to know requests, sampling and peers, and it never sets the number of threads (the process owner does).
Invariant: every load compares the content of its directory with the hashes written beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file

from paceline.base.errors import WorkError
from paceline.models.catalogue import ModelEntry, find_by_weights
from paceline.models.decoder import DecoderNetwork, Kernels, KeyValueCache
from paceline.models.families import build_network
from paceline.models.files import ENTRY_FILE, WEIGHTS_FILE, load_content_list, verify_content
from paceline.models.preparation import prepare_model
from paceline.models.quantise import ParamsChange, quantise_params
from paceline.models.text import ChatTokenizer, Detokeniser

__all__ = ["LanguageModel", "load_entry", "prepare_model", "verify_content"]

HEAD_CHUNK_TOKENS = 64


class LanguageModel:
    """A loaded model with its text side. Safe to use from several threads, each with its own cache."""

    def __init__(self, entry: ModelEntry, network: DecoderNetwork, text: ChatTokenizer, content_hash: bytes) -> None:
        self._network = network
        self._text = text
        self.entry = entry
        self.model_id = entry.model_id
        self.engine = entry.engine
        self.content_hash = content_hash
        self.vocab_size = network.shape.vocab_size
        self.context_tokens = network.shape.max_position_embeddings
        self.eos_token_ids = tuple(text.get_token_id(spelling) for spelling in entry.end_tokens)
        self.traced_layers = entry.inner_layers
        self.traced_width = network.shape.hidden_size

    @classmethod
    def load(
        cls, path: Path, *, quantise: bool = False, change: ParamsChange = dict, kernels: Kernels | None = None
    ) -> LanguageModel:
        """Map a prepared directory into memory.

        `quantise`, `change` and `kernels` make it another model in truth, which states the same content hash
        (`models.variants` names them).

        Errors: WorkError when a file is missing or differs from what was written.
        """
        content_hash = verify_content(path)
        entry = load_entry(path)
        config = json.loads((path / "config.json").read_text("utf-8"))
        params = (quantise_params if quantise else change)(load_file(path / WEIGHTS_FILE))
        network = build_network(config, params, context_tokens=entry.context_tokens, kernels=kernels)
        return cls(entry, network, ChatTokenizer(path), content_hash)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self._text.encode(text)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation (`role` and `content` each), ready for the assistant's turn."""
        return self._text.encode_chat(messages)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens without special tokens."""
        return self._text.decode(token_ids)

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """Bytes of each token id; special tokens have none."""
        return self._text.token_bytes

    def open_detokeniser(self) -> Detokeniser:
        """A decoder that turns tokens into text as they come."""
        return self._text.open_detokeniser()

    def open_cache(self, capacity_tokens: int) -> KeyValueCache:
        """An empty cache. Memory fills as positions do (about 20 kB a token in the catalogue's models)."""
        return self._network.open_cache(capacity_tokens)

    @property
    def traced_states(self) -> int:
        """Kinds of hidden states that are committed to: those after each traced layer, and the last."""
        return len(self.traced_layers) + 1

    def compute_next_logits(
        self, token_ids: Sequence[int], cache: KeyValueCache, *, states: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Append tokens (a whole prompt to an empty cache, or one token) and score what follows the last.

        Shapes: (vocab_size,) in fp32; `states` gains one bf16 tensor (traced_states, traced_width) of the last position.
        """
        hidden = self._compute_hidden(token_ids, cache, start=len(token_ids) - 1, states=states)
        return self._network.compute_logits(hidden)[0]

    def compute_next_logits_together(
        self, token_ids: Sequence[Sequence[int]], caches: Sequence[KeyValueCache]
    ) -> torch.Tensor:
        """As `compute_next_logits` for several sequences in one pass, prompts and single tokens mixed as they come.

        Shapes: (sequences, vocab_size) in fp32. The last bits of a row depend on how many rows run beside it.
        """
        hidden = self._network.compute_hidden_together([torch.tensor(ids) for ids in token_ids], caches)
        last = torch.tensor([len(ids) for ids in token_ids]).cumsum(0) - 1
        return self._network.compute_logits(hidden[last])

    def compute_final_states(self, token_ids: Sequence[int]) -> torch.Tensor:
        """One prefill over all tokens, states after the last norm. Shapes: (len(token_ids), hidden_size)."""
        return self._network.compute_hidden(torch.tensor(token_ids), self.open_cache(len(token_ids)))

    def iterate_logits(
        self, token_ids: Sequence[int], start: int, *, states: list[torch.Tensor] | None = None
    ) -> Iterator[torch.Tensor]:
        """One prefill over all tokens, then the logits of positions `start` and later, in order.

        Shapes: (vocab_size,) in fp32, `len(token_ids) - start` times; `states` gains as many tensors as in
        `compute_next_logits`, all before the first logits. The head runs in chunks, as all logits of a long answer
        together would take gigabytes.
        """
        hidden = self._compute_hidden(token_ids, self.open_cache(len(token_ids)), start=start, states=states)
        for first in range(0, len(hidden), HEAD_CHUNK_TOKENS):
            yield from self._network.compute_logits(hidden[first : first + HEAD_CHUNK_TOKENS])

    def _compute_hidden(
        self, token_ids: Sequence[int], cache: KeyValueCache, *, start: int, states: list[torch.Tensor] | None
    ) -> torch.Tensor:
        """Last states from `start` on."""
        if states is None:
            return self._network.compute_hidden(torch.tensor(token_ids), cache)[start:]
        taps: dict[int, list[torch.Tensor]] = {layer: [] for layer in self.traced_layers}
        hidden = self._network.compute_hidden(torch.tensor(token_ids), cache, taps)[start:]
        kinds = [hidden, *(taps[layer][0][start:] for layer in self.traced_layers)]
        # A copy, so that a kept state does not keep the states of the whole prompt.
        states.extend(torch.stack(kinds, 1).bfloat16().unbind(0))
        return hidden


def load_entry(path: Path) -> ModelEntry:
    """What a prepared directory holds: its own note, or the catalogue's entry of its weights.

    Errors: WorkError when neither knows it.
    """
    note = path / ENTRY_FILE
    if note.is_file():
        return msgspec.json.decode(note.read_bytes(), type=ModelEntry)
    entry = find_by_weights(load_content_list(path)[WEIGHTS_FILE])
    if entry is None:
        raise WorkError(f"{path} holds weights that the catalogue does not know: prepare the model again")
    return entry
