#!/usr/bin/env python3
"""Builds the collection of `chamfer demo`: a thousand standard-library docstrings as token vectors.

    demo_collection.py choose --work WORK --interpreters python3.10 python3.11 python3.13
        -> WORK/corpus.jsonl.gz, WORK/queries.jsonl.gz: lines {"_id", "title", "text"}
    EMBEDDER --coll WORK --dlen 160              (any ColBERT embedder with these folders)
        -> WORK/embed.json (holds "dlen"); in WORK/docs and WORK/queries tokens.npy (T, 96) float16,
           offsets.npy (n + 1,), token_ids.npy (T,), ids.json
    demo_collection.py pack --work WORK --tokenizer tokenizer.json
        -> python/chamfer/data/stdlib.npz

`choose` needs the standard library only and takes the text from the Python that runs it; a name is
chosen when all interpreters have it with much the same docstring. `pack` needs numpy, tokenizers.
"""

from __future__ import annotations

import argparse
import gzip
import inspect
import json
import platform
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[1] / "python" / "chamfer" / "data"
QUESTIONS, PACKED = DATA / "stdlib_questions.json", DATA / "stdlib.npz"
sys.path.insert(0, str(DATA))  # not the package: `choose` has to run without numpy
import stdlib_text  # type: ignore[import-not-found]  # noqa: E402

# What programmers ask for, on every platform: modules and classes whose every public function,
# class or method is taken, then those of which only some are: `*` is all of them, `-name` all but.
WHOLE = """
atexit bisect bz2 collections.deque copy dataclasses datetime datetime.timedelta dict email.utils
filecmp fnmatch fractions functools getpass glob graphlib gzip heapq html itertools json list lzma
mimetypes os.path queue.Queue re.Match re.Pattern secrets set shlex sqlite3.Connection
sqlite3.Cursor statistics str struct subprocess subprocess.Popen textwrap timeit tracemalloc
urllib.parse webbrowser
"""
CHOICE = """
builtins: * -breakpoint -copyright -credits -license -exit -quit -help -aiter -anext -ascii; bytes:
decode fromhex hex split; tuple: count index; int: bit_length to_bytes from_bytes; float: is_integer
hex; os: chdir chmod cpu_count fstat fsync getcwd getenv getpid getppid kill link listdir makedirs
mkdir remove rename replace rmdir scandir stat system umask urandom walk access symlink; sys:
exc_info exit getdefaultencoding getrecursionlimit getrefcount getsizeof intern setrecursionlimit
settrace; re: * -template; json.JSONEncoder: default; csv: reader writer register_dialect Sniffer;
csv.Sniffer: *; datetime.datetime: * -utcnow -utcfromtimestamp -tzname -dst strftime weekday
isoweekday isocalendar toordinal fromisocalendar today; datetime.date: fromisoformat; datetime.time:
fromisoformat; time: ctime gmtime localtime monotonic perf_counter process_time sleep strftime
strptime time; calendar: isleap month monthcalendar monthrange HTMLCalendar weekday;
calendar.Calendar: monthdatescalendar; math: * -cosh -sinh -tanh -acosh -asinh -atanh -erf -erfc
-expm1 -gamma -lgamma -sumprod; operator: attrgetter contains countOf indexOf itemgetter
methodcaller; collections: * -UserList; collections.Counter: elements most_common subtract total;
collections.OrderedDict: move_to_end popitem; string: *; difflib: * -IS_CHARACTER_JUNK -IS_LINE_JUNK
-diff_bytes -Match; difflib.SequenceMatcher: get_opcodes ratio; difflib.HtmlDiff: make_file;
unicodedata: category lookup name normalize; pathlib: Path; pathlib.Path: * -lchmod -is_mount
-is_fifo -is_socket -is_block_device -is_char_device -is_junction -walk -lstat -group as_posix
joinpath name parent parents relative_to stem suffix with_name with_stem with_suffix parts match;
shutil: * -register_archive_format -register_unpack_format -unregister_unpack_format -copymode;
fileinput: input; linecache: getline; io: BytesIO StringIO TextIOWrapper; io.IOBase: readline
readlines seek writelines; io.StringIO: getvalue; io.BytesIO: getvalue; threading: Condition Event
Lock RLock Semaphore Thread Timer current_thread; threading.Thread: daemon is_alive join start;
threading.Event: set wait; threading.Timer: cancel; multiprocessing: Manager Pipe Pool Queue Value
cpu_count; multiprocessing.pool.Pool: apply_async imap_unordered map; multiprocessing.shared_memory:
SharedMemory; queue: LifoQueue PriorityQueue Queue; sched.scheduler: enter; concurrent.futures:
as_completed wait ProcessPoolExecutor ThreadPoolExecutor Future; concurrent.futures.Future:
add_done_callback result; asyncio: Lock Queue Semaphore as_completed create_task gather
open_connection run run_coroutine_threadsafe shield sleep start_server to_thread wait wait_for
create_subprocess_exec StreamReader; asyncio.Task: cancel; asyncio.StreamReader: readline readuntil;
socket: create_connection create_server getfqdn gethostbyaddr gethostbyname gethostname
setdefaulttimeout socket getaddrinfo; socket.socket: accept bind connect listen recv sendall
settimeout; ssl: create_default_context get_server_certificate; ssl.SSLSocket: getpeercert; http:
HTTPStatus; http.client: HTTPConnection HTTPSConnection; http.client.HTTPConnection: request;
http.server: SimpleHTTPRequestHandler BaseHTTPRequestHandler; http.cookies: SimpleCookie;
http.server.BaseHTTPRequestHandler: send_error; urllib.request: getproxies urlopen urlretrieve;
urllib.robotparser.RobotFileParser: can_fetch; email: message_from_string; email.message: Message;
email.message.Message: get_content_type get_filename get_payload walk; email.message.EmailMessage:
iter_attachments; smtplib: SMTP; smtplib.SMTP: login sendmail starttls send_message; ftplib: FTP;
ftplib.FTP: nlst retrbinary storbinary; wsgiref.simple_server: make_server; sqlite3: connect
register_adapter; dbm: open whichdb; shelve: open; zlib: compress crc32 decompress; zipfile: ZipFile
is_zipfile; zipfile.ZipFile: extract extractall namelist read write writestr; tarfile: open;
tarfile.TarFile: add extractall getnames; hashlib: md5 pbkdf2_hmac scrypt sha256 sha512 sha1; hmac:
compare_digest new; binascii: hexlify unhexlify; pprint: pformat pp pprint; enum: Enum Flag auto
unique; typing: Literal NamedTuple Optional Protocol TypedDict Union cast get_type_hints overload;
abc: ABC abstractmethod; inspect: cleandoc getdoc getmembers getsource getsourcefile isfunction
signature stack; ast: NodeVisitor literal_eval parse walk; dis: dis; logging: * -fatal
-setLoggerClass -getLoggerClass -BufferingFormatter -makeLogRecord -getLogRecordFactory
-setLogRecordFactory -FileHandler; logging.Logger: setLevel; logging.Handler: setFormatter;
logging.config: dictConfig fileConfig; logging.handlers: RotatingFileHandler SMTPHandler
SysLogHandler TimedRotatingFileHandler; warnings: catch_warnings filterwarnings simplefilter warn;
unittest: TestCase skipIf; unittest.TestCase: assertAlmostEqual assertCountEqual assertEqual
assertLogs assertRaises setUp subTest tearDown; unittest.mock: MagicMock Mock patch;
unittest.mock.Mock: assert_called_once_with assert_not_called reset_mock; doctest: testmod;
cProfile: run; pstats: Stats; gc: collect disable enable get_referrers; faulthandler: enable; pdb:
post_mortem set_trace; argparse: ArgumentDefaultsHelpFormatter ArgumentParser FileType;
argparse.ArgumentParser: add_argument error; getopt: getopt; configparser: ExtendedInterpolation
ConfigParser; configparser.ConfigParser: get read read_dict set write; uuid: uuid1 uuid4 uuid5;
decimal: Decimal getcontext localcontext; decimal.Decimal: normalize quantize; fractions.Fraction:
limit_denominator; ipaddress: collapse_addresses ip_address ip_network; ipaddress.IPv4Network: hosts
overlaps; ipaddress.IPv4Address: is_private; xml.etree.ElementTree: fromstring indent iterparse
parse tostring; xml.etree.ElementTree.ElementTree: find findall; xml.dom.minidom: parseString;
xml.sax.saxutils: escape; html.parser: HTMLParser; html.parser.HTMLParser: feed; locale: atof
currency format_string setlocale strxfrm; signal: alarm raise_signal signal; weakref:
WeakValueDictionary finalize; importlib: import_module reload; importlib.metadata: requires version;
importlib.resources: files as_file; importlib.util: find_spec spec_from_file_location; pkgutil:
get_data iter_modules; graphlib.TopologicalSorter: add static_order; contextlib: closing
contextmanager nullcontext redirect_stdout redirect_stderr suppress asynccontextmanager ExitStack;
tempfile: NamedTemporaryFile SpooledTemporaryFile TemporaryDirectory TemporaryFile gettempdir
mkdtemp mkstemp; pickle: Pickler Unpickler dump dumps load loads; random: * -gammavariate
-vonmisesvariate -weibullvariate; concurrent.futures.Executor: map submit; itertools.chain:
from_iterable; types: SimpleNamespace; platform: machine node platform python_implementation
python_version system; traceback: format_exc print_exc print_stack; base64: b32encode b64decode
b64encode urlsafe_b64encode; threading.Semaphore: acquire; threading.Condition: notify_all wait
"""


def public_names(owner_name: str) -> list[str]:
    """The public functions, classes and methods that a module or class itself defines, sorted."""
    owner: Any = stdlib_text.resolve(owner_name)
    names = getattr(owner, "__all__", None) or [n for n in vars(owner) if n[0] != "_"]
    if not inspect.ismodule(owner):
        return sorted(names)
    homes = {owner_name, owner.__name__, f"_{owner_name}"}  # else it is imported from elsewhere
    return sorted(
        name for name in names
        if callable(found := getattr(owner, name, None))
        and (hasattr(owner, "__all__") or getattr(found, "__module__", None) in homes)
    )  # fmt: skip


def is_wanted(name: str, text: str) -> bool:
    """Whether that object is no exception or constant and its text says something about it."""
    found = stdlib_text.resolve(name)
    words = [word for word in stdlib_text.WORD.findall(text[len(name) :]) if word.isalpha()]
    described = callable(found) or inspect.isdatadescriptor(found)
    exception = isinstance(found, type) and issubclass(found, BaseException)
    return described and not exception and len(words) >= 3 and "deprecated" not in text.lower()


def identity(name: str) -> int:
    """What two aliases share: the object as its owner stores it (a bound method is made anew)."""
    owner, _, last = name.rpartition(".")
    found = inspect.getattr_static(stdlib_text.resolve(owner), last, None) if owner else None
    return id(found or stdlib_text.resolve(name))


def choose(work: Path, interpreters: list[str]) -> None:
    """Writes the texts of the chosen names, and the questions, in the embedder's layout."""
    names: dict[str, None] = {}
    for entry in [*CHOICE.split(";"), *(f"{owner}: *" for owner in WHOLE.split())]:
        owner, _, members = " ".join(entry.split()).partition(": ")
        left_out = {member[1:] for member in members.split() if member[0] == "-"}
        for member in members.split():
            for name in public_names(owner) if member == "*" else [member]:
                if name not in left_out and name[0] not in "-_":
                    names.setdefault(name if owner == "builtins" else f"{owner}.{name}")
    here = stdlib_text.texts(list(names))
    chosen: dict[int, str] = {}
    for name, text in here.items():
        if is_wanted(name, text):
            chosen.setdefault(identity(name), name)
    texts = {name: here[name] for name in sorted(chosen.values())}
    for interpreter in interpreters:
        command = [interpreter, "-I", stdlib_text.__file__]
        asked = json.dumps(list(texts)).encode()
        there = json.loads(subprocess.check_output(command, input=asked))
        for name, text in list(texts.items()):
            ours, theirs = (set(stdlib_text.WORD.findall(t)) for t in (text, there.get(name, "")))
            if not theirs or 3 * len(ours & theirs) < min(len(ours), len(theirs)):
                print(f"{interpreter}: leaves out {name}")
                del texts[name]
    work.mkdir(parents=True, exist_ok=True)
    questions = [(row["id"], row["text"]) for row in json.loads(QUESTIONS.read_text("utf-8"))]
    for side, rows in ("corpus", list(texts.items())), ("queries", questions):
        with gzip.open(work / f"{side}.jsonl.gz", "wt", encoding="utf-8") as file:
            for row_id, text in rows:
                file.write(json.dumps({"_id": row_id, "title": "", "text": text}) + "\n")
    (work / "python_version").write_text(platform.python_version())
    print(f"{len(texts)} documents, {len(questions)} questions")


def pack(work: Path, tokenizer_path: Path) -> None:
    """Writes stdlib.npz: int8 vectors, and the word that each document token comes from."""
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    dropped = {tokenizer.token_to_id(mark) for mark in string.punctuation}
    dlen = json.loads((work / "embed.json").read_text())["dlen"]
    arrays: dict[str, Any] = {"format_version": 1}
    arrays["python_version"] = (work / "python_version").read_text()
    for side, folder in ("document", work / "docs"), ("query", work / "queries"):
        vectors = np.load(folder / "tokens.npy").astype(np.float32)
        codes = np.rint(vectors / np.abs(vectors).max(axis=1, keepdims=True) * 127).astype(np.int8)
        decoded = codes / np.linalg.norm(codes.astype(np.float32), axis=1, keepdims=True)
        cosine = (decoded * vectors).sum(axis=1) / np.linalg.norm(vectors, axis=1)
        print(f"{side}: {len(codes)} vectors, decoded with a cosine of {cosine.min():.6f} or more")
        arrays[f"{side}_vectors"] = codes
        arrays[f"{side}_offsets"] = np.load(folder / "offsets.npy").astype(np.int64)
        arrays[f"{side}_ids"] = np.array(json.loads((folder / "ids.json").read_text()))
    query_token_ids = np.load(work / "queries" / "token_ids.npy")
    arrays["query_tokens"] = np.array([tokenizer.id_to_token(i) for i in query_token_ids.tolist()])
    words, hashes, token_ids = [], [], []
    for row in gzip.decompress((work / "corpus.jsonl.gz").read_bytes()).splitlines():
        text = json.loads(row)["text"]
        spans = [match.span() for match in stdlib_text.WORD.finditer(text)]
        word_at = {at: word for word, span in enumerate(spans) for at in range(*span)}
        encoding = tokenizer.encode(text, add_special_tokens=False)
        body = zip(encoding.ids, [word_at[start] for start, _ in encoding.offsets], strict=True)
        special = [(tokenizer.token_to_id(t), 65535) for t in ("[CLS]", "[unused1]", "[SEP]")]
        for token_id, word in [*special[:2], *list(body)[: dlen - 3], special[2]]:
            if token_id not in dropped:
                token_ids.append(token_id)
                words.append(word)
                span = (0, 0) if word == 65535 else spans[word]
                hashes.append(stdlib_text.word_hash(text[slice(*span)]))
    if token_ids != np.load(work / "docs" / "token_ids.npy").tolist():
        raise SystemExit("the embedder cut or dropped other tokens: another tokenizer or dlen?")
    arrays["document_words"] = np.array(words, np.uint16)
    arrays["document_word_hashes"] = np.array(hashes, np.uint16)
    np.savez_compressed(PACKED, **arrays)
    print(f"{PACKED.name}: {PACKED.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    """Runs the step that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    steps = parser.add_subparsers(dest="step", required=True)
    choosing, packing = steps.add_parser("choose"), steps.add_parser("pack")
    for step in (choosing, packing):
        step.add_argument("--work", type=Path, required=True, help="the embedder's folder")
    choosing.add_argument("--interpreters", nargs="*", default=[], help="other Pythons to agree")
    packing.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    args = parser.parse_args()
    if args.step == "choose":
        choose(args.work, args.interpreters)
    else:
        pack(args.work, args.tokenizer)


if __name__ == "__main__":
    main()
