"""Compile a launch for a GPU that is not there, and read its machine code."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ..device import Device
from ..launch import Launch, Slot

_TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}


@dataclass(frozen=True)
class MachineCode:
    """Figures of one compiled kernel. `loop` counts the instructions of its innermost loop by
    opcode (NVIDIA only); bytes of shared memory; registers a thread; spilled vector registers."""

    shared: int
    registers: int
    spills: int
    opcodes: dict[str, int]
    loop: dict[str, int]
    text: str

    @property
    def wide_loads(self) -> int:
        """Loads of 16 bytes, from memory to registers or to shared memory."""
        return len(re.findall(r"(?:LDG|LDGSTS)\S*\.128|_load_dwordx4", self.text))

    @property
    def loop_length(self) -> int:
        """Instructions in the innermost loop."""
        return sum(self.loop.values())


def compile_launch(launch: Launch, dtype: torch.dtype, device: Device) -> MachineCode:
    """Compile `launch`, whose tensors have `dtype`, for `device`; no GPU is needed.

    Raises: whatever Triton raises if it does not compile. Needs a process in which Triton does not
    interpret.
    """
    source = ASTSource(launch.kernel, *signature(launch, dtype))
    target = GPUTarget(device.vendor, device.arch, device.warp_size)
    compiled = triton.compile(source, target=target, options=launch.options(device.vendor))
    if device.vendor == "hip":
        return _read_amdgcn(compiled.asm["amdgcn"], compiled.metadata.shared)
    return _read_cubin(compiled.asm["cubin"], compiled.metadata.shared)


def signature(
    launch: Launch, dtype: torch.dtype
) -> tuple[dict[str, str], dict[tuple[int, ...], Any]]:
    """The types and constants that Triton's launcher would derive from the same call."""
    types, constants = {}, {}
    for position, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            types[parameter.name] = "constexpr"
            constants[(position,)] = value
        elif isinstance(value, Slot):
            types[parameter.name] = _pointer(value, dtype)
        else:
            types[parameter.name] = parameter.annotation_type
    return types, constants


def _pointer(slot: Slot, dtype: torch.dtype) -> str:
    if slot is Slot.TAPS:
        return "*u8"
    if slot in (Slot.WORKSPACE, Slot.PARAMETERS) and dtype != torch.float64:
        return "*fp32"
    return f"*{_TYPES[dtype]}"


def _read_cubin(cubin: bytes, shared: int) -> MachineCode:
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass = _output(tools / "nvdisasm", "-c", file.name)
        usage = _output(tools / "cuobjdump", "-res-usage", file.name)
    registers = int(re.search(r"REG:(\d+)", usage)[1])  # type: ignore[index]
    code, labels = _parse_sass(sass)
    opcodes = _count(code)
    return MachineCode(
        shared,
        registers,
        opcodes.get("LDL", 0) + opcodes.get("STL", 0),
        opcodes,
        _count(_innermost_loop(code, labels)),
        sass,
    )


def _parse_sass(sass: str) -> tuple[list[str], dict[str, int]]:
    """Instructions in order, and the index of the one that each label stands before."""
    code: list[str] = []
    labels = {}
    for line in sass.splitlines():
        if label := re.match(r"^\s*(\.L_\w+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.match(r"^\s*/\*[0-9a-f]+\*/\s+(.*?);", line):
            code.append(instruction[1].strip())
    return code, labels


def _innermost_loop(code: list[str], labels: dict[str, int]) -> list[str]:
    """The shortest backward branch that spans a matrix instruction, or else a load."""
    loops = []
    for end, instruction in enumerate(code):
        target = re.search(r"`\((\.L_\w+)\)", instruction)
        if _opcode(instruction) == "BRA" and target and labels.get(target[1], end + 1) <= end:
            loops.append(code[labels[target[1]] : end + 1])
    for wanted in (("HGMMA", "HMMA", "QGMMA", "UTCHMMA", "UTCMMA"), ("LDG", "LDGSTS")):
        found = [loop for loop in loops if any(_opcode(i) in wanted for i in loop)]
        if found:
            return min(found, key=len)
    return []


def _opcode(instruction: str) -> str:
    """`@!P0 LDG.E.128 R4, ...` -> `LDG`"""
    words = instruction.lstrip("{ ").split()
    if words and words[0].startswith("@"):
        words = words[1:]
    return words[0].split(".")[0] if words else ""


def _count(code: list[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for instruction in code:
        name = _opcode(instruction)
        counts[name] = counts.get(name, 0) + 1
    return counts


def _read_amdgcn(text: str, shared: int) -> MachineCode:
    """Only vector registers count as spilled: scalar ones spill into vector registers' lanes."""
    opcodes: dict[str, int] = {}
    for line in text.splitlines():
        if found := re.match(r"^\s+([a-z]\w+)\s", line):
            opcodes[found[1]] = opcodes.get(found[1], 0) + 1
    registers = int(re.search(r"\.vgpr_count:\s+(\d+)", text)[1])  # type: ignore[index]
    spills = int(re.search(r"\.vgpr_spill_count:\s+(\d+)", text)[1])  # type: ignore[index]
    return MachineCode(shared, registers, spills, opcodes, {}, text)


def _output(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
