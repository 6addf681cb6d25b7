"""The form an answer must have: JSON, JSON of a schema, or a pattern, turned into the tokens that may come next.

One library does the work, and its version is part of every request, since two versions may allow different tokens. It
refuses to know logits, seeds and where a schema comes from. Invariant: which tokens are allowed follows from model, grammar
and earlier tokens alone, in bounded steps; an end token is allowed exactly where the form may end.
"""

from __future__ import annotations

import json
from threading import Lock
from weakref import WeakKeyDictionary

import llguidance
import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from paceline.base.errors import Invalid, WorkError
from paceline.models.language import LanguageModel
from paceline.protocol.transcripts import GrammarSpec

ENGINE = f"llguidance-{llguidance.__version__}"
LIMITS = LLParserLimits(
    initial_lexer_fuel=500_000,
    step_lexer_fuel=100_000,
    step_max_items=25_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
"""Steps and sizes, never seconds, so that a grammar is too large for every node or for none."""
MAX_WHITESPACE = 16
_OPTIONS: llguidance._lib.JsonCompileOptions = {
    # Between the parts of a value; without an end, a model may write blanks until its limit.
    "whitespace_pattern": rf"[\x20\x0A\x0D\x09]{{0,{MAX_WHITESPACE}}}",
    # A keyword that is not understood is refused by name, whatever the schema itself asks for.
    "lenient": False,
}
_tokenizers: WeakKeyDictionary[LanguageModel, LLTokenizer] = WeakKeyDictionary()
_lock = Lock()


class Grammar:
    """Where one answer stands in its form."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self.broken = False

    def compute_mask(self) -> npt.NDArray[np.bool_] | None:
        """Which tokens may come next; None after a token that may not have come. Shapes: (vocab_size,).

        Errors: WorkError when the form needs more steps than `LIMITS` allow.
        """
        if self.broken:
            return None
        mask: npt.NDArray[np.bool_] = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8) != 0
        if self._matcher.is_error():
            raise WorkError(f"the grammar went over its limits: {_get_first_line(self._matcher)}")
        return mask

    def push(self, token_id: int) -> bool:
        """Go on by one token; False when it breaks the form, which then binds nothing any more."""
        self.broken = self.broken or not self._matcher.consume_token(token_id)
        return not self.broken


def open_grammar(model: LanguageModel, spec: GrammarSpec) -> Grammar:
    """The grammar at the beginning of an answer.

    Errors: WorkError when this node has another engine or version; Invalid response_format when the schema or the pattern
    is wrong, too large, asks for something that is not supported, or allows nothing.
    """
    if spec.engine != ENGINE:
        raise WorkError(f"the grammar is for {spec.engine}, this node has {ENGINE}")
    matcher = LLMatcher(_get_tokenizer(model), _compile(spec), log_level=0, limits=LIMITS)
    if matcher.get_error().startswith("panic"):
        raise WorkError(f"the grammar engine failed: {_get_first_line(matcher)}")
    if matcher.is_error():
        raise Invalid("response_format", f"{spec.kind}: {_get_first_line(matcher)}")
    return Grammar(matcher)


def count_allowed(model: LanguageModel, spec: GrammarSpec, token_ids: tuple[int, ...]) -> int:
    """How many tokens, from the first on, keep to the form. Errors: as `open_grammar`."""
    grammar = open_grammar(model, spec)
    return next((index for index, token_id in enumerate(token_ids) if not grammar.push(token_id)), len(token_ids))


def _compile(spec: GrammarSpec) -> str:
    if spec.kind == "regex":
        return LLMatcher.grammar_from_regex(spec.text)
    if spec.kind == "json_object":
        if spec.text:
            raise Invalid("response_format", "json_object takes no schema")
        return LLMatcher.grammar_from_json_schema('{"type":"object"}', overrides=_OPTIONS)
    try:
        schema = json.loads(spec.text)
        if not isinstance(schema, dict):
            raise Invalid("response_format", "json_schema: the schema is not a JSON object")
        return LLMatcher.grammar_from_json_schema(spec.text, overrides=_OPTIONS)
    except (ValueError, RecursionError) as problem:
        raise Invalid("response_format", f"json_schema: {problem}") from None


def _get_first_line(matcher: LLMatcher) -> str:
    lines = [line.strip() for line in matcher.get_error().splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return " ".join([*lines[:1], *errors])[:300]


def _get_tokenizer(model: LanguageModel) -> LLTokenizer:
    """The library's view of a model's vocabulary, built once a model (a fifth of a second)."""
    with _lock:
        found = _tokenizers.get(model)
        if found is None:
            end, *_ = ends = list(model.eos_token_ids)
            wrapper = TokenizerWrapper(_Vocabulary(model, end))
            found = _tokenizers[model] = LLTokenizer(wrapper, n_vocab=model.vocab_size, eos_token=ends)
        return found


class _Vocabulary:
    """What the library asks of a tokenizer. Where a form forces its text, only the model's own tokens of it are allowed."""

    bos_token_id = None

    def __init__(self, model: LanguageModel, end: int) -> None:
        self.eos_token_id = end
        self.tokens = list(model.token_bytes)
        self.special_token_ids = [index for index, spelling in enumerate(self.tokens) if not spelling]
        self._encode = model.encode

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))
