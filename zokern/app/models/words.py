"""Label words as single tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zokern.app.tasks import UserError

__all__ = ["label_token_ids"]


def label_token_ids(tokenizer: Any, words: Sequence[str], context: str, masked: bool) -> list[int]:
    """The token each label word becomes right after `context`.

    For a causal model this is what the tokenizer itself appends when " word" follows the context,
    which settles how leading blanks are spelled in every vocabulary; a masked model's word stands
    between other words, with or without a marker for the blank.

    Args:
        tokenizer: a transformers tokenizer.
        words: label words without leading space.
        context: text the word follows, as "The sentiment is".
        masked: the model fills in a [MASK].

    Returns:
        One id per word.

    Raises:
        UserError: a word is several tokens or unknown, or two words share a token.
    """

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    ids: list[int] = []
    before = encode(context)
    for word in words:
        glue = " " if context and not context[-1].isspace() else ""
        after = encode(context + glue + word)
        candidates = [after[len(before) :]] if after[: len(before)] == before and not masked else []
        candidates += [encode(" " + word), encode(word)]
        single = [c[0] for c in candidates if len(c) == 1 and c[0] != tokenizer.unk_token_id]
        if not single:
            pieces = candidates[0]
            shown = " ".join(repr(piece) for piece in tokenizer.convert_ids_to_tokens(pieces))
            what = "unknown to" if tokenizer.unk_token_id in pieces else f"{len(pieces)} tokens for"
            raise UserError(
                f"--label-words: Label word {word!r} is {what} this model's tokenizer ({shown}); a label word must "
                "be a single token. Choose others with --label-words."
            )
        ids.append(single[0])
    for index, token in enumerate(ids):
        if token in ids[:index]:
            raise UserError(
                f"--label-words: Label words {words[ids.index(token)]!r} and {words[index]!r} are the same token "
                "for this model; choose others with --label-words."
            )
    return ids
