"""The demo collection: docstrings of Python's standard library as token vectors, with questions.

Vectors, judgements and names are shipped; the text is read from the running interpreter (see
`stdlib_text`). ``tools/demo_collection.py`` builds ``stdlib.npz``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from itertools import pairwise
from typing import Any

import numpy as np

from chamfer.data.stdlib_text import WORD, document_text, word_hash
from chamfer.token_vectors import TokenVectors

__all__ = ["DemoCollection", "document_text", "load_stdlib"]

_SPECIAL = 65535  # in document_words: a token that comes from no word
_FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class DemoCollection:
    """Token vectors of about 1,000 documents and 130 questions, with judged answers.

    `documents` and `queries` hold float32 vectors of unit length, 96 wide. `ids` are qualified
    names such as "os.path.join", whose text is `document_text(name)`; row i of `documents` is
    ``ids[i]``.
    `query_tokens` are the word pieces of each question. `qrels` maps query id to qualified name to
    grade: 2 = the answer, 1 = also helps; what is not listed is not relevant. `python_version` is
    the Python whose docstrings were embedded.
    """

    documents: TokenVectors
    ids: list[str]
    queries: TokenVectors
    query_ids: list[str]
    questions: list[str]
    query_tokens: list[list[str]]
    qrels: dict[str, dict[str, int]]
    python_version: str
    _offsets: np.ndarray[Any, Any] = field(repr=False)
    _words: np.ndarray[Any, Any] = field(repr=False)
    _word_hashes: np.ndarray[Any, Any] = field(repr=False)

    def matched_word(self, document_row: int, token: int) -> str:
        """The word, in this interpreter's docstring, that a document's token comes from.

        "[CLS]", "[D]" or "[SEP]" for the special tokens, and "?" where this Python's docstring no
        longer has the word. Raises IndexError for a row or token that does not exist.
        """
        first, end = (int(self._offsets[row]) for row in (document_row, document_row + 1))
        if document_row < 0 or not 0 <= token < end - first:
            raise IndexError(f"document {document_row} has {end - first} tokens, none is {token}")
        at = int(self._words[first + token])
        if at == _SPECIAL:
            return "[SEP]" if first + token == end - 1 else ("[CLS]", "[D]")[token]
        words = self._words_here(document_row)
        wanted = int(self._word_hashes[first + token])
        places = [place for place, word in enumerate(words) if word_hash(word) == wanted]
        return words[min(places, key=lambda place: abs(place - at))] if places else "?"

    def _words_here(self, document_row: int) -> list[str]:
        """The words of a document in the running interpreter; none if it lacks the object."""
        if document_row not in self._word_cache:
            try:
                text = document_text(self.ids[document_row])
            except LookupError:
                text = ""
            self._word_cache[document_row] = WORD.findall(text)
        return self._word_cache[document_row]

    @cached_property
    def _word_cache(self) -> dict[int, list[str]]:
        return {}


def load_stdlib() -> DemoCollection:
    """The collection of Python's standard library, decoded: some 17 MB of float32 vectors.

    Raises ValueError when the packed file has another format version.
    """
    folder = files("chamfer.data")
    with (folder / "stdlib.npz").open("rb") as file, np.load(file, allow_pickle=False) as packed:
        arrays = {name: packed[name] for name in packed.files}
    version = int(arrays["format_version"])
    if version != _FORMAT_VERSION:
        raise ValueError(f"stdlib.npz has format version {version}, expected {_FORMAT_VERSION}")
    judged = {q["id"]: q for q in json.loads((folder / "stdlib_questions.json").read_text("utf-8"))}
    query_ids = arrays["query_ids"].tolist()
    query_offsets = arrays["query_offsets"].tolist()
    tokens = arrays["query_tokens"].tolist()
    return DemoCollection(
        documents=_token_vectors(arrays["document_vectors"], arrays["document_offsets"]),
        ids=arrays["document_ids"].tolist(),
        queries=_token_vectors(arrays["query_vectors"], arrays["query_offsets"]),
        query_ids=query_ids,
        questions=[judged[query_id]["text"] for query_id in query_ids],
        query_tokens=[tokens[a:b] for a, b in pairwise(query_offsets)],
        qrels={query_id: judged[query_id]["answers"] for query_id in query_ids},
        python_version=str(arrays["python_version"]),
        _offsets=arrays["document_offsets"],
        _words=arrays["document_words"],
        _word_hashes=arrays["document_word_hashes"],
    )


def _token_vectors(codes: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any]) -> TokenVectors:
    """Decodes int8 codes q, each vector scaled by its own maximum, to q / ||q||."""
    vectors = codes.astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return TokenVectors(vectors, offsets)
