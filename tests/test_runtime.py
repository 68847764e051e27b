"""Choosing an instruction set: by argument, by CHAMFER_ISA, and the errors of both."""

import os
import subprocess
import sys

import numpy as np
import pytest

import chamfer
from conftest import ISAS

ONE = np.ones((1, 4), np.float32)
MISSING = [isa for isa in ISAS if isa not in chamfer.available_isas()]


def best_isa_with(value):
    """Import chamfer in a fresh process with CHAMFER_ISA set."""
    return subprocess.run(
        [sys.executable, "-c", "import chamfer; print(chamfer.best_isa())"],
        env=os.environ | {"CHAMFER_ISA": value},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ISAS)
def test_this_machine_tests(name):
    if name in MISSING:
        pytest.skip(f"no test of {name}: this machine has {', '.join(chamfer.available_isas())}")
    assert chamfer.maxsim(ONE, ONE, isa=name) == 4


def test_scalar_is_the_lowest_everywhere():
    assert chamfer.available_isas()[0] == "scalar"


def test_the_highest_is_taken_by_default():
    assert best_isa_with("").stdout.strip() == chamfer.available_isas()[-1]


def test_chamfer_isa_forces_one_at_import(isa):
    assert best_isa_with(isa).stdout.strip() == isa


@pytest.mark.parametrize("name", ["sse9", "AVX2", " avx2", "scalar,avx2"])
def test_an_unknown_chamfer_isa_fails_at_import_and_names_the_choices(name):
    result = best_isa_with(name)
    assert result.returncode != 0
    assert "ValueError: CHAMFER_ISA" in result.stderr
    assert ", ".join(chamfer.available_isas()) in result.stderr


@pytest.mark.parametrize("name", MISSING)
def test_a_chamfer_isa_that_this_cpu_lacks_fails_at_import_and_names_the_choices(name):
    result = best_isa_with(name)
    assert result.returncode != 0
    assert f"ValueError: CHAMFER_ISA: '{name}' is not supported by this CPU" in result.stderr
    assert f"available: {', '.join(chamfer.available_isas())}" in result.stderr


@pytest.mark.parametrize("name", ["", "sse9", "AVX2", *MISSING])
def test_an_isa_argument_that_this_machine_cannot_run_is_refused(name):
    with pytest.raises(ValueError, match=r"^isa: .*available: scalar"):
        chamfer.maxsim(ONE, ONE, isa=name)


@pytest.mark.parametrize("value", [2, b"avx2", True, ["avx2"]], ids=repr)
def test_an_isa_argument_that_is_no_string_is_refused(value):
    with pytest.raises(TypeError, match=r"^isa: expected one of scalar"):
        chamfer.maxsim(ONE, ONE, isa=value)
