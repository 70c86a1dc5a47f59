"""Which kind of core this is: from recorded /proc/cpuinfo texts."""

from __future__ import annotations

import pytest

from edgecnn.runtime.cpu import CpuFacts, cpu_facts, kind_of, local_cpu, parse_cpuinfo
from edgecnn.runtime.errors import BadRequest
from edgecnn.runtime.machine import machine_facts, peak_rss_bytes
from edgecnn.targets.target import CPUS

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8

processor\t: 1
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8
"""

# Rockchip RK3399: two kinds of core; only what both have may decide a lowering.
BIG_LITTLE = """processor\t: 0
Features\t: fp asimd crc32
CPU implementer\t: 0x41
CPU part\t: 0xd03

processor\t: 4
Features\t: fp asimd crc32 asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b
"""


def test_x86_cpuinfo() -> None:
    assert parse_cpuinfo(XEON) == (
        "Intel(R) Xeon(R) Processor",
        frozenset({"fpu", "avx2", "avx512f", "avx512_vnni", "amx_int8"}),
    )


def test_cores_of_different_kinds_are_named_and_share_only_what_all_have() -> None:
    assert parse_cpuinfo(BIG_LITTLE) == ("Cortex-A53 + Cortex-A76", frozenset({"fp", "asimd", "crc32"}))


def test_cpuinfo_without_anything() -> None:
    assert parse_cpuinfo("") == ("", frozenset())


@pytest.mark.parametrize(
    ("machine", "features", "kind"),
    [
        ("x86_64", ("avx2",), "x86"),
        ("amd64", (), "x86"),
        ("x86_64", ("avx512_vnni", "amx_int8"), "x86-amx"),
        ("aarch64", (), "armv8"),
        ("aarch64", ("asimddp",), "armv8-dot"),
        ("arm64", ("asimddp", "i8mm"), "armv8-i8mm"),
    ],
)
def test_kinds(machine: str, features: tuple[str, ...], kind: str) -> None:
    assert kind_of(CpuFacts(machine, "any", 4, features)) == kind


@pytest.mark.parametrize(("model", "kind"), [("Cortex-A53", "armv8-a53"), ("Cortex-A53 + Cortex-A72", "armv8")])
def test_an_a53_beside_faster_cores_is_not_what_a_net_runs_on(model: str, kind: str) -> None:
    assert kind_of(CpuFacts("aarch64", model, 4, ())) == kind


def test_other_processors_are_asked_for() -> None:
    with pytest.raises(BadRequest) as caught:
        kind_of(CpuFacts("riscv64", "any", 4, ()))
    assert caught.value.what == "no lowering is known for a processor of kind `riscv64`"
    assert caught.value.do is not None
    assert all(cpu in caught.value.do for cpu in CPUS)


def test_this_machine() -> None:
    assert local_cpu() in CPUS
    assert cpu_facts().cores >= 1
    assert {"cpu", "architecture", "cores", "features", "system", "python", "numpy"} <= set(machine_facts())


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_rss_bytes()
    block = bytearray(before + 64_000_000)
    block[::4096] = b"x" * len(block[::4096])  # touches every page
    assert peak_rss_bytes() >= before + 64_000_000
