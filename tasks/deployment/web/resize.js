// What the network sees of a picture: the same cut and resizing, to the bit, as tasks/run.py, which training's evaluation has.
// Pictures are RGBA as a canvas gives them, {data, width, height}; the result is RGB, Uint8Array (height * width * 3).

const SMOOTHED = 2.5; // the shrink beyond which pixels are averaged

// The part of a picture of width x height that is looked at, by the rule of model.json.
export function cropOf(width, height, about) {
  const [tall, wide] = about.image_size;
  if (about.resize.crop === null) return { left: 0, top: 0, width, height };
  const scale = about.resize.crop * Math.min(height / tall, width / wide);
  const rows = Math.min(height, Math.max(1, rint(scale * tall)));
  const columns = Math.min(width, Math.max(1, rint(scale * wide)));
  return { left: Math.floor((width - columns) / 2), top: Math.floor((height - rows) / 2), width: columns, height: rows };
}

export function resize(image, height, width, bicubic = false) {
  if (bicubic) return bicubicOf(image, height, width);
  const down = image.height / height, across = image.width / width;
  if (down === 1 && across === 1) return withoutAlpha(image);
  const smoothed = Math.max(down, across) > SMOOTHED;
  if (smoothed && Math.min(down, across) >= 1) return averaged(image, height, width);
  return interpolated(image, height, width, smoothed);
}

// Halves to the even number, as Python and numpy round.
function rint(x) {
  const below = Math.floor(x), rest = x - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
}

function withoutAlpha({ data, width, height }) {
  const rgb = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < rgb.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  return rgb;
}

// OpenCV's INTER_LINEAR in fixed point: weights of 11 bits, 4 bits fewer between the passes, 16 and 2 fewer at the end.
function interpolated(image, height, width, smoothed) {
  const rows = pairs(image.height, height, smoothed), columns = pairs(image.width, width, smoothed);
  const resized = new Uint8Array(3 * height * width), made = new Map();
  const across = (row) => {
    if (made.has(row)) return made.get(row);
    const line = new Int32Array(3 * width), start = 4 * row * image.width;
    for (let x = 0; x < width; x++) {
      const left = start + 4 * columns.first[x], right = start + 4 * columns.second[x], weight = columns.weight[x];
      for (let c = 0; c < 3; c++) {
        const first = image.data[left + c];
        line[3 * x + c] = (first * 2048 + (image.data[right + c] - first) * weight) >> 4;
      }
    }
    for (const old of made.keys()) if (old < row - 1) made.delete(old); // rows come from the top
    made.set(row, line);
    return line;
  };
  for (let y = 0; y < height; y++) {
    const top = across(rows.first[y]), bottom = across(rows.second[y]), weight = rows.weight[y];
    for (let x = 0; x < 3 * width; x++) {
      const sum = ((top[x] * (2048 - weight)) >> 16) + ((bottom[x] * weight) >> 16);
      resized[3 * width * y + x] = (sum + 2) >> 2;
    }
  }
  return resized;
}

// For each of `target` pixels of a line two of `source`, and the second's weight.
function pairs(source, target, smoothed) {
  const scale = 1 / (target / source);
  const first = new Int32Array(target), second = new Int32Array(target), weight = new Int32Array(target);
  for (let at = 0; at < target; at++) {
    let lower, part;
    if (smoothed) { // INTER_AREA where one of the sides grows
      lower = Math.floor(at * scale);
      part = Math.fround(at + 1 - (lower + 1) * (target / source));
      part = part <= 0 ? 0 : Math.fround(part - Math.floor(part));
    } else {
      const place = Math.fround((at + 0.5) * scale - 0.5);
      lower = Math.floor(place);
      part = Math.fround(place - lower);
    }
    weight[at] = rint(part * 2048);
    first[at] = Math.min(Math.max(lower, 0), source - 1);
    second[at] = Math.min(Math.max(lower + 1, 0), source - 1);
  }
  return { first, second, weight };
}

// OpenCV's INTER_AREA where no side grows: each pixel weighs as much of it as is covered, in float32.
function averaged(image, height, width) {
  const down = 1 / (height / image.height), side = 1 / (width / image.width);
  const whole = Number.isInteger(down) && Number.isInteger(side); // then the sum is exact, and divided once
  const rows = covered(image.height, height, down, whole), columns = covered(image.width, width, side, whole);
  const resized = new Uint8Array(3 * height * width), mean = new Float32Array(3 * width), line = new Float32Array(3 * width);
  const share = Math.fround(1 / (down * side));
  for (let y = 0; y < height; y++) {
    mean.fill(0);
    for (let row = rows.first[y], i = 0; i < rows.weights[y].length; row++, i++) {
      const weight = rows.weights[y][i];
      line.fill(0);
      for (let x = 0; x < width; x++) {
        let from = 4 * (row * image.width + columns.first[x]);
        for (const part of columns.weights[x]) {
          for (let c = 0; c < 3; c++) line[3 * x + c] += Math.fround(image.data[from + c] * part);
          from += 4;
        }
      }
      for (let x = 0; x < 3 * width; x++) mean[x] += Math.fround(line[x] * weight);
    }
    for (let x = 0; x < 3 * width; x++) resized[3 * width * y + x] = rint(whole ? Math.fround(mean[x] * share) : mean[x]);
  }
  return resized;
}

// The first of the pixels that each of `target` covers, and their weights, float32.
function covered(source, target, scale, whole) {
  const firsts = new Int32Array(target), weights = [];
  for (let at = 0; at < target; at++) {
    const start = at * scale, end = start + scale, size = Math.min(scale, source - start);
    const last = Math.min(Math.floor(end), source - 1), first = Math.min(Math.ceil(start), last);
    const before = first - start, after = end - last; // OpenCV leaves out what is covered by a thousandth or less
    const lowest = first - (before > 1e-3 ? 1 : 0), line = [];
    if (whole) {
      for (let i = 0; i < rint(scale); i++) line.push(1);
    } else {
      for (let i = lowest; i < last; i++) line.push((i < first ? before : 1) / size);
      if (after > 1e-3) line.push(Math.min(after, Math.min(1, size)) / size);
    }
    firsts[at] = lowest;
    weights.push(Float32Array.from(line));
  }
  return { first: firsts, weights };
}

// Pillow's BICUBIC: weights of 22 bits, and 8 bits between the passes; across first, but for pictures that lose far more
// rows than columns (since Pillow 13).
function bicubicOf(image, height, width) {
  const rowsLost = image.height - height;
  const across = (rgb, rows) => (width === image.width ? rgb : cubicAcross(rgb, rows, image.width, width));
  const down = (rgb, columns) => (rowsLost === 0 ? rgb : cubicDown(rgb, image.height, height, columns));
  const rgb = withoutAlpha(image);
  if (rowsLost > 0 && rowsLost > 2 * (image.width - width)) return across(down(rgb, image.width), height);
  return down(across(rgb, image.height), width);
}

function cubicAcross(rgb, rows, source, target) {
  const { first, weights } = cubic(source, target), made = new Uint8Array(3 * rows * target);
  for (let y = 0; y < rows; y++)
    for (let x = 0; x < target; x++)
      for (let c = 0; c < 3; c++)
        made[3 * (y * target + x) + c] = weighed(rgb, 3 * (y * source + first[x]) + c, 3, weights[x]);
  return made;
}

function cubicDown(rgb, source, target, columns) {
  const { first, weights } = cubic(source, target), made = new Uint8Array(3 * target * columns);
  for (let y = 0; y < target; y++)
    for (let x = 0; x < 3 * columns; x++)
      made[3 * columns * y + x] = weighed(rgb, 3 * columns * first[y] + x, 3 * columns, weights[y]);
  return made;
}

function weighed(values, at, step, weights) {
  let sum = 1 << 21;
  for (let i = 0; i < weights.length; i++, at += step) sum += values[at] * weights[i];
  return Math.min(Math.max(sum >> 22, 0), 255);
}

function cubic(source, target) {
  const scale = source / target, stretch = Math.max(scale, 1), support = 2 * stretch, inverse = 1 / stretch;
  const firsts = new Int32Array(target), weights = [];
  for (let at = 0; at < target; at++) {
    const centre = (at + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), source);
    const line = [];
    let sum = 0;
    for (let i = first; i < end; i++) {
      line.push(keys((i - centre + 0.5) * inverse));
      sum += line[line.length - 1];
    }
    firsts[at] = first;
    weights.push(line.map((w) => Math.trunc((w / sum) * (1 << 22) + (w / sum < 0 ? -0.5 : 0.5))));
  }
  return { first: firsts, weights };
}

function keys(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}
