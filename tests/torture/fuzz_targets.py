"""What is fuzzed: python -m torture.fuzz_targets TARGET FOLDER CORPUS [flags of libFuzzer].

A target raises what the reader does not promise; libFuzzer then keeps the input.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import resource
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import atheris

with atheris.instrument_imports(include=["chamfer"]):
    import chamfer as ch
    from chamfer import _archives, _containers, _core, token_files
    from chamfer.binary_candidates import BinaryCandidates
    from chamfer.candidates import FaissCandidates
    from chamfer.codecs import Codec
    from chamfer.errors import CorruptIndexError
    from chamfer.index import catalogue, filters, legacy
    from chamfer.index.segments import SegmentMetadata, encode_metadata

import numpy as np
import xxhash

_MOST_MEMORY = 3 * 2**30  # above what is in use at the start
_HONEST = (CorruptIndexError, FileNotFoundError)


class Target:
    """A function of bytes, and what to begin with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def seeds(self) -> list[bytes]:
        return []

    def __call__(self, data: bytes) -> None:
        raise NotImplementedError


def small_index(folder: Path) -> Path:
    """Save a small index of two segments, with codes and metadata."""
    path = folder / "index"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    documents = [rng.standard_normal((2, 4)).astype(np.float32) for _ in range(6)]
    reducer = ch.FixedDimensionalEncoder(4, num_repetitions=1, num_simhash_projections=1)
    metadata = [{"year": 2000 + i, "name": "a"} for i in range(6)]
    ids = [f"d{i}" for i in range(6)]
    ch.Index.build(
        documents, ids, path=path, reducer=reducer, candidates="SQ8", rerank=["int8", "exact"], metadata=metadata
    )
    with ch.Index.open(path, "a") as index:
        index.add(documents[:2], ["d0", "e"])
        index.delete("d1")
    return path


class Container(Target):
    """The bytes of a container, the checksum of the header put right if the last byte is odd."""

    def seeds(self):
        return [file.read_bytes() + b"\1" for file in small_index(self.folder).rglob("*.chamfer")]

    def __call__(self, data):
        data, is_right = data[:-1], bool(data) and data[-1] & 1
        if is_right and len(data) > 24:
            (size,) = struct.unpack_from("<I", data, 12)
            text = data[24 : 24 + size]
            data = data[:16] + struct.pack("<Q", xxhash.xxh3_64_intdigest(text)) + data[24:]
        file = self.folder / "fuzzed.chamfer"
        file.write_bytes(data)
        try:
            container = _containers.Container(file, "chamfer.Segment", 1)
            container.verify(list(container.arrays))
        except CorruptIndexError:
            return
        except ValueError as error:
            assert "upgrade chamfer" in str(error)
            return
        for array in container.arrays.values():
            array.sum()


class Catalogue(Target):
    """The bytes of the catalogue's file."""

    def seeds(self):
        return [(small_index(self.folder) / catalogue.CATALOGUE).read_bytes()]

    def __call__(self, data):
        path = small_index(self.folder)
        manifest = getattr(self, "manifest", None) or catalogue.read(path)
        self.manifest = manifest
        fuzzed = self.folder / "fuzzed"
        fuzzed.mkdir(exist_ok=True)
        for file in fuzzed.iterdir():
            file.unlink()
        (fuzzed / catalogue.HEAD).write_bytes((path / catalogue.HEAD).read_bytes())
        (fuzzed / catalogue.CATALOGUE).write_bytes(data)
        try:
            found = catalogue.read(fuzzed)
        except _HONEST:
            return
        assert found == manifest, "another state is read"


class Head(Target):
    """The bytes of HEAD."""

    def seeds(self):
        return [(small_index(self.folder) / catalogue.HEAD).read_bytes()]

    def __call__(self, data):
        (self.folder / catalogue.HEAD).write_bytes(data)
        with contextlib.suppress(*_HONEST):
            catalogue.generation(self.folder)


_LOADERS: dict[str, Callable[[Path], Any]] = {
    "chamfer.FixedDimensionalEncoder": ch.FixedDimensionalEncoder.load,
    "chamfer.LearnedReducer": ch.LearnedReducer.load,
    "chamfer.RecurrentBinarizer": ch.RecurrentBinarizer.load,
    "chamfer.Codec": Codec.load,
    "chamfer.BinaryCandidates": lambda path: BinaryCandidates.load(path, 8, "bits"),
}


def archives(folder: Path) -> list[bytes]:
    """Return archives of all kinds."""
    place = folder / "archives"
    if not place.exists():
        place.mkdir()
        rng = np.random.default_rng(0)
        documents = [rng.standard_normal((3, 4)).astype(np.float32) for _ in range(40)]
        ch.FixedDimensionalEncoder(4, num_repetitions=1, num_simhash_projections=1).fit(documents).save(place / "a.npz")
        learned = ch.LearnedReducer(4, output_dimension=8, num_features=8, num_samples=32)
        learned.fit(documents).save(place / "b.npz")
        for i, name in enumerate(("int8", "scalar:2", "binary", "bfloat16")):
            Codec(name, 4).fit(documents).save(place / f"c{i}.npz")
    return [file.read_bytes() for file in sorted(place.iterdir())]


class Archive(Target):
    """The bytes of an archive, whatever it says it is."""

    def seeds(self):
        return archives(self.folder)

    def __call__(self, data):
        file = self.folder / "fuzzed.npz"
        file.write_bytes(data)
        for load in _LOADERS.values():
            try:
                load(file)
            except CorruptIndexError:
                pass
            except ValueError as error:
                assert "upgrade chamfer" in str(error)


class ChangedArchive(Target):
    """An archive whose parameters and arrays are changed, its checksum right: nothing may crash on it."""

    def __call__(self, data):
        given = atheris.FuzzedDataProvider(data)
        sources = archives(self.folder)
        with np.load(io.BytesIO(sources[given.ConsumeIntInRange(0, len(sources) - 1)])) as archive:
            header = json.loads(str(archive["header"]))
            arrays = {name: archive[name] for name in archive.files if name != "header"}
        parameters = header["parameters"]
        for _ in range(given.ConsumeIntInRange(1, 3)):
            if parameters and given.ConsumeBool():
                name = given.PickValueInList(sorted(parameters))
                parameters[name] = _json_value(given)
            elif arrays:
                name = given.PickValueInList(sorted(arrays))
                array = _array(given)
                arrays[name] = array if array.dtype != object else array.astype(np.float32)
        file = self.folder / "changed.npz"
        _archives.write_archive(file, header["format"], header["version"], parameters, arrays)
        try:
            loaded = _LOADERS[header["format"]](file)
            documents = [np.ones((2, 4), np.float32), np.ones((1, 4), np.float32)]
            if hasattr(loaded, "encode_documents"):
                loaded.encode_documents(documents, num_threads=1)
                loaded.encode_queries(documents, num_threads=1)
            elif isinstance(loaded, Codec):
                ch.maxsim(documents, loaded.encode(documents), num_threads=1)
        except (ValueError, TypeError, KeyError, MemoryError, OverflowError, AttributeError, IndexError):
            pass  # a file made to deceive need not be told in the best words


class Faiss(Target):
    """The bytes of a FAISS index, changed where its kind stays: nobody but a forger makes others, see the checksum."""

    def seeds(self):
        return [file.read_bytes() for file in small_index(self.folder).rglob("*.faiss")]

    def __call__(self, data):
        file = self.folder / "fuzzed.faiss"
        file.write_bytes(data)
        try:
            candidates = FaissCandidates.load(file, 8, "SQ8")
        except CorruptIndexError:
            return
        except MemoryError:
            return
        assert candidates.num_documents >= 0


class Legacy(Target):
    """The manifest of an index of version 1 or 2, its checksum put right if the last byte is odd."""

    def seeds(self):
        data = Path(__file__).parent.parent / "data"
        found = [next((data / name).rglob(legacy.MANIFEST)).read_bytes() for name in ("index_v1", "index_v2")]
        return [one + b"\0" for one in found] + [json.loads(one)["manifest"].encode() + b"\1" for one in found]

    def __call__(self, data):
        data, is_right = data[:-1], bool(data) and data[-1] & 1
        if is_right:
            text = data.decode(errors="replace")
            data = json.dumps({"manifest": text, "checksum": legacy._text_hash(text)}).encode()
        path = self.folder / "legacy"
        path.mkdir(exist_ok=True)
        (path / legacy.MANIFEST).write_bytes(data)
        try:
            legacy.read(path, verify=True)
        except _HONEST:
            pass
        except ValueError as error:
            assert "upgrade chamfer" in str(error)


class Tokens(Target):
    """Files of token vectors: an .npz, an .npy with its offsets, and a folder."""

    def seeds(self):
        whole, vectors = io.BytesIO(), io.BytesIO()
        np.savez(whole, vectors=np.ones((3, 4), np.float32), offsets=np.array([0, 1, 3]), ids=np.array(["a", "b"]))
        np.save(vectors, np.ones((3, 4), np.float32))
        return [b"\0" + whole.getvalue(), b"\1" + vectors.getvalue()]

    def __call__(self, data):
        kind, data = data[:1], data[1:]
        if kind == b"\0":
            file = self.folder / "fuzzed.npz"
            file.write_bytes(data)
        else:
            file = self.folder / "fuzzed.npy"
            file.write_bytes(data)
            offsets = self.folder / "fuzzed.offsets.npy"
            if kind == b"\2":
                offsets.write_bytes(data)
            else:
                np.save(offsets, np.array([0, 1, 3]))
        try:
            token_files.read_token_vectors(file)
        except MemoryError:
            pass  # as large as it says, nobody has read it
        except (TypeError, ValueError, FileNotFoundError) as error:
            assert str(self.folder) in str(error), "the file is not named"


class Condition(Target):
    """Conditions on metadata: each is refused by ValueError, or answers as Python would, but for what is missing."""

    def __init__(self, folder):
        super().__init__(folder)
        self.rows: list[Any] = [
            {"year": 2000, "name": "a"},
            {"year": None},
            None,
            {"name": "b", "x": 1.5, "is_y": True},
        ]

    def seeds(self):
        texts = ["year >= 2000 and name in ('a', 'b')", "not (x < 2.5) or is_y", "1990 < year <= 2020", "name is None"]
        return [text.encode() for text in texts]

    def __call__(self, data):
        text = data.decode("utf-8", "replace")
        metadata = SegmentMetadata(encode_metadata(self.rows))
        try:
            condition = filters.Condition(text)
        except ValueError as error:
            assert str(error).startswith("filter: ") or "null" in str(error), error
            return
        found = condition(metadata, len(self.rows))
        assert found.dtype == bool
        assert found.shape == (len(self.rows),)
        negated = filters.Condition(f"not ({text.strip()}\n)")(metadata, len(self.rows))
        assert (negated != found).all()


class Bindings(Target):
    """Each function of the compiled module, with what its stub says it takes, or nearly that."""

    def __init__(self, folder):
        super().__init__(folder)
        module = ast.parse(Path(ch.__file__).with_name("_core.pyi").read_text("utf-8"))
        self.functions: list[tuple[Callable[..., Any], list[Any]]] = []
        for node in module.body:
            if isinstance(node, ast.FunctionDef):
                self.functions.append((getattr(_core, node.name), _arguments(node)))
            elif isinstance(node, ast.ClassDef):
                made = getattr(_core, node.name)
                for method in (one for one in node.body if isinstance(one, ast.FunctionDef)):
                    if any(getattr(one, "id", "") == "property" for one in method.decorator_list):
                        continue
                    is_static = any(getattr(one, "id", "") == "staticmethod" for one in method.decorator_list)
                    if method.name == "__init__":
                        self.functions.append((made, _arguments(method)[1:]))
                    else:
                        receiver = [] if is_static else [("self", node.name, False, False)]
                        arguments = _arguments(method)
                        self.functions.append((getattr(made, method.name), receiver + arguments[len(receiver) :]))

    def __call__(self, data):
        # Nothing in the compiled module guides libFuzzer: short inputs are drawn out, so that they say all.
        more = np.random.default_rng(np.frombuffer(data, np.uint8)).bytes(2000) if data else b""
        given = atheris.FuzzedDataProvider(data + more)
        function, arguments = self.functions[given.ConsumeIntInRange(0, len(self.functions) - 1)]
        # Sizes are drawn from a few, so that arrays fit each other now and then.
        sizes = [given.ConsumeIntInRange(0, 9) for _ in range(3)]
        self._call(given, function, arguments, sizes, 0)

    def _call(self, given, function, arguments, sizes, depth):
        positional, named = [], {}
        try:
            for name, kind, is_named, is_optional in arguments:
                if is_optional and given.ConsumeBool():
                    continue
                value = self._value(given, name, kind, sizes, depth)
                if is_named:
                    named[name] = value
                else:
                    positional.append(value)
            if os.environ.get("CHAMFER_FUZZ_TRACE"):  # what a crash was called with
                print(function, positional, named, file=sys.stderr, flush=True)
            return function(*positional, **named)
        except (TypeError, ValueError, MemoryError, OverflowError, IndexError, RuntimeError):
            return None

    def _value(self, given, name, kind, sizes, depth):
        if given.ConsumeIntInRange(0, 31) == 0:
            return given.PickValueInList([None, "x", -1, 1.5, b"", np.zeros(3), 2**70])
        if "Literal" in kind:
            return given.PickValueInList(re.findall(r"'([^']*)'", kind))
        if kind in _ALIASES:
            return given.PickValueInList(_ALIASES[kind])
        if "Collection" in kind or kind in ("FdeEncoder", "FeatureMap"):
            return self._made(given, kind, sizes, depth)
        if kind == "bool":
            return given.ConsumeBool()
        if kind == "float":
            return given.PickValueInList([0.0, 1.0, -1.0, 1e30, float("nan"), float("inf"), given.ConsumeFloat()])
        if kind == "str":
            return given.PickValueInList([*_core.available_isas(), "avx2", "nonsense"])
        if kind == "int":
            if name == "num_threads":
                return given.PickValueInList([1, 1, 1, 2, 3, 0, -1])
            if name == "rounds" or name == "prefetch_bytes":
                return given.ConsumeIntInRange(-1, 64)
            return given.PickValueInList([*sizes, *sizes, 1, 2, 4, 8, 16, 0, -1, 2**36, 2**62, -(2**63), 64, 100])
        dtype = next((one for name, one in _DTYPES.items() if name in kind), None)
        return _array(given, dtype, sizes)

    def _made(self, given, kind, sizes, depth):
        """Return a collection or an encoder, most often one that can be made."""
        if depth > 2:
            return None
        if "Collection" in kind and given.ConsumeIntInRange(0, 3):
            lengths = [given.ConsumeIntInRange(0, 5) for _ in range(given.ConsumeIntInRange(0, 5))]
            offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
            dtype = given.PickValueInList([np.float32, np.float32, np.float16])
            values = np.frombuffer(given.ConsumeBytes(64).ljust(64, b"\1"), np.int8)
            return _core.Collection(np.resize(values, (int(offsets[-1]), sizes[0])).astype(dtype), offsets)
        makers = [one for one in self.functions if getattr(one[0], "__name__", "") == kind.split(" ")[0]]
        if "Collection" in kind:
            makers += [one for one in self.functions if one[0].__name__ in ("bfloat16", "codes8", "short_codes")]
        function, arguments = makers[given.ConsumeIntInRange(0, len(makers) - 1)]
        return self._call(given, function, arguments, sizes, depth + 1)


_ALIASES = {
    "SdcFormula": ["bitwise", "integer", "table"],
    "Layout": ["google", "paper"],
    "DenseOutput": ["float32", "float16", "int8", "bits"],
}
_DTYPES = {
    "Float32Array": np.float32,
    "FloatArray": np.float32,
    "Int32Array": np.int32,
    "Int64Array": np.int64,
    "UInt8Array": np.uint8,
    "float16": np.float16,
}


def _arguments(function: ast.FunctionDef) -> list[tuple[str, str, bool, bool]]:
    """Return name, annotation, whether it goes by name, and whether it may be left out, of each argument."""
    given = function.args
    first_optional = len(given.args) - len(given.defaults)
    found = [
        (one.arg, ast.unparse(one.annotation) if one.annotation else "", False, i >= first_optional)
        for i, one in enumerate(given.args)
    ]
    for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found.append((one.arg, ast.unparse(one.annotation or ast.Constant(None)), True, default is not None))
    return found


def _json_value(given: Any) -> Any:
    """Return a value that JSON holds."""
    numbers = [0, 1, -1, 3, 8, 2**31, 2**62, 1.5, -0.0, 1e300]
    return given.PickValueInList([*numbers, None, True, "", "int8", "paper", [], [1, 2], {}, {"a": 1}])


def _array(given: Any, dtype: Any = None, sizes: Any = (0, 1, 3)) -> np.ndarray:
    """Return an array of some dtype, shape, layout and contents."""
    dtypes = [np.float32, np.float16, np.float64, np.int8, np.int32, np.int64, np.uint8, np.uint64, bool, ">f4", object]
    if dtype is None or given.ConsumeIntInRange(0, 15) == 0:
        dtype = given.PickValueInList(dtypes)
    ndim = given.PickValueInList([1, 1, 2, 2, 2, 0, 3])
    shape = tuple(given.PickValueInList([*sizes, *sizes, 0, 1, 8, 65]) for _ in range(ndim))
    size = int(np.prod(shape))
    if given.ConsumeBool():
        values = np.resize(np.frombuffer(given.ConsumeBytes(64).ljust(8, b"\0"), np.uint8), size)
        array = values.astype(dtype).reshape(shape)
    elif dtype is not object and np.dtype(dtype).kind in "iu":
        ends = np.iinfo(dtype)
        array = np.full(shape, given.PickValueInList([0, 1, 2, ends.min, ends.max, ends.max // 2]), dtype)
    elif given.ConsumeBool():
        array = np.full(
            shape, given.PickValueInList([0, 1, np.nan, np.inf, -np.inf]) if dtype is not bool else 1, dtype
        )
    else:
        array = np.arange(size).astype(dtype).reshape(shape)
    layout = given.ConsumeIntInRange(0, 31)
    if layout == 1:
        array = np.asfortranarray(array)
    elif layout == 2:
        array = array[::-1] if array.ndim else array
    elif layout == 3:
        array = np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
    elif layout == 4 and array.ndim:
        array = np.broadcast_to(array[:1], array.shape) if len(array) else array
    elif layout == 5 and dtype is not object:
        data = np.zeros(array.nbytes + 1, np.uint8)
        data[1:] = np.frombuffer(array.tobytes(), np.uint8)
        array = data[1:].view(array.dtype).reshape(array.shape)  # unaligned
    elif layout == 6:
        array.flags.writeable = False
    return array


def main() -> None:
    name, folder, *flags = sys.argv[1:]
    made = {one.__name__: one for one in Target.__subclasses__()}
    target = made["".join(word.capitalize() for word in name.split("_"))](Path(folder))
    for i, seed in enumerate(target.seeds()):
        (Path(flags[0]) / f"seed {i}").write_bytes(seed)
    warnings.simplefilter("ignore")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MOST_MEMORY,) * 2)
    atheris.Setup([sys.argv[0], *flags], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
