import os
from pathlib import Path

import pytest
import torch

from ulmfit_app.errors import SettingError
from ulmfit_app.hardware import (
    autocast,
    available_precisions,
    bound_threads,
    choose_device,
    count_cpus,
    free_memory,
    resolve_precision,
    set_up_cpu,
    wait_for_device,
)


def machine(
    monkeypatch, cuda: bool = False, cuda_bf16: bool = True, cpu: tuple[str, ...] = ()
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: cuda_bf16
    )
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: dict.fromkeys(cpu, True), raising=False
    )


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({"cuda": True}, ["bf16", "fp16", "fp32"]),
        ({"cuda": True, "cuda_bf16": False}, ["fp16", "fp32"]),
        ({"cpu": ("avx512_f", "amx_bf16")}, ["bf16", "fp32"]),
        ({"cpu": ("avx512_bf16",)}, ["bf16", "fp32"]),
        ({"cpu": ("neon", "bf16")}, ["bf16", "fp32"]),
        ({"cpu": ("avx2", "avx512_f")}, ["fp32"]),
    ],
)
def test_auto_takes_bf16_where_the_machine_has_it_before_fp16_and_fp32(monkeypatch, has, expected):
    machine(monkeypatch, **has)
    assert available_precisions() == expected
    assert resolve_precision("auto") == expected[0]
    assert all(resolve_precision(name) == name for name in expected)


@pytest.mark.parametrize("cuda", [True, False])
def test_models_run_on_cuda_or_on_the_cpu_and_never_on_an_apple_gpu(monkeypatch, cuda):
    machine(monkeypatch, cuda=cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device() == torch.device("cuda" if cuda else "cpu")


@pytest.mark.parametrize("cuda", [True, False])
def test_clocks_wait_for_a_gpu_where_there_is_one(monkeypatch, cuda):
    machine(monkeypatch, cuda=cuda)
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    wait_for_device()
    assert waited == [True] * cuda


def test_where_torch_cannot_tell_the_processor_is_taken_to_have_fp32_only(monkeypatch):
    machine(monkeypatch)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert available_precisions() == ["fp32"]


@pytest.mark.parametrize(
    ("has", "asked", "message"),
    [
        ({}, "bf16", "CPU has no bf16; it has fp32. Use: --precision auto"),
        ({"cpu": ("amx_bf16",)}, "fp16", "CPU has no fp16; it has bf16 and fp32."),
        (
            {"cuda": True, "cuda_bf16": False},
            "bf16",
            "CUDA GPU has no bf16; it has fp16 and fp32.",
        ),
    ],
)
def test_a_precision_that_the_machine_does_not_have_is_refused_by_name(
    monkeypatch, has, asked, message
):
    machine(monkeypatch, **has)
    with pytest.raises(SettingError, match=message):
        resolve_precision(asked)


def test_autocast_multiplies_in_the_precision_asked_for():
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    with autocast("bf16", "cpu"):
        assert (a @ b).dtype == torch.bfloat16
    with autocast("fp32", "cpu"):
        assert (a @ b).dtype == torch.float32


def test_set_up_for_training_numbers_too_small_for_fp32_are_taken_for_zero():
    """Also in the threads that torch starts: they take it over from the one that set it up."""

    def product() -> torch.Tensor:
        return torch.full((1 << 20,), 1e-30) * 1e-10

    try:
        torch.set_flush_denormal(False)
        assert product().count_nonzero() == 1 << 20
        set_up_cpu()
        assert product().count_nonzero() == 0
    finally:
        torch.set_flush_denormal(False)


QUOTAS = [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1)]


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [*QUOTAS, ("1600000 100000", 8), ("", 8), ("no numbers", 8), ("1 0", 8), (None, 8)],
)
def test_a_container_has_the_processors_of_its_quota(monkeypatch, quota, cpus):
    def read_text(path, **_):
        assert str(path) == "/sys/fs/cgroup/cpu.max"
        if quota is None:
            raise FileNotFoundError
        return quota

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert count_cpus() == cpus


def kernel_files(monkeypatch, files):
    def read_text(path, **_):
        if str(path) not in files:
            raise FileNotFoundError
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)


MEMINFO = {"/proc/meminfo": "MemTotal:  9000 kB\nMemAvailable:  4000 kB\nHugePages_Total:  0\n"}
SECOND, FIRST = "/sys/fs/cgroup", "/sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        (MEMINFO, 4000 * 1024),
        (MEMINFO | {f"{SECOND}/memory.max": "max", f"{SECOND}/memory.current": "7"}, 4000 * 1024),
        (
            {
                **MEMINFO,
                f"{SECOND}/memory.max": "3000000\n",
                f"{SECOND}/memory.current": "1000000\n",
                f"{SECOND}/memory.stat": "anon 5\ninactive_file 300000\nactive_file 9\n",
            },
            2_300_000,
        ),
        (
            {
                f"{FIRST}/memory.limit_in_bytes": "3000000",
                f"{FIRST}/memory.usage_in_bytes": "2000000",
                f"{FIRST}/memory.stat": "inactive_file 1\ntotal_inactive_file 500000",
            },
            1_500_000,
        ),
        ({f"{SECOND}/memory.max": "5", f"{SECOND}/memory.current": "9"}, 0),
        ({"/proc/meminfo": "rubbish\n\nMemAvailable: many kB\nMemFree: 7\n"}, None),
        ({"/proc/meminfo": "\n1\nMemAvailable:  4 kB\nHuge: -1\n"}, 4096),
        (MEMINFO | {f"{SECOND}/memory.max": "-", f"{SECOND}/memory.current": ""}, 4000 * 1024),
        (
            {
                f"{SECOND}/memory.max": "9",
                f"{SECOND}/memory.current": "2",
                f"{SECOND}/memory.stat": "inactive_file\nanon x\n",
            },
            7,
        ),
    ],
    ids=[
        *("not told", "the machine's", "no bound", "a container's", "an old container's", "none"),
        *("rubbish", "rubbish around it", "rubbish of a bound", "rubbish beside a bound"),
    ],
)
def test_free_memory_is_the_least_of_the_machines_and_the_containers(monkeypatch, files, free):
    kernel_files(monkeypatch, files)
    assert free_memory(torch.device("cpu")) == free


def test_free_memory_of_a_gpu_is_its_own_and_what_torch_holds_of_it_unused(monkeypatch):
    numbers = {"mem_get_info": (100, 900), "memory_reserved": 70, "memory_allocated": 50}
    for name, number in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, number=number: number)
    assert free_memory(torch.device("cuda")) == 120


def test_without_affinities_all_processors_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert count_cpus() == 1


@pytest.mark.parametrize(("threads", "cpus", "bound"), [(16, 2, 2), (1, 2, 1)])
def test_threads_are_bound_by_processors_and_never_more(monkeypatch, threads, cpus, bound):
    set_to = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr("ulmfit_app.hardware.count_cpus", lambda: cpus)
    assert bound_threads() == bound and set_to == [bound]
