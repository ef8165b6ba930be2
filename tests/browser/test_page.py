"""The page that `page` writes, in a real Chromium: what it answers is what tasks/run.py answers."""

import contextlib
import itertools
import json
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import nets
import numpy as np
import pytest
import torch
from chromium import CHROMIUM, DRIVER, ENTER, LEFT, SPACE, TAB, browser, driver
from helpers import busy
from onnx_writer import metadata, write_onnx
from PIL import Image

from tasks.classification.module import ClassificationModule
from tasks.deployment import onnx_file, page
from tasks.deployment.graph import Deployed
from tasks.run import Model

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"),
]
ORIENTATION = 0x0112


# --- Models and photographs ---


def noise(height, width, seed=0):
    """Patches of colours with edges and ramps, as a JPEG can hold them."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BILINEAR)


def detector(path):
    """A detector as `export` writes it, of random weights that find something in noise."""
    torch.manual_seed(0)
    module = busy(nets.detection())
    module.head.suppress_by("operator")
    network = Deployed(module, (96, 96))
    onnx_file.write_onnx(network, path)
    about = metadata("detection", size=(96, 96), names=list(module.head.categories.values()))
    onnx_file.add_metadata(path, about)
    return path


def classifier(path):
    """A classifier of eight classes as `export` writes it."""
    torch.manual_seed(0)
    names = [f"class {i}" for i in range(8)]
    module = busy(ClassificationModule(dict(enumerate(names)), (64, 64), width_mult=0.25))
    network = Deployed(module, (64, 64))
    onnx_file.write_onnx(network, path)
    onnx_file.add_metadata(path, metadata("classification", size=(64, 64), crop=0.875, names=names))
    return path


@pytest.fixture(scope="session")
def package():
    """onnxruntime-web; fetched once, into the cache of who runs the tests."""
    return page.runtime_package()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """By task: a detector and a classifier of ours; and files whose answer is the mean colour."""
    folder = tmp_path_factory.mktemp("models")
    tasks = ("face_attributes", "face_embeddings", "geolocalization")
    made = {
        task: write_onnx(folder / f"{task}.onnx", task, thresholds=0.25)
        if task == "face_embeddings"
        else write_onnx(folder / f"{task}.onnx", task)
        for task in tasks
    }
    return {**made, "detection": detector(folder / "d.onnx"), "classification": classifier(folder / "c.onnx")}


@pytest.fixture
def photo(tmp_path):
    """The function that saves a photograph; its path."""

    def save(name="photo.png", image=None, **options):
        (image or noise(240, 320)).save(tmp_path / name, **options)
        return tmp_path / name

    return save


# --- Servers and the browser ---


@contextlib.contextmanager
def serving(server):
    """Let a server run; its address."""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def sites(models, package, tmp_path_factory):
    """The address of each task's page."""
    folder = tmp_path_factory.mktemp("sites")
    with contextlib.ExitStack() as stack:
        addresses = {}
        for task, model in models.items():
            page.write_site(task, model, folder / task, package)
            addresses[task] = stack.enter_context(serving(page.server(folder / task, 0)))
        yield addresses


@pytest.fixture(scope="session")
def chromedriver():
    with driver() as address:
        yield address


@pytest.fixture(scope="session")
def shared(chromedriver):
    with browser(chromedriver, "--use-fake-ui-for-media-stream") as window:
        yield window


@pytest.fixture
def window(shared):
    """The browser, whose console must stay empty."""
    shared.log()
    yield shared
    shared.open("about:blank")
    assert not [line for line in shared.log() if "127.0.0.1" in line]


def opened(window, address):
    """Open a page, wait until it is ready, and note what it answers."""
    window.open(address)
    return ready(window)


def ready(window):
    window.until("return document.querySelector('#status').textContent === 'Ready.'")
    window.script("window.answers = []; document.addEventListener('answer', ({detail}) => answers.push(detail))")
    return window


def answer(window, count=1):
    """The newest answer, once there are so many."""
    return window.until("return answers.length >= arguments[0] && answers.at(-1)", count)["row"]


def problem(window):
    return window.until("return document.querySelector('#problem').textContent")


def iou(one, other):
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    both = np.prod(np.maximum(high - low, 0))
    total = np.prod(np.subtract(one[2:], one[:2])) + np.prod(np.subtract(other[2:], other[:2])) - both
    return both / total if total else float(np.allclose(one, other, atol=0.01))  # a box at the edge may have no width


def same_objects(found, expected):
    assert len(expected) >= 3
    assert [one["name"] for one in found] == [one["name"] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert abs(one["score"] - other["score"]) < 0.02
        assert iou(one["box_xyxy"], other["box_xyxy"]) >= 0.99


# --- It answers as the runner does ---


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_boxes_are_the_runners_however_the_camera_was_held(window, sites, models, photo, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = photo("photo.jpg", exif=exif, quality=95)
    expected = Model(models["detection"])(file)["objects"]
    opened(window, sites["detection"]).drop(file)
    same_objects(answer(window)["objects"], expected)
    sides = window.script(
        "const photo = document.querySelector('#photo'); return [photo.naturalWidth, photo.naturalHeight]"
    )
    assert sides == ([320, 240] if orientation < 5 else [240, 320])
    shown = window.script("return [...document.querySelectorAll('tbody tr')].map((row) => row.innerText.split('\\t'))")
    assert [(name.strip(), score) for name, score, _ in shown] == [
        (one["name"], f"{one['score']:.2f}") for one in expected
    ]


def test_of_several_photographs_dropped_or_pasted_the_first_is_looked_at_and_it_is_said(window, sites, models, photo):
    first, *others = [photo(f"{i}.png", noise(240, 320, seed=i)) for i in range(3)]
    expected = Model(models["detection"])(first)["objects"]
    opened(window, sites["detection"])
    for count, paste in enumerate((False, True), 1):
        window.drop(first, *others, paste=paste)
        same_objects(answer(window, count)["objects"], expected)
        assert "3 files" in problem(window)
    window.drop(first, paste=True)
    answer(window, 3)
    assert window.text("#problem") == ""


@pytest.mark.parametrize(
    ("name", "size"), [("large.jpg", (1200, 1600)), ("small.png", (20, 30)), ("wide.png", (40, 900))]
)
def test_the_classes_are_the_runners(window, sites, models, photo, name, size):
    file = photo(name, noise(*size, seed=3))
    expected = Model(models["classification"])(file)["classes"]
    opened(window, sites["classification"]).drop(file)
    found = answer(window)["classes"]
    assert len(expected) == 5
    assert [one["name"] for one in found] == [one["name"] for one in expected]
    assert np.allclose([one["probability"] for one in found], [one["probability"] for one in expected], atol=0.02)


def test_transparent_pixels_are_white(window, sites, models, photo):
    image = noise(60, 80).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    file = photo("clear.png", image)
    expected = Model(models["face_attributes"])(file)["attributes"]  # the mean of each colour
    opened(window, sites["face_attributes"]).drop(file)
    found = {one["name"]: one["probability"] for one in answer(window)["attributes"]}
    assert found == pytest.approx(expected, abs=0.005)


def orange(photo, name="orange.png", color=(204, 102, 51)):
    return photo(name, Image.new("RGB", (40, 30), color))


def test_attributes_are_told(window, sites, photo):
    opened(window, sites["face_attributes"]).drop(orange(photo))
    row = answer(window)["attributes"]
    assert [(one["name"], round(one["probability"], 3), one["present"]) for one in row] == [
        ("red", 0.8, True),
        ("green", 0.4, True),
        ("blue", 0.2, False),
    ]
    assert window.text("#answer").startswith("red, green")


def test_two_faces_are_compared_by_the_models_threshold(window, sites, models, photo):
    files = [orange(photo), orange(photo, "other.png", (51, 102, 204)), orange(photo, "near.png", (51, 110, 204))]
    embeddings = [np.array(Model(models["face_embeddings"])(file)["embedding"]) for file in files]
    distances = [((a - b) ** 2).sum() for a, b in itertools.pairwise(embeddings)]
    opened(window, sites["face_embeddings"]).drop(files[0])
    assert "distance" not in answer(window)
    window.give("#file", files[1])
    assert answer(window, 2)["distance"] == pytest.approx(distances[0], abs=1e-5)
    assert window.text("#answer .big") == "Two people"
    window.drop(files[2])
    assert answer(window, 3)["distance"] == pytest.approx(distances[1], abs=1e-5)
    assert window.text("#answer .big") == "One person"
    window.drop(*files[:2])
    assert answer(window, 5)["distance"] == pytest.approx(distances[0], abs=1e-5)


def test_likely_places_are_on_a_map(window, sites, models, photo):
    file = orange(photo)
    expected = Model(models["geolocalization"])(file)
    opened(window, sites["geolocalization"]).drop(file)
    row = answer(window)
    assert (row["latitude"], row["longitude"]) == pytest.approx((expected["latitude"], expected["longitude"]), abs=1e-3)
    assert [cell["cell"] for cell in row["cells"]] == [cell["cell"] for cell in expected["cells"]]
    pixel = (
        "const map = document.querySelector('#map'); return [...map.getContext('2d').getImageData("
        "(arguments[1] + 180) * 4, (90 - arguments[0]) * 4, 1, 1).data].slice(0, 3)"
    )
    land, sea = window.script(pixel, 60, 90), window.script(pixel, 0, -150)
    place = window.script(pixel, row["cells"][0]["latitude"], row["cells"][0]["longitude"])
    assert len({*map(tuple, (land, sea, place))}) == 3
    assert window.script(pixel, 0, 20) == land
    assert window.script(pixel, -30, 80) == sea


def test_the_slider_is_the_runners_conf(window, sites, models, photo):
    file = photo()
    opened(window, sites["detection"]).drop(file)
    answer(window)
    for conf in (0.05, 0.6):
        window.script(
            "const conf = document.querySelector('#conf'); conf.value = arguments[0];"
            "conf.dispatchEvent(new Event('input'))",
            conf,
        )
        expected = Model(models["detection"], conf=conf)(file)["objects"]
        found = window.script("return answers.at(-1).row.objects")
        assert [one["name"] for one in found] == [one["name"] for one in expected]


def test_of_two_photographs_the_later_one_counts(window, sites, photo):
    files = [photo("first.png", noise(1500, 2000)), photo("second.png", noise(20, 30))]
    opened(window, sites["detection"]).drop(*files, one_by_one=True)
    answer(window)
    window.until("return document.querySelector('#status').textContent === 'second.png: done.'")
    time.sleep(0.5)
    assert [one["name"] for one in window.script("return answers")] == ["second.png"]


def test_a_name_is_text(window, models, package, photo):
    names = ["<img src=x onerror=document.title='run'>", "\u202etxt.exe", "b" * 100]
    write_onnx(Path("f.onnx"), "classification", names=names)
    page.write_site("classification", Path("f.onnx"), Path("site"), package)
    with serving(page.server(Path("site").absolute(), 0)) as address:
        opened(window, address).drop(orange(photo))
        answer(window)
        shown = window.script(
            "return [...document.querySelectorAll('tbody td:first-child')].map((cell) => cell.innerText.trim())"
        )
        assert shown == [names[0], "\\u{202e}txt.exe", "b" * 59 + "…"]
        assert window.script("return document.title") == "What a photograph shows"


# --- The camera ---


def test_the_camera_gives_at_least_three_images_a_second(window, sites):
    opened(window, sites["detection"]).script("document.querySelector('#camera').click()")
    window.until("return answers.length >= 12")
    assert window.script("return answers.at(-1).speed") > 3
    assert window.text("#camera") == "Stop the camera"
    assert window.script("return document.querySelector('#answer').getAttribute('aria-live')") == "off"
    window.script("document.querySelector('#camera').click()")
    count = window.script("return answers.length")
    time.sleep(0.5)
    assert window.script("return answers.length") == count
    assert window.script("return document.querySelector('#video').srcObject.getTracks()[0].readyState") == "ended"


def test_a_photograph_ends_the_camera(window, sites, models, photo):
    file = photo()
    opened(window, sites["detection"]).script("document.querySelector('#camera').click()")
    window.until("return answers.length >= 2")
    window.drop(file)
    window.until("return answers.at(-1).name === 'photo.png'")
    same_objects(window.script("return answers.at(-1).row.objects"), Model(models["detection"])(file)["objects"])
    assert window.text("#camera") == "Start the camera"


@contextlib.contextmanager
def before(window, script):
    """Run a script in every page before its own."""
    made = window.cdp("Page.addScriptToEvaluateOnNewDocument", source=script)
    yield
    window.cdp("Page.removeScriptToEvaluateOnNewDocument", **made)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [("NotAllowedError", "not allowed"), ("NotFoundError", "no camera"), ("NotReadableError", "another program")],
)
def test_a_camera_that_is_not_given_is_one_sentence(window, sites, error, sentence):
    refuse = f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', '{error}') }}"
    with before(window, refuse):
        opened(window, sites["detection"]).script("document.querySelector('#camera').click()")
        assert sentence in problem(window)
    assert window.text("#camera") == "Start the camera"


def test_without_cameras_at_all_the_page_says_where_there_are(window, sites):
    with before(window, "Object.defineProperty(navigator, 'mediaDevices', { value: undefined })"):
        opened(window, sites["detection"]).script("document.querySelector('#camera').click()")
        assert "https" in problem(window)


# --- What cannot be used ---


@pytest.mark.parametrize("lacking", ["WebAssembly", "OffscreenCanvas", "Worker"])
def test_an_old_browser_is_told_which_are_new_enough(window, sites, lacking):
    with before(window, f"delete window.{lacking}"):
        window.open(sites["detection"])
        text = problem(window)
    assert "Firefox 114" in text
    assert window.script("return document.querySelector('#sources').hidden")


def test_a_page_that_is_opened_as_a_file_says_what_it_needs(window, models, package):
    page.write_site("detection", models["detection"], Path("site"), package)
    window.open(Path("site/index.html").absolute().as_uri())
    assert "python -m http.server" in window.text("#status")


def test_files_that_are_no_images_are_one_sentence(window, sites, models, photo, tmp_path):
    opened(window, sites["detection"])
    for name, content, sentence in (
        ("notes.txt", b"text", "no image"),
        ("IMG_1.HEIC", b"\0\0\0\x18ftypheic", "JPEG or PNG"),
        ("empty.jpg", b"", "no image"),
    ):
        (tmp_path / name).write_bytes(content)
        window.drop(tmp_path / name)
        window.until("return document.querySelector('#problem').textContent.startsWith(arguments[0])", name)
        assert sentence in problem(window)
    Image.new("1", (10_001, 10_000)).save(tmp_path / "large.png")
    window.drop(tmp_path / "large.png")
    window.until("return document.querySelector('#problem').textContent.includes('10001 x 10000')")
    Image.new("1", (65_536, 2)).save(tmp_path / "wide.png")
    window.drop(tmp_path / "wide.png")
    window.until("return document.querySelector('#problem').textContent.includes('65536 x 2')")
    file = photo()
    window.drop(file)
    same_objects(answer(window)["objects"], Model(models["detection"])(file)["objects"])
    assert window.text("#problem") == ""


# --- Servers, networks ---


def test_threads_are_used_where_the_headers_allow(window, sites):
    opened(window, sites["detection"])
    assert window.script("return crossOriginIsolated") is True


def test_pythons_own_server_will_do(window, models, package, photo):
    page.write_site("detection", models["detection"], Path("site"), package)
    command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", "site", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            port = re.search(r"port (\d+)", process.stdout.readline())[1]
            file = photo()
            opened(window, f"http://127.0.0.1:{port}/").drop(file)
            same_objects(answer(window)["objects"], Model(models["detection"])(file)["objects"])
            assert window.script("return crossOriginIsolated") is False
        finally:
            process.terminate()


def kept(window):
    """Wait until the service worker has all files."""
    window.until("return navigator.serviceWorker.controller !== null")


@pytest.mark.parametrize("path", ["", "some/where/"])
def test_it_works_offline_once_loaded_under_any_path(window, models, package, photo, path):
    Path("root", path).parent.mkdir(parents=True, exist_ok=True)
    site = Path("root", path) if path else Path("root")
    page.write_site("detection", models["detection"], site, package)
    file = photo()
    expected = Model(models["detection"])(file)["objects"]
    with serving(page.server(Path("root").absolute(), 0)) as address:
        opened(window, f"{address}{path}")
        kept(window)
    port = urlsplit(address).port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    for again in (window.reload, lambda: window.open(f"{address}{path}index.html")):
        again()
        ready(window).drop(file)
        same_objects(answer(window)["objects"], expected)


def test_a_page_written_anew_replaces_the_one_that_was_kept(window, package):
    def write(licence):
        write_onnx(Path("f.onnx"), "classification", licence=licence)
        page.write_site("classification", Path("f.onnx"), Path("site"), package)

    write("Old.")
    with serving(page.server(Path("site").absolute(), 0)) as address:
        opened(window, address)
        kept(window)
        write("New.")
        assert window.text("#licence") == "Old."
        window.reload()
        window.until("return document.querySelector('#licence').textContent === 'New.'")
        window.until("return caches.keys().then((names) => names.length === 1)")


def test_another_site_at_the_same_address_is_not_hidden(window, package):
    write_onnx(Path("f.onnx"), "classification")
    page.write_site("classification", Path("f.onnx"), Path("site"), package)
    with serving(page.server(Path("site").absolute(), 0)) as address:
        opened(window, address)
        kept(window)
    Path("other").mkdir()
    Path("other/index.html").write_text(
        "<link rel=icon href=data:,><link rel=stylesheet href=style.css><p id=mine>mine"
    )
    Path("other/style.css").write_text("#mine { color: rgb(1, 2, 3) }")
    with serving(page.server(Path("other").absolute(), int(address.rstrip("/").rpartition(":")[2]))):
        window.open(address)
        assert window.text("#mine") == "mine"
        assert window.script("return getComputedStyle(document.querySelector('#mine')).color") == "rgb(1, 2, 3)"


def test_nothing_leaves_the_machine(chromedriver, sites, photo, tmp_path):
    log = tmp_path / "net.json"
    with browser(chromedriver, "--use-fake-ui-for-media-stream", f"--log-net-log={log}") as window:
        opened(window, sites["detection"])
        kept(window)
        window.drop(photo())
        answer(window)
        window.script("document.querySelector('#camera').click()")
        window.until("return answers.length >= 3")
        window.reload()
        ready(window)
    events = json.loads(log.read_text())["events"]
    asked = [event["params"] for event in events if "initiator" in event.get("params", {}) and "url" in event["params"]]
    ours = [one["url"] for one in asked if one["initiator"] != "not an origin" and "127.0.0.1" in one["initiator"]]
    assert {Path(urlsplit(url).path).name for url in ours} >= {
        "app.js",
        "worker.js",
        "model.onnx",
        "ort-wasm.wasm",
        "sw.js",
    }
    assert {f"http://{urlsplit(url).netloc}/" for url in ours} == {sites["detection"]}


# --- By keyboard, by ear ---


def test_a_keyboard_is_enough(window, sites, photo):
    opened(window, sites["detection"])
    window.script(
        "document.querySelector('#file').addEventListener('click', (event) => {"
        " event.preventDefault(); window.chosen = true })"
    )
    window.press(TAB)
    assert window.focused() == "file"
    outline = "return getComputedStyle(document.querySelector(arguments[0])).outlineStyle"
    assert window.script(outline, "#file + label") == "solid"
    window.press(SPACE)
    assert window.script("return window.chosen")
    window.press(TAB)
    assert window.focused() == "camera"
    assert window.script(outline, "#camera") == "solid"
    window.press(ENTER)
    window.until("return answers.length >= 2")
    window.press(ENTER)
    window.until("return document.querySelector('#camera').textContent === 'Start the camera'")
    window.press(TAB)
    assert window.focused() == "conf"
    window.press(LEFT)
    assert window.text("#conf_value") == "0.25"


def test_a_screen_reader_is_told_what_is_there(window, sites, photo):
    opened(window, sites["geolocalization"]).drop(orange(photo))
    answer(window)
    nodes = window.cdp("Accessibility.getFullAXTree")["nodes"]
    told = {(one["role"]["value"], one.get("name", {}).get("value", "")) for one in nodes if "role" in one}
    assert told >= {
        ("heading", "Where a photograph was taken"),
        ("button", "Choose a photograph"),
        ("button", "Start the camera"),
        ("image", "The photograph orange.png"),
        ("image", "Map of the world with the likely places"),
        ("columnheader", "Likely place"),
        ("cell", "64.10° N, 21.90° W"),
    }
    assert "status" in {role for role, _ in told}


@pytest.mark.parametrize("task", ["detection", "face_attributes", "geolocalization"])
def test_on_a_phone_nothing_is_wider_than_the_screen(window, sites, photo, task):
    window.cdp("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    try:
        opened(window, sites[task]).drop(photo("photo.png", noise(900, 1200)))
        answer(window)
        assert window.script("return document.documentElement.scrollWidth") == 360
        small = window.script(
            "return [...document.querySelectorAll('button, .button, input[type=range]')]"
            ".filter((one) => one.offsetParent && one.getBoundingClientRect().height < 32).map((one) => one.id)"
        )
        assert not small
    finally:
        window.cdp("Emulation.clearDeviceMetricsOverride")
