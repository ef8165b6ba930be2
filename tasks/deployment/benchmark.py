"""`python -m tasks.<task> benchmark`: how long exported files take on this machine, their memory, size and metric."""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backbone.errors import Arguments, InputError
from backbone.files import write_whole
from backbone.names import printed
from tasks.deployment import latency
from tasks.next_steps import say_next

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.module import TaskModule
    from tasks.predict import PredictCommand

Classes = Callable[[], "tuple[type[TaskModule], Any]"]
Score = Callable[[Sequence[Path]], tuple[str, list[float | None]]]  # the metric; of each file, and last of PyTorch
_BUSY = 0.5  # load average for each core
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_MEMORY = (
    "the resident peak of a process of its own, beyond what it had when its runtime was imported and the file not yet "
    "opened"
)
_COLUMNS = (
    *("file", "runtime", "precision", "image_size", "threads", "median_ms", "q1_ms", "q3_ms"),
    *("memory_mb", "process_mb", "size_mb", "metric"),
)


def main(task: str, classes: Classes, predict: "PredictCommand", args: list[str]) -> int:
    """Run the command; return its exit code. Raises InputError."""
    parser = Arguments(
        prog=f"python -m tasks.{task} benchmark",
        description="Measure exported files on this machine, each in a process of its own: milliseconds of one image, "
        "memory, size, and with --data the metric on its validation images. A checkpoint or weights that are "
        "named are measured too, in PyTorch as it trains.",
    )
    parser.add_argument("files", type=Path, nargs="*", metavar="F", help=", ".join(latency.RUNTIMES))
    help = "numbers of threads; all: as many as there are cores (default: 1 all)"
    parser.add_argument("--threads", nargs="+", default=["1", "all"], metavar="N", help=help)
    parser.add_argument("--runs", type=int, default=100, help="of one image, which are counted (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"default: a new folder in runs/{task}")
    parser.add_argument(
        "--ckpt_path", type=Path, metavar="C.ckpt", help="a checkpoint to measure in PyTorch too (--weights C)"
    )
    parser.add_argument(
        "--model.weights", dest="weights", type=Path, metavar="W", help="or whole weights (--weights W)"
    )
    parser.add_argument("--eager", action="store_true", help="measure the newest run's best checkpoint in PyTorch too")
    help = "score the files on its validation images, in the classes of --weights"
    parser.add_argument("--data", "--data.root", dest="root", metavar="DIR", help=help)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # measure one in this process
    options, rest = parser.parse_known_args(args)
    if unknown := [word for word in rest if word.startswith("-") and not word.startswith(("--data.", "--model."))]:
        parser.error(f"unrecognized arguments: {unknown[0]}")
    if rest and not options.root:
        raise InputError(f"{rest[0].partition('=')[0]} says how --data is scored; give that too.")
    threads = threads_of(options.threads)
    if options.runs < 1:
        raise InputError(f"--runs {options.runs}: give 1 or more.")
    if options.alone:
        [count] = threads
        load = latency.opener(options.files[0], count) if options.files else _eager(classes, predict, options, count)
        print(json.dumps(latency.measured(load, options.runs)))
        return 0
    return _benchmark(task, classes, options, threads, rest)


def threads_of(words: Sequence[str]) -> list[int]:
    """The numbers of threads, each once. Raises InputError."""
    cores, found = _cores(), []
    for word in words:
        if word != "all" and not (word.isdecimal() and 1 <= int(word) <= cores):
            raise InputError(
                f"--threads {word}: give numbers from 1 to {cores}, which are this machine's cores, or all."
            )
        found.append(cores if word == "all" else int(word))
    return list(dict.fromkeys(found))


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _eager(classes: Classes, predict: "PredictCommand", options: Any, threads: int) -> Callable[[], latency.Opened]:
    """What loads the checkpoint or the weights as PyTorch runs them, in float and channels last; torch is imported."""
    import torch

    from backbone.weights import find_weights
    from tasks.predictor import Predictor
    from tasks.run_folders import checkpoint_at

    torch.set_num_threads(threads)
    module_class, _ = classes()

    def from_checkpoint(path: Path, device: str) -> Predictor:
        return Predictor.from_checkpoint(module_class, path, device)

    def load() -> latency.Opened:
        file = checkpoint_at(find_weights(options.weights).file if options.weights else options.ckpt_path)
        predictor = (predict.load or from_checkpoint)(file, "cpu")
        module, head = predictor.module.to(memory_format=torch.channels_last), predictor.head

        @torch.inference_mode()
        def run(image: np.ndarray) -> None:
            pixels = torch.from_numpy(image).permute(0, 3, 1, 2)  # (1, H, W, 3) -> (1, 3, H, W)
            head.predict(module(pixels), [predictor.size])

        return latency.Opened(run, predictor.size, "float32", f"torch {torch.__version__}", latency.size_mb(file))

    return load


def _benchmark(task: str, classes: Classes, options: Any, threads: Sequence[int], rest: Sequence[str]) -> int:
    for path in options.files:
        if not path.is_file():
            what = "this is a folder" if path.is_dir() else "there is no such file"
            raise InputError(f"{path}: {what}; give a file that `export` wrote.")
        if path.suffix not in latency.RUNTIMES:
            raise InputError(f"{path} is no exported file: these end in {', '.join(latency.RUNTIMES)}.")
    if options.ckpt_path and options.weights:
        raise InputError("--ckpt_path and --weights are both given; give one of them.")
    model = _model(task, options)
    if not options.files and not model:
        raise InputError("no file is named; give one that `export` wrote.")
    if options.root and not model:
        raise InputError(f"--data {options.root} is scored in a model's classes; name it by --weights.")
    machine = machine_facts()
    if machine["busy"]:
        print(
            f"note: this machine is busy (load average {machine['load_average']:.1f} on {machine['cores']} cores): it "
            "would be faster by itself.",
            flush=True,
        )
    score = (
        _scorer(task, classes, [*map(str, model), "--data.root", options.root, *rest])
        if options.root and model
        else None
    )
    jobs = [(name, [str(path)]) for name, path in zip(told_apart(options.files), options.files, strict=True)]
    if model:
        jobs.append((f"PyTorch: {model[1].name}", [*map(str, model)]))
    with _folder(task, options.out) as folder:
        rows = [
            row_of(name, count, in_own_process(task, words, count, options.runs))
            for name, words in jobs
            for count in threads
        ]
        metric = None
        if score:
            metric, values = score(options.files)
            for i, row in enumerate(rows):
                row["metric"] = values[i // len(threads)]
        write(folder, rows, machine, options.runs, metric)
        for line in table(rows, metric):
            print(printed(line))
        print(
            printed(f"{machine['cpu']}, {machine['cores']} cores; {options.runs} runs of one image; memory: {_MEMORY}.")
        )
        times = [min(row["median_ms"] for row in rows[i : i + len(threads)]) for i in range(0, len(rows), len(threads))]
        if command := next_command(task, options.files, times, model):
            say_next(command)
        print(printed(f"run: {folder}"))
    return 0


def next_command(
    task: str, files: Sequence[Path], times_ms: Sequence[float], model: tuple[str, Path] | None
) -> list[str | Path]:
    """What can be done with the fastest of the ONNX files, or where there is no file, with the model."""
    onnx = [(ms, path) for path, ms in zip(files, times_ms, strict=False) if path.suffix == ".onnx"]
    if onnx:
        return ["run", min(onnx)[1], "photo.jpg"]
    return [] if files or not model else [task, "export", *model]


def _model(task: str, options: Any) -> tuple[str, Path] | None:
    """The option and the file of what is run in PyTorch."""
    if options.weights:
        return "--model.weights", options.weights
    if options.eager and not options.ckpt_path:
        from tasks.run_folders import newest_checkpoint

        return "--ckpt_path", newest_checkpoint(task, Path("runs"))
    return ("--ckpt_path", options.ckpt_path) if options.ckpt_path else None


def in_own_process(task: str, words: Sequence[str], threads: int, runs: int) -> dict[str, Any]:
    """What `latency.measured` finds of the file or the model that `words` name. Raises InputError."""
    environment = {**os.environ, **dict.fromkeys(_THREADS, str(threads))}
    command = [sys.executable, "-m", f"tasks.{task}", "benchmark", *words]
    command += ["--alone", "--threads", str(threads), "--runs", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    lines = done.stderr.strip().splitlines()
    if done.returncode == 2 and lines:
        raise InputError(lines[-1].removeprefix("error: "))
    if done.returncode:
        last = lines[-1] if lines else "it said nothing"
        raise InputError(f"{words[-1]} cannot be measured: its process ended with code {done.returncode} ({last}).")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if found.get("task") not in (None, task):
        raise InputError(f"{words[-1]} is of the task {found['task']}; give it to `python -m tasks.{found['task']}`.")
    return found


def _scorer(task: str, classes: Classes, args: list[str]) -> Score:
    """What scores files on the validation images that `args` name. Raises InputError where they cannot be used."""
    from tasks.deployment import gate
    from tasks.deployment.artifact import open_artifact
    from tasks.deployment.command import resolved
    from tasks.deployment.graph import Deployed

    module, data, _ = resolved(*classes(), args, f"python -m tasks.{task} benchmark")
    data.setup("validate")
    exported = module.to_export().eval()
    original = Deployed(exported, data.evaluated_size)

    def score(files: Sequence[Path]) -> tuple[str, list[float | None]]:
        artifacts = [open_artifact(path) for path in files if path.suffix != ".tflite"]
        for artifact in artifacts:
            if (size := tuple(artifact.metadata["image_size"])) != data.evaluated_size:
                raise InputError(
                    f"{artifact.path} is for images of {size} px, and the data have {data.evaluated_size}; give "
                    "--data.image_size, or the checkpoint that it is of."
                )
        own, *others = gate.judge(artifacts, module, exported, original, data)
        found = (verdict.file for verdict in others)
        return own.metric, [*(None if path.suffix == ".tflite" else next(found) for path in files), own.file]

    return score


@contextmanager
def _folder(task: str, out: Path | None) -> Iterator[Path]:
    """The folder that is written to, new if it is not named. InputError where it cannot be made."""
    if out is None:
        from tasks.run_folders import new_run

        with new_run(task, Path("runs"), "the folder") as folder:
            yield folder
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}); give a folder that can.") from error
    yield out


def machine_facts() -> dict[str, Any]:
    """The name of the processor, the cores that there are for us, and whether others use them."""
    cores, load = _cores(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return {"cpu": name, "cores": cores, "load_average": load, "busy": load > _BUSY * cores}


def told_apart(files: Sequence[Path]) -> list[str]:
    """The files' names, each after as many of its folders as tell it from the others."""
    parts = [path.absolute().parts for path in files]

    def name(own: tuple[str, ...]) -> str:
        others = [other for other in parts if other != own]
        depths = range(1, len(own) + 1)
        return str(Path(*own[-next(k for k in depths if all(other[-k:] != own[-k:] for other in others)) :]))

    return [name(own) for own in parts]


def row_of(name: str, threads: int, found: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table, from what `latency.measured` found."""
    q1, median, q3 = np.percentile(found["times_ms"], [25, 50, 75]).tolist()
    height, width = found["image_size"]
    return {
        "file": name,
        **{key: found[key] for key in ("runtime", "precision")},
        "image_size": f"{height} x {width}",
        "threads": threads,
        **{"median_ms": median, "q1_ms": q1, "q3_ms": q3},
        **{key: found[key] for key in ("memory_mb", "process_mb", "size_mb")},
        "metric": None,
    }


def table(rows: Sequence[Mapping[str, Any]], metric: str | None) -> list[str]:
    """The rows as aligned lines under a head; the fastest of each number of threads says so."""
    head = ["file", "runtime", "precision", "image", "threads", "ms", "quartiles", "memory MB", "size MB"]
    head += [f"val/{metric}"] if metric else []
    best = {row["threads"]: min(r["median_ms"] for r in rows if r["threads"] == row["threads"]) for row in rows}
    several = len({row["file"] for row in rows}) > 1
    lines = [[*head, ""]]
    for row in rows:
        cells = [str(row[name]) for name in ("file", "runtime", "precision", "image_size", "threads")]
        cells += [f"{row['median_ms']:.2f}", f"{row['q1_ms']:.2f} to {row['q3_ms']:.2f}", f"{row['memory_mb']:.1f}"]
        cells.append(f"{row['size_mb']:.2f}")
        cells += ["" if row["metric"] is None else f"{row['metric']:.4f}"] if metric else []
        lines.append([*cells, "fastest" if several and row["median_ms"] == best[row["threads"]] else ""])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = 4  # columns of words, which begin at the left; numbers end at the right
    return [
        "  ".join(
            cell.ljust(width) if k < texts or k == len(head) else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def write(
    folder: Path, rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any], runs: int, metric: str | None
) -> None:
    """Write benchmark.csv, benchmark.json and pictures/metric_over_ms.png."""
    from tasks.reporting import save_figure, write_csv

    write_csv(folder / "benchmark.csv", _COLUMNS, ([row[name] for name in _COLUMNS] for row in rows))
    of = {"machine": dict(machine), "runs": runs, "metric": metric and f"val/{metric}", "memory_mb": _MEMORY}
    text = json.dumps({**of, "rows": list(rows)}, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(folder / "benchmark.json", f"{text}\n")
    (folder / "pictures").mkdir(exist_ok=True)
    save_figure(figure_of(rows, machine["cpu"], metric), folder / "pictures" / "metric_over_ms.png")


def figure_of(rows: Sequence[Mapping[str, Any]], cpu: str, metric: str | None) -> "Figure":
    """Metric over milliseconds; without a metric, bars of milliseconds."""
    from matplotlib.figure import Figure

    from tasks.reporting import BLUE, DPI, ORANGE, legible

    rows = [row for row in rows if row["metric"] is not None] if metric else rows
    files = list(dict.fromkeys(row["file"] for row in rows))
    names = dict(zip(files, legible(files, "file"), strict=True))
    labels = [f"{names[row['file']]}, {row['threads']} thread{'s' * (row['threads'] > 1)}" for row in rows]
    times = [row["median_ms"] for row in rows]
    quartiles = np.array([[row["q1_ms"], row["q3_ms"]] for row in rows]).T  # (2, R)
    colors = [BLUE if row["threads"] == 1 else ORANGE for row in rows]
    figure = Figure(figsize=(7, max(3.2, 0.42 * len(rows) + 1.4)), dpi=DPI)
    axes = figure.subplots()
    if metric:
        values = [row["metric"] for row in rows]
        axes.hlines(values, quartiles[0], quartiles[1], colors=colors, alpha=0.5, zorder=1)
        axes.scatter(times, values, c=colors, zorder=2)
        order = sorted(range(len(rows)), key=lambda i: (values[i], -times[i]))
        for place, i in enumerate(order):  # beside the axes, one above the other, so that none covers another
            axes.annotate(
                labels[i],
                (times[i], values[i]),
                (1.04, (place + 0.5) / len(rows)),
                textcoords="axes fraction",
                va="center",
                fontsize=9,
                color=colors[i],
                arrowprops={"arrowstyle": "-", "color": "0.75", "linewidth": 0.7, "relpos": (0, 0.5)},
            )
        axes.set(ylabel=f"val/{metric}")
        axes.margins(0.12)
    else:
        axes.barh(range(len(rows)), times, xerr=abs(quartiles - times), color=colors, ecolor="0.3", capsize=3)
        for i, row in enumerate(rows):
            axes.text(row["q3_ms"], i, f"  {row['median_ms']:.2f}", va="center", fontsize=9)
        axes.set_yticks(range(len(rows)), labels)
        axes.invert_yaxis()
        axes.margins(x=0.15)
    axes.set_xlim(left=0)
    axes.set(xlabel="milliseconds of one image: median and quartiles", title=legible([cpu], "CPU")[0])
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    return figure
