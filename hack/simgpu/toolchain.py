"""Compiles the simulated GPU when its sources changed.

Nothing of NVIDIA's is copied: ``nvml.h`` is included from the PyPI package nvidia-nvml-dev, and the symbols that only
need to exist are read from the installed pynvml.
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.simgpu.table import c_table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
GEOMETRY = ROOT / "agent" / "data" / "mig_geometry.json"
DEFAULT_OUT = ROOT / "build" / "simgpu"
LIBRARY_NAME = "libnvidia-ml.so.1"

FLAGS = (
    "-std=c11",
    "-D_GNU_SOURCE",
    "-O1",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fPIC",
    "-fvisibility=hidden",
    "-pthread",
)
PROGRAM_ONLY = ("control", "nvidia_smi")


@dataclass(frozen=True, slots=True)
class Paths:
    """What a build leaves behind. ``library`` has the file name that pynvml asks the loader for."""

    library: Path
    simgpu: Path
    nvidia_smi: Path

    @property
    def directory(self) -> Path:
        """Goes into LD_LIBRARY_PATH, and in front of PATH for ``nvidia-smi``."""
        return self.library.parent


def build(out: Path = DEFAULT_OUT) -> Paths:
    """Compiles what changed since the last build; a second caller waits for the first.

    Raises RuntimeError with the compiler's words when the sources do not compile.
    """
    out = out.resolve()
    paths = Paths(out / LIBRARY_NAME, out / "simgpu", out / "nvidia-smi")
    out.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(out):
        fingerprint = _fingerprint()
        stamp = out / "stamp"
        if not (stamp.exists() and stamp.read_text() == fingerprint and paths.library.exists()):
            _compile(paths, out / "objects")
            stamp.write_text(fingerprint)
    return paths


@contextmanager
def _one_at_a_time(out: Path) -> Iterator[None]:
    with (out / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fingerprint() -> str:
    sources = [*sorted(HERE.glob("*.[ch]")), HERE / "table.py", HERE / "toolchain.py", GEOMETRY, _pynvml_source()]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()


def _compile(paths: Paths, objects: Path) -> None:
    objects.mkdir(exist_ok=True)
    (objects / "geometry_table.c").write_text(c_table(GEOMETRY))
    (objects / "stubs.c").write_text(_stubs(_pynvml_source().read_text()))
    sources = [*sorted(HERE.glob("*.c")), objects / "geometry_table.c", objects / "stubs.c"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = list(pool.map(lambda source: _object(source, objects), sources))
    library = [made for made in compiled if not made.stem.startswith(PROGRAM_ONLY)]
    _link(paths.library, library, ("-shared", f"-Wl,-soname,{LIBRARY_NAME}"))
    _link(paths.simgpu, library + [made for made in compiled if made.stem.startswith("control")])
    _link(paths.nvidia_smi, library + [made for made in compiled if made.stem.startswith("nvidia_smi")])


def _object(source: Path, objects: Path) -> Path:
    made = objects / f"{source.stem}.o"
    _run([*_compiler(), *FLAGS, f"-I{HERE}", f"-isystem{_nvml_include()}", "-c", str(source), "-o", str(made)])
    return made


def _link(target: Path, objects: list[Path], extra: tuple[str, ...] = ()) -> None:
    """Put in place by a rename: a process that has the old file mapped keeps it."""
    beside = target.with_name(f"{target.name}.new")
    _run([*_compiler(), *extra, "-pthread", "-o", str(beside), *map(str, objects)])
    beside.replace(target)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def _compiler() -> list[str]:
    found = shutil.which("cc")
    return [found] if found is not None else [sys.executable, "-m", "ziglang", "cc"]


def _nvml_include() -> Path:
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations or () if spec is not None else ():
        for header in Path(root).glob("*/include/nvml.h"):
            return header.parent
    raise RuntimeError("nvml.h not found: install the development dependency nvidia-nvml-dev")


def _pynvml_source() -> Path:
    spec = importlib.util.find_spec("pynvml")
    if spec is None or spec.origin is None:
        raise RuntimeError("pynvml not found: install nvidia-ml-py")
    return Path(spec.origin)


def _stubs(pynvml: str) -> str:
    """A weak definition of every symbol that pynvml names; the linker prefers a real one."""
    names = sorted(set(re.findall(r'_nvmlGetFunctionPointer\("(nvml\w+)"\)', pynvml)))
    attributes = '__attribute__((weak, visibility("default")))'
    stubs = "\n".join(f"{attributes} int {name}(void) {{ return NOT_SUPPORTED; }}" for name in names)
    return f"enum {{ NOT_SUPPORTED = 3 }}; /* NVML_ERROR_NOT_SUPPORTED */\n\n{stubs}\n"
