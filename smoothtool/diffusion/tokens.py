"""Which tokens of a prompt belong to which of its words."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import CLIPTokenizer


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as the text encoder sees it, cut at its limit.

    ids    [L] token ids with start, end and padding
    words  the words that are left, as typed
    spans  per word the positions of its tokens in `ids`
    """

    ids: tuple[int, ...]
    words: tuple[str, ...]
    spans: tuple[tuple[int, ...], ...]

    @property
    def end(self) -> int:
        """The position after the last word: the end token."""
        return self.spans[-1][-1] + 1 if self.spans else 1

    def positions(self, phrase: str) -> tuple[int, ...]:
        """The tokens of every occurrence of one or several words, whatever their case; empty when there is none."""
        wanted = phrase.lower().split()
        clean = [word.lower().strip(".,;:!?\"'") for word in self.words]
        starts = [at for at in range(len(clean)) if wanted and clean[at : at + len(wanted)] == wanted]
        return tuple(p for at in starts for span in self.spans[at : at + len(wanted)] for p in span)


def prompt_tokens(tokenizer: CLIPTokenizer, prompt: str) -> PromptTokens:
    """Words are what blanks separate; CLIP's tokens never reach across a blank."""
    limit = int(tokenizer.model_max_length)
    ids = tokenizer(prompt, padding="max_length", max_length=limit, truncation=True).input_ids
    words: list[str] = []
    spans: list[tuple[int, ...]] = []
    at = 1
    for word in prompt.split():
        count = len(tokenizer(word, add_special_tokens=False).input_ids)
        if at + count > limit - 1:
            break
        words.append(word)
        spans.append(tuple(range(at, at + count)))
        at += count
    return PromptTokens(tuple(ids), tuple(words), tuple(spans))
