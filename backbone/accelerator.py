"""What the machine asks for: memory that is retained on CPUs, half precision where the hardware computes in it."""

import ctypes
import sys

import torch

# mallopt parameters of glibc's malloc.h: (name of the parameter, bytes).
_RETAIN_MEMORY = (
    (-3, 1 << 30),  # M_MMAP_THRESHOLD: blocks up to 1 GiB come from the heap, which is retained
    (-1, (1 << 31) - 1),  # M_TRIM_THRESHOLD: at its maximum, the heap is not given back
    (-2, 256 << 20),  # M_TOP_PAD: the heap grows 256 MiB at a time
)


def retain_freed_memory() -> bool:
    """Let this process retain the memory it frees, for training on a Linux CPU; True if it took effect.

    Each training step frees and asks again for hundreds of MB. By default glibc hands large blocks back to the kernel,
    which must then zero every page anew: most of the step's time (benchmarks/retained_memory.py shows the ratio).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, such as musl, which has no such call
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in _RETAIN_MEMORY)


def best_precision(accelerator: str) -> str:
    """Return Lightning's name of the fastest safe precision for "cpu", "cuda" or "mps"."""
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    capabilities = torch.cpu.get_capabilities() if accelerator == "cpu" else {}
    # Without one of these a CPU computes bf16 in float32 and loses time to the conversions.
    return "bf16-mixed" if any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "32-true"
