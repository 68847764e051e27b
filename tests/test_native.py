"""The C++ test program under sanitizers, and on AArch64 by emulation."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EMULATOR = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]


def run(*command: str | Path, timeout: int = 300) -> str:
    """The output of a command that must succeed; if it fails, all of it is in the report."""
    done = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )
    print(done.stdout)
    assert done.returncode == 0, f"exit status {done.returncode} of {' '.join(map(str, command))}\n{done.stdout}"
    return done.stdout


def require(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def require_sanitizer(sanitizers: str, directory: Path) -> None:
    """Skips where the compiler knows the flag but lacks the library, or its programs cannot start here."""
    source, program = directory / "empty.cpp", directory / "empty"
    source.write_text("int main() {}\n")
    built = subprocess.run(["c++", f"-fsanitize={sanitizers}", source, "-o", program], capture_output=True)
    if built.returncode != 0 or subprocess.run([program], capture_output=True).returncode != 0:
        pytest.skip(f"-fsanitize={sanitizers} does not work here")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds kernels_test with the CMake options given and returns its path."""

    def build_kernels_test(name: str, *options: str) -> Path:
        require("cmake")
        directory = tmp_path_factory.mktemp(name)
        run("cmake", "-S", ROOT, "-B", directory, "-DCHAMFER_TESTS=ON", "-DCHAMFER_PYTHON=OFF", *options)
        run("cmake", "--build", directory, "-j2")
        return directory / "kernels_test"

    return build_kernels_test


# Debug keeps the asserts. GCC takes a minute to optimise the kernels with the address checks in them (-O1), and they
# run in 12 s without; ThreadSanitizer is the other way round.
@pytest.mark.parametrize(("sanitizers", "optimisation"), [("address,undefined", "-O0"), ("thread", "-O1")])
def test_kernels_meet_their_definitions_under_sanitizers(
    build: Callable[..., Path], sanitizers: str, optimisation: str, tmp_path: Path
) -> None:
    require("cmake", "c++")
    require_sanitizer(sanitizers, tmp_path)
    options = ["-DCMAKE_BUILD_TYPE=Debug", f"-DCMAKE_CXX_FLAGS={optimisation}", "-DCMAKE_CXX_COMPILER=c++"]
    output = run(build("sanitized", *options, f"-DCHAMFER_SANITIZE={sanitizers}"), "--quick")
    assert " 0 failed" in output.splitlines()[-1]


def digests(path: Path) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Lines "products avx2 HASH": what is the same for all by kind and name, and the hashes of kernels by operation."""
    fixed: dict[str, str] = {}
    kernels: dict[str, dict[str, str]] = {}
    for line in path.read_text().splitlines():
        kind, name, value = line.split()
        if kind in ("matrices", "encoded"):
            fixed[f"{kind} {name}"] = value
        else:
            kernels.setdefault(kind, {})[name] = value
    return fixed, kernels


def test_neon_meets_the_definitions_and_gives_the_bits_of_this_machine(
    build: Callable[..., Path], tmp_path: Path
) -> None:
    require("cmake", "c++", "aarch64-linux-gnu-g++", "qemu-aarch64")
    toolchain = ROOT / "cmake" / "aarch64-linux-gnu.cmake"
    arm = build("aarch64", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}")
    output = run(*EMULATOR, arm, "--quick", "--digest", tmp_path / "arm")
    assert "isa: scalar neon" in output

    # Release, as shipped: no asserts, all optimisations.
    native = build("native", "-DCMAKE_CXX_COMPILER=c++")
    run(native, "--digest", tmp_path / "native")
    arm_fixed, arm_kernels = digests(tmp_path / "arm")
    native_fixed, native_kernels = digests(tmp_path / "native")
    encoded = {f"encoded {storage}" for storage in ("bfloat16", "codes8", "codes4", "codes2", "codes1")}
    assert arm_fixed.keys() == {"matrices google", "matrices paper"} | encoded
    assert arm_fixed == native_fixed
    exact = {"hamming", "sdc", "integers", "codes8", "codes4", "codes2", "codes1", "bits"}
    fused = {"products", "scores", "screened", "features", "bfloat16"}
    assert arm_kernels.keys() == exact | fused
    for kind, hashes in arm_kernels.items():
        assert {"neon", "neon_dotprod"} <= hashes.keys(), "the emulator's CPU has dot products"
        together = set(hashes.values()) | set(native_kernels.get(kind, {}).values())
        assert len(together) == 1, f"{kind}: {hashes} and {native_kernels.get(kind)}"
    if "products" not in native_kernels:
        pytest.skip("this CPU has only the scalar kernels, which round otherwise; NEON itself passed")
