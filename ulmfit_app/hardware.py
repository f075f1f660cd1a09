"""Where models run, what this machine multiplies fastest, and how its processor is set up."""

import ctypes
import os
import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from ulmfit_app.config import Precision
from ulmfit_app.errors import SettingError

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# Of a container, by the second and the first version of control groups: its bound, what it has
# taken, and what of that are files that lie idle.
CONTAINER_MEMORY = (
    (
        *("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        *("/sys/fs/cgroup/memory.stat", "inactive_file"),
    ),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        *("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file"),
    ),
)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def set_up_cpu() -> None:
    """Change two settings of this process without which CPUs train several times slower.

    For programs that train, at their start: torch's threads take over what the thread that starts
    them had set. Importing the package never calls it.
    """
    # Squared gradients of rare words fall below 1e-38, and an optimizer step on such numbers
    # takes five times as long.
    torch.set_flush_denormal(True)
    # A step frees and allocates the same megabytes as the one before. glibc gives them back to the
    # kernel, which clears every page each time; so it is told to keep them, but for blocks so
    # large that keeping them costs too much memory.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 128 << 20)
        mallopt(M_TRIM_THRESHOLD, -1)  # never


def count_cpus() -> int:
    """How many processors this process may use: its affinity's, or its container's quota."""
    allowed = getattr(os, "sched_getaffinity", None)
    cpus = len(allowed(0)) if allowed else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return cpus if quota == "max" else max(1, min(cpus, int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # no Linux, an old one, or an imitation
        return cpus


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still take: of the GPU, or of the machine and its container.

    None where the system does not tell.
    """
    if device.type == "cuda":
        # torch keeps what it has freed.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    found = []
    available = _read_numbers("/proc/meminfo").get("MemAvailable:")
    if available is not None:
        found.append(available * 1024)
    for bound, taken, stat, files in CONTAINER_MEMORY:
        try:
            numbers = [int(Path(each).read_text(encoding="ascii")) for each in (bound, taken)]
        except (OSError, ValueError):  # no container, or no bound
            continue
        # Files that were read and are not used any more give their place to others.
        found.append(numbers[0] - numbers[1] + _read_numbers(stat).get(files, 0))
    return max(min(found), 0) if found else None


def _read_numbers(path: str) -> dict[str, int]:
    """The names and numbers of a file of the kernel's, one of each in a line; others are left."""
    try:
        lines = Path(path).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines]
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdecimal()}


def name_processor() -> str:
    """What this machine's processor is called, for people."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def bound_threads() -> int:
    """Let torch compute with no more threads than it may use processors, and say how many.

    In a container it would start one for each of the machine's, which then wait for each other.
    """
    threads = min(torch.get_num_threads(), count_cpus())
    torch.set_num_threads(threads)
    return threads


def choose_device() -> torch.device:
    """Where models are trained and used: the CUDA GPU where there is one, else the CPU.

    Apple's GPUs (MPS), which fastai takes by itself, are left alone: nothing here was ever run on
    one, and precisions are chosen for CUDA and for CPUs.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait_for_device() -> None:
    """Return when the device has done all that it was given, as a clock has to.

    A CUDA call comes back before its work is done.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def bf16_units() -> list[str]:
    """What this CPU multiplies bf16 by, as torch calls it: AMX, AVX512-BF16, or Arm's BF16."""
    # Before torch could tell, fp32 is the choice that is never wrong.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return [unit for unit in ("amx_bf16", "avx512_bf16", "bf16") if capabilities.get(unit)]


def available_precisions() -> list[str]:
    """What this machine multiplies, the one that `auto` takes first: of fp16, bf16 and fp32.

    On CUDA bf16 comes before fp16 where the GPU has it: it is as fast, and has the range of fp32,
    so that no loss need be scaled and no step left out.
    """
    if torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return [*(["bf16"] if has_bf16 else []), "fp16", "fp32"]
    return [*(["bf16"] if bf16_units() else []), "fp32"]


def resolve_precision(precision: Precision) -> str:
    """Name the precision to compute in.

    Args:
        precision: "auto" is the first of `available_precisions`.

    Raises:
        SettingError: there is no such precision, or this machine does not have it.
    """
    available = available_precisions()
    if precision not in ("auto", *DTYPES):
        raise SettingError(
            f"There is no precision {precision!r}. There are: auto, {', '.join(DTYPES)}."
        )
    if precision == "auto":
        return available[0]
    if precision not in available:
        device = "CUDA GPU" if torch.cuda.is_available() else "CPU"
        raise SettingError(
            f"This machine's {device} has no {precision}; it has {' and '.join(available)}. "
            "Use: --precision auto"
        )
    return precision


def cast_parameters(module: torch.nn.Module, precision: str) -> None:
    """Hold the parameters of a module in a precision.

    Not its buffers: a transformer's angles of positions would be off by up to a radian in bf16.

    Args:
        module: whose parameters are replaced.
        precision: "fp32", "bf16" or "fp16".
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.to(DTYPES[precision])


def autocast(precision: str, device: str) -> AbstractContextManager:
    """Compute matrix products in a precision, weights and sums in fp32.

    Args:
        precision: "fp32", "bf16" or "fp16".
        device: "cuda" or "cpu".
    """
    return nullcontext() if precision == "fp32" else torch.autocast(device, DTYPES[precision])


def working_dtype(x: torch.Tensor) -> torch.dtype:
    """What products with x are computed in: autocast's type where it is on, else x's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
