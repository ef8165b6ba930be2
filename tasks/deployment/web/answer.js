// From a network's outputs to the row that tasks/run.py prints, by the metadata of the model.

export const OUTPUTS = {
  detection: ["boxes_xyxy", "scores", "labels", "count"],
  classification: ["probabilities"],
  face_attributes: ["probabilities", "present"],
  face_embeddings: ["embedding"],
  geolocalization: ["probabilities", "latlng"],
};

// `outputs`: arrays of numbers by name, of one picture of width x height; objects of `conf` or more are told.
export function rowOf(about, outputs, width, height, conf = 0.3, top = 5) {
  const { probabilities } = outputs;
  switch (about.task) {
    case "detection": {
      const objects = [];
      for (let i = 0; i < outputs.count[0]; i++) {
        if (outputs.scores[i] < Math.fround(conf)) break; // the best come first
        const box = Array.from(outputs.boxes_xyxy.slice(4 * i, 4 * i + 4), (x, k) => x * (k % 2 ? height : width));
        objects.push({ name: about.names[outputs.labels[i]], label: outputs.labels[i], score: outputs.scores[i], box_xyxy: box });
      }
      return { objects };
    }
    case "face_attributes":
      return {
        attributes: about.names.map((name, i) => ({ name, probability: probabilities[i], present: Boolean(outputs.present[i]) })),
      };
    case "face_embeddings":
      return { embedding: Array.from(outputs.embedding) };
    case "classification":
      return { classes: best(probabilities, top).map((i) => ({ name: about.names[i], probability: probabilities[i] })) };
    default: {
      const { latlng, tokens } = about.cells;
      const cells = best(probabilities, top).map((i) => ({
        latitude: latlng[i][0], longitude: latlng[i][1], probability: probabilities[i], cell: tokens[i],
      }));
      return { latitude: outputs.latlng[0], longitude: outputs.latlng[1], cells };
    }
  }
}

function best(values, top) {
  return Array.from(values.keys()).sort((i, j) => values[j] - values[i]).slice(0, top);
}

// The squared distance of two embeddings, which the model's threshold is for.
export function distance(one, other) {
  return one.reduce((sum, x, i) => sum + (x - other[i]) ** 2, 0);
}

// A name as one line of characters that are seen, cut.
export function seen(text, most = 60) {
  const escaped = Array.from(text, (c) =>
    /[\p{C}\p{Z}]/u.test(c) && c !== " " ? `\\u{${c.codePointAt(0).toString(16)}}` : c).join("");
  const characters = Array.from(escaped);
  return characters.length <= most ? escaped : characters.slice(0, most - 1).join("") + "…";
}

// The colour of a class, as CSS: steps of hue by the golden ratio, so that neighbours differ; and that of letters on it.
export function colourOf(label) {
  const hue = (0.58 + label * 0.6180339887) % 1;
  const channel = (at) => { // of lightness 0.5 and saturation 0.9
    const x = (((at % 1) + 1) % 1) * 6;
    return Math.round(255 * (0.05 + 0.9 * Math.min(1, Math.max(0, Math.abs(x - 3) - 1))));
  };
  const [red, green, blue] = [channel(hue), channel(hue - 1 / 3), channel(hue - 2 / 3)];
  return { fill: `rgb(${red}, ${green}, ${blue})`, text: 0.3 * red + 0.6 * green + 0.1 * blue > 115 ? "black" : "white" };
}
