"""The rules of the codebase that a machine can check: what imports what, what is documented, what agrees."""

import ast
import importlib.metadata
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import chamfer
from chamfer import _core
from conftest import REPOSITORY

PACKAGE = Path(chamfer.__file__).parent
MODULES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}

HEAVY = ("torch", "onnxruntime", "ray", "faiss", "matplotlib", "typer", "rich")
ABOVE_THE_ENGINE = {"cli", "__main__", "demo", "data", "token_files", "evaluation"} | {
    "encoders",
    "training",
    "distributed",
    "integrations",
}
PARTS_OF_BINARY_CANDIDATES = {"recurrent_lists", "sign_index"}
FAR = ABOVE_THE_ENGINE | {"index", "binary_candidates"} | PARTS_OF_BINARY_CANDIDATES
# What a module or folder of the engine must not import: the arrows of architecture.md.
FORBIDDEN = {
    "errors": FAR | {"token_vectors", "scoring", "reducers", "codecs", "candidates", "cascade", "_runtime", "_files"},
    "_files": FAR | {"token_vectors", "scoring", "reducers", "codecs", "candidates", "cascade", "_runtime"},
    "_archives": FAR | {"token_vectors", "scoring", "reducers", "codecs", "candidates", "cascade", "_runtime"},
    "_runtime": FAR | {"token_vectors", "scoring", "reducers", "codecs", "candidates", "cascade"},
    "token_vectors": FAR | {"scoring", "reducers", "codecs", "candidates", "cascade"},
    "scoring": FAR | {"reducers", "candidates", "cascade"},
    "binary": FAR | {"recurrent", "reducers", "candidates", "cascade"},
    "recurrent": FAR | {"reducers", "candidates", "cascade"},
    "reducers": FAR | {"candidates", "cascade"},
    "codecs": FAR | {"reducers", "candidates", "cascade"},
    "faiss_parts": FAR | {"token_vectors", "scoring", "reducers", "codecs", "candidates", "cascade"},
    "candidates": FAR | {"cascade"},
    "recurrent_lists": FAR | {"cascade"},
    "sign_index": FAR | {"cascade"},
    "binary_candidates": (FAR - PARTS_OF_BINARY_CANDIDATES) | {"cascade"},
    "cascade": FAR,
    "index": ABOVE_THE_ENGINE,
}


def top_name(path):
    """Return the module or folder of the package that a file belongs to: "reducers/ball_carving.py" -> "reducers"."""
    return path.split("/")[0].removesuffix(".py")


def imported(tree):
    """Return the dotted names that a module imports, those inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


# ── imports ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_import_chamfer_brings_no_heavy_package(tmp_path):
    for name in HEAVY:  # stand-ins, so that an import would succeed and show, installed or not
        (tmp_path / f"{name}.py").touch()
    code = f"import sys, chamfer; print(*(name for name in {HEAVY} if name in sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_faiss_is_imported_by_what_wraps_it_only():
    importing = {path for path, tree in MODULES.items() if any(n.split(".")[0] == "faiss" for n in imported(tree))}
    assert importing <= {"candidates.py", "faiss_parts.py", "sign_index.py"}


@pytest.mark.parametrize("path", [path for path in MODULES if top_name(path) in FORBIDDEN])
def test_arrows_between_modules_go_one_way(path):
    used = {name.split(".")[1] for name in imported(MODULES[path]) if name.startswith("chamfer.")}
    assert used & FORBIDDEN[top_name(path)] == set()


@pytest.mark.parametrize("path", [path for path in MODULES if top_name(path) in FORBIDDEN])
def test_the_engine_never_imports_torch(path):
    assert not {"torch", "onnxruntime", "ray"} & {name.split(".")[0] for name in imported(MODULES[path])}


@pytest.mark.parametrize("path", MODULES)
def test_a_module_never_imports_pickle(path):
    assert "pickle" not in imported(MODULES[path])


# ── documentation ───────────────────────────────────────────────────────────────────────────────────────────────────

MADE_BY_OTHERS = ("Index", "TokenCodes")  # by Index.build and open, and by Codec.encode
PUBLIC = [name for name in chamfer.__all__ if name != "__version__"]


def documented_callables():
    """Return (name, docstring, function) of public functions, constructors and methods that take parameters."""
    for name in PUBLIC:
        thing = getattr(chamfer, name)
        if not inspect.isclass(thing):
            yield name, thing.__doc__, thing
            continue
        if "__init__" in vars(thing) and name not in MADE_BY_OTHERS:
            yield name, thing.__doc__, thing.__init__
        for method in (m for m in vars(thing) if not m.startswith("_")):
            if inspect.isroutine(getattr(thing, method)):
                yield f"{name}.{method}", getattr(thing, method).__doc__, getattr(thing, method)


CALLABLES = {name: (docstring, function) for name, docstring, function in documented_callables()}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_docstring(name):
    assert len(inspect.getdoc(getattr(chamfer, name)) or "") > 20


@pytest.mark.parametrize("name", CALLABLES)
def test_every_parameter_is_in_the_docstring(name):
    docstring, function = CALLABLES[name]
    parameters = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
    _, _, described = (docstring or "").partition("Attributes:" if "Attributes:" in docstring else "Args:")
    assert [p for p in parameters if f"{p}:" not in described] == []


# ── what must agree ─────────────────────────────────────────────────────────────────────────────────────────────────


def stub():
    return ast.parse((PACKAGE / "_core.pyi").read_text("utf-8"))


def public_names(body):
    """Return the functions, classes, properties and annotated names of a stub; its aliases and imports are its own."""
    names = {n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    return names | {n.target.id for n in body if isinstance(n, ast.AnnAssign)}


def test_the_stub_names_what_the_compiled_module_has():
    compiled = {name for name in dir(_core) if not name.startswith("__")} | {"__version__"}
    assert public_names(stub().body) == compiled


@pytest.mark.parametrize("name", [node.name for node in stub().body if isinstance(node, ast.ClassDef)])
def test_the_stub_names_the_members_of_each_compiled_class(name):
    body = next(node.body for node in stub().body if isinstance(node, ast.ClassDef) and node.name == name)
    compiled = {member for member in dir(getattr(_core, name)) if not member.startswith("_")}
    assert public_names(body) - {"__init__"} == compiled


def test_versions_agree():
    assert chamfer.__version__ == importlib.metadata.version("chamfer")


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_has_no_complaint():
    command = [sys.executable, "-m", "mypy", "--strict", "python/chamfer"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
