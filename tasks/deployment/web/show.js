// What is shown of a row: boxes over the picture, the map, and the same as text. Names are text, never HTML.

import { colourOf, seen } from "./answer.js";

// Boxes and their names on a canvas over the picture, with lines and letters of one size on every screen.
export function drawBoxes(canvas, objects, width, height) {
  const longest = Math.max(width, height), scale = Math.min(1600 / longest, Math.max(1, 960 / longest));
  const pen = canvas.getContext("2d");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const size = (13 * canvas.width) / (canvas.clientWidth || canvas.width), labels = [];
  pen.lineWidth = size / 6;
  pen.font = `600 ${size}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  for (const { name, label, score, box_xyxy } of [...objects].reverse()) { // the best lies on top
    const colour = colourOf(label), [left, top, right, bottom] = box_xyxy.map((x) => x * scale);
    pen.strokeStyle = colour.fill;
    pen.strokeRect(left, top, right - left, bottom - top);
    labels.push({ text: `${seen(name)} ${score.toFixed(2)}`, colour, left, top });
  }
  for (const { text, colour, left, top } of labels) { // above every box
    const across = pen.measureText(text).width + size * 0.6, down = size * 1.35;
    const x = Math.max(0, Math.min(left, canvas.width - across)), y = Math.max(0, top >= down ? top - down : top);
    pen.fillStyle = colour.fill;
    pen.fillRect(x, y, across, down);
    pen.fillStyle = colour.text;
    pen.fillText(text, x + size * 0.3, y + size * 0.2);
  }
}

// The world, longitude across, with the likely places; the answer is the ring.
export function drawMap(canvas, coastline, { latitude, longitude, cells }) {
  const pen = canvas.getContext("2d"), style = getComputedStyle(canvas);
  const x = (degrees) => ((degrees + 180) / 360) * canvas.width, y = (degrees) => ((90 - degrees) / 180) * canvas.height;
  pen.fillStyle = style.getPropertyValue("--sea");
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = style.getPropertyValue("--land");
  pen.strokeStyle = style.getPropertyValue("--paper");
  pen.lineWidth = 1;
  for (const ring of coastline) {
    pen.beginPath();
    for (let i = 0; i < ring.length; i += 2) pen.lineTo(x(ring[i] / 100), y(ring[i + 1] / 100));
    pen.closePath();
    pen.fill();
    pen.stroke();
  }
  for (const cell of [...cells].reverse()) {
    pen.beginPath();
    pen.arc(x(cell.longitude), y(cell.latitude), 10 + 22 * Math.sqrt(cell.probability), 0, 7);
    pen.fillStyle = `rgba(213, 94, 0, ${0.5 + 0.4 * cell.probability})`;
    pen.fill();
  }
  pen.lineWidth = 5;
  pen.strokeStyle = style.getPropertyValue("--ink");
  pen.beginPath();
  pen.arc(x(longitude), y(latitude), 14, 0, 7);
  pen.stroke();
  pen.beginPath();
  pen.arc(x(longitude), y(latitude), 3, 0, 7);
  pen.stroke();
}

// A row in words, as elements.
export function tell(row, about) {
  if (row.objects) {
    const count = row.objects.length;
    const line = element("p", count ? `${count} object${count > 1 ? "s" : ""}` : "No object of this score; a lower one may show some.");
    const lines = row.objects.map(({ name, label, score, box_xyxy }) => [
      marked(seen(name), colourOf(label).fill), score.toFixed(2), box_xyxy.map((x) => x.toFixed(0)).join(", "),
    ]);
    return count ? [line, table(["Object", "Score", "Left, top, right, bottom"], lines)] : [line];
  }
  if (row.classes)
    return [table(["Class", "Probability"], row.classes.map(({ name, probability }) => [barred(seen(name), probability), probability.toFixed(2)]))];
  if (row.attributes) {
    const present = row.attributes.filter((one) => one.present).map((one) => seen(one.name));
    const lines = [...row.attributes].sort((one, other) => other.present - one.present || other.probability - one.probability)
      .map(({ name, probability, present }) => [barred(seen(name), probability), probability.toFixed(2), present ? "yes" : "no"]);
    return [element("p", present.length ? present.join(", ") : "None of the attributes.", "big"), table(["Attribute", "Probability", "Present"], lines)];
  }
  if (row.embedding) return ofFaces(row, about);
  const lines = row.cells.map(({ latitude, longitude, probability, cell }) => [
    barred(degrees(latitude, longitude), probability), probability.toFixed(2), seen(cell),
  ]);
  return [element("p", degrees(row.latitude, row.longitude), "big"), table(["Likely place", "Probability", "Cell"], lines)];
}

function ofFaces({ embedding, distance }, about) {
  if (distance === undefined) return [element("p", `${embedding.length} numbers stand for this face. Give a second photograph to compare.`)];
  const most = about.thresholds;
  const verdict = typeof most !== "number" ? "Squared distance" : distance <= most ? "One person" : "Two people";
  const rest = typeof most === "number" ? `; up to ${most.toPrecision(3)} is taken for one person` : "; the model has no threshold";
  return [element("p", verdict, "big"), element("p", `The squared distance is ${distance.toPrecision(3)}${rest}.`)];
}

function degrees(latitude, longitude) {
  const one = (x, letters) => `${Math.abs(x).toFixed(2)}° ${letters[Number(x < 0)]}`;
  return `${one(latitude, "NS")}, ${one(longitude, "EW")}`;
}

function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function marked(text, colour) {
  const made = element("span"), mark = element("span", "", "mark");
  mark.style.background = colour;
  made.append(mark, text);
  return made;
}

function barred(text, part) {
  const made = element("div", text), bar = element("div", "", "bar"), inside = element("div");
  inside.style.width = `${100 * Math.min(1, Math.max(0, part))}%`;
  bar.setAttribute("aria-hidden", "true"); // the number says it
  bar.append(inside);
  made.append(bar);
  return made;
}

function table(heads, lines) {
  const made = element("table"), head = made.createTHead().insertRow(), body = made.createTBody();
  const isNumber = (k) => ["Score", "Probability"].includes(heads[k]) ? "number" : "";
  heads.forEach((text, k) => {
    const cell = element("th", text, isNumber(k));
    cell.scope = "col";
    head.append(cell);
  });
  for (const line of lines) {
    const row = body.insertRow();
    line.forEach((content, k) => {
      const cell = row.insertCell();
      cell.className = isNumber(k);
      cell.append(content);
    });
  }
  return made;
}
