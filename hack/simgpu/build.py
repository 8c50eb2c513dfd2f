"""``python -m hack.simgpu.build [--out build/simgpu]``: compiles the simulated GPU and prints what it made."""

import argparse
from pathlib import Path

from hack.simgpu.toolchain import DEFAULT_OUT, build


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the simulated GPU.")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    paths = build(parser.parse_args().out)
    print(paths.library, paths.simgpu, paths.nvidia_smi, sep="\n")


if __name__ == "__main__":
    main()
