"""How much of the bare training step's speed `fit` reaches, and where its time goes.

    python benchmarks/fit_throughput.py TASK [any option of `fit`]      # TASK: classification, detection, ...
    python benchmarks/fit_throughput.py classification --timm           # timm's own step on the same device, too
    python benchmarks/fit_throughput.py classification --loader         # the loader alone, by processes
    python benchmarks/fit_throughput.py classification --largest        # the largest batch that fits on a GPU

The bare step is the same module, batch size and precision on one batch already in memory: forward, loss, backward,
clipping and optimizer. Both sides are measured in turn in one process, epoch by epoch, and the parts in an epoch of
their own, as on a GPU each part is then waited for. Without --data.root classification has made-up images of 500x375,
about 45 kB each; the other tasks their built-in samples; a teacher that is needed is trained for one epoch before.
"""

import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import SimpleProfiler
from loader_parts import write_images

from backbone import normalize
from data.attributes import AttributesDataModule
from data.classification import ClassificationDataModule
from data.detection import DetectionDataModule
from data.face_pairs import FacePairsDataModule
from data.geotagged import GeotaggedDataModule
from tasks.classification.module import ClassificationModule
from tasks.cli import run
from tasks.detection.module import DetectionModule
from tasks.face_attributes.module import FaceAttributesModule
from tasks.face_embeddings.module import FaceEmbeddingsModule
from tasks.geolocalization.module import GeolocalizationModule

TASKS: dict[str, tuple[Any, Any]] = {
    "classification": (ClassificationModule, ClassificationDataModule),
    "detection": (DetectionModule, DetectionDataModule),
    "face_attributes": (FaceAttributesModule, AttributesDataModule),
    "face_embeddings": (FaceEmbeddingsModule, FacePairsDataModule),
    "geolocalization": (GeolocalizationModule, GeotaggedDataModule),
}
EPOCHS = 5  # of which the first starts workers, and the last is that of the parts
BARE_STEPS = 12
_CLIP = 10.0  # as `fit`


def wait_for(device: torch.device) -> None:
    """Let a GPU come to the end of what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Parts(SimpleProfiler):
    """Lightning's profiler, in one epoch alone, in which it waits for the device at each beginning and end."""

    device: torch.device | None = None  # none: nothing is measured

    def start(self, action_name: str) -> None:
        if self.device is not None:
            wait_for(self.device)
            super().start(action_name)

    def stop(self, action_name: str) -> None:
        if self.device is not None and action_name in self.current_actions:
            wait_for(self.device)
            super().stop(action_name)

    def seconds(self, ending: str) -> float:
        """All that was spent in the action of that name."""
        return sum(sum(taken) for name, taken in self.recorded_durations.items() if name.endswith(ending))


class _Measure(Callback):
    """Time whole epochs of `fit`, and after each of them bare steps on the last batch."""

    def __init__(self, other_step: Callable[[Any, dict[str, Any]], Callable[[], None]] | None) -> None:
        self.fit: list[float] = []
        self.sides: dict[str, list[float]] = {"bare step": []}
        self.other_step, self.parts, self.whole = other_step, _Parts(), 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Have the parts measured."""
        trainer.profiler = self.parts

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock before the first batch is fetched."""
        wait_for(pl_module.device)
        self.parts.device = pl_module.device if trainer.current_epoch == EPOCHS - 1 else None
        self.images, self.start = 0, time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count, and keep the batch."""
        self.images, self.batch = self.images + len(batch["images"]), batch

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop the clock; run bare steps with the same module, and put its weights back."""
        wait_for(pl_module.device)
        taken = time.perf_counter() - self.start
        if self.parts.device is not None:
            self.parts.device, self.whole = None, taken
            return
        weights = {name: value.clone() for name, value in pl_module.state_dict().items()}
        optimizer = torch.optim.SGD(pl_module.parameters(), lr=1e-6, momentum=0.9, nesterov=True, fused=True)
        pl_module.log = pl_module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]

        def bare() -> None:
            with trainer.precision_plugin.forward_context():
                loss = pl_module.training_step(self.batch, 0)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(pl_module.parameters(), _CLIP)
            optimizer.step()

        def trunk() -> None:
            with trainer.precision_plugin.forward_context():
                maps = pl_module.trunk.features(normalize(self.batch["images"], pl_module.trunk.preprocessing))
            torch.stack([each.float().mean() for each in maps.values()]).sum().backward()
            optimizer.zero_grad()

        sides = {"bare step": bare, "trunk": trunk}
        if self.other_step:
            sides["timm's step"] = self.other_step(pl_module, self.batch)
        for name, step in sides.items():
            speed = len(self.batch["images"]) / seconds_of(step, pl_module.device)
            if trainer.current_epoch > 0:
                self.sides.setdefault(name, []).append(speed)
        if trainer.current_epoch > 0:
            self.fit.append(self.images / taken)
        del pl_module.log, pl_module.log_dict
        pl_module.load_state_dict(weights)

    def shares(self) -> dict[str, float]:
        """Of the epoch that was measured by parts, each one's share of the time."""
        of = self.parts.seconds
        forward, backward, zero = of("Strategy.training_step"), of("Strategy.backward"), of("optimizer_zero_grad")
        parts = {
            "waiting for data": of("train_dataloader_next"),
            "transfer": of("batch_to_device"),
            "forward and loss": forward,
            "backward": backward,
            "clipping, checks, optimizer": of("optimizer_step") - forward - backward - zero,
        }
        parts["average, logging, the rest"] = self.whole - sum(parts.values())
        return {name: taken / self.whole for name, taken in parts.items()}


def seconds_of(step: Callable[[], None], device: torch.device, count: int = BARE_STEPS) -> float:
    """The seconds of one step: the mean of several, after two that are not counted."""
    for number in range(count + 2):
        if number == 2:
            wait_for(device)
            start = time.perf_counter()
        step()
    wait_for(device)
    return (time.perf_counter() - start) / count


def timm_step(pl_module: Any, batch: dict[str, Any]) -> Callable[[], None]:
    """A step as timm's train.py makes it, of its MobileNetV1 of width 1.0 and as many classes, on the same images."""
    import timm
    from timm.optim import create_optimizer_v2
    from timm.utils import dispatch_clip_grad

    device, classes = pl_module.device, int(batch["labels"].max()) + 1
    network = timm.create_model("mobilenetv1_100", num_classes=max(2, classes)).to(device).train()
    network = network.to(memory_format=torch.channels_last)
    loss_of = torch.nn.CrossEntropyLoss()
    optimizer = create_optimizer_v2(network, opt="sgd", lr=1e-6, momentum=0.9, fused=True)
    mean, std = (torch.tensor([value] * 3, device=device).view(1, 3, 1, 1) for value in (127.5, 127.5))
    precise = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(pl_module.trainer.precision)

    def step() -> None:
        images = batch["images"].float().sub_(mean).div_(std)  # as its PrefetchLoader
        with torch.autocast(device.type, dtype=precise or torch.float32, enabled=precise is not None):
            loss = loss_of(network(images), batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        dispatch_clip_grad(network.parameters(), _CLIP)
        optimizer.step()

    return step


class _Loader(Callback):
    """Instead of training, an epoch of the loader alone for each number of processes."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure, print and end."""
        data, workers = trainer.datamodule, 1
        most = data.num_workers
        while workers <= most:
            data.num_workers = workers
            images = start = 0.0
            for number, batch in enumerate(data.train_dataloader()):
                if number == 0:  # by then the processes have started
                    start = time.perf_counter()
                else:
                    images += len(batch["images"])
            print(f"loader, {workers:2} processes: {images / (time.perf_counter() - start):7.1f} images/s")
            workers = workers + 1 if workers == most else min(2 * workers, most)
        trainer.should_stop = True


class _Largest(Callback):
    """Instead of training, steps on batches of twice as many images each time, until the GPU's memory is full.

    On a CPU, whose memory ends with the machine, three times.
    """

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: dict[str, Any], batch_idx: int) -> int:
        """Measure, print and end."""
        trainer.should_stop = True
        cuda, most = pl_module.device.type == "cuda", 4 * len(batch["images"])
        pl_module.log = pl_module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
        repeated = batch
        try:
            while cuda or len(repeated["images"]) <= most:
                with trainer.precision_plugin.forward_context():
                    pl_module.training_step(repeated, 0).backward()
                pl_module.zero_grad()
                used = f"{torch.cuda.max_memory_allocated() / 2**30:6.1f} GiB" if cuda else "fits"
                print(f"batch {len(repeated['images']):6,}: {used}", flush=True)
                repeated = {
                    name: torch.cat([value, value]) if isinstance(value, torch.Tensor) else [*value, *value]
                    for name, value in repeated.items()
                }
        except torch.cuda.OutOfMemoryError:
            print(f"batch {len(repeated['images']):6,}: does not fit")
        return -1


def fit(task: str, given: list[str], callback: Callback) -> int:
    """Run `fit` with one more callback; its exit code."""
    module_class, datamodule_class = TASKS[task]

    class Measured(module_class):  # type: ignore[misc, valid-type]
        def configure_callbacks(self) -> list[Callback]:
            return [*super().configure_callbacks(), callback]

    with tempfile.TemporaryDirectory() as folder:
        if task == "classification" and "--data.root" not in given:
            write_images(Path(folder) / "images", 200, (375, 500))
            given = [*given, "--data.root", str(Path(folder) / "images")]
        own = ["--trainer.default_root_dir", folder]  # last, so that no config overrides them
        if task == "face_embeddings" and "--model.teacher" not in given:
            run(*TASKS["face_attributes"], ["fit", "--trainer.max_epochs", "1", *own])
        options = ["--trainer.max_epochs", str(EPOCHS), "--trainer.limit_val_batches", "0", *own]
        return run(Measured, datamodule_class, ["fit", *given, *options])


def main() -> None:
    """Fit on the data, print images per second of all sides, their ratios and the shares of the parts."""
    task, *given = sys.argv[1:]
    modes = {name: name in given for name in ("--timm", "--loader", "--largest")}
    given = [word for word in given if word not in modes]
    if modes["--timm"] and task != "classification":
        raise SystemExit("--timm is for classification, which timm trains too")
    if modes["--largest"]:  # in a process of its own, which the system may end
        given += ["--data.num_workers", "0"]  # for one batch, and as those of a spawned process start slowly
        child = multiprocessing.get_context("spawn").Process(target=fit, args=(task, given, _Largest()))
        child.start()
        child.join()
        raise SystemExit(f"the process ended with {child.exitcode}" if child.exitcode else 0)
    measure = _Measure(timm_step if modes["--timm"] else None)
    code = fit(task, given, _Loader() if modes["--loader"] else measure)
    if code or not measure.fit:
        raise SystemExit(code)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{task}, batch {len(measure.batch['images'])}, {tuple(measure.batch['images'].shape[2:])} px, {name}")
    whole = statistics.median(measure.fit)
    print(f"fit:         {whole:8.1f} images/s  {[round(s, 1) for s in measure.fit]}")
    for side, speeds in measure.sides.items():
        speed = statistics.median(speeds)
        print(
            f"{side + ':':12} {speed:8.1f} images/s  {[round(s, 1) for s in speeds]}; ratio of fit {whole / speed:.3f}"
        )
    if timm := measure.sides.get("timm's step"):
        print(f"bare step / timm's step: {statistics.median(measure.sides['bare step']) / statistics.median(timm):.3f}")
    print("; ".join(f"{name} {share:.1%}" for name, share in measure.shares().items()))


if __name__ == "__main__":
    main()
