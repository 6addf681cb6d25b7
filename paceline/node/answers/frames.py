"""Puts generated tokens into the frames that travel to the relay: text as it is safe to show, logprobs only when asked.

Refuses to know: peers, receipts, where steps come from. Invariant: a token whose logprobs were asked for is in exactly one
frame, none later than the frame with its last character; tokens that end an answer stand for no text and are in none.
"""

from __future__ import annotations

from paceline.inference.run import TokenStep
from paceline.models.language import LanguageModel
from paceline.protocol.answers import AnswerRequest, TextFrame, TokenLogprob


class FrameWriter:
    """Frames of one answer."""

    def __init__(self, model: LanguageModel, request: AnswerRequest) -> None:
        self._model = model
        self._asked = request.top_logprobs is not None
        self._tokens: list[TokenLogprob] = []
        self.top_logprobs = request.top_logprobs or 0

    def write(self, step: TokenStep) -> TextFrame | None:
        """The frame that this step completes, if any."""
        if self._asked and step.token_id not in self._model.eos_token_ids:
            self._tokens.append(self._describe(step))
        if not step.text and not (step.finish_reason and self._tokens):
            return None
        tokens, self._tokens = tuple(self._tokens), []
        return TextFrame(step.text, tokens)

    def _describe(self, step: TokenStep) -> TokenLogprob:
        spelling = self._model.token_bytes
        top = tuple((token_id, spelling[token_id], micronats) for token_id, micronats in step.top)
        return TokenLogprob(step.token_id, spelling[step.token_id], step.logprob_micronats, top)
