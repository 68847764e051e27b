"""Which words of a question of the demo made a document its answer."""

from __future__ import annotations

import numpy as np

from chamfer.data import DemoCollection
from chamfer.scoring import maxsim, maxsim_alignment
from chamfer.token_vectors import TokenVectors

_STOP_WORDS = frozenset(
    """a all an and another any are as at be by do does each every for from gets has have here how i if in into is it
    its just my not of on one or out so some than that the them then there they this those to too two up what when
    where which while with""".split()  # noqa: SIM905  # a text is easier to read than sixty quoted words
)


def matched_words(
    collection: DemoCollection, query_row: int, document_row: int, num_matches: int
) -> list[tuple[str, str, float]]:
    """Find the words of a question that set this document most apart from the median one.

    Args:
        collection: the demo's.
        query_row: of the question.
        document_row: of the document.
        num_matches: words at most.

    Returns:
        (word of the question, word of the document, inner product of their vectors), in the question's order; words
        without content and special tokens are left out.
    """
    query = collection.queries[query_row]
    alignment = maxsim_alignment(query, collection.documents[document_row])
    one_token_each = TokenVectors(query, np.arange(len(query) + 1))
    lead = alignment.similarities - np.median(maxsim(one_token_each, collection.documents), axis=1)
    found = []
    for word, tokens in _whole_words(collection.query_tokens[query_row]):
        token = max(tokens, key=lambda t: lead[t])
        match = collection.matched_word(document_row, int(alignment.document_tokens[token]))
        if word.isalnum() and match[0].isalnum() and not {word, match.lower()} & _STOP_WORDS:
            found.append((float(lead[token]), tokens[0], (word, match, float(alignment.similarities[token]))))
    best = sorted(found, reverse=True)[:num_matches]
    return [match for _, _, match in sorted(best, key=lambda item: item[1])]


def _whole_words(pieces: list[str]) -> list[tuple[str, list[int]]]:
    """Return words and the tokens of their pieces: "##ed" continues a word, "[MASK]" and its like are none."""
    words: list[tuple[str, list[int]]] = []
    for token, piece in enumerate(pieces):
        if piece.startswith("##") and words:
            words[-1] = (words[-1][0] + piece[2:], [*words[-1][1], token])
        elif not piece.startswith("["):
            words.append((piece, [token]))
    return words
