"""`page` writes a folder for browsers; what runs in them is tried in tests/browser, but for what node can run."""

import contextlib
import functools
import hashlib
import http.server
import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import PIL
import pytest
from helpers import one_sentence, refused, tree
from onnx_writer import metadata, write_onnx
from PIL import Image

from tasks.classification.__main__ import main as classification
from tasks.deployment import page
from tasks.detection.__main__ import main as detection
from tasks.run import Model, resize

WEB = Path(page.__file__).with_name("web")
NODE = shutil.which("node")
RUNTIME = {
    "package/dist/ort.wasm.min.mjs": b"export {};",
    "package/dist/ort-wasm-simd-threaded.mjs": b"export default 1;",
    "package/dist/ort-wasm-simd-threaded.wasm": b"\0asm",
}


@functools.cache
def package(**more):
    """A package of npm's form, as bytes, and its digest."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in {**RUNTIME, "package/dist/ort.all.min.mjs": b"other", **more}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue(), hashlib.sha256(content.getvalue()).hexdigest()


def write(task="detection", out="site", data=None, **changes):
    """A site of a tiny model; the folder."""
    content, digest = package()
    Path("runtime.tgz").write_bytes(content if data is None else data)
    model = write_onnx(Path("f.onnx"), task, **changes)
    page.write_site(task, model, Path(out), Path("runtime.tgz"), sha256=digest)
    return Path(out)


# --- The folder ---


@pytest.mark.parametrize("task", ["detection", "geolocalization"])
def test_the_folder_has_the_page_the_model_and_the_runtime(task):
    site = write(task, licence="Of strangers.")
    map_of_land = {"coastline.json"} if task == "geolocalization" else set()
    files = {path.name for path in WEB.iterdir()} | {"model.onnx", "model.json"} | map_of_land
    runtime = {"ort.js", "ort-wasm.js", "ort-wasm.wasm", "LICENSE.txt", "ThirdPartyNotices.txt"}
    assert {path.as_posix() for path in tree(site)} == files | {f"runtime/{name}" for name in runtime}
    assert (site / "model.onnx").read_bytes() == Path("f.onnx").read_bytes()
    assert json.loads((site / "model.json").read_bytes()) == metadata(task, licence="Of strangers.")
    assert [(site / "runtime" / name).read_bytes() for name in ("ort.js", "ort-wasm.js", "ort-wasm.wasm")] == [
        *RUNTIME.values()
    ]
    assert "MIT License" in (site / "runtime/LICENSE.txt").read_text()
    assert sorted(path.name for path in Path().glob("[!.]*")) == ["f.onnx", "runtime.tgz", "site"]
    assert not list(Path().glob(".tmp*"))


def kept(site):
    """The version and the files that the service worker keeps."""
    lines = (site / "sw.js").read_text().splitlines()
    [version] = [line for line in lines if line.startswith("const VERSION")]
    [files] = [line for line in lines if line.startswith("const FILES")]
    return version.split("'")[1], json.loads(files.removeprefix("const FILES = ").removesuffix(";"))


def test_the_service_worker_keeps_all_files_by_a_version_that_follows_their_content():
    version, files = kept(write())
    assert sorted(files) == ["", *sorted(path.as_posix() for path in tree(Path("site")) if path.name != "sw.js")]
    assert kept(write(out="again")) == (version, files)
    other, same_files = kept(write(out="other", licence="Others'."))
    assert other != version
    assert same_files == files


def test_an_older_page_is_replaced_and_no_other_folder():
    write(licence="Old.")
    write(licence="New.")
    assert json.loads(Path("site/model.json").read_text())["licence"] == "New."
    assert sorted(path.name for path in Path().glob("[!.]*")) == ["f.onnx", "runtime.tgz", "site"]
    assert not list(Path().glob(".tmp*"))
    for make in (lambda path: path.mkdir(), lambda path: path.write_text("x"), lambda path: path.symlink_to("site")):
        make(Path("mine"))
        with one_sentence("mine is there already"):
            write(out="mine")
        shutil.rmtree("mine") if Path("mine").is_dir() and not Path("mine").is_symlink() else Path("mine").unlink()
    for make in (lambda path: path.mkdir(), lambda path: path.symlink_to("..")):
        make(Path("site/mine"))
        with one_sentence("site is there already"):
            write()
        Path("site/mine").rmdir() if not Path("site/mine").is_symlink() else Path("site/mine").unlink()
    with contextlib.chdir("site"), one_sentence("the folder that you are in"):
        page.write_site("detection", Path("../f.onnx"), Path(), Path("../runtime.tgz"))
    Path("site/mine.txt").write_text("of the user")
    before = tree(Path("site"))
    with one_sentence("site is there already"):
        write(licence="Newer.")
    assert tree(Path("site")) == before
    with one_sentence("in one that exists"):
        write(out="no/such")


def test_the_coastline_is_that_of_the_maps():
    rings = json.loads((write("geolocalization") / "coastline.json").read_text())
    with np.load(WEB.parents[1] / "geolocalization/coastline_110m.npz") as file:
        assert np.array_equal(np.concatenate(rings).reshape(-1, 2), file["xy"])
        assert np.array_equal(np.cumsum([0, *map(len, rings)])[: len(file["off"])] // 2, file["off"])
    assert all(len(ring) % 2 == 0 for ring in rings)


def test_a_name_may_hold_anything():
    site = write(names=["</script><img src=x onerror=alert(1)>", "\u202e", "\ud800"])
    assert json.loads((site / "model.json").read_bytes())["names"][:2] == [
        "</script><img src=x onerror=alert(1)>",
        "\u202e",
    ]


# --- What is refused ---


def test_what_is_no_model_for_a_browser_is_refused(capsys):
    Path("photo.jpg").write_bytes(b"\xff\xd8")
    Path("m.pte").write_bytes(b"1234ET12")
    write_onnx(Path("raw.onnx"), "detection", nms="none")
    write_onnx(Path("foreign.onnx"), "detection", text="")
    write_onnx(Path("f.onnx"), "detection")
    for main, file, message in (
        (detection, "missing.onnx", "missing.onnx"),
        (detection, "photo.jpg", "photo.jpg"),
        (detection, "m.pte", "ExecuTorch"),
        (detection, "raw.onnx", "--nms none"),
        (detection, "foreign.onnx", "no metadata"),
        (classification, "f.onnx", r"python -m tasks\.detection page"),
    ):
        refused(main, ["page", "--model", file], message, capsys)
    refused(detection, ["page", "--model", "f.onnx", "--runtime", "photo.jpg"], "--runtime photo.jpg", capsys)
    refused(detection, ["page", "--model", "f.onnx", "--runtime", "none.tgz"], "none.tgz is no file", capsys)
    assert not Path("site").exists()


def test_without_onnxruntime_it_is_said_how_to_have_it(capsys, monkeypatch):
    write_onnx(Path("f.onnx"), "detection")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(detection, ["page", "--model", "f.onnx"], r"pip install --editable '\.\[onnx\]'", capsys)


def test_a_runtime_that_is_damaged_or_another_is_refused():
    with one_sentence("runtime.tgz is not the file of"):
        write(data=package()[0][:-9])
    with one_sentence("runtime.tgz is not the file of"):
        write(data=package(**{"package/x": b"x"})[0])
    assert not Path("site").exists()


def test_nothing_of_a_package_is_written_outside_the_folder(tmp_path):
    escape = {"../../escaped.txt": b"x", "/tmp/h18_escaped.txt": b"x"}
    content, digest = package(**escape)
    Path("in").mkdir()
    Path("in/r.tgz").write_bytes(content)
    page.write_site(
        "detection", write_onnx(Path("in/f.onnx"), "detection"), Path("in/site"), Path("in/r.tgz"), sha256=digest
    )
    assert not list(tmp_path.rglob("*escaped*"))
    lacking = io.BytesIO()
    tarfile.open(fileobj=lacking, mode="w:gz").close()
    Path("in/r.tgz").write_bytes(lacking.getvalue())
    digest = hashlib.sha256(lacking.getvalue()).hexdigest()
    with one_sentence("0 files ending in"):
        page.write_site("detection", Path("in/f.onnx"), Path("in/none"), Path("in/r.tgz"), sha256=digest)
    assert sorted(path.name for path in Path("in").iterdir()) == ["f.onnx", "r.tgz", "site"]


# --- Servers ---


@pytest.fixture
def serving():
    """A function that lets a server run; its address."""
    servers = []

    def start(server):
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_runtime_is_fetched_once(serving, tmp_path):
    asked = []

    class Npm(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(package()[0])))
            self.end_headers()
            self.wfile.write(package()[0])

        def log_message(self, *args):
            pass

    url = f"{serving(http.server.ThreadingHTTPServer(('127.0.0.1', 0), Npm))}/ort-1.0.tgz"
    model = write_onnx(Path("f.onnx"), "classification")
    for out in ("one", "two"):
        page.write_site("classification", model, Path(out), url=url, sha256=package()[1])
    assert asked == ["/ort-1.0.tgz"]
    assert (tmp_path / ".cache/mobilenet-tasks/runtime/ort-1.0.tgz").is_file()
    assert tree(Path("one")) == tree(Path("two"))
    with one_sentence("the file there has changed"):
        page.write_site("classification", model, Path("three"), url=f"{url}?2", sha256="0" * 64)


def test_the_server_has_types_and_headers_for_threads_and_gives_nothing_above(serving, capfd):
    Path("secret.txt").write_text("secret")
    address = serving(page.server(write().absolute(), 0))
    types = {
        "": "text/html; charset=utf-8",
        "app.js": "text/javascript",
        "runtime/ort-wasm.wasm": "application/wasm",
        "model.onnx": "application/octet-stream",
        "model.json": "application/json",
    }
    for name, kind in types.items():
        with urllib.request.urlopen(f"{address}/{name}") as response:
            assert response.headers["Content-Type"] == kind
            assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert response.read() == (Path("site") / (name or "index.html")).read_bytes()
    for name in ("../secret.txt", "%2e%2e/secret.txt", "runtime/", "none"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/{name}")
    assert capfd.readouterr() == ("", "")


def test_a_port_that_is_taken_or_none_is_refused(serving, capsys):
    taken = page.server(write(), 0)
    serving(taken)
    with one_sentence(f"--port {taken.server_address[1]} cannot be used"):
        page.server(Path("site"), taken.server_address[1])
    args = ["page", "--model", str(Path("f.onnx")), "--out", "new", "--runtime", "runtime.tgz", "--serve", "--port"]
    refused(detection, [*args, str(taken.server_address[1])], "cannot be used", capsys)
    assert not Path("new").exists()
    with one_sentence("--port is 70000"):
        page.server(Path("site"), 70000)


# --- What node can run of the page ---


def node(script, data):
    """What a module prints that gets `data` as JSON on its standard input; `site` is the folder of the modules."""
    start = "import { readFileSync } from 'node:fs'; const data = JSON.parse(readFileSync(0));"
    for name in ("resize", "answer"):
        shutil.copyfile(WEB / f"{name}.js", f"{name}.mjs")
    Path("script.mjs").write_text(start + script)
    done = subprocess.run([NODE, "script.mjs"], input=json.dumps(data), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sizes(seed):
    """(height, width, target height, target width): enlarged, a little and much smaller, mixed, by whole numbers."""
    rng = np.random.default_rng(seed)
    small = rng.integers(1, 40, 2)
    yield from ([*rng.integers(1, 120, 4)], [*np.exp(rng.uniform(0, 4.5, 4))])
    yield from ([*small, *(small * rng.uniform(1, 4, 2))], [*(small * rng.uniform(1, 2.5, 2)), *small])
    yield from ([*(small * rng.uniform(2.5, 7, 2)), *small], [*(small * rng.integers(1, 6, 2)), *small])
    yield from ([*(2 * small), *small], [*(small * [rng.uniform(2.6, 9), 0.4]), *small])


@pytest.mark.skipif(not NODE, reason="node is not installed")
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pictures_are_resized_as_by_the_runner_to_the_bit(interpolation):
    cases = [[max(1, int(side)) for side in size] for seed in range(25) for size in sizes(seed)]
    cases += [[480, 640, 300, 300], [1080, 1920, 224, 224], [733, 750, 300, 300]]
    cases += [[60, 50, 60 - lost, 40] for lost in (19, 20, 21)]  # where rows and columns change their order
    if interpolation == "bicubic" and int(PIL.__version__.split(".")[0]) < 13:
        cases = [(h, w, *size) for h, w, *size in cases if h - size[0] <= max(0, 2 * (w - size[1]))]
    images = [np.random.default_rng(i).integers(0, 256, (*size[:2], 4), np.uint8) for i, size in enumerate(cases)]
    for image in images:
        image[::2] = (image[::2] > 127) * np.uint8(255)  # extreme values, at which rounding is hardest
    Path("pixels").write_bytes(b"".join(image.tobytes() for image in images))
    script = """
        import { writeFileSync } from 'node:fs'; import { resize } from './resize.mjs';
        const bytes = readFileSync('pixels'), made = []; let at = 0;
        for (const [height, width, tall, wide] of data.cases) {
            const image = { data: bytes.subarray(at, at += 4 * height * width), width, height };
            made.push(Buffer.from(resize(image, tall, wide, data.bicubic)));
        }
        writeFileSync('made', Buffer.concat(made)); console.log(made.length);
    """
    assert node(script, {"cases": cases, "bicubic": interpolation == "bicubic"}) == len(cases)
    made, at = np.fromfile("made", np.uint8), 0
    for image, (*_, height, width) in zip(images, cases, strict=True):
        if interpolation == "bicubic":
            expected = np.asarray(Image.fromarray(image[..., :3]).resize((width, height), Image.Resampling.BICUBIC))
        else:
            expected = resize(np.ascontiguousarray(image[..., :3]), height, width)
        assert np.array_equal(made[at : at + expected.size].reshape(expected.shape), expected), (
            *image.shape,
            height,
            width,
        )
        at += expected.size
    assert at == made.size


@pytest.mark.skipif(not NODE, reason="node is not installed")
def test_the_middle_is_cut_as_by_the_runner():
    cases = [(h, w, crop) for h in (1, 5, 24, 31, 100) for w in (3, 32, 50, 97, 221) for crop in (0.3, 0.875, 1.0)]
    script = """
        import { cropOf } from './resize.mjs';
        console.log(JSON.stringify(data.map(([h, w, crop]) => {
            const part = cropOf(w, h, { image_size: [24, 32], resize: { crop } });
            return [part.left, part.top, part.width, part.height];
        })));
    """
    made = node(script, cases)
    for (height, width, crop), (left, top, wide, tall) in zip(cases, made, strict=True):
        scale = crop * min(height / 24, width / 32)
        rows, columns = (min(most, max(1, round(scale * n))) for most, n in ((height, 24), (width, 32)))
        assert (left, top, wide, tall) == ((width - columns) // 2, (height - rows) // 2, columns, rows)


@pytest.mark.skipif(not NODE, reason="node is not installed")
@pytest.mark.parametrize(
    "task", ["detection", "classification", "face_attributes", "face_embeddings", "geolocalization"]
)
def test_rows_are_those_of_the_runner(task):
    model = Model(write_onnx(Path("f.onnx"), task))
    image = np.full((8, 8, 3), (51, 204, 102), np.uint8)
    [row] = model.rows(image[None], [(30, 40)])
    names = [output.name for output in model.session.get_outputs()]
    outputs = dict(
        zip(names, (x[0].ravel().tolist() for x in model.session.run(None, {"images": image[None]})), strict=True)
    )
    script = """
        import { rowOf } from './answer.mjs';
        console.log(JSON.stringify(rowOf(data.about, data.outputs, 40, 30)));
    """
    made = node(script, {"about": metadata(task), "outputs": outputs})
    if task == "face_attributes":
        made = {
            "attributes": {one["name"]: one["probability"] for one in made["attributes"]},
            "present": [one["name"] for one in made["attributes"] if one["present"]],
        }
    for one in made.get("objects", ()):
        assert one.pop("label") == metadata(task)["names"].index(one["name"])
    assert made.keys() == row.keys()
    assert rounded(made) == rounded(row)


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return pytest.approx(value, abs=0.01 if abs(value) > 2 else 1e-6) if isinstance(value, float | int) else value
