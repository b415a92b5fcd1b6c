"""The processor that networks run on: its kind, what its instructions can do, and a key for what was measured on it.

A choice that was measured on one kind of processor (a runtime, int8) must not decide on another, and a home folder may serve
several: keep such measurements under ``this_processor().key``. Nothing here names the machine or its user, and nothing needs torch.

What is read: /proc/cpuinfo on Linux, sysctl on macOS, the registry and IsProcessorFeaturePresent on Windows. What a system does
not tell is in ``untold``, which is something else than absent.
"""

import ctypes
import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from viscera.io.cores import THREADS_VARIABLES, usable_cores, usable_threads

Ability = Literal["AVX2", "AVX-512", "VNNI", "AMX", "dotprod", "i8mm", "SVE", "bf16"]

X86: tuple[Ability, ...] = ("AVX2", "AVX-512", "VNNI", "AMX", "bf16")
ARM: tuple[Ability, ...] = ("dotprod", "i8mm", "SVE", "bf16")

LINUX: Mapping[Ability, tuple[str, ...]] = {
    "AVX2": ("avx2 fma",),
    "AVX-512": ("avx512f avx512bw avx512vl avx512dq",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AMX": ("amx_tile amx_int8", "amx_tile amx_bf16"),
    "dotprod": ("asimddp",),
    "i8mm": ("i8mm",),
    "SVE": ("sve",),
    "bf16": ("avx512_bf16", "amx_tile amx_bf16", "bf16"),
}
"""Flags in /proc/cpuinfo, any of these sets. AVX-512 is oneDNN's avx512_core: AVX512F alone (Xeon Phi) serves no network."""
MACOS: Mapping[Ability, str] = {
    "AVX2": "hw.optional.avx2_0",
    "AVX-512": "hw.optional.avx512f",
    "dotprod": "hw.optional.arm.FEAT_DotProd",
    "i8mm": "hw.optional.arm.FEAT_I8MM",
    "bf16": "hw.optional.arm.FEAT_BF16",
}
"""Names of sysctl; of the others it does not tell."""
WINDOWS: Mapping[Ability, int] = {"AVX2": 40, "AVX-512": 41, "dotprod": 43, "SVE": 46, "i8mm": 66}
"""PF_... of IsProcessorFeaturePresent (winnt.h)."""
WINDOWS_ARM_BF16 = 68

KINDS: tuple[tuple[str, frozenset[Ability]], ...] = (
    ("AMX", frozenset({"AMX"})),
    ("AVX-512 with VNNI", frozenset({"AVX-512", "VNNI"})),
    ("AVX-512", frozenset({"AVX-512"})),
    ("AVX2 with VNNI", frozenset({"AVX2", "VNNI"})),
    ("AVX2", frozenset({"AVX2"})),
    ("ARM with i8mm", frozenset({"i8mm"})),
    ("ARM with dotprod", frozenset({"dotprod"})),
)
"""(Kind, what it takes), the fastest for networks first; the first that fits counts."""

ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""They tell oneDNN (torch's and OpenVINO's) and torch to use less than the processor has."""

PARTS = {
    ("0x41", "0xd03"): "ARM Cortex-A53",
    ("0x41", "0xd08"): "ARM Cortex-A72",
    ("0x41", "0xd0b"): "ARM Cortex-A76",
    ("0x41", "0xd0c"): "ARM Neoverse N1",
    ("0x41", "0xd40"): "ARM Neoverse V1",
    ("0x41", "0xd49"): "ARM Neoverse N2",
    ("0x41", "0xd4f"): "ARM Neoverse V2",
}
"""{(implementer, part): name}: /proc/cpuinfo has no names of ARM's. Source: util-linux, sys-utils/lscpu-arm.c."""

KEY_DIGITS = 16


@dataclass(frozen=True)
class Processor:
    """A processor, as far as the system tells.

    Attributes:
        name: The maker's; "unknown" where the system has none. A virtual machine's may be short: "AMD EPYC".
        model: Family and model in numbers, which tell generations of one name apart; "" where they are not told.
        architecture: x86_64, arm64 or what else the system says.
        system: Linux, Darwin, Windows ...
        cores: That this process may use, by its affinity and its container's CPU quota.
        threads: That torch takes by itself: the cores, or fewer if OMP_NUM_THREADS says so.
        abilities: That networks can use and the processor has, as in X86 and ARM; of cores that differ, what all have.
        untold: Those of which the system does not tell whether they are there.
        limits: (Variable, value) of the environment that keep libraries from using all of it.
    """

    name: str
    model: str
    architecture: str
    system: str
    cores: int
    threads: int
    abilities: tuple[Ability, ...]
    untold: tuple[Ability, ...] = ()
    limits: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> str:
        """The widest of KINDS; "at least ..." or "unknown" where the system does not tell of a wider one."""
        have, might = set(self.abilities), {*self.abilities, *self.untold}
        kind = next((name for name, needed in KINDS if needed <= have), "")
        widest = next((name for name, needed in KINDS if needed <= might), "")
        if kind == widest:
            return kind or self.architecture
        return f"at least {kind}" if kind else "unknown"

    @property
    def key(self) -> str:
        """A short hash, the same for all processors of one kind, for what is good on that kind only.

        It is of name, model, abilities, system, architecture, and what keeps libraries from using all abilities; not of cores.
        """
        isa = [f"{name}={value}" for name, value in self.limits if name in ISA_VARIABLES]
        facts = [self.name, self.model, ",".join(self.abilities), self.system, self.architecture, *isa]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:KEY_DIGITS]

    @property
    def absent(self) -> tuple[Ability, ...]:
        """Abilities of its architecture that it does not have."""
        return tuple(one for one in _known_of(self.architecture) if one not in (*self.abilities, *self.untold))

    def to_json(self) -> dict[str, object]:
        """Return all of it for a JSON file."""
        return {**asdict(self), "limits": dict(self.limits), "kind": self.kind, "key": self.key}

    def __str__(self) -> str:
        """Return a sentence for people.

        Example:
            >>> print(Processor("AMD EPYC", "", "x86_64", "Linux", 2, 2, ("AVX2",)))
            AMD EPYC, x86_64, 2 cores: AVX2; not AVX-512, VNNI, AMX, bf16
        """
        parts = [", ".join(self.abilities) or ("none of what networks use" if self.absent else "abilities unknown")]
        parts += [f"not {', '.join(self.absent)}"] if self.absent else []
        parts += [f"{self.system} does not tell of {', '.join(self.untold)}"] if self.untold else []
        parts += [f"{name}={value} is set" for name, value in self.limits]
        name = f"{self.name} ({self.model})" if self.model else self.name
        threads = f" ({self.threads} thread{'s' * (self.threads != 1)})" if self.threads != self.cores else ""
        cores = f"{self.cores} core{'s' * (self.cores != 1)}{threads}"
        return f"{name}, {self.architecture}, {cores}: {'; '.join(parts)}"


def this_processor(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Processor:
    """Return the processor of this machine.

    Args:
        root: Of the file system; another one in tests.
        environment: Where variables may limit what libraries use.
    """
    architecture = _architecture(platform.machine())
    known = _known_of(architecture)
    name, model = "unknown", ""
    found: dict[Ability, bool | None] = {}
    match sys.platform:
        case "linux":
            with suppress(OSError):
                cpuinfo = (root / "proc" / "cpuinfo").read_text(encoding="utf-8", errors="replace")
                name, model, found = read_cpuinfo(cpuinfo, known)
        case "darwin":
            name, found = read_sysctl(_sysctl(), known)
        case "win32":
            name, model, found = _read_windows(known)
        case _:
            pass
    cores = usable_cores(root)
    return Processor(
        name=name,
        model=model,
        architecture=architecture,
        system=platform.system() or "unknown system",
        cores=cores,
        threads=usable_threads(cores, environment),
        abilities=tuple(one for one in known if found.get(one)),
        untold=tuple(one for one in known if found.get(one) is None),
        limits=limits_of(environment),
    )


def limits_of(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the variables that keep libraries from using all of the processor, as far as they are set.

    Args:
        environment: What is not a word or a number is shown as "?": it means nothing to the libraries.
    """
    names = [name for name in (*ISA_VARIABLES, *THREADS_VARIABLES) if environment.get(name)]
    return tuple(
        (name, environment[name] if re.fullmatch(r"[\w,]{1,32}", environment[name]) else "?") for name in names
    )


def read_cpuinfo(text: str, known: Sequence[Ability]) -> tuple[str, str, dict[Ability, bool | None]]:
    """Return name, model and abilities of what Linux tells in /proc/cpuinfo.

    Args:
        text: Its contents.
        known: Abilities of the architecture.
    """
    blocks = [dict(map(_entry, block.splitlines())) for block in re.split(r"\n\s*\n", text)]
    blocks = [block for block in blocks if "processor" in block]
    names = list(dict.fromkeys(_name(block) for block in blocks))
    models = dict.fromkeys(
        f"family {block['cpu family']}, model {block['model']}"
        for block in blocks
        if {"cpu family", "model"} <= set(block)
    )
    all_flags = [set(block.get("flags", block.get("Features", "")).split()) for block in blocks]
    flags = set.intersection(*all_flags) if all_flags else set()
    told: dict[Ability, bool | None] = {
        one: any(set(way.split()) <= flags for way in LINUX[one]) if flags else None for one in known
    }
    return " and ".join(filter(None, names)) or "unknown", " and ".join(models), told


def _entry(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _name(block: Mapping[str, str]) -> str:
    """Return the name of a processor in /proc/cpuinfo; ARM's have numbers only."""
    if block.get("model name"):
        return block["model name"]
    implementer, part = block.get("CPU implementer", ""), block.get("CPU part", "")
    return PARTS.get((implementer, part), f"ARM {implementer}, part {part}" if part else "")


def read_sysctl(ask: Callable[[str], bytes | None], known: Sequence[Ability]) -> tuple[str, dict[Ability, bool | None]]:
    """Return name and abilities of what macOS tells.

    Args:
        ask: Given a name, returns its value as sysctlbyname does; None where there is no such name.
        known: Abilities of the architecture.
    """
    told: dict[Ability, bool | None] = {}
    for one in known:
        value = ask(MACOS[one]) if one in MACOS and (one != "bf16" or known == ARM) else None
        told[one] = None if value is None else any(value)
    features = ask("machdep.cpu.leaf7_features")
    if "VNNI" in known and features is not None:
        told["VNNI"] = "AVX512VNNI" in _words(features)
    return " ".join(_words(ask("machdep.cpu.brand_string") or b"")) or "unknown", told


def _words(value: bytes) -> list[str]:
    return value.rstrip(b"\0").decode("ascii", "replace").split()


def _sysctl() -> Callable[[str], bytes | None]:
    """Return what asks macOS."""
    library = ctypes.CDLL(None)

    def ask(name: str) -> bytes | None:
        """Return the bytes of a value; None where there is none of that name."""
        size = ctypes.c_size_t(4096)
        value = ctypes.create_string_buffer(size.value)
        failed = library.sysctlbyname(name.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0))
        return None if failed else value.raw[: size.value]

    return ask


def _read_windows(known: Sequence[Ability]) -> tuple[str, str, dict[Ability, bool | None]]:
    """Return name, model and abilities of what Windows tells."""
    name, model = "unknown", ""
    told: dict[Ability, bool | None] = {}
    if sys.platform == "win32":
        import winreg

        with (
            suppress(OSError),
            winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as entry,
        ):
            name = str(winreg.QueryValueEx(entry, "ProcessorNameString")[0]).strip() or name
            identifier = re.search(r"Family (\d+) Model (\d+)", str(winreg.QueryValueEx(entry, "Identifier")[0]))
            model = f"family {identifier[1]}, model {identifier[2]}" if identifier else ""
        told = read_windows(lambda feature: bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(feature)), known)
    return name, model, told


def read_windows(present: Callable[[int], bool], known: Sequence[Ability]) -> dict[Ability, bool | None]:
    """Return the abilities of what Windows tells. An older Windows says of a later ability that it is not there: then it is untold.

    Args:
        present: IsProcessorFeaturePresent.
        known: Abilities of the architecture.
    """
    numbers = {**WINDOWS, "bf16": WINDOWS_ARM_BF16} if known == ARM else WINDOWS
    return {one: True if one in numbers and present(numbers[one]) else None for one in known}


def _architecture(machine: str) -> str:
    """Return the architecture by one name for all systems."""
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(machine.lower(), machine.lower() or "unknown")


def _known_of(architecture: str) -> tuple[Ability, ...]:
    """Return the abilities that are looked for; none of architectures on which viscera was never tried."""
    return {"x86_64": X86, "arm64": ARM}.get(architecture, ())
