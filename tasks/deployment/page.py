"""`python -m tasks.<task> page`: a model as a folder that any web server gives, and any browser runs.

What is written are the files of `web/`, the model, its metadata as `model.json` (onnxruntime-web tells none), and
onnxruntime-web itself, which is fetched from npm once. The page asks for nothing else, and sends nothing.
"""

import argparse
import contextlib
import functools
import hashlib
import http.server
import json
import os
import re
import shlex
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from backbone.download import check, download, extract_one
from backbone.errors import InputError
from backbone.files import disk_error, not_written, room_beside
from backbone.weights import cache_folder
from data.folders import say
from tasks import run
from tasks.deployment import METADATA

RUNTIME = "https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz"
RUNTIME_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"  # of the file with npm's own sha512
# Its files by their names in the page's folder; as .js, which every server gives as JavaScript, where .mjs is newer.
_RUNTIME_FILES = {
    "runtime/ort.js": "dist/ort.wasm.min.mjs",
    "runtime/ort-wasm.js": "dist/ort-wasm-simd-threaded.mjs",
    "runtime/ort-wasm.wasm": "dist/ort-wasm-simd-threaded.wasm",
}
_VERSION, _FILES = "const VERSION = '';", "const FILES = [];"  # lines of sw.js that are filled in


def main(task: str, options: argparse.Namespace) -> int:
    """Write the folder, and with --serve give it to a browser until Ctrl-C. Raises InputError."""
    with contextlib.ExitStack() as stack:
        # First, as a port that is taken is no reason to write anything.
        serving = stack.enter_context(server(options.out, options.port)) if options.serve else None
        write_site(task, options.model, options.out, options.runtime)
        size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
        say(f"{options.out}: {size / 1e6:.1f} MB")
        if serving is None:
            command = (
                f"python -m http.server --bind 127.0.0.1 --directory {shlex.quote(str(options.out))} {options.port}"
            )
            say(f"next: {command}")
            return 0
        say(f"http://127.0.0.1:{serving.server_address[1]}/ until Ctrl-C")
        with contextlib.suppress(KeyboardInterrupt):
            serving.serve_forever()
    return 0


def write_site(
    task: str,
    model: Path,
    out: Path,
    runtime: Path | None = None,
    url: str = RUNTIME,
    sha256: str = RUNTIME_SHA256,
) -> None:
    """Write the folder `out` for the model of a `task`, in place of an older one.

    `runtime` is onnxruntime-web's package as a file; without it, it is fetched from `url` into the cache, once. Raises
    InputError where the model is not one for a browser, `out` is another folder, or the runtime is not of this digest.
    """
    about = _metadata(task, model)
    out = Path(os.path.abspath(out))  # noqa: PTH100  # without .., and with a last link as it is
    if not out.parent.is_dir():
        raise InputError(f"--out {out} cannot be written; name a folder in one that exists.")
    if out == Path.cwd() or out in Path.cwd().parents:
        raise InputError(f"--out {out} is the folder that you are in, or above it; name another one.")
    if os.path.lexists(out) and not _is_site(out):
        raise InputError(f"--out {out} is there already, and not only a page of this command; name a new folder.")
    archive = runtime_package(runtime, url, sha256)
    try:
        with room_beside(out) as room:
            site = room / "site"
            _write(site, about, model, archive)
            if out.exists():
                out.rename(room / "old")
            site.rename(out)
    except (OSError, InputError) as error:
        cause = error if isinstance(error, OSError) else disk_error(error)
        if cause is None:
            raise
        raise InputError(f"--out {out} {not_written(cause)}") from error


def _metadata(task: str, model: Path) -> dict[str, Any]:
    """What the file says of itself. Raises InputError where it is not one of the task that a page can run."""
    try:
        opened = run.Model(model)
    except run.InputError as error:
        raise InputError(str(error)) from error
    except ModuleNotFoundError as error:
        raise InputError("page needs onnxruntime, which is not installed: pip install --editable '.[onnx]'.") from error
    if opened.task != task:
        raise InputError(f"{model} is of the task {opened.task}; write `python -m tasks.{opened.task} page` for it.")
    about: dict[str, Any] = json.loads(opened.session.get_modelmeta().custom_metadata_map[METADATA])
    return about


def _is_site(folder: Path) -> bool:
    """Whether it is what this command wrote, and has no other file in it."""
    worker = folder / "sw.js"
    if folder.is_symlink() or not worker.is_file():
        return False
    found = re.search(r"^const FILES = (\[.*\]);$", worker.read_text("utf-8", "replace"), re.MULTILINE)
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*")}
    return found is not None and there == {*json.loads(found[1]), "sw.js", "runtime"} - {""}


def runtime_package(runtime: Path | None = None, url: str = RUNTIME, sha256: str = RUNTIME_SHA256) -> Path:
    """onnxruntime-web's package, checked: the file `runtime`, or the cache's, fetched once. Raises InputError."""
    if runtime is None:
        runtime = cache_folder().with_name("runtime") / url.rpartition("/")[2]
        try:
            runtime.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{runtime.parent} cannot be made ({error.strerror}); name another cache by MOBILENET_TASKS_CACHE, or "
                "give --runtime F.tgz."
            ) from error
        download(url, runtime, sha256)
        return runtime
    if not runtime.is_file():
        raise InputError(f"--runtime {runtime} is no file; fetch {url}.")
    try:
        check(runtime, sha256)
    except InputError as error:
        raise InputError(f"--runtime {runtime} is not the file of {url}; fetch that one.") from error
    return runtime


def _write(site: Path, about: dict[str, Any], model: Path, archive: Path) -> None:
    """Everything into the new folder `site`; the service worker last, which names the rest."""
    import onnxruntime

    (site / "runtime").mkdir(parents=True)
    web = resources.files("tasks.deployment").joinpath("web")
    for asset in web.iterdir():
        if asset.name != "sw.js":
            (site / asset.name).write_bytes(asset.read_bytes())
    shutil.copyfile(model, site / "model.onnx")
    (site / "model.json").write_text(json.dumps(about, ensure_ascii=False), "utf-8", "backslashreplace")
    if about["task"] == "geolocalization":
        (site / "coastline.json").write_text(json.dumps(_coastline(), separators=(",", ":")))
    for name, inside in _RUNTIME_FILES.items():
        extract_one(archive, f"package/{inside}", site / name)
    # The package of npm has no text of its licence; that of Python, which has just opened the model, is of one project.
    for name in ("LICENSE", "ThirdPartyNotices.txt"):
        text = Path(onnxruntime.__file__).with_name(name).read_text("utf-8")
        (site / "runtime" / Path(name).with_suffix(".txt").name).write_text(text, "utf-8")
    digests = {
        file.relative_to(site).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(site.rglob("*"))
        if file.is_file()
    }
    worker = web.joinpath("sw.js").read_text("utf-8")
    version = hashlib.sha256(json.dumps([worker, digests]).encode()).hexdigest()[:16]
    worker = worker.replace(_VERSION, f"const VERSION = '{version}';")
    (site / "sw.js").write_text(worker.replace(_FILES, f"const FILES = {json.dumps(['', *digests])};"), "utf-8")


def _coastline() -> list[list[int]]:
    """Rings of land: x, y, x, y, ... in hundredths of a degree, longitude first."""
    with np.load(Path(run.__file__).with_name("geolocalization") / "coastline_110m.npz") as file:
        return [ring.ravel().tolist() for ring in np.split(file["xy"], file["off"][1:]) if len(ring)]


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Gives files of the folder alone, with what lets a page use threads."""

    extensions_map = {  # noqa: RUF012  # not by the system's own table, in which some have JavaScript as text/plain
        "": "application/octet-stream",
        ".html": "text/html; charset=utf-8",
        ".css": "text/css",
        ".js": "text/javascript",
        ".json": "application/json",
        ".txt": "text/plain; charset=utf-8",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        pass  # of every file


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a browser that is gone in the midst of a file


def server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server of the folder on 127.0.0.1, not yet serving; port 0 takes a free one. Raises InputError."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port is {port}; it must be from 0 to 65535.")
    try:
        return _Server(("127.0.0.1", port), functools.partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise InputError(
            f"--port {port} cannot be used ({error.strerror}); give another, or 0 for a free one."
        ) from error
