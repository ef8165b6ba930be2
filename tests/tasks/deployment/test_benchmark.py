"""`benchmark`: the figures are what they are called, each from a process of its own, and mistakes are sentences."""

import itertools
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from helpers import data_module, pixels, refused, rows_of, save_checkpoint
from matplotlib.text import Text
from PIL import Image

from backbone.errors import InputError
from data.classification import ClassificationDataModule
from tasks.classification.__main__ import main as classification
from tasks.classification.module import ClassificationModule
from tasks.deployment import METADATA, benchmark, latency
from tasks.detection.__main__ import main as detection

onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
SIDE = 32
FOUND = {
    **{"runtime": "onnxruntime 1", "precision": "float32", "image_size": [SIDE, SIDE + 1]},
    **{"memory_mb": 12.25, "process_mb": 80.5, "size_mb": 1.5},
}


def onnx_file(path, probabilities=(0.5, 0.5), *, side=SIDE, floats=1, metadata=True):
    """An exported file that says the same of every image, and has an array of so many numbers meanwhile."""
    tensor, kind = onnx.helper.make_tensor, onnx.TensorProto
    node = onnx.helper.make_node
    nodes = [
        node("Cast", ["images"], ["pixels"], to=kind.FLOAT),
        node("ReduceMax", ["pixels", "inner"], ["largest"], keepdims=0),  # (N,)
        node("Unsqueeze", ["largest", "last"], ["column"]),
        node("Expand", ["column", "wide"], ["array"]),  # (N, floats)
        node("ReduceMax", ["array", "last"], ["one"], keepdims=1),
        node("Mul", ["one", "zero"], ["nothing"]),  # (N, 1)
        node("Add", ["nothing", "answer"], ["probabilities"]),
    ]
    constants = [
        tensor("inner", kind.INT64, [3], [1, 2, 3]),
        tensor("last", kind.INT64, [1], [1]),
        tensor("wide", kind.INT64, [2], [1, floats]),
        tensor("zero", kind.FLOAT, [], [0.0]),
        tensor("answer", kind.FLOAT, [1, len(probabilities)], probabilities),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [value("images", kind.UINT8, ["batch", side, side, 3])],
        [value("probabilities", kind.FLOAT, ["batch", len(probabilities)])],
        constants,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    if metadata:
        facts = {"task": "classification", "image_size": [side, side], "precision": "float32", "names": ["ant", "bee"]}
        onnx.helper.set_model_props(model, {METADATA: json.dumps(facts)})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def run(*args):
    return classification(["benchmark", *map(str, args)])


@pytest.fixture
def measured(monkeypatch):
    """In place of processes: the calls that there were; the k-th takes k + 1 milliseconds."""
    calls = []

    def measure(task, words, threads, runs):
        calls.append((words[-1], threads, runs))
        return {**FOUND, "times_ms": [float(len(calls))] * runs}

    monkeypatch.setattr(benchmark, "in_own_process", measure)
    return calls


def test_times_are_the_clock_s_without_the_warm_up():
    calls, ticks = [], iter([0.0, 0.001, 5.0, 5.004, 7.0, 7.0025])
    times = latency.timings(lambda: calls.append(1), 3, lambda: next(ticks))
    assert times == pytest.approx([1, 4, 2.5])
    assert next(ticks, None) is None
    assert len(calls) == 3 + 3
    assert len(latency.timings(lambda: calls.append(1), 30, itertools.count().__next__)) == 30
    assert len(calls) == 6 + 10 + 30


def test_a_row_has_the_median_and_the_quartiles():
    row = benchmark.row_of("a", 1, {**FOUND, "times_ms": [900, 1, 5, 3, 4]})
    assert (row["q1_ms"], row["median_ms"], row["q3_ms"]) == (3, 4, 5)
    assert (row["image_size"], row["size_mb"], row["metric"]) == ("32 x 33", 1.5, None)


def test_files_are_told_apart_by_their_folders_alone_where_they_must():
    names = benchmark.told_apart([Path("/x/a/f.onnx"), Path("/y/a/f.onnx"), Path("/y/b/f.onnx"), Path("/y/b/g.onnx")])
    assert names == ["x/a/f.onnx", "y/a/f.onnx", "b/f.onnx", "g.onnx"]
    assert benchmark.told_apart([Path("a.onnx"), Path("a.onnx")]) == ["a.onnx"] * 2


def test_a_file_is_measured_in_a_process_without_torch_and_the_memory_is_its_own(tmp_path):
    """40 MB that the network needs are counted; what the process that starts it has, far more, is not."""
    file = onnx_file(tmp_path / "net.onnx", floats=10_000_000)
    held = np.ones(50_000_000)  # 400 MB
    script = (
        "import sys\n"
        "from tasks.classification.__main__ import main\n"
        f"assert main(['benchmark', {str(file)!r}, '--alone', '--threads', '1', '--runs', '3']) == 0\n"
        "assert 'torch' not in sys.modules and 'onnxruntime' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["times_ms"]) == 3
    assert min(found["times_ms"]) > 0
    assert 40 < found["memory_mb"] < 140
    assert found["memory_mb"] < found["process_mb"] < held.nbytes / 1e6
    assert found["size_mb"] == file.stat().st_size / 1e6
    assert found["runtime"] == f"onnxruntime {onnxruntime.__version__}"
    assert (found["image_size"], found["precision"]) == ([SIDE, SIDE], "float32")


def test_two_files_are_measured_and_written_side_by_side(tmp_path, capsys):
    files = [onnx_file(tmp_path / "b" / "net.onnx"), onnx_file(tmp_path / "a" / "net.onnx", side=48)]
    assert run(*files, "--runs", 3, "--threads", 1, "--out", "out") == 0
    printed = capsys.readouterr().out
    assert printed.strip().splitlines()[-1] == "run: out"
    rows = rows_of(Path("out/benchmark.csv"))
    assert [(row["file"], row["threads"], row["image_size"]) for row in rows] == [
        ("b/net.onnx", "1", "32 x 32"),
        ("a/net.onnx", "1", "48 x 48"),
    ]
    for row in rows:
        assert 0 < float(row["q1_ms"]) <= float(row["median_ms"]) <= float(row["q3_ms"])
        assert row["metric"] == ""
    facts = json.loads(Path("out/benchmark.json").read_text())
    assert facts["machine"]["cpu"]
    assert facts["machine"]["cpu"] in printed
    assert (facts["machine"]["cores"], facts["runs"], facts["metric"]) == (benchmark._cores(), 3, None)
    assert [str(row["median_ms"]) for row in facts["rows"]] == [row["median_ms"] for row in rows]
    assert len(np.unique(pixels(Path("out/pictures/metric_over_ms.png")).reshape(-1, 3), axis=0)) > 10
    assert not Path("runs").exists()


def test_each_file_is_measured_at_one_thread_and_at_all(tmp_path, measured, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "_cores", lambda: 4)
    files = [onnx_file(tmp_path / name) for name in ("b.onnx", "a.onnx")]
    assert run(*files) == 0
    assert measured == [(str(file), threads, 100) for file in files for threads in (1, 4)]
    [folder] = Path("runs/classification").iterdir()  # and no link `latest`
    assert sorted(path.name for path in folder.iterdir()) == ["benchmark.csv", "benchmark.json", "pictures"]
    rows = rows_of(folder / "benchmark.csv")
    assert [(row["file"], row["threads"], float(row["median_ms"])) for row in rows] == [
        *(("b.onnx", "1", 1), ("b.onnx", "4", 2), ("a.onnx", "1", 3), ("a.onnx", "4", 4))
    ]
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if line.endswith("fastest")] == ["b.onnx", "b.onnx"]
    assert printed.splitlines()[-2] == f"next: python -m tasks.run {files[0]} photo.jpg"
    assert run(files[0], "--threads", "all", 2, 4, "--runs", 7) == 0
    assert measured[4:] == [(str(files[0]), 4, 7), (str(files[0]), 2, 7)]


def test_the_fastest_file_that_runs_alone_comes_next():
    pte, slow, fast = (Path(name) for name in ("a.pte", "b.onnx", "c.onnx"))
    model = ("--ckpt_path", Path("net.ckpt"))
    assert benchmark.next_command("detection", [pte, slow, fast], [1.0, 3.0, 2.0], model) == ["run", fast, "photo.jpg"]
    assert benchmark.next_command("detection", [pte], [1.0, 2.0], model) == []  # the second is the model
    assert benchmark.next_command("detection", [], [2.0], model) == ["detection", "export", *model]


def test_the_process_has_the_threads_in_its_environment(monkeypatch):
    def start(command, env, **options):
        assert command[-4:] == ["--threads", "3", "--runs", "9"]
        return subprocess.CompletedProcess(command, 0, json.dumps({"omp": env["OMP_NUM_THREADS"]}), "")

    monkeypatch.setattr(subprocess, "run", start)
    assert benchmark.in_own_process("detection", ["f.onnx"], 3, 9) == {"omp": "3"}


@pytest.mark.parametrize(("load", "busy"), [(1.9, False), (2.1, True)])
def test_a_busy_machine_is_told_of(tmp_path, measured, monkeypatch, capsys, load, busy):
    monkeypatch.setattr(benchmark, "_cores", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert run(onnx_file(tmp_path / "net.onnx"), "--out", "out") == 0
    assert ("this machine is busy" in capsys.readouterr().out) == busy
    assert json.loads(Path("out/benchmark.json").read_text())["machine"]["busy"] == busy


def test_the_metric_of_each_file_stands_in_its_row(tmp_path, measured, capsys):
    """Of four validation images three are ants: a file that always says so has .75, one that says bee .25."""
    for i in range(6):
        path = tmp_path / "data" / ("train" if i < 2 else "val") / ("bee" if i in (0, 2) else "ant") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((SIDE, SIDE, 3), 40 * i, np.uint8)).save(path)
    data = data_module(ClassificationDataModule, tmp_path / "data")
    module = ClassificationModule({0: "ant", 1: "bee"}, (SIDE, SIDE), width_mult=0.25)
    module.head.layers.linear.weight.data.zero_()
    module.head.layers.linear.bias.data[:] = module.head.layers.linear.bias.new_tensor([0.0, 9.0])
    checkpoint = save_checkpoint(tmp_path / "net.ckpt", module, data)
    files = [onnx_file(tmp_path / "ants.onnx", (0.9, 0.1)), onnx_file(tmp_path / "bees.onnx", (0.1, 0.9))]
    scored = ["--ckpt_path", checkpoint, "--data.root", tmp_path / "data", "--data.num_workers", 0]
    assert run(*files, "--threads", 1, "--out", "out", *scored) == 0
    rows = rows_of(Path("out/benchmark.csv"))
    assert [(row["file"], float(row["metric"])) for row in rows] == [
        *(("ants.onnx", 0.75), ("bees.onnx", 0.25), ("PyTorch: net.ckpt", 0.25))
    ]
    assert json.loads(Path("out/benchmark.json").read_text())["metric"] == "val/top1"
    assert "val/top1" in capsys.readouterr().out
    assert [name for name, *_ in measured] == [*map(str, files), str(checkpoint)]


@pytest.mark.parametrize("metric", [None, "top1"])
def test_no_label_of_the_picture_covers_another(metric):
    found = {**FOUND, "times_ms": [1.0, 2.0]}
    rows = [benchmark.row_of(f"a long name of a file {i // 2}.onnx", 1 + i % 2, found) for i in range(16)]
    for row in rows:
        row["metric"] = 0.5  # all at one place
    figure = benchmark.figure_of(rows, "a CPU", metric)
    figure.draw_without_rendering()
    [axes] = figure.axes
    labels = axes.texts if metric else axes.get_yticklabels()
    boxes = [Text.get_window_extent(label) for label in labels]  # without the lines to the points
    assert len({label.get_text() for label in labels}) == len(rows)
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_a_tflite_file_is_timed_on_its_own_input(tmp_path, monkeypatch):
    seen = []

    class Interpreter:
        def __init__(self, model_path, num_threads):
            seen.append((model_path, num_threads))

        def allocate_tensors(self):
            pass

        def get_input_details(self):
            return [{"index": 7, "shape": np.array([1, 20, 30, 3]), "dtype": np.float32}]

        def set_tensor(self, index, image):
            seen.append((index, image.shape, image.dtype))

        def invoke(self):
            seen.append("invoked")

    package = types.ModuleType("ai_edge_litert")
    package.interpreter = types.ModuleType("ai_edge_litert.interpreter")
    package.interpreter.Interpreter = Interpreter
    monkeypatch.setitem(sys.modules, "ai_edge_litert", package)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", package.interpreter)
    monkeypatch.setattr(latency.importlib.metadata, "version", lambda name: "2")
    (tmp_path / "net.tflite").write_bytes(b"x" * 2_000_000)
    found = latency.measured(latency.opener(tmp_path / "net.tflite", 2), 1)
    assert seen == [(str(tmp_path / "net.tflite"), 2), *[(7, (1, 20, 30, 3), np.float32), "invoked"] * 2]
    assert (found["image_size"], found["size_mb"], found["runtime"]) == ([20, 30], 2, "ai-edge-litert 2")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["none.onnx"], "none.onnx: there is no such file"),
        (["photo.jpg"], "photo.jpg is no exported file"),
        ([], "no file is named"),
        (["a.onnx", "--runs", "0"], "--runs 0"),
        (["a.onnx", "--threads", "0"], "--threads 0"),
        (["a.onnx", "--threads", "1000000"], "--threads 1000000"),
        (["a.onnx", "--threads", "two"], "--threads two"),
        (["a.onnx", "--data.root", "x"], "--data x .* --weights"),
        (["a.onnx", "--data.batch_size", "4"], "--data.batch_size .*--data "),
        (["a.onnx", "--ckpt_path", "c", "--model.weights", "w"], "give one of them"),
        (["a.onnx", "--eager"], "There is no checkpoint under"),
        (["a.onnx", "--out", "photo.jpg/x"], "--out photo.jpg/x cannot be written"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_measured(measured, capsys, monkeypatch, args, message):
    for name in ("a.onnx", "photo.jpg"):
        Path(name).touch()
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    refused(classification, ["benchmark", *args], message, capsys)
    assert not measured


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        run("a.onnx", "--run", 3)
    assert stop.value.code == 2
    assert "--run; did you mean --runs?" in capsys.readouterr().err


def test_what_is_not_an_exported_file_is_named(tmp_path, capsys):
    broken = tmp_path / "broken.onnx"
    broken.write_text("no network")
    strange = onnx_file(tmp_path / "strange.onnx", metadata=False)
    with pytest.raises(InputError, match=r"strange.onnx has no metadata of this project; give a file that `export`"):
        latency.opener(strange, 1)()
    # through the process, whose sentence is the command's
    refused(classification, ["benchmark", str(broken)], r"broken.onnx cannot be opened .*; give a file that", capsys)


def test_a_file_of_another_task_is_named_with_its_command(tmp_path, capsys):
    file = str(onnx_file(tmp_path / "net.onnx"))
    refused(detection, ["benchmark", file, "--runs", "1", "--threads", "1"], r"tasks\.classification", capsys)


def test_a_process_that_dies_is_named_with_its_file(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, -9, "", ""))
    refused(classification, ["benchmark", str(onnx_file(tmp_path / "net.onnx"))], "net.onnx .* code -9", capsys)


@pytest.mark.slow
def test_a_checkpoint_is_measured_in_pytorch(tmp_path):
    data = data_module(ClassificationDataModule, tmp_path)
    module = ClassificationModule({0: "ant", 1: "bee"}, (SIDE, 48), width_mult=0.25)
    checkpoint = save_checkpoint(tmp_path / "net.ckpt", module, data)
    assert run("--ckpt_path", checkpoint, "--threads", 1, "--runs", 2, "--out", "out") == 0
    [row] = rows_of(Path("out/benchmark.csv"))
    assert (row["file"], row["precision"], row["image_size"]) == ("PyTorch: net.ckpt", "float32", "32 x 48")
    assert row["runtime"].startswith("torch ")
    assert float(row["size_mb"]) == checkpoint.stat().st_size / 1e6
