"""Writes the geometry table as C, with an estimate where the project's table says ``null`` (unknown).

Estimates, none of which goes back into the table:

* total memory: half a GiB under the GB of the whole-board profile's name, so that the name follows from the memory;
* profile memory: its share of the memory slices, less 1.5 % and rounded down to 64 MiB;
* profile ids: those of Hopper, which has the same enum on every board with eight memory slices; 6 for A30's 2g+me;
* multiprocessors: H100's, scaled to the board's, on Hopper; slices x 18 on Blackwell (what a B200's 1g shows);
* engines: those of H100 or B200 for the same enum;
* placements of compute instances: multiples of their width rounded up to a power of two.

Links are not in the table; they are from memory of NVIDIA's data sheets. PCIe cards, where NVLink needs a bridge, are
simulated without one. Ten C2C links are what ``nvidia-smi c2c -s`` lists on a GH200; that GB200 and GB300 have as many is a
choice.

Some boards read differently under older drivers (``variants``). What differs is known; below which branch is a choice.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]

PROFILE_IDS = {0: 19, 1: 14, 2: 9, 3: 5, 4: 0, 7: 20, 8: 6, 9: 15}
BOARD_MULTIPROCESSORS = {"H20-96GB": 78, "GH200-144GB": 132}
PCI_DEVICE_IDS = {"H20-96GB": "0x232910DE"}
BLACKWELL_SLICE = 18
ENGINES = ("copy_engines", "decoders", "encoders", "jpeg", "ofa")
EVERY_BRANCH = 9999
NVLINKS = {"A100-SXM4-40GB": 12, "A100-80GB": 12} | dict.fromkeys(
    (
        "H100-80GB-SXM",
        "H200-141GB",
        "H20-96GB",
        "GH200-96GB",
        "GH200-144GB",
        "B200-180GB",
        "GB200-186GB",
        "B300",
        "GB300",
    ),
    18,
)
C2C_LINKS = dict.fromkeys(("GH200-96GB", "GH200-144GB", "GB200-186GB", "GB300"), 10)
REFERENCE_BOARD = {"hopper": "H100-80GB-SXM", "blackwell": "B200-180GB"}


@dataclass(frozen=True, slots=True)
class Board:
    """One GPU model of the table and the model its unknowns are estimated from."""

    key: str
    row: Row
    reference: Row

    def memory_mib(self) -> int:
        known: int | None = self.row["memory_mib"]
        return known if known is not None else gigabytes(self.whole_board()["name"]) * 1024 - 512

    def whole_board(self) -> Row:
        return max(self.row["profiles"], key=lambda profile: int(profile["size"]))

    def multiprocessors(self) -> int:
        known: int | None = self.whole_board()["multiprocessors"]
        return known if known is not None else BOARD_MULTIPROCESSORS.get(self.key, BLACKWELL_SLICE * 7)

    def scaled(self, known: int | None, reference: int | None, slices: int) -> int:
        """Multiprocessors of ``slices`` compute slices, given what H100 has in the same place."""
        if known is not None:
            return known
        if self.row["architecture"] != "hopper" or reference is None:
            return BLACKWELL_SLICE * slices
        return reference * self.multiprocessors() // 132 // 2 * 2

    def profile_memory_mib(self, profile: Row) -> int:
        known: int | None = profile["memory_mib"]
        if known is not None:
            return known
        share = self.memory_mib() * int(profile["size"]) / int(self.row["memory_slices"])
        return int(share * 0.985) // 64 * 64

    def engine(self, profile: Row, name: str) -> int:
        known: int | None = profile[name]
        return known if known is not None else int(self.twin(profile)[name])

    def twin(self, profile: Row) -> Row:
        """The reference board's profile of the same enum."""
        return next(other for other in self.reference["profiles"] if other["enum"] == profile["enum"])


def gigabytes(profile_name: str) -> int:
    """71 for ``3g.71gb+me``."""
    found = re.search(r"\.(\d+)gb", profile_name)
    if found is None:
        raise ValueError(f"profile name without memory: {profile_name!r}")
    return int(found[1])


def media(profile_name: str) -> str:
    if profile_name.endswith("+me.all"):
        return "MEDIA_ALL"
    if profile_name.endswith("+me"):
        return "MEDIA_EXTENSION"
    return "MEDIA_NONE" if profile_name.endswith("-me") else "MEDIA_PLAIN"


def compute_starts(width: int, slices: int, limit: int) -> list[int]:
    stride = 1 << (width - 1).bit_length()
    return [start for start in range(0, slices, stride) if start + width <= slices][:limit]


def reported_instances(board: Board, profile: Row) -> int:
    """NVML's count is known to be wrong on A30; by how much is not, so one too many where a board holds several."""
    allowed = int(profile["max_instances"])
    return allowed + 1 if board.key == "A30" and 1 < allowed < board.row["memory_slices"] else allowed


def c_list(numbers: list[int]) -> str:
    return "{" + ", ".join(str(number) for number in numbers) + "}"


def c_text(text: str) -> str:
    return json.dumps(text)


def compute_twin(twin: Row | None, compute: Row) -> int | None:
    others = twin["compute"] if twin is not None else []
    return next((other["multiprocessors"] for other in others if other["enum"] == compute["enum"]), None)


def compute_row(board: Board, profile: Row, compute: Row) -> str:
    width, slices = int(compute["slices"]), int(profile["slices"])
    twin = board.twin(profile) if board.row["architecture"] == "hopper" else None
    multiprocessors = board.scaled(compute["multiprocessors"], compute_twin(twin, compute), width)
    starts = compute_starts(width, slices, int(compute["max_instances"]))
    name = profile["name"] if width == slices else f"{width}c.{profile['name']}"
    return (
        f"{{.name = {c_text(name)}, .enumerator = {compute['enum']}, .id = {compute['id']}, .slices = {width}, "
        f".multiprocessors = {multiprocessors}, .max_instances = {compute['max_instances']}, "
        f".starts = {c_list(starts)}, .start_count = {len(starts)}}},"
    )


def profile_row(board: Board, profile: Row) -> str:
    name = str(profile["name"])
    twin = board.twin(profile)["multiprocessors"] if board.row["architecture"] == "hopper" else None
    identity = profile["id"] if profile["id"] is not None else PROFILE_IDS[int(profile["enum"])]
    engines = ", ".join(f".{engine} = {board.engine(profile, engine)}" for engine in ENGINES)
    multiprocessors = board.scaled(profile["multiprocessors"], twin, int(profile["slices"]))
    computes = "\n".join(compute_row(board, profile, compute) for compute in profile["compute"])
    return (
        f"{{.name = {c_text(name)}, .enumerator = {profile['enum']}, .id = {identity}, .slices = {profile['slices']}, "
        f".memory_mib = {board.profile_memory_mib(profile)}, .multiprocessors = {multiprocessors}, {engines}, "
        f".max_instances = {profile['max_instances']}, .reported_instances = {reported_instances(board, profile)}, "
        f".size = {profile['size']}, .starts = {c_list(profile['starts'])}, .start_count = {len(profile['starts'])}, "
        f".media = {media(name)}, .graphics = {int(name.endswith('+gfx'))},\n"
        f".compute_count = {len(profile['compute'])}, .compute = {{\n{computes}\n}}}},"
    )


def board_row(board: Board, before_branch: int = EVERY_BRANCH) -> str:
    row = board.row
    major, minor = row["compute_capability"].split(".")
    pci = row["pci_device_ids"][0] if row["pci_device_ids"] else PCI_DEVICE_IDS[board.key]
    profiles = "\n".join(profile_row(board, profile) for profile in row["profiles"])
    return (
        f"{{.key = {c_text(board.key)}, .name = {c_text(row['names'][0])}, .before_branch = {before_branch}, "
        f".pci_device_id = {pci}, "
        f".architecture = {row['nvml_architecture']}, .compute_major = {major}, .compute_minor = {minor}, "
        f".memory_mib = {board.memory_mib()}, .memory_slices = {row['memory_slices']}, "
        f".multiprocessors = {board.multiprocessors()}, .max_mig_devices = {row['max_mig_devices']}, "
        f".resetless_mig = {int(row['resetless_mig'])}, .gpm = {int(row['gpm'])}, "
        f".nvlinks = {NVLINKS.get(board.key, 0)}, .c2c_links = {C2C_LINKS.get(board.key, 0)}, "
        f".mode_survives_reboot = {int(row['mig_mode_survives_reboot'])},\n"
        f".profile_count = {len(row['profiles'])}, .profiles = {{\n{profiles}\n}}}},"
    )


def variants(board: Board) -> list[tuple[Board, int]]:
    """The board as drivers below a branch tell it: H100's 1g has 9.62 GiB, GB200's names are the table's aliases."""
    if board.key in ("H100-80GB-SXM", "H100-80GB-PCIe"):
        return [(with_profiles(board, board.row["memory_mib"], smaller_slice), 570)]
    if aliases := board.row["name_aliases"]:
        total = (gigabytes(aliases[board.whole_board()["name"]][0]) * 1024) - 512
        return [(with_profiles(board, total, lambda profile: renamed(profile, aliases)), 580)]
    return []


def smaller_slice(profile: Row) -> Row:
    return {**profile, "memory_mib": 9856} if profile["size"] == 1 else profile


def renamed(profile: Row, aliases: dict[str, list[str]]) -> Row:
    """By the name without its media suffix, which the alias keeps."""
    plain, plus, suffix = str(profile["name"]).partition("+")
    return {**profile, "name": f"{aliases[plain][0]}{plus}{suffix}"} if plain in aliases else profile


def with_profiles(board: Board, memory_mib: int, change: Callable[[Row], Row]) -> Board:
    row = {**board.row, "memory_mib": memory_mib, "profiles": [change(profile) for profile in board.row["profiles"]]}
    return Board(board.key, row, board.reference)


def c_table(geometry: Path) -> str:
    """The C source that defines ``gpu_models``."""
    rows: dict[str, Row] = json.loads(geometry.read_text())
    boards = [Board(key, row, rows[REFERENCE_BOARD.get(row["architecture"], key)]) for key, row in rows.items()]
    older = [board_row(variant, branch) for board in boards for variant, branch in variants(board)]
    body = "\n".join([*older, *map(board_row, boards)])
    return (
        '#include "geometry.h"\n\n'
        f"const struct gpu_model gpu_models[] = {{\n{body}\n}};\n\n"
        f"const unsigned int gpu_model_count = {len(older) + len(boards)};\n"
    )
