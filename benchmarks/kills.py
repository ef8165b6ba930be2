"""Kill commands at random moments and look at every file that they leave: how many are damaged (none may be).

    python benchmarks/kills.py [--kills 30] [--folder kills]

For each task a `fit` on its sample is killed (SIGKILL), and the same run goes on from its last checkpoint, again
and again; then the same of a teacher's cache while it is filled, and of a run of two processes, of which one or both
are killed. After each kill all checkpoints are read with their checksums, the run's other files are parsed, and the
cache is opened. Of `predict --shards` on Ray a worker and then the driver are killed, and the same command goes on to
its end: each of its files has to be that of a run without Ray and without kills.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from backbone.weight_files import load_torch
from tasks.distillation.cache import TeacherCache, read_manifest

QUICK = ["--data.num_workers", "0", "--trainer.enable_progress_bar", "false", "--model.width_mult", "0.25"]
SIZES = {"detection": 96, "classification": 64, "face_attributes": 48, "face_embeddings": 48, "geolocalization": 48}
ENDLESS = ["--trainer.max_epochs", "100000", "--trainer.check_val_every_n_epoch", "3"]
ENDLESS += ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]  # more checkpoints a second


def start(task: str, *args: str, command: str = "fit") -> subprocess.Popen:
    """A command in the background, in a group of its own."""
    words = [sys.executable, "-m", f"tasks.{task}", command, *args]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def damaged(folder: Path) -> list[str]:
    """The files of runs that cannot be read, temporary ones apart."""
    bad = []
    for file in folder.rglob("*"):
        if not file.is_file() or file.name.startswith(".tmp~"):
            continue
        try:
            if file.suffix == ".ckpt":
                load_torch(file)
            elif file.suffix == ".json":
                json.loads(file.read_text())
            elif file.suffix == ".yaml":
                assert isinstance(yaml.safe_load(file.read_text()), dict)
        except Exception as error:
            bad.append(f"{file}: {type(error).__name__} {error}")
    return bad


def kill_fits(task: str, kills: int, folder: Path, generator: random.Random, *more: str) -> tuple[int, int, list[str]]:
    """Kill a run that goes on; the kills after a first checkpoint, the checkpoints looked at, and what was damaged."""
    runs = folder / task
    size = ["--data.image_size", str(SIZES[task])]
    given = ["--trainer.default_root_dir", str(runs), *size, *QUICK, *ENDLESS, *more]
    done, looked_at, bad = 0, 0, []
    while done < kills:
        last = max(runs.rglob("last.ckpt"), key=os.path.getmtime, default=None)
        process = start(task, *given, *(["--ckpt_path", str(last)] if last else []))
        before = set(runs.rglob("last.ckpt"))
        while set(runs.rglob("last.ckpt")) == before:  # its first checkpoint
            if process.poll() is not None:
                raise SystemExit(f"{task}: the fit ended with {process.returncode}; run it by hand")
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 1.5))
        if generator.random() < 0.5 or "--trainer.devices" not in more:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()  # the first of several alone; the others must end by themselves
        process.wait()
        if "--trainer.devices" in more:
            time.sleep(5)
        done += 1
        looked_at += len(list(runs.rglob("*.ckpt")))
        bad += damaged(runs)
    return done, looked_at, bad


def kill_fillings(kills: int, folder: Path, teacher: Path, generator: random.Random) -> tuple[int, int, list[str]]:
    """Kill a `fit` that fills a teacher's cache, which the next one goes on with."""
    done, looked_at, bad = 0, 0, []
    while done < kills:
        cache = folder / f"cache_{done // 10}"
        size = ["--data.image_size", "64", "--data.views", "400", "--model.teacher", str(teacher)]
        runs = ["--trainer.default_root_dir", str(folder / "filling")]
        process = start("classification", *runs, *size, *QUICK, *ENDLESS, "--model.cache", str(cache))
        while not (cache / "done.npy").is_file() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(generator.uniform(1, 9) if done % 10 else generator.uniform(0, 2))
        if process.poll() is not None:  # refused, as each start compares some rows with the teacher; or full
            raise SystemExit(f"the fit with the cache ended with {process.returncode}; run it by hand")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done += 1
        looked_at += 1
        try:
            TeacherCache(cache, read_manifest(cache))
        except ValueError as error:
            bad.append(str(error))
    return done, looked_at, bad


def kill_ray(kills: int, folder: Path, weights: Path, generator: random.Random) -> tuple[int, int, list[str]]:
    """Kill a worker and the driver of predictions by Ray, half of `kills` each."""
    import psutil
    import pyarrow.parquet as pq

    photos, shards, plain = folder / "photos", folder / "shards", folder / "plain"
    photos.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for i in range(8000):
        Image.fromarray(noise.integers(0, 256, (64, 64, 3), np.uint8)).save(photos / f"{i:05}.jpg")
    words = ["-m", "data.shard", str(photos), str(shards), "--targets", "faces", "--shard_mb", "0.3"]
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    given = ["--weights", str(weights), "--shards", str(shards), "--device", "cpu", "--out"]
    assert start("classification", *given, str(plain), command="predict").wait() == 0
    expected = {path.name: pq.read_table(path) for path in plain.glob("*.parquet")}
    done, bad = 0, []
    for turn in range(-(-kills // 2)):
        out = folder / f"out_{turn}"
        by_ray = [*given, str(out), "--engine", "ray", "--workers", "2"]
        process = start("classification", *by_ray, command="predict")
        while process.poll() is None and not [*out.glob("[!.]*.parquet")]:
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 1))
        family = psutil.Process(process.pid).children(recursive=True)
        generator.choice([one for one in family if "_Worker" in " ".join(one.cmdline())]).kill()
        time.sleep(generator.uniform(0, 1.5))
        if process.poll() is not None or len([*out.glob("[!.]*.parquet")]) == len(expected):
            raise SystemExit(f"{out}: the prediction came to its end before the kill")
        process.kill()
        process.wait()
        psutil.wait_procs(family, timeout=60)
        done += 2
        again = start("classification", *by_ray, command="predict").wait()
        found = {path.name: pq.read_table(path) for path in out.glob("*.parquet")}
        if again or found.keys() != expected.keys():
            bad.append(f"{out}: exit code {again}, {len(found)} of {len(expected)} files")
        bad += [
            f"{out / name}: other rows" for name in found.keys() & expected if not found[name].equals(expected[name])
        ]
    return done, done // 2 * len(expected), bad


def main() -> int:
    """Run it; print a line for each part; 1 where anything was damaged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="of each task, and of the cache (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("kills"), help="where the runs go (default: %(default)s)")
    choices = [*SIZES, "cache", "processes", "ray"]
    parser.add_argument("--parts", nargs="+", choices=choices, default=choices, help="what is killed (default: all)")
    options = parser.parse_args()
    generator, parts = random.Random(0), {}
    for part in options.parts:
        folder = options.folder / part
        if part == "cache":
            kill_fits("classification", 1, folder, generator)  # a teacher
            teacher = next(folder.rglob("last.ckpt"))
            parts[part] = kill_fillings(options.kills, folder, teacher, generator)
        elif part == "ray":
            kill_fits("classification", 1, folder, generator)
            parts[part] = kill_ray(options.kills, folder, next(folder.rglob("last.ckpt")), generator)
        elif part == "processes":
            two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
            parts[part] = kill_fits("classification", -(-options.kills // 3), folder, generator, *two)
        else:
            teacher = []
            if part == "face_embeddings":
                kill_fits("face_attributes", 1, folder / "teacher", generator)
                teacher = ["--model.teacher", str(next((folder / "teacher").rglob("last.ckpt")))]
            parts[part] = kill_fits(part, options.kills, folder / "runs", generator, *teacher)
    print("| killed | kills | files looked at | damaged |\n|---|---|---|---|")
    for name, (done, looked_at, bad) in parts.items():
        print(f"| {name} | {done} | {looked_at} | {len(bad)} |")
        print(*bad, sep="\n", end="\n" if bad else "")
    return int(any(bad for _, _, bad in parts.values()))


if __name__ == "__main__":
    raise SystemExit(main())
