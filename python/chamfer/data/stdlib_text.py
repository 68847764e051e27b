"""The text of the demo's documents: a standard-library object's name and docstring.

The text is not shipped: it is read from the running interpreter, here and nowhere else. The module
needs neither NumPy nor chamfer, so that ``tools/demo_collection.py`` can run it as a file under
other interpreters: ``python -I stdlib_text.py`` reads a JSON list of names from stdin and writes
``{name: text}`` of those that have one to stdout.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import inspect
import json
import re
import sys
import warnings
import zlib

# The only modules that a name may make us import. A name is data and some imports have effects
# ("antigravity" opens a browser, a file in the current folder runs), so it never reaches further.
_MODULE_NAMES = """
abc argparse ast asyncio atexit base64 binascii bisect builtins bz2 cProfile calendar collections
concurrent.futures configparser contextlib copy csv dataclasses datetime dbm decimal difflib dis
doctest email email.message email.utils enum faulthandler filecmp fileinput fnmatch fractions ftplib
functools gc getopt getpass glob graphlib gzip hashlib heapq hmac html html.parser http http.client
http.cookies http.server importlib importlib.metadata importlib.resources importlib.util inspect io
ipaddress itertools json linecache locale logging logging.config logging.handlers lzma math
mimetypes multiprocessing multiprocessing.pool multiprocessing.shared_memory operator os os.path
pathlib pdb pickle pkgutil platform pprint pstats queue random re sched secrets shelve shlex shutil
signal smtplib socket sqlite3 ssl statistics string struct subprocess sys tarfile tempfile textwrap
threading time timeit traceback tracemalloc types typing unicodedata unittest unittest.mock
urllib.parse urllib.request urllib.robotparser uuid warnings weakref webbrowser
wsgiref.simple_server xml.dom.minidom xml.etree.ElementTree xml.sax.saxutils zipfile zlib
"""
MODULES = frozenset(_MODULE_NAMES.split())

#: The words of a text; a document token comes from one of them. No character but a space is lost.
WORD = re.compile(r"\w+|[^\w\s]")

#: A docstring is cut after so many words: enough for what it does, short enough to ship vectors.
MAX_WORDS = 56


def word_hash(word: str) -> int:
    """16 bits of a word, enough to find it again in a docstring that another Python reworded."""
    return zlib.crc32(word.lower().encode()) & 0xFFFF


def resolve(qualified_name: str) -> object:
    """The object of that public name, found by importing a module of `MODULES` and attributes only.

    Raises LookupError when the name is not public, outside `MODULES`, or missing in this Python.
    """
    parts = qualified_name.split(".")
    if not all(part.isidentifier() and not part.startswith("_") for part in parts):
        raise LookupError(f"{qualified_name!r} is not a public dotted name")
    for length in range(len(parts), 0, -1):  # the longest module wins: os.path before os
        module_name = ".".join(parts[:length])
        if module_name in MODULES:
            break
    else:
        length, module_name = 0, "builtins"
        if not hasattr(builtins, parts[0]):
            raise LookupError(f"{qualified_name!r} is in none of the demo's standard modules")
    try:
        found: object = importlib.import_module(module_name)
        for part in parts[length:]:
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"this Python has no {qualified_name!r}: {error}") from error
    return found


def shorten(docstring: str) -> str:
    """The docstring's prose as one line, up to its first example, cut at a sentence if too long."""
    lines = inspect.cleandoc(docstring).splitlines()
    example = next((n for n, line in enumerate(lines) if line.lstrip().startswith(">>>")), None)
    text = " ".join(" ".join(lines[:example]).split())
    ends = [match.end() for match in WORD.finditer(text) if match.group()[0].isalnum()]
    if len(ends) <= MAX_WORDS:
        return text
    half, limit = ends[MAX_WORDS // 2], ends[MAX_WORDS - 1]
    sentences = [m.end() for m in re.finditer(r"[.!?](?= )", text) if half < m.end() <= limit + 1]
    return text[: sentences[-1]] if sentences else text[:limit]


def document_text(qualified_name: str) -> str:
    """What the demo searches: the qualified name, a space, and the docstring, shortened.

    Raises LookupError when this Python has no such public object or it has no docstring.
    """
    docstring = getattr(resolve(qualified_name), "__doc__", None)
    text = shorten(docstring) if isinstance(docstring, str) else ""
    if not text:
        raise LookupError(f"{qualified_name!r} has no docstring in this Python")
    return f"{qualified_name} {text}"


def texts(qualified_names: list[str]) -> dict[str, str]:
    """The texts of the names that have one here and that this Python does not call deprecated."""
    result = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for name in qualified_names:
            with contextlib.suppress(LookupError, DeprecationWarning):
                result[name] = document_text(name)
    return result


if __name__ == "__main__":
    json.dump(texts(json.load(sys.stdin)), sys.stdout)
