// The operations, forward: kernels[kind](operation, inputs, output). Arrays are (channels, rows, columns), as in Python.
// Sums are made in double precision and stored in single precision.

const kernels = {};

/** Pixels that are unfolded at once: their windows stay in the processor's cache. */
const COLUMN_NUMBERS = 1 << 14;
let columns = new Float32Array(COLUMN_NUMBERS);

/** The index in a row of n that position i stands for; -1 where it is padding of zeros. */
function inside(i, n, border) {
  if (i >= 0 && i < n) return i;
  if (border === "replicate") return i < 0 ? 0 : n - 1;
  if (border === "reflect") return i < 0 ? -i : 2 * (n - 1) - i;
  return -1;
}

/** For each window position along one axis and each tap of the kernel, the index in the image, or -1. */
function taps(n, out, kernel, stride, before, dilation, border) {
  const found = new Int32Array(out * kernel);
  for (let o = 0; o < out; o++)
    for (let k = 0; k < kernel; k++) found[o * kernel + k] = inside(o * stride - before + k * dilation, n, border);
  return found;
}

/** The taps of an operation with a window, along rows and columns; computed once. */
function windowOf(operation) {
  if (!operation.taps) {
    const { kernel, stride, padding, dilation, border } = operation.arguments;
    const [, H, W] = shapeOf(operation.inputs[0]);
    const [, OH, OW] = operation.shape;
    operation.taps = {
      rows: taps(H, OH, kernel[0], stride[0], padding[0], dilation[0], border),
      columns: taps(W, OW, kernel[1], stride[1], padding[2], dilation[1], border),
    };
  }
  return operation.taps;
}

/** Unfold `count` output pixels from `first` on: columns[k * count + p], k = (channel, row, column) of the window. */
function unfold(operation, x, channel, channels, first, count) {
  const [, H, W] = shapeOf(operation.inputs[0]);
  const [KH, KW] = operation.arguments.kernel;
  const OW = operation.shape[2];
  const { rows, columns: across } = windowOf(operation);
  let at = 0;
  for (let c = channel; c < channel + channels; c++) {
    for (let i = 0; i < KH; i++) {
      for (let j = 0; j < KW; j++) {
        let oy = Math.floor(first / OW);
        let ox = first - oy * OW;
        for (let p = 0; p < count; p++) {
          const y = rows[oy * KH + i];
          const z = across[ox * KW + j];
          columns[at++] = y < 0 || z < 0 ? 0 : x[(c * H + y) * W + z];
          if (++ox === OW) {
            ox = 0;
            oy++;
          }
        }
      }
    }
  }
}

/** y[f, p] = bias + sum over k of w[f, k] columns[k, p], four filters and two pixels at a time. */
function multiply(w, filter, filters, K, count, y, pixels, first) {
  let f = filter;
  for (; f + 4 <= filter + filters; f += 4) {
    const w0 = f * K;
    const w1 = w0 + K;
    const w2 = w1 + K;
    const w3 = w2 + K;
    for (let p = 0; p < count; p += 2) {
      const second = p + 1 < count ? 1 : 0;
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
      for (let k = 0, at = p; k < K; k++, at += count) {
        const u = columns[at];
        const v = columns[at + second];
        const q0 = w[w0 + k], q1 = w[w1 + k], q2 = w[w2 + k], q3 = w[w3 + k];
        a0 += q0 * u; b0 += q0 * v;
        a1 += q1 * u; b1 += q1 * v;
        a2 += q2 * u; b2 += q2 * v;
        a3 += q3 * u; b3 += q3 * v;
      }
      const at = f * pixels + first + p;
      y[at] = a0; y[at + pixels] = a1; y[at + 2 * pixels] = a2; y[at + 3 * pixels] = a3;
      if (second) {
        y[at + 1] = b0; y[at + pixels + 1] = b1; y[at + 2 * pixels + 1] = b2; y[at + 3 * pixels + 1] = b3;
      }
    }
  }
  for (; f < filter + filters; f++) {
    for (let p = 0; p < count; p++) {
      let sum = 0;
      for (let k = 0, at = p; k < K; k++, at += count) sum += w[f * K + k] * columns[at];
      y[f * pixels + first + p] = sum;
    }
  }
}

kernels.conv = (operation, [x], y) => {
  const { weight, bias } = operation.arrays;
  const { groups, kernel } = operation.arguments;
  const [C] = shapeOf(operation.inputs[0]);
  const [F, OH, OW] = operation.shape;
  const pixels = OH * OW;
  const channels = C / groups;
  const filters = F / groups;
  const K = channels * kernel[0] * kernel[1];
  const most = Math.max(8, Math.floor(COLUMN_NUMBERS / K));
  if (columns.length < K * most) columns = new Float32Array(K * most);
  for (let g = 0; g < groups; g++) {
    for (let first = 0; first < pixels; first += most) {
      const count = Math.min(most, pixels - first);
      unfold(operation, x, g * channels, channels, first, count);
      multiply(weight, g * filters, filters, K, count, y, pixels, first);
    }
  }
  if (!bias) return;
  const each = bias.length === F ? pixels : 1; // a bias per filter, or one per place
  for (let i = 0; i < bias.length; i++) for (let at = i * each; at < (i + 1) * each; at++) y[at] += bias[i];
};

kernels.max_pool = (operation, [x], y) => {
  const [C, H, W] = shapeOf(operation.inputs[0]);
  const [, OH, OW] = operation.shape;
  const [KH, KW] = operation.arguments.kernel;
  const { rows, columns: across } = windowOf(operation);
  for (let c = 0, at = 0; c < C; c++) {
    for (let oy = 0; oy < OH; oy++) {
      for (let ox = 0; ox < OW; ox++) {
        let most = -Infinity;
        for (let i = 0; i < KH; i++) {
          const row = rows[oy * KH + i];
          if (row < 0) continue;
          for (let j = 0; j < KW; j++) {
            const column = across[ox * KW + j];
            if (column < 0) continue;
            const value = x[(c * H + row) * W + column];
            if (value > most || value !== value) most = value;
          }
        }
        y[at++] = most;
      }
    }
  }
};

kernels.avg_pool = (operation, [x], y) => {
  const [C, H, W] = shapeOf(operation.inputs[0]);
  const [, OH, OW] = operation.shape;
  const [KH, KW] = operation.arguments.kernel;
  const { rows, columns: across } = windowOf(operation);
  const [down, right] = operation.arguments.counts;
  for (let c = 0, at = 0; c < C; c++) {
    for (let oy = 0; oy < OH; oy++) {
      for (let ox = 0; ox < OW; ox++) {
        let sum = 0;
        for (let i = 0; i < KH; i++) {
          const row = rows[oy * KH + i];
          if (row < 0) continue;
          for (let j = 0; j < KW; j++) {
            const column = across[ox * KW + j];
            if (column >= 0) sum += x[(c * H + row) * W + column];
          }
        }
        y[at++] = sum / (down[oy] * right[ox]);
      }
    }
  }
};

/** The bin [first, last) of n that output i of `count` covers, as in PyTorch. */
const bin = (i, n, count) => [Math.floor((i * n) / count), Math.ceil(((i + 1) * n) / count)];

/** Call `visit(output, its input indices)` for each output of pooling to bins. */
function eachBin(operation, visit) {
  const [C, H, W] = shapeOf(operation.inputs[0]);
  const [, OH, OW] = operation.shape;
  for (let c = 0, at = 0; c < C; c++)
    for (let oy = 0; oy < OH; oy++)
      for (let ox = 0; ox < OW; ox++) {
        const [top, bottom] = bin(oy, H, OH);
        const [left, right] = bin(ox, W, OW);
        const seen = [];
        for (let i = top; i < bottom; i++) for (let j = left; j < right; j++) seen.push((c * H + i) * W + j);
        visit(at++, seen);
      }
}

kernels.bins_mean = (operation, [x], y) =>
  eachBin(operation, (at, seen) => { y[at] = seen.reduce((sum, i) => sum + x[i], 0) / seen.length; });

kernels.bins_max = (operation, [x], y) =>
  eachBin(operation, (at, seen) => { y[at] = seen.reduce((most, i) => (x[i] > most ? x[i] : most), -Infinity); });

kernels.norm = (operation, [x], y) => {
  const { mean, scale, shift } = operation.arrays;
  const pixels = x.length / mean.length;
  for (let c = 0, at = 0; c < mean.length; c++)
    for (let p = 0; p < pixels; p++, at++) y[at] = (x[at] - mean[c]) * scale[c] + shift[c];
};

kernels.linear = (operation, [x], y) => {
  const { weight, bias } = operation.arrays;
  for (let o = 0; o < y.length; o++) {
    let sum = bias ? bias[o] : 0;
    for (let i = 0, at = o * x.length; i < x.length; i++) sum += weight[at++] * x[i];
    y[o] = sum;
  }
};

kernels.flatten = kernels.identity = (operation, [x], y) => y.set(x);

kernels.add = (operation, inputs, y) => {
  y.set(inputs[0]);
  for (const x of inputs.slice(1)) for (let i = 0; i < y.length; i++) y[i] += x[i];
};

kernels.multiply = (operation, [a, b], y) => {
  for (let i = 0; i < y.length; i++) y[i] = a[i] * b[i];
};

kernels.concat = (operation, inputs, y) => {
  let at = 0;
  for (const x of inputs) {
    y.set(x, at);
    at += x.length;
  }
};

kernels.softmax = (operation, [x], y) => y.set(softmax(x));

kernels.log_softmax = (operation, [x], y) => {
  const most = x.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = x.reduce((total, value) => total + Math.exp(value - most), 0);
  for (let i = 0; i < x.length; i++) y[i] = x[i] - most - Math.log(sum);
};

/** e^x / sum(e^x), in double precision. */
function softmax(x) {
  const most = x.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(x, (value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}
