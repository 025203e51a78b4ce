// Running the network: all values are kept, since all of them are shown.

const emptyValues = () => [sizeOf(given.image), ...operations.map((o) => sizeOf(o.shape))].map((n) => new Float32Array(n));

/** Run the network on values[0], one operation per step; `off` maps values to the set of channels that are zeroed. */
function* running(values, off) {
  for (let at = 0; at < operations.length; at++) {
    const operation = operations[at];
    kernels[operation.kind](operation, operation.inputs.map((k) => values[k]), values[at + 1]);
    const silent = silenced(values[at + 1], at + 1, off);
    if (silent !== values[at + 1]) values[at + 1].set(silent);
    yield;
  }
}

/** The result for a preprocessed image (C, H, W): all values, the last one being the scores. For tests and the console. */
function forward(image, off = new Map()) {
  const values = emptyValues();
  values[0].set(image);
  for (const _ of running(values, off));
  return values;
}
