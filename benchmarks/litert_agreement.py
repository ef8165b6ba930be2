"""A TensorFlow Lite model in our network in float32 beside LiteRT's own run of its integers, on the same pixels.

With ai-edge-litert installed: `python benchmarks/litert_agreement.py FILE.tflite --root DIR`. For a detector DIR holds
COCO images, and both go through our post-processing; for a classifier it holds folders of ImageNet's classes.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from backbone import normalize, read_pretrained
from data import imagenet
from data.classification import ClassificationDataModule
from data.detection import DetectionDataModule
from tasks.classification.head import ClassificationHead
from tasks.classification.module import ClassificationModule
from tasks.detection.module import DetectionModule
from tasks.detection.pretrained import categories_of, detector_of, loss_of


def main() -> None:
    """Print both figures, and the share of images with the same answer or the largest difference of a score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, help="a .tflite file")
    parser.add_argument("--root", required=True, help="COCO images, or a folder of classes of ImageNet")
    options = parser.parse_args()
    pretrained = read_pretrained(options.model)
    kind = _detector if pretrained.detector else _classifier
    kind(options.model, options.root, pretrained.numerics.preprocessing.image_size)


def _interpreter(model: Path):  # noqa: ANN202  # a class of an optional package
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model), experimental_preserve_all_tensors=True, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def _run(interpreter, image: np.ndarray, names: list[str]) -> list[np.ndarray]:  # noqa: ANN001
    """The dequantised tensors of these names for one uint8 (H, W, 3) image."""
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
    interpreter.invoke()
    details = {detail["name"]: detail for detail in interpreter.get_tensor_details()}
    found = []
    for name in names:
        scale, zero = details[name]["quantization"]
        found.append((interpreter.get_tensor(details[name]["index"]).astype(np.float32) - zero) * scale)
    return found


def _detector(model: Path, root: str, side: int) -> None:
    data = DetectionDataModule(root=root, image_size=side, test_split="all", num_workers=0)
    data.setup("test")
    records = data.records("test")
    detector = detector_of(read_pretrained(model))
    ours = DetectionModule(
        data.categories, (side, side), head="pretrained", loss=loss_of(detector), weights=str(model)
    ).eval()
    numbers = {name: number for number, name in categories_of(detector).items()}
    columns = [numbers[name] for name in data.categories.values()]
    interpreter, dataset = _interpreter(model), data.dataset("test", train=False)
    figures = []
    for theirs in (False, True):
        for position in range(len(records)):
            batch = type(data).collate([dataset[0, position]])
            with torch.inference_mode():
                outputs = ours(batch["images"])
                if theirs:
                    codes, scores = _run(interpreter, dataset[0, position]["image"], ["Squeeze", "convert_scores"])
                    logits = torch.from_numpy(scores[..., columns]).clamp(1e-6, 1 - 1e-6).logit()
                    outputs = outputs._replace(
                        class_logits=logits, box_codes=torch.from_numpy(codes)[..., [1, 0, 3, 2]]
                    )
                ours.head.update(outputs, batch)
        figures.append(ours.head.compute(records, "test"))
    for name in ("map", "map_50"):
        print(f"{name}: ours in float32 {figures[0][name]:.4f}, LiteRT's integers {figures[1][name]:.4f}")


def _classifier(model: Path, root: str, side: int) -> None:
    data = ClassificationDataModule(root=root, image_size=side, test_split="all", num_workers=0)
    data.setup("test")
    names = dict(enumerate(imagenet.class_names()))
    ours = ClassificationModule(names, (side, side), head="imagenet", weights=str(model)).eval()
    labels = ClassificationHead(ours.trunk.channels, data.all_records.classes, imagenet_classes=True).output_of_label
    interpreter, dataset = _interpreter(model), data.dataset("test", train=False)
    output = interpreter.get_output_details()[0]["name"]
    rows = []
    for position in range(len(dataset)):
        sample = dataset[0, position]
        image = torch.from_numpy(sample["image"]).permute(2, 0, 1)[None]
        with torch.inference_mode():
            logits = ours.head(ours.trunk.features(normalize(image, ours.trunk.preprocessing)))
        [scores] = _run(interpreter, sample["image"], [output])
        rows.append((labels[int(sample["targets"]["labels"])].item(), logits.argmax().item(), scores[0, 1:].argmax()))
    label, own, theirs = np.array(rows).T
    print(f"top-1: ours in float32 {(own == label).mean():.4f}, LiteRT's integers {(theirs == label).mean():.4f}")
    print(f"the same answer: {(own == theirs).mean():.4f} of {len(rows)} images")


if __name__ == "__main__":
    main()
