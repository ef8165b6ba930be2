"""`python -m tasks.face_embeddings predict`: embed pictures of faces, or measure how far two are apart."""

import argparse
import json
from pathlib import Path
from typing import Any

from tasks.commands import predict_arguments


def main(args: list[str]) -> int:
    """Run the command; return its exit code. InputError where a picture or the checkpoint cannot be used."""
    parser = predict_arguments(
        "face_embeddings",
        "Embed pictures of one face each: embeddings.npy, float32 (N, D) of length 1, and a line of "
        "predictions.jsonl for each. With --against, the squared distance (0 to 4) of each from one more picture.",
        "its pictures",
    )
    parser.add_argument("--against", type=Path, metavar="FILE", help="a picture to compare them with")
    parser.add_argument("--ckpt_path", type=Path, metavar="C.ckpt", help="default: the best of the newest run")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go (default: %(default)s)")
    options = parser.parse_args(args)
    print(f"run: {_predict(options)}")
    return 0


def _predict(options: argparse.Namespace) -> Path:
    import numpy as np
    import torch

    from data.samples import built_in_sample
    from tasks.accelerator import keep_freed_memory
    from tasks.face_embeddings.inference import FaceEmbedder
    from tasks.predicting import for_each, need_sample, pictures_at
    from tasks.runs import new_run, newest_checkpoint, point_latest

    keep_freed_memory()
    file = options.ckpt_path or newest_checkpoint("face_embeddings", options.runs)
    embed = FaceEmbedder.from_checkpoint(file, "cuda" if torch.cuda.is_available() else "cpu")
    if options.source is None:
        need_sample(file, "face_embeddings", "embed")
        options.source = built_in_sample("faces") / "img_align_celeba"
    pictures = pictures_at(options.source)
    other = None if options.against is None else embed(options.against)
    rows: list[dict[str, Any]] = []
    embeddings: list[np.ndarray] = []

    def answer(path: Path) -> None:
        found = embed(path)
        row: dict[str, Any] = {"file": str(path), "row": len(embeddings)}
        if other is not None:
            distance = float(np.square(found - other).sum())
            row |= {"against": str(options.against), "squared_distance": distance}
            if embed.threshold is not None:
                row["one_person"] = distance <= embed.threshold
        embeddings.append(found)
        rows.append(row)

    done = for_each(pictures, answer)
    run = new_run("face_embeddings", options.runs)
    run.mkdir(parents=True)
    np.save(run / "embeddings.npy", np.stack(embeddings))
    if other is not None:
        rows.sort(key=lambda row: row["squared_distance"])
        for row in rows[:20]:
            verdict = "" if "one_person" not in row else ", one person" if row["one_person"] else ", two people"
            print(f"{row['squared_distance']:.3g}{verdict}: {row['file']}")
        if embed.threshold is not None:
            print(f"one person up to {embed.threshold:.3g}, as chosen on the validation pairs")
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    (run / "predictions.jsonl").write_bytes(text.encode("utf-8", "backslashreplace"))
    point_latest(run)
    print(f"{done} pictures: {run / 'embeddings.npy'} and {run / 'predictions.jsonl'}")
    return run
