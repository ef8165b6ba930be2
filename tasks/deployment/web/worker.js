// Decodes, resizes and runs pictures, apart from the page, which stays quick. One message in, one answer out:
// {id, picture: a File or an ImageBitmap} is answered {id, outputs, width, height, ms: {network, all}} or {id, problem}.

import * as ort from "./runtime/ort.js";
import { OUTPUTS } from "./answer.js";
import { cropOf, resize } from "./resize.js";

const MOST = 100e6; // pixels: four bytes for each are in memory
const LONGEST = 65535; // pixels: of wider ones Chromium draws nothing, without a word
const STRIP = 4e6; // pixels that are drawn at once: browsers of phones have small canvases alone

let about, session, canvas, pen;

onmessage = ({ data }) => (data.threads ? start(data.threads) : look(data));

async function start(threads) {
  try {
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.wasmPaths = {
      mjs: new URL("runtime/ort-wasm.js", import.meta.url).href,
      wasm: new URL("runtime/ort-wasm.wasm", import.meta.url).href,
    };
    ort.env.logLevel = "error";
    about = await (await fetched("model.json")).json();
    const model = new Uint8Array(await (await fetched("model.onnx")).arrayBuffer());
    session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    const [height, width] = about.image_size;
    await run(new Uint8Array(3 * height * width)); // the first run is the slowest
    postMessage({ about });
  } catch (error) {
    postMessage({ failed: String(error.message || error) });
  }
}

async function fetched(name) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name}: the server answered ${response.status}`);
  return response;
}

async function look({ id, picture }) {
  try {
    const begun = performance.now();
    const bitmap = picture instanceof Blob ? await decoded(picture) : picture;
    const { width, height } = bitmap;
    let pixels;
    try {
      if (width * height > MOST || Math.max(width, height) > LONGEST) throw new Problem("large", { width, height });
      pixels = resized(bitmap);
    } finally {
      bitmap.close();
    }
    const ready = performance.now();
    const outputs = await run(pixels);
    const done = performance.now();
    postMessage({ id, outputs, width, height, ms: { network: done - ready, all: done - begun } });
  } catch (error) {
    postMessage({ id, problem: error.kind || "other", ...error.facts, text: String(error.message || error) });
  }
}

class Problem extends Error {
  constructor(kind, facts) {
    super(kind);
    this.kind = kind;
    this.facts = facts;
  }
}

// Upright by its EXIF orientation, in the colours of the file as they are: training knows no colour profiles either.
async function decoded(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Problem("unreadable");
  }
}

function resized(bitmap) {
  const [height, width] = about.image_size;
  const part = cropOf(bitmap.width, bitmap.height, about);
  return resize(pixelsOf(bitmap, part), height, width, about.resize.interpolation === "bicubic");
}

// A part of a picture as RGBA, transparency shown on white.
function pixelsOf(bitmap, part) {
  const data = new Uint8ClampedArray(4 * part.width * part.height);
  const rows = Math.min(part.height, Math.max(1, Math.floor(STRIP / part.width)));
  if (canvas?.width !== part.width || canvas.height !== rows) {
    canvas = new OffscreenCanvas(part.width, rows);
    pen = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  }
  for (let top = 0; top < part.height; top += rows) {
    const count = Math.min(rows, part.height - top);
    pen.fillStyle = "white";
    pen.fillRect(0, 0, part.width, count);
    pen.drawImage(bitmap, part.left, part.top + top, part.width, count, 0, 0, part.width, count);
    data.set(pen.getImageData(0, 0, part.width, count).data, 4 * part.width * top);
  }
  return { data, width: part.width, height: part.height };
}

async function run(pixels) {
  const [height, width] = about.image_size;
  const images = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  const tensors = await session.run({ images }, OUTPUTS[about.task]);
  const outputs = {};
  for (const name of OUTPUTS[about.task])
    outputs[name] = Array.from(tensors[name].data, Number); // labels are of 64 bits
  return outputs;
}
