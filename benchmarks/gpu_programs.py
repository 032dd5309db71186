"""What a compiled GPU kernel needs and does, read from its machine code: memory, registers, spills, instructions."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

SHARED_LIMIT = {80: 166_912, 86: 101_376, 90: 232_448, 100: 232_448}
"""Bytes of shared memory that a block may ask for, by capability (technical specifications, CUDA programming guide)."""

_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)([^;]*);")
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Program:
    """One kernel as compiled for one capability."""

    shared: int
    """Bytes of shared memory of a block."""
    registers: int
    """Registers of a thread."""
    local: int
    """Bytes of a thread's stack and local memory: spilled registers lie there, and nothing else of these kernels."""
    code: tuple[tuple[int, str, int], ...]
    """Address, name and, for a branch, target (else -1) of each instruction."""

    def loads(self) -> dict[str, int]:
        """Reads of global memory that stand in the code, by the bytes that one thread gets of each."""
        found: Counter[str] = Counter()
        for _, name, _ in self.code:
            if name.startswith(("LDG.", "LDGSTS.")):
                width = re.search(r"\.[US]?(8|16|64|128)\b", name)
                found[str(int(width[1]) // 8 if width else 4)] += 1
        return dict(sorted(found.items(), key=lambda item: int(item[0])))

    def executed(self, trips: tuple[int, ...]) -> Counter[str]:
        """Instructions that one warp issues, by name, when the loops at nesting depth n run `trips[n]` times each."""
        loops = [(target, address) for address, _, target in self.code if 0 <= target < address]
        counts: Counter[str] = Counter()
        for address, name, _ in self.code:
            depth = sum(first <= address <= last for first, last in loops)
            times = 1
            for trip in trips[:depth]:
                times *= trip
            counts[name] += times
        return counts


def read_program(compiled: Any) -> Program:
    """Read Triton's compiled kernel."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compiled.asm["cubin"])
        usage = _tool("-res-usage", file)
        listing = _tool("-sass", file)
    resources = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return Program(
        shared=compiled.metadata.shared,
        registers=resources["REG"],
        local=resources["STACK"] + resources["LOCAL"],
        code=tuple(_instructions(listing)),
    )


def _tool(option: str, file: Path) -> str:
    return subprocess.run([_TOOLS / "cuobjdump", option, file], capture_output=True, text=True, check=True).stdout


def _instructions(listing: str) -> list[tuple[int, str, int]]:
    code = []
    for line in listing.splitlines():
        if found := _INSTRUCTION.match(line):
            address, name, rest = int(found[1], 16), found[2], found[3]
            target = re.search(r"0x([0-9a-f]+)\s*$", rest) if name.startswith("BRA") else None
            code.append((address, name, int(target[1], 16) if target else -1))
    return code
