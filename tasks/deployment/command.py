"""`python -m tasks.<task> export`: a model as one file that works alone, which is scored before it is called good."""

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from backbone.accelerator import retain_freed_memory
from backbone.download import digest_of
from backbone.errors import InputError
from backbone.files import replacing, room_beside, write_whole
from backbone.names import printed
from backbone.weights import find_weights, table
from data.folders import count_of, say
from data.records import Split
from data.transforms import needed_in_evaluation
from tasks.cli import Parser, check_classes, link_data, prepared
from tasks.deployment import executorch_file, gate, onnx_file, qat
from tasks.deployment.arguments import ENDINGS, export_arguments
from tasks.deployment.artifact import open_artifact
from tasks.deployment.graph import Deployed
from tasks.module import TaskModule, evaluation_images
from tasks.next_steps import say_next
from tasks.options import has_source, resolve
from tasks.runs import as_written

_VERSIONS = {"onnx": ("onnx", "onnxruntime"), "executorch": ("executorch", "torchao")}
REJECTED = 3  # the exit code where the file is worse than its network
_CALIBRATION = 200  # training images
_FORMATS: dict[str, Any] = {"onnx": onnx_file, "executorch": executorch_file}
_MAX_LOSS = {"float32": 0.001, "int8": 0.01}
_RULE = (
    "The image is upright by its EXIF orientation. With a crop f, scale = f * min(H / height, W / width), and the "
    "middle of h x w = round(scale * height) x round(scale * width) px is taken, from (H - h) // 2 and (W - w) // 2; "
    "else all of it. bilinear is OpenCV's INTER_LINEAR on uint8 where no side shrinks by more than 2.5, else its "
    "INTER_AREA; bicubic is Pillow's. A JPEG may be decoded at 1/2, 1/4 or 1/8 as long as it stays at least "
    "draft_at_least."
)


class Resolved(NamedTuple):
    """What a command is about."""

    module: TaskModule  # in evaluation mode, with its weights, for the classes of the data
    data: Any  # not set up
    source: Path  # the checkpoint, or the file of weights


def main(task: str, classes: Callable[[], tuple[type[TaskModule], Any]], args: list[str]) -> int:
    """Run the command; return its exit code, 3 where the file was rejected. Raises InputError."""
    parser = export_arguments(task)
    options, rest = parser.parse_known_args(args)
    retain_freed_memory()
    return _export(task, _checked(task, options), *resolved(*classes(), rest, parser.prog))


def resolved(module_class: type[TaskModule], datamodule_class: Any, args: Sequence[str], prog: str) -> Resolved:
    """The model of a checkpoint or of whole weights, and its data, from the options that `validate` has for them.

    Without any it is the newest run's best checkpoint, and the data that it was trained on. Raises InputError.
    """
    parser = Parser(prog=prog)
    parser.add_lightning_class_args(datamodule_class, "data")
    parser.add_lightning_class_args(module_class, "model")
    link_data(parser, module_class)
    parser.add_argument("--ckpt_path", type=str | None, default=None)
    parser.add_argument("--trainer.default_root_dir", type=str | None, default=None)
    args = prepared(args)

    def parse(args: list[str]) -> dict[str, Any]:
        return parser.parse_args(args[1:], defaults=False).as_dict()

    settings, checkpoint, path = resolve(module_class, ["validate", *args], parse)
    if checkpoint is None and not has_source(settings["data"]):
        raise InputError(f"--weights {settings['model']['weights']} has no images of its own; give --data DIR.")
    given = parser.instantiate(parser.parse_object(settings))
    module, data = given["model"], given["data"]
    check_classes(checkpoint, data)
    if checkpoint is None:
        return Resolved(module.eval(), data, find_weights(module.hparams["weights"], fetch=False).file)
    assert path is not None
    with as_written(path):
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"])
    return Resolved(module.eval(), data, path)


def _checked(task: str, options: argparse.Namespace) -> argparse.Namespace:
    """The options, with what was not given found out. Raises InputError."""
    given = options.out.suffix.lower() if options.out else ""
    kind = options.format or next((name for name, end in ENDINGS.items() if end == given), "onnx")
    options.format, ending = kind, ENDINGS[kind]
    options.out = options.out or Path(f"{task}{'_int8' * options.int8}{ending}")
    if given not in ("", ending) or not options.out.suffix:
        raise InputError(f"--out is {str(options.out)!r}; a file of --format {kind} is called NAME{ending}.")
    if options.out.is_dir() or not options.out.absolute().parent.is_dir():
        raise InputError(f"--out {options.out} cannot be written; name a file in a folder that exists.")
    if options.qat < 0:
        raise InputError(f"--qat is {options.qat}; it must be 0 or more epochs.")
    if options.qat and not options.int8:
        raise InputError("--qat fine-tunes for --int8; give that too.")
    if options.max_loss is None:
        options.max_loss = _MAX_LOSS["int8" if options.int8 else "float32"]
    if not 0 <= options.max_loss <= 1:
        raise InputError(f"--max_loss is {options.max_loss}; it must be from 0 to 1.")
    _FORMATS[kind].check_installed()
    if options.qat:
        executorch_file.check_installed()  # whose quantiser it is
    return options


def _export(task: str, options: argparse.Namespace, module: TaskModule, data: Any, source: Path) -> int:
    data.setup("fit" if options.int8 else "validate")
    exported = module.to_export().eval()
    original = network = Deployed(exported, data.evaluated_size)
    if task == "detection":
        form = "operator" if options.format == "onnx" else "rounds"
        cast(Any, exported.head).suppress_by("none" if options.nms == "none" else form)
        network = Deployed(exported, data.evaluated_size)
    out: Path = options.out
    metadata = _metadata(task, network, data, source, options)
    compared = torch.from_numpy(np.concatenate([*_batches(data, "val", gate.COMPARED)]))
    calibration = [*_batches(data, "train", _CALIBRATION)] if options.int8 else []
    count = sum(map(len, calibration))
    if options.int8:
        files_of = [{data.file(split, i) for i in range(len(data.records(split)))} for split in ("train", "val")]
        if shared := set.intersection(*files_of):
            say(f"note: {count_of(len(shared), 'image')} to calibrate on and to validate on are the same")
    with room_beside(out) as room:
        files = _written(options, network, room, metadata, calibration)
        difference = None
        if None in files:  # the file in float
            difference = gate.compare(open_artifact(files[None]), network, compared)
            say(f"float32 beside PyTorch, in batches of {', '.join(map(str, gate.BATCHES))}: {difference}")
        for epochs in dict.fromkeys((0, options.qat)):
            if epochs:
                say(f"fine-tuning for int8: {count_of(epochs, 'epoch')} of {count_of(count, 'training image')}")
                tuned = qat.fine_tune(network, calibration, epochs)
                files = _written(options, tuned, room, metadata, calibration)
            made = {method: file for method, file in files.items() if (method is not None) == options.int8}
            artifacts = [open_artifact(file) for file in made.values()]
            _, *judged = gate.judge(artifacts, module, exported, original, data)
            verdicts = dict(zip(made, judged, strict=True))
            for method, verdict in verdicts.items():
                if method:
                    say(f"int8 by {method} of {count_of(count, 'training image')}: {verdict}")
            best = min(verdicts, key=lambda method: verdicts[method].loss)
            file, verdict = made[best], verdicts[best]
            # Where the network itself is worth nothing, no file can lose anything; floats are compared with it besides.
            telling = not options.int8 or verdict.pytorch > options.max_loss * verdict.best_figure
            if (fits := telling and verdict.loss <= options.max_loss) or not telling:
                break
        passed = fits and (difference is None or difference.small)
        metrics = {"metric": verdict.metric, "split": "val", "images": verdict.images}
        metadata["metrics"] = {**metrics, "pytorch": verdict.pytorch, "file": verdict.file}
        if options.int8:
            metadata["calibration"] = {"method": best, "images": count, "qat_epochs": epochs}
        _FORMATS[options.format].add_metadata(file, metadata)
        out = out if passed else out.with_name(f"{out.name}.rejected")
        write_whole(out.with_name(f"{out.name}.json"), json.dumps(metadata, indent=1, ensure_ascii=False))
        with replacing(out) as beside:
            file.rename(beside)
    line = f"{out}: {out.stat().st_size / 1e6:.1f} MB, {verdict}"
    if passed:
        for name in (f"{out.name}.rejected", f"{out.name}.rejected.json"):
            out.with_name(name).unlink(missing_ok=True)
        print(printed(line))
        commands: list[list[str | Path]] = [[task, "benchmark", out]]
        if options.format == "onnx":
            commands.append(["run", out, "photo.jpg"])
        say_next(*commands)
        return 0
    line += f"; {options.out} is still the one of before" if options.out.exists() else ""
    reason = f"the file may lose {options.max_loss:g} (--max_loss)"
    if fits:
        reason = f"its outputs may differ by {gate.RELATIVE:g} of the largest number and {gate.PIXELS:g} px alone"
    elif not telling:
        reason = (
            "the network itself finds so little in these images that they cannot show what the file loses; give it "
            "others with --data"
        )
    elif not options.int8 and difference is not None and difference.small:
        reason += (
            " and loses more, though its outputs are PyTorch's: the network tells the images so little apart that "
            "rounding decides; train it for longer"
        )
    elif options.int8:
        reason += " and loses more; --qat 3 fine-tunes it" if not options.qat else " and loses more, fine-tuned too"
        if verdict.images * options.max_loss < 1:
            reason += f"; of so few images one is {1 / verdict.images:.3f} (--data.val_fraction sets more aside)"
    print(printed(f"rejected, as {reason}: {line}"), file=sys.stderr)
    return REJECTED


def _written(
    options: argparse.Namespace,
    network: Deployed,
    room: Path,
    metadata: Mapping[str, Any],
    images: Sequence[np.ndarray],
) -> dict[str | None, Path]:
    """The files of a network in `room`: by the method of its calibration in int8, and of None in float.

    Of the format executorch, whose int8 is not made from it, the one in float is not written beside int8.
    """
    kind = _FORMATS[options.format]
    methods: list[str | None] = list(kind.CALIBRATIONS) if options.int8 else []
    if options.format == "onnx" or not options.int8:
        methods.insert(0, None)
    files = {method: room / f"{method or 'float32'}{ENDINGS[options.format]}" for method in methods}
    for method, file in files.items():
        if options.format == "onnx" and method is None:
            onnx_file.write_onnx(network, file)
            onnx_file.add_metadata(file, metadata)
        elif options.format == "onnx":
            onnx_file.quantize_onnx(files[None], file, images, cast(Any, method))
            onnx_file.add_metadata(file, metadata)
        else:
            rounded = network if method is None else executorch_file.quantized(network, images, cast(Any, method))
            executorch_file.write_executorch(rounded, file, metadata)
    return files


def _batches(data: Any, split: Split, most: int) -> Iterator[np.ndarray]:
    """Images as they are evaluated, uint8 (B, height, width, 3)."""
    for images in evaluation_images(data, split, most):
        yield images.permute(0, 2, 3, 1).contiguous().numpy()


def _metadata(task: str, network: Deployed, data: Any, source: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What the file says of itself, but for its metric."""
    settings, crop = network.network.trunk.settings, data.hparams.get("central_fraction")
    preprocessing = network.network.trunk.preprocessing
    facts, versions = network.head.answer_facts, ("mobilenet-tasks", "torch", *_VERSIONS[options.format])
    draft = None if crop is None else list(needed_in_evaluation(network.size, crop))
    return {
        "task": task,
        "image_size": list(network.size),
        "resize": {
            "crop": crop,
            "interpolation": data.hparams.get("interpolation", "bilinear"),
            "draft_at_least": draft,
            "rule": _RULE,
        },
        "normalisation": {name: getattr(preprocessing, name) for name in ("mean", "std", "channel_order")},
        "outputs": list(network.outputs),
        **facts,
        "precision": "int8" if options.int8 else "float32",
        "licence": _licence(data, settings.get("provenance") or {}, facts.get("licence", "")),
        "versions": {name: importlib.metadata.version(name) for name in versions},
        "source": {"file": source.name, "sha256": digest_of(source)},
    }


def _licence(data: Any, provenance: Mapping[str, Any], known: str) -> str:
    """What is known of the terms of what the network was trained on, as sentences."""
    known = known or getattr(data, "licence", "")
    sentences = [
        known or "The terms of the training images are not recorded: whoever gives the file on should know them."
    ]
    of_weights = provenance.get("name"), provenance.get("sha256")
    if row := next(
        (row for row in table() if row.name == of_weights[0] or row.sha256 == of_weights[1] is not None), None
    ):
        sentences.append(f"Its first weights are {row.name} of {row.project}, under {row.licence}.")
    return " ".join(sentences)
