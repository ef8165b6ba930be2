// The page: takes photographs and frames of the camera, gives them to worker.js, shows what it answers.

import { distance, rowOf } from "./answer.js";
import { drawBoxes, drawMap, tell } from "./show.js";

const $ = (id) => document.getElementById(id);
const TITLES = {
  detection: "Objects in a photograph",
  classification: "What a photograph shows",
  face_attributes: "Attributes of a face",
  face_embeddings: "Two faces, one person?",
  geolocalization: "Where a photograph was taken",
};
const NEEDED = "It runs in Chrome or Edge 91, Firefox 114, Safari 16.4, and newer ones.";
const NOT_READ = /\.(heic|heif|tiff?|dng|cr2|cr3|nef|arw|raw|psd|jp2|jxl|pdf)$/i;

let worker, about, coastline;
let asked = 0; // the number of the newest picture; answers to others come too late
let waiting = new Map(); // who waits for the answer to a number
let shown = null; // {name, outputs, width, height, ms} of what is on the page
let photos = []; // {url, embedding} of what is on the page, and of faces of the one before
let camera = null; // its stream
let starting = false; // it is waited for the user's permission

start();

function start() {
  const lacking = lacks();
  if (lacking) return fail(`This browser has no ${lacking}, which the page needs. ${NEEDED}`);
  status("Loading the network …");
  try {
    worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  } catch (error) {
    return fail(`This browser cannot start the network (${error.message}). ${NEEDED}`);
  }
  worker.onmessage = ({ data }) => receive(data);
  worker.onerror = ({ message }) =>
    fail(`The network cannot be started: ${message || "worker.js, or a file that it needs, cannot be loaded"}. ${NEEDED}`);
  worker.postMessage({ threads: crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1 });
  listen();
  keep();
}

function lacks() {
  if (typeof WebAssembly !== "object") return "WebAssembly";
  // The smallest module with an instruction on 128 bits
  const simd = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
  if (!WebAssembly.validate(new Uint8Array(simd))) return "WebAssembly with SIMD";
  if (typeof Worker !== "function") return "web workers";
  if (typeof OffscreenCanvas !== "function" || typeof createImageBitmap !== "function") return "OffscreenCanvas";
  return null;
}

// Offline once loaded; over plain http from another machine browsers have no service workers.
async function keep() {
  if (!("serviceWorker" in navigator)) return;
  try {
    await navigator.serviceWorker.register(new URL("sw.js", import.meta.url));
  } catch {
    // it works online
  }
}

function status(text) {
  $("status").textContent = text;
}

function problem(text) {
  $("problem").textContent = text;
}

function fail(text) {
  status("");
  problem(text);
  $("sources").hidden = true;
}

// --- What comes in ---

function listen() {
  $("file").addEventListener("change", () => {
    photographs($("file").files);
    $("file").value = ""; // so that the same one can be chosen again
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    photographs(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) photographs(event.clipboardData.files);
  });
  $("camera").addEventListener("click", () => (camera ? stopCamera() : startCamera()));
  $("conf").addEventListener("input", show);
}

async function photographs(files) {
  if (!about) return;
  stopCamera();
  if (!files.length) return problem("That was no file; drop or choose a photograph.");
  const given = [...files], most = about.task === "face_embeddings" ? 2 : 1;
  for (const file of given.slice(0, most)) if (!(await photograph(file))) return;
  if (given.length > most) problem(`Of ${given.length} files the page looks at the first${most > 1 ? " two" : ""} alone.`);
}

// Whether it is on the page; not where another one was given meanwhile, or it cannot be used.
async function photograph(file) {
  problem("");
  status(`${file.name}: looking …`);
  const number = ++asked, answer = await ask(number, file);
  if (number !== asked) return false;
  if (answer.problem) {
    status("");
    problem(`${file.name}: ${sentence(answer, file)}`);
    return false;
  }
  const url = URL.createObjectURL(file), photo = $("photo");
  photo.src = url;
  photo.alt = `The photograph ${file.name}`;
  await photo.decode().catch(() => {}); // so that no box is over the picture before
  if (number !== asked) {
    URL.revokeObjectURL(url);
    return false;
  }
  const enlarged = 480 / Math.max(answer.width, answer.height); // small ones would be hard to see
  photo.style.width = enlarged > 1 ? `${Math.round(answer.width * enlarged)}px` : "";
  photo.style.maxHeight = enlarged > 1 ? "none" : "";
  remember(url, answer.outputs.embedding);
  photo.hidden = false;
  $("video").hidden = true;
  shown = { ...answer, name: file.name };
  status(`${file.name}: done.`);
  show();
  return true;
}

// The photograph on the page, and of faces the one before it.
function remember(url, embedding) {
  photos.push({ url, embedding });
  if (photos.length > (embedding ? 2 : 1)) URL.revokeObjectURL(photos.shift().url);
  $("before").hidden = photos.length < 2;
  if (photos.length > 1) $("earlier").src = photos[0].url;
}

function sentence(answer, file) {
  if (answer.problem === "large")
    return `it has ${answer.width} x ${answer.height} pixels, more than the page takes (100 millions, and 65,535 to a side); make it smaller.`;
  if (answer.problem === "unreadable")
    return NOT_READ.test(file.name)
      ? "this browser does not read such files; save it as JPEG or PNG."
      : "this is no image that the browser can read, or it is damaged; give a JPEG or PNG.";
  return `it could not be looked at (${answer.text}); reload the page.`;
}

// The answer of the worker to a picture, a File or an ImageBitmap.
function ask(id, picture) {
  return new Promise((resolve) => {
    waiting.set(id, resolve);
    worker.postMessage({ id, picture }, picture instanceof ImageBitmap ? [picture] : []);
  });
}

async function receive(data) {
  if (data.failed) return fail(`The network cannot be started: ${data.failed}. Reload the page.`);
  if (data.about) {
    if (data.about.task === "geolocalization")
      coastline = await (await fetch(new URL("coastline.json", import.meta.url))).json().catch(() => []);
    about = data.about;
    return ready();
  }
  const resolve = waiting.get(data.id);
  waiting.delete(data.id);
  resolve(data);
}

function ready() {
  document.title = $("title").textContent = TITLES[about.task];
  const [height, width] = about.image_size;
  $("about").textContent =
    `A network of ${about.precision === "int8" ? "8 bits" : "float32"} for ${width} x ${height} pixels. Nothing that you show it leaves this machine.`;
  $("licence").textContent = about.licence || "";
  $("threshold").hidden = about.task !== "detection";
  $("file").multiple = about.task === "face_embeddings";
  if (about.task === "face_embeddings") $("hint").textContent = "or drop two anywhere on the page, or paste one after the other.";
  $("sources").hidden = false;
  status("Ready.");
}

// --- The camera ---

async function startCamera() {
  problem("");
  if (!navigator.mediaDevices?.getUserMedia)
    return problem("Here the browser gives no camera: it does so on https pages and on this machine's own (127.0.0.1) alone.");
  if (starting) return; // a disabled button would lose the keyboard's focus
  starting = true;
  const number = asked;
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    if (number !== asked) return stream.getTracks().forEach((track) => track.stop()); // a photograph was given meanwhile
    camera = $("video").srcObject = stream;
    await $("video").play();
  } catch (error) {
    stopCamera();
    const why = {
      NotAllowedError: "the camera was not allowed; allow it in the browser's settings of this page",
      NotFoundError: "there is no camera",
      NotReadableError: "the camera is used by another program",
    };
    return problem(`${why[error.name] || `the camera cannot be opened (${error.name})`}.`.replace(/^t/, "T"));
  } finally {
    starting = false;
  }
  if (!camera) return; // a photograph was given meanwhile
  for (const track of camera.getTracks()) track.addEventListener("ended", stopCamera);
  $("camera").textContent = "Stop the camera";
  $("photo").hidden = true;
  $("video").hidden = false;
  $("before").hidden = true;
  $("answer").setAttribute("aria-live", "off"); // not every frame is read out
  status("The camera runs.");
  follow(camera);
}

function stopCamera() {
  if (!camera) return;
  for (const track of camera.getTracks()) track.stop();
  camera = null;
  asked++; // its last frame is not waited for
  $("video").pause(); // on the last picture
  $("camera").textContent = "Start the camera";
  $("answer").setAttribute("aria-live", "polite");
  status("The camera is off.");
}

// One frame after the other: the next is taken when the last is answered.
async function follow(stream) {
  const times = [], video = $("video");
  while (camera === stream) {
    if (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    const number = ++asked;
    let answer;
    try {
      answer = await ask(number, await createImageBitmap(video, { colorSpaceConversion: "none" }));
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 50)); // no frame is there yet
      continue;
    }
    if (number !== asked) continue;
    if (answer.problem) {
      stopCamera();
      return problem(`The camera's picture: ${sentence(answer, { name: "" })}`);
    }
    times.push(performance.now());
    if (times.length > 11) times.shift();
    answer.speed = times.length > 1 ? (1000 * (times.length - 1)) / (times.at(-1) - times[0]) : null;
    shown = { ...answer, name: "camera", live: true };
    show();
  }
}

// --- What goes out ---

function show() {
  const conf = Number($("conf").value);
  $("conf_value").textContent = conf.toFixed(2);
  if (!shown) return;
  const { name, outputs, width, height, ms, speed } = shown;
  const row = rowOf(about, outputs, width, height, conf);
  if (row.embedding) {
    const other = shown.live ? photos.at(-1) : photos.at(-2);
    if (other) row.distance = distance(other.embedding, row.embedding);
  }
  $("view").hidden = false;
  drawBoxes($("marks"), row.objects || [], width, height);
  if (row.cells) drawMap($("map"), coastline, row);
  $("map").hidden = !row.cells;
  $("answer").replaceChildren(...tell(row, about));
  const parts = [`${ms.network.toFixed(0)} ms for the network`, `${ms.all.toFixed(0)} ms in all`];
  if (speed) parts.push(`${speed.toFixed(1)} images/s`);
  $("times").textContent = parts.join(", ");
  document.dispatchEvent(new CustomEvent("answer", { detail: { name, row, ms, speed } })); // for scripts of others
}
