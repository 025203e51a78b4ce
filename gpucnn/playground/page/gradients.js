// The operations, backward: gradients[kind](operation, dy, inputs, y) returns the gradient of each input. And Grad-CAM.

const gradients = {};

gradients.conv = (operation, dy, [x]) => {
  const dx = new Float32Array(x.length);
  const { weight } = operation.arrays;
  const { groups, kernel: [KH, KW] } = operation.arguments;
  const [C, H, W] = shapeOf(operation.inputs[0]);
  const [F, OH, OW] = operation.shape;
  const { rows, columns: across } = windowOf(operation);
  const channels = C / groups;
  for (let f = 0; f < F; f++) {
    const first = Math.floor(f / (F / groups)) * channels;
    for (let oy = 0; oy < OH; oy++) {
      for (let ox = 0; ox < OW; ox++) {
        const d = dy[(f * OH + oy) * OW + ox];
        if (!d) continue;
        for (let c = 0; c < channels; c++) {
          for (let i = 0; i < KH; i++) {
            const row = rows[oy * KH + i];
            if (row < 0) continue;
            const to = ((first + c) * H + row) * W;
            const from = ((f * channels + c) * KH + i) * KW;
            for (let j = 0; j < KW; j++) {
              const column = across[ox * KW + j];
              if (column >= 0) dx[to + column] += d * weight[from + j];
            }
          }
        }
      }
    }
  }
  return [dx];
};

/** Call `visit(output, inputs it sees)` for each output of a pooling window. */
function eachWindow(operation, visit) {
  const [C, H, W] = shapeOf(operation.inputs[0]);
  const [, OH, OW] = operation.shape;
  const [KH, KW] = operation.arguments.kernel;
  const { rows, columns: across } = windowOf(operation);
  for (let c = 0, at = 0; c < C; c++)
    for (let oy = 0; oy < OH; oy++)
      for (let ox = 0; ox < OW; ox++) {
        const seen = [];
        for (let i = 0; i < KH; i++)
          for (let j = 0; j < KW; j++) {
            const row = rows[oy * KH + i];
            const column = across[ox * KW + j];
            if (row >= 0 && column >= 0) seen.push((c * H + row) * W + column);
          }
        visit(at++, seen, oy, ox);
      }
}

/** The gradient of a maximum goes to the first of the largest. */
const toLargest = (each) => (operation, dy, [x]) => {
  const dx = new Float32Array(x.length);
  each(operation, (at, seen) => { dx[seen.reduce((best, i) => (x[i] > x[best] ? i : best))] += dy[at]; });
  return [dx];
};

gradients.max_pool = toLargest(eachWindow);
gradients.bins_max = toLargest(eachBin);

gradients.avg_pool = (operation, dy, [x]) => {
  const dx = new Float32Array(x.length);
  const [down, right] = operation.arguments.counts;
  eachWindow(operation, (at, seen, oy, ox) => {
    for (const i of seen) dx[i] += dy[at] / (down[oy] * right[ox]);
  });
  return [dx];
};

gradients.bins_mean = (operation, dy, [x]) => {
  const dx = new Float32Array(x.length);
  eachBin(operation, (at, seen) => { for (const i of seen) dx[i] += dy[at] / seen.length; });
  return [dx];
};

gradients.norm = (operation, dy) => {
  const { scale } = operation.arrays;
  const pixels = dy.length / scale.length;
  return [dy.map((d, i) => d * scale[Math.floor(i / pixels)])];
};

gradients.activation = (operation, dy, [x]) => [dy.map((d, i) => (d ? d * slopeAt(operation, x[i]) : 0))];

gradients.linear = (operation, dy, [x]) => {
  const dx = new Float32Array(x.length);
  const { weight } = operation.arrays;
  for (let o = 0; o < dy.length; o++) {
    if (!dy[o]) continue;
    for (let i = 0; i < x.length; i++) dx[i] += dy[o] * weight[o * x.length + i];
  }
  return [dx];
};

gradients.flatten = gradients.identity = (operation, dy) => [dy];
gradients.add = (operation, dy, inputs) => inputs.map(() => dy);

gradients.multiply = (operation, dy, [a, b]) => [dy.map((d, i) => d * b[i]), dy.map((d, i) => d * a[i])];

gradients.concat = (operation, dy, inputs) => {
  let at = 0;
  return inputs.map((x) => dy.subarray(at, (at += x.length)));
};

gradients.softmax = (operation, dy, inputs, y) => {
  const dot = dy.reduce((sum, d, i) => sum + d * y[i], 0);
  return [dy.map((d, i) => y[i] * (d - dot))];
};

gradients.log_softmax = (operation, dy, inputs, y) => {
  const sum = dy.reduce((a, b) => a + b, 0);
  return [dy.map((d, i) => d - Math.exp(y[i]) * sum)];
};

/** The gradient of the network's output `target` with respect to value `layer`; null where it does not depend on it. */
function gradientAt(values, target, layer, off) {
  const last = operations.length;
  const found = new Map([[last, new Float32Array(sizeOf(shapeOf(last)))]]);
  found.get(last)[target] = 1;
  for (let value = last; value > layer; value--) {
    let dy = found.get(value);
    if (!dy) continue;
    found.delete(value);
    dy = silenced(dy, value, off);
    const operation = operations[value - 1];
    const inputs = operation.inputs.map((k) => values[k]);
    gradients[operation.kind](operation, dy, inputs, values[value]).forEach((dx, i) => {
      const before = found.get(operation.inputs[i]);
      found.set(operation.inputs[i], before ? before.map((d, j) => d + dx[j]) : dx);
    });
  }
  return found.get(layer) ?? null;
}

/** Zero the channels of an array that are switched off in value `value`; a copy where there are any. */
function silenced(array, value, off) {
  const channels = off.get(value);
  if (!channels || !channels.size) return array;
  const copy = array.slice();
  const pixels = array.length / asMaps(shapeOf(value))[0];
  for (const c of channels) copy.fill(0, c * pixels, (c + 1) * pixels);
  return copy;
}

/** Values that Grad-CAM can look at: layers of maps with more than one pixel. The last convolution's result is the usual. */
const mapLayers = operations.map((_, i) => i + 1).filter((k) => shapeOf(k).length === 3 && shapeOf(k)[1] * shapeOf(k)[2] > 1);

/** The last convolution with the normalisation and activation that come after it, as `gpucnn.inspect.grad_cam` takes it. */
function usualLayer() {
  let found = operations.findLastIndex((operation) => operation.kind === "conv") + 1;
  const size = String(shapeOf(found));
  for (let value = found + 1; found && value <= operations.length && String(shapeOf(value)) === size; value++) {
    const { kind } = operations[value - 1];
    if (["norm", "activation", "identity"].includes(kind)) found = value;
    else if (kind !== "add") break; // a sum is no layer of its own there
  }
  return found;
}

/** Grad-CAM (Selvaraju et al. 2017): maps weighed by the mean of their gradient, summed, cut at 0, as an image's heat. */
function gradCam(values, target, layer, off) {
  const [K, h, w] = shapeOf(layer);
  const [, H, W] = given.image;
  const gradient = gradientAt(values, target, layer, off);
  const total = new Float32Array(h * w);
  if (!gradient) return new Float32Array(H * W);
  const maps = values[layer];
  for (let k = 0; k < K; k++) {
    let mean = 0;
    for (let p = 0; p < h * w; p++) mean += gradient[k * h * w + p];
    mean /= h * w;
    for (let p = 0; p < h * w; p++) total[p] += mean * maps[k * h * w + p];
  }
  const heat = stretched(total.map((v) => Math.max(v, 0)), h, w, H, W);
  const most = heat.reduce((a, b) => Math.max(a, b), 0);
  return most > 0 ? heat.map((v) => v / most) : heat;
}

/** A map (h, w) at the size (H, W), bilinear. */
function stretched(map, h, w, H, W) {
  const at = (i, n, m) => {
    const place = Math.min(Math.max(((i + 0.5) * n) / m - 0.5, 0), n - 1);
    const first = Math.floor(place);
    return [first, Math.min(first + 1, n - 1), place - first];
  };
  const out = new Float32Array(H * W);
  for (let y = 0; y < H; y++) {
    const [top, bottom, down] = at(y, h, H);
    for (let x = 0; x < W; x++) {
      const [left, right, across] = at(x, w, W);
      const upper = map[top * w + left] * (1 - across) + map[top * w + right] * across;
      const lower = map[bottom * w + left] * (1 - across) + map[bottom * w + right] * across;
      out[y * W + x] = upper * (1 - down) + lower * down;
    }
  }
  return out;
}
