"""What `backbone.accelerator.retain_freed_memory` gains: training images per second with and without it, in turn.

    python benchmarks/retained_memory.py [--steps N] [--rounds R]

Each side runs in a fresh process, since memory once kept cannot be given back to the old behaviour.
"""

import argparse
import statistics
import subprocess
import sys
import time


def images_per_second(keep: bool, steps: int, batch_size: int = 32) -> float:
    """Train MobileNetV1 1.0 with a linear classifier at 224 on one batch in memory, float32."""
    import torch
    from torch import nn

    from backbone import MobileNetV1
    from backbone.accelerator import retain_freed_memory

    if keep and not retain_freed_memory():
        raise SystemExit("this machine trains on an accelerator, or its C library is not glibc: nothing to compare")
    trunk = MobileNetV1()
    model = nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(trunk.channels[32], 1000))
    model.to(memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, 224, 224).to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch_size,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    start = 0.0
    for step in range(steps + 2):
        if step == 2:  # the first two allocate
            start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return batch_size * steps / (time.perf_counter() - start)


def main() -> None:
    """Run both sides in turn and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("keep", "default"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(images_per_second(options.side == "keep", options.steps))
        return
    speeds: dict[str, list[float]] = {"default": [], "keep": []}
    for _ in range(options.rounds):
        for side, found in speeds.items():
            command = [sys.executable, __file__, "--side", side, "--steps", str(options.steps)]
            found.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    default, keep = (statistics.median(speeds[side]) for side in ("default", "keep"))
    print(f"memory returned to the kernel:  {default:6.1f} images/s  {[round(s, 1) for s in speeds['default']]}")
    print(f"memory retained:                     {keep:6.1f} images/s  {[round(s, 1) for s in speeds['keep']]}")
    print(f"ratio: {keep / default:.2f}")


if __name__ == "__main__":
    main()
