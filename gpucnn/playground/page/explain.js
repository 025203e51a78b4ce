// How one number came about: explain(value, index, values) returns its parts, which add up (or otherwise lead) to it.

/** Where number `index` of a value lies: its channel, row and column. */
function placeOf(value, index) {
  const [, H, W] = asMaps(shapeOf(value));
  const channel = Math.floor(index / (H * W));
  const rest = index - channel * H * W;
  return { channel, row: Math.floor(rest / W), column: rest % W };
}

/** The number at a place of a value. */
function indexAt(value, { channel, row, column }) {
  const [, H, W] = asMaps(shapeOf(value));
  return (channel * H + row) * W + column;
}

/**
 * A window on one channel of a value: {from, channel, rows, columns, cells}, a cell being {index, x, w}; index -1 is
 * padding, and w is left out where nothing is multiplied.
 */
function windowPart(operation, place, channel, values, weightAt) {
  const from = operation.inputs[0];
  const [KH, KW] = operation.arguments.kernel;
  const { rows, columns: across } = windowOf(operation);
  const cells = [];
  for (let i = 0; i < KH; i++) {
    for (let j = 0; j < KW; j++) {
      const row = rows[place.row * KH + i];
      const column = across[place.column * KW + j];
      const index = row < 0 || column < 0 ? -1 : indexAt(from, { channel, row, column });
      cells.push({ index, x: index < 0 ? 0 : values[from][index], w: weightAt?.(i, j) });
    }
  }
  const sum = cells.reduce((total, cell) => total + (cell.w === undefined ? 0 : cell.x * cell.w), 0);
  return { from, channel, rows: KH, columns: KW, cells, sum };
}

const explanations = {
  conv(operation, place, values) {
    const { weight, bias } = operation.arrays;
    const { groups, kernel: [KH, KW] } = operation.arguments;
    const [C] = shapeOf(operation.inputs[0]);
    const channels = C / groups;
    const first = Math.floor(place.channel / (operation.shape[0] / groups)) * channels;
    const parts = Array.from({ length: channels }, (_, c) =>
      windowPart(operation, place, first + c, values, (i, j) => weight[((place.channel * channels + c) * KH + i) * KW + j]));
    const each = bias && bias.length === operation.shape[0];
    const [, OH, OW] = operation.shape;
    const offset = !bias ? undefined : bias[each ? place.channel : (place.channel * OH + place.row) * OW + place.column];
    return { parts, bias: offset };
  },
  max_pool(operation, place, values) {
    const part = windowPart(operation, place, place.channel, values);
    const there = part.cells.filter((cell) => cell.index >= 0);
    part.chosen = there.reduce((best, cell) => (cell.x > best.x ? cell : best)).index;
    return { parts: [part] };
  },
  avg_pool(operation, place, values) {
    const [down, right] = operation.arguments.counts;
    const count = down[place.row] * right[place.column];
    return { parts: [windowPart(operation, place, place.channel, values, () => 1 / count)], count };
  },
  bins_mean: (operation, place, values) => binPart(operation, place, values, (seen) => 1 / seen.length),
  bins_max(operation, place, values) {
    const found = binPart(operation, place, values);
    found.parts[0].chosen = found.parts[0].cells.reduce((best, cell) => (cell.x > best.x ? cell : best)).index;
    return found;
  },
  linear(operation, place, values) {
    const from = operation.inputs[0];
    const { weight, bias } = operation.arrays;
    const x = values[from];
    const cells = Array.from(x, (value, index) => ({ index, x: value, w: weight[place.channel * x.length + index] }));
    const sum = cells.reduce((total, cell) => total + cell.x * cell.w, 0);
    return { parts: [{ from, list: true, cells, sum }], bias: bias?.[place.channel] };
  },
  norm(operation, place, values, index) {
    const { mean, scale, shift } = operation.arrays;
    const [m, s, b] = [mean, scale, shift].map((array) => array[place.channel]);
    return { ...sameIndex(operation, values, index), formula: { kind: "norm", mean: m, scale: s, shift: b } };
  },
  activation: (operation, place, values, index) =>
    ({ ...sameIndex(operation, values, index), formula: { kind: "function", name: operation.arguments.function } }),
  flatten: (operation, place, values, index) => sameIndex(operation, values, index),
  identity: (operation, place, values, index) => sameIndex(operation, values, index),
  add: (operation, place, values, index) =>
    ({ parts: operation.inputs.map((from) => ({ from, list: true, cells: [{ index, x: values[from][index], w: 1 }], sum: values[from][index] })) }),
  multiply: (operation, place, values, index) => ({ ...explanations.add(operation, place, values, index), formula: { kind: "product" } }),
  concat(operation, place, values, index) {
    let at = index;
    const from = operation.inputs.find((k) => at < values[k].length || ((at -= values[k].length), false));
    return { parts: [{ from, list: true, cells: [{ index: at, x: values[from][at], w: 1 }], sum: values[from][at] }] };
  },
  softmax: (operation, place, values, index) =>
    ({ ...sameIndex(operation, values, index), formula: { kind: "softmax", logarithm: false } }),
  log_softmax: (operation, place, values, index) =>
    ({ ...sameIndex(operation, values, index), formula: { kind: "softmax", logarithm: true } }),
};

/** The number of the same index of the only input. */
function sameIndex(operation, values, index) {
  const from = operation.inputs[0];
  const x = values[from][index];
  return { parts: [{ from, list: true, cells: [{ index, x, w: 1 }], sum: x }] };
}

/** The bin that an output of pooling to bins covers, as one window. */
function binPart(operation, place, values, weight) {
  const from = operation.inputs[0];
  const [, H, W] = shapeOf(from);
  const [, OH, OW] = operation.shape;
  const [top, bottom] = bin(place.row, H, OH);
  const [left, right] = bin(place.column, W, OW);
  const cells = [];
  for (let row = top; row < bottom; row++)
    for (let column = left; column < right; column++) {
      const index = indexAt(from, { channel: place.channel, row, column });
      cells.push({ index, x: values[from][index] });
    }
  if (weight) for (const cell of cells) cell.w = weight(cells);
  const sum = weight ? cells.reduce((total, cell) => total + cell.x * cell.w, 0) : 0;
  return { parts: [{ from, channel: place.channel, rows: bottom - top, columns: right - left, cells, sum }] };
}

/** The parts of a number; of the image: what Python made of the pixel. */
function explain(value, index, values) {
  const place = placeOf(value, index);
  if (!value) return { value, index, place, y: values[0][index], parts: [], formula: { kind: "pixel" } };
  const operation = operations[value - 1];
  return { value, index, place, y: values[value][index], operation, ...explanations[operation.kind](operation, place, values, index) };
}

/** The number before that had most to do with this one: [value, index]; null at the image. */
function biggestCause(explanation) {
  let best = null;
  let most = -1;
  for (const part of explanation.parts) {
    for (const cell of part.cells) {
      if (cell.index < 0) continue;
      const chosen = part.chosen === cell.index;
      const size = chosen ? Infinity : Math.abs(cell.w === undefined ? 0 : cell.w * cell.x);
      if (size > most) {
        most = size;
        best = [part.from, cell.index];
      }
    }
  }
  return best;
}
