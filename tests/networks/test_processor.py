"""What is told of processors: of texts as Linux has them, of stand-ins for the calls of macOS and Windows, of this machine."""

import json
import platform
import subprocess
import sys
from dataclasses import replace

import pytest

from viscera.networks.processor import (
    ARM,
    KINDS,
    X86,
    Processor,
    limits_of,
    read_cpuinfo,
    read_sysctl,
    read_windows,
    this_processor,
)

SSE = "fpu sse sse2 ssse3 sse4_1 sse4_2 popcnt"
HASWELL = f"{SSE} avx f16c fma avx2 bmi2"
SKYLAKE = f"{HASWELL} avx512f avx512dq avx512cd avx512bw avx512vl"
AMX = f"{SKYLAKE} avx512_vnni avx_vnni avx512_bf16 amx_bf16 amx_tile amx_int8"
INTEL = {
    "amx": ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", 6, 143, AMX),
    "skylake": ("Intel(R) Xeon(R) CPU @ 2.00GHz", 6, 85, SKYLAKE),
    "alder lake": ("12th Gen Intel(R) Core(TM) i7-1260P", 6, 154, f"{HASWELL} avx_vnni"),
    "phi": ("Intel(R) Xeon Phi(TM) CPU 7210", 6, 87, f"{HASWELL} avx512f avx512pf avx512er avx512cd"),
    "old": ("Intel(R) Xeon(R) CPU E5-2670", 6, 45, f"{SSE} avx"),
    "zen 3": ("AMD EPYC 7763 64-Core Processor", 25, 1, f"{HASWELL} vaes sha_ni"),
    "zen 4": ("AMD EPYC 9654 96-Core Processor", 25, 17, f"{SKYLAKE} avx512_vnni avx512_bf16"),
}
EXPECTED = {
    "amx": ("AMX", X86),
    "skylake": ("AVX-512", ("AVX2", "AVX-512")),
    "alder lake": ("AVX2 with VNNI", ("AVX2", "VNNI")),
    "phi": ("AVX2", ("AVX2",)),
    "old": ("x86_64", ()),
    "zen 3": ("AVX2", ("AVX2",)),
    "zen 4": ("AVX-512 with VNNI", ("AVX2", "AVX-512", "VNNI", "bf16")),
}


def cpuinfo(name: str, cores: int = 2) -> str:
    """Return /proc/cpuinfo of one of INTEL."""
    title, family, model, flags = INTEL[name]
    block = "processor\t: {}\ncpu family\t: {}\nmodel\t\t: {}\nmodel name\t: {}\nflags\t\t: {}\nbugs\t\t: spectre_v1\n"
    return "\n".join(block.format(core, family, model, title, flags) for core in range(cores))


def arm(part: str, features: str, core: int = 0, implementer: str = "0x41") -> str:
    """Return one core of ARM's in /proc/cpuinfo."""
    return (
        f"processor\t: {core}\nBogoMIPS\t: 50.00\nFeatures\t: {features}\nCPU implementer\t: {implementer}\n"
        f"CPU architecture: 8\nCPU part\t: {part}\n"
    )


GRAVITON3 = "fp asimd crc32 asimdhp asimddp sve i8mm bf16"


def machine(tmp_path, monkeypatch, text, *, architecture="x86_64", environment=None) -> Processor:
    """Return what is told of a Linux machine with this /proc/cpuinfo; None: it cannot be read."""
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    if text is not None:
        (tmp_path / "proc").mkdir(exist_ok=True)
        (tmp_path / "proc" / "cpuinfo").write_text(text)
    return this_processor(tmp_path, environment or {})


@pytest.mark.parametrize("name", INTEL)
def test_kind_and_abilities_of_processors_of_intel_and_amd(tmp_path, monkeypatch, name):
    found = machine(tmp_path, monkeypatch, cpuinfo(name))
    kind, abilities = EXPECTED[name]
    assert found.name == INTEL[name][0]
    assert found.model == f"family {INTEL[name][1]}, model {INTEL[name][2]}"
    assert (found.kind, found.abilities) == (kind, abilities)
    assert found.untold == ()
    assert {*found.abilities, *found.absent} == set(X86)


@pytest.mark.parametrize(
    ("text", "name", "abilities", "kind"),
    [
        (arm("0xd40", GRAVITON3), "ARM Neoverse V1", ARM, "ARM with i8mm"),
        (arm("0xd0c", "fp asimd asimddp"), "ARM Neoverse N1", ("dotprod",), "ARM with dotprod"),
        (
            arm("0xd08", "fp asimd crc32") + "\nHardware\t: BCM2711\nModel\t: Raspberry Pi 4",
            "ARM Cortex-A72",
            (),
            "arm64",
        ),
        (arm("0xfff", "fp asimd", implementer="0x51"), "ARM 0x51, part 0xfff", (), "arm64"),
        # Large and small cores: an ability counts that all have.
        (
            arm("0xd0b", "fp asimd asimddp") + "\n" + arm("0xd03", "fp asimd", core=1),
            "ARM Cortex-A76 and ARM Cortex-A53",
            (),
            "arm64",
        ),
    ],
)
def test_processors_of_arm_have_numbers_and_features(tmp_path, monkeypatch, text, name, abilities, kind):
    found = machine(tmp_path, monkeypatch, text, architecture="aarch64")
    assert (found.name, found.abilities, found.kind, found.architecture) == (name, abilities, kind, "arm64")


@pytest.mark.parametrize("text", [None, "", "processor\t: 0\n", "\0\xff: :\n"])
def test_what_cannot_be_read_is_unknown_not_absent(tmp_path, monkeypatch, text):
    found = machine(tmp_path, monkeypatch, text)
    assert (found.name, found.kind, found.abilities, found.absent) == ("unknown", "unknown", (), ())
    assert found.untold == X86
    assert "Linux does not tell of AVX2, AVX-512, VNNI, AMX, bf16" in str(found)
    assert "not AVX2" not in str(found)


@pytest.mark.parametrize("system", ["freebsd14", "linux"])
def test_other_systems_and_architectures_are_said_to_be_unknown(tmp_path, monkeypatch, system):
    monkeypatch.setattr(platform, "machine", lambda: "AMD64" if system == "freebsd14" else "riscv64")
    monkeypatch.setattr(platform, "system", lambda: "FreeBSD")
    monkeypatch.setattr(sys, "platform", system)
    found = this_processor(tmp_path, {})
    assert found.abilities == found.absent == ()
    assert found.kind == ("unknown" if system == "freebsd14" else "riscv64")
    assert "abilities unknown" in str(found)


def test_a_key_is_stable_and_of_the_kind_alone(tmp_path, monkeypatch):
    first = machine(tmp_path, monkeypatch, cpuinfo("zen 3", cores=2))
    assert (
        replace(first, cores=64, threads=1).key == first.key == machine(tmp_path, monkeypatch, cpuinfo("zen 3", 4)).key
    )
    keys = {machine(tmp_path, monkeypatch, cpuinfo(name)).key for name in INTEL}
    keys |= {
        replace(first, **change).key for change in ({"system": "Windows"}, {"architecture": "arm64"}, {"model": ""})
    }
    assert len(keys) == len(INTEL) + 3
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)
    # sha256 of the six lines, by another program: a key that changes would make old measurements worthless.
    fixed = Processor("AMD EPYC", "family 25, model 1", "x86_64", "Linux", 2, 2, ("AVX2",))
    done = subprocess.run(
        [sys.executable, "-c", "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])"],
        input=b"AMD EPYC\nfamily 25, model 1\nAVX2\nLinux\nx86_64",
        capture_output=True,
        check=True,
    )
    assert fixed.key == done.stdout.decode().strip() == "9a5669aed7b5d8ca"


def test_a_library_that_is_told_to_use_less_makes_another_key_and_is_named(tmp_path, monkeypatch):
    free = machine(tmp_path, monkeypatch, cpuinfo("amx"))
    variables = {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "OMP_NUM_THREADS": "1",
        "HOME": "/home/doe",
    }
    told = machine(tmp_path, monkeypatch, cpuinfo("amx"), environment=variables)
    assert told.key != free.key
    assert told.abilities == free.abilities
    assert told.limits == (("ONEDNN_MAX_CPU_ISA", "AVX2"), ("ATEN_CPU_CAPABILITY", "avx2"), ("OMP_NUM_THREADS", "1"))
    assert "ONEDNN_MAX_CPU_ISA=AVX2 is set" in str(told)
    fewer_threads = machine(tmp_path, monkeypatch, cpuinfo("amx"), environment={"OMP_NUM_THREADS": "1"})
    assert fewer_threads.key == free.key
    assert (fewer_threads.threads, free.threads) == (1, free.cores)


def test_what_is_no_word_in_a_variable_is_not_repeated():
    assert limits_of({"ATEN_CPU_CAPABILITY": "/home/doe", "ONEDNN_MAX_CPU_ISA": ""}) == (("ATEN_CPU_CAPABILITY", "?"),)


def test_macos_tells_of_apple_processors_and_not_of_what_it_has_no_name_for():
    values = {
        "machdep.cpu.brand_string": b"Apple M2\0",
        "hw.optional.arm.FEAT_DotProd": b"\1\0\0\0",
        "hw.optional.arm.FEAT_I8MM": b"\1\0\0\0",
        "hw.optional.arm.FEAT_BF16": b"\0\0\0\0",
    }
    name, told = read_sysctl(values.get, ARM)
    assert name == "Apple M2"
    assert told == {"dotprod": True, "i8mm": True, "bf16": False, "SVE": None}


def test_macos_tells_of_intel_processors():
    values = {
        "machdep.cpu.brand_string": b"Intel(R) Core(TM) i5-1038NG7 CPU @ 2.00GHz\0",
        "hw.optional.avx2_0": b"\1\0\0\0",
        "hw.optional.avx512f": b"\1\0\0\0",
        "machdep.cpu.leaf7_features": b"RDWRFSGS AVX2 AVX512F AVX512VNNI\0",
    }
    name, told = read_sysctl(values.get, X86)
    assert name == "Intel(R) Core(TM) i5-1038NG7 CPU @ 2.00GHz"
    assert told == {"AVX2": True, "AVX-512": True, "VNNI": True, "AMX": None, "bf16": None}
    assert read_sysctl({}.get, X86) == ("unknown", dict.fromkeys(X86))


def test_windows_tells_what_is_there_and_never_what_is_not():
    assert read_windows({40, 41}.__contains__, X86) == {
        "AVX2": True,
        "AVX-512": True,
        "VNNI": None,
        "AMX": None,
        "bf16": None,
    }
    assert read_windows({43, 68}.__contains__, ARM) == {"dotprod": True, "i8mm": None, "SVE": None, "bf16": True}
    # Number 68 is of ARM's bf16, and says nothing on other processors.
    assert read_windows({68}.__contains__, X86)["bf16"] is None


def test_a_kind_is_a_least_one_where_a_wider_one_is_untold():
    found = Processor("Some CPU", "", "x86_64", "Windows", 8, 8, ("AVX2",), ("AVX-512", "VNNI", "AMX", "bf16"))
    assert found.kind == "at least AVX2"
    assert str(found) == "Some CPU, x86_64, 8 cores: AVX2; Windows does not tell of AVX-512, VNNI, AMX, bf16"
    # That bf16 is untold is no doubt about the kind.
    assert replace(found, untold=("bf16",)).kind == "AVX2"


def test_every_kind_is_the_kind_of_a_processor_that_has_just_its_abilities():
    for kind, needed in KINDS:
        known = ARM if kind.startswith("ARM") else X86
        found = Processor("x", "", "any", "Linux", 1, 1, tuple(one for one in known if one in needed))
        assert found.kind == kind


def test_a_sentence_says_what_is_there_what_is_not_and_on_how_many_cores():
    found = Processor("AMD EPYC", "family 25, model 1", "x86_64", "Linux", 1, 1, ("AVX2",))
    assert str(found) == "AMD EPYC (family 25, model 1), x86_64, 1 core: AVX2; not AVX-512, VNNI, AMX, bf16"
    assert "4 cores (2 threads)" in str(replace(found, cores=4, threads=2))
    assert "none of what networks use; not AVX2" in str(replace(found, abilities=()))


def test_json_has_all_of_it_and_nothing_of_the_machine_or_its_user():
    found = this_processor()
    facts = json.loads(json.dumps(found.to_json()))
    assert facts["key"] == found.key
    assert set(facts) == {
        *("name", "model", "architecture", "system", "cores", "threads", "abilities", "untold", "limits", "kind", "key")
    }
    assert platform.node() not in json.dumps(facts).split('"')


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="numpy's names of abilities are compared on Linux")
def test_this_machine_has_the_abilities_that_numpy_finds():
    features = pytest.importorskip("numpy._core._multiarray_umath").__cpu_features__
    found = this_processor()
    for ability, name in (("AVX2", "AVX2"), ("AVX-512", "AVX512_SKX"), ("dotprod", "ASIMDDP"), ("SVE", "SVE")):
        if ability in (*found.abilities, *found.absent):
            assert (ability in found.abilities) == bool(features.get(name)), ability


def test_a_processor_is_told_without_torch_and_numpy():
    code = "import sys; from viscera.networks.processor import this_processor; this_processor()"
    code += "; print(sorted({'torch', 'numpy', 'subprocess'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_blocks_of_other_things_than_processors_are_left_aside():
    text = cpuinfo("zen 3") + "\nprocessors\t: 4\nflags\t: none\n"
    assert read_cpuinfo(text, X86)[0] == INTEL["zen 3"][0]
    assert read_cpuinfo(text, X86)[2]["AVX2"] is True
