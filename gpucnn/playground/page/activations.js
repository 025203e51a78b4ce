// Activations by name: a function of one number and the operation's arguments.

const sigmoid = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));

/** The error function: its power series near 0, a continued fraction beyond, as far as double precision goes. */
function erf(x) {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 2.5) {
    let term = a;
    let sum = a;
    for (let n = 1; Math.abs(term) > 1e-17 * sum; n++) {
      term *= (-a * a) / n;
      sum += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / ((a + fraction) * Math.sqrt(Math.PI)));
}

const activations = {
  relu: (x) => (x > 0 ? x : x === x ? 0 : x),
  sigmoid,
  tanh: Math.tanh,
  leakyrelu: (x, { negative_slope: slope }) => (x > 0 ? x : slope * x),
  elu: (x, { alpha }) => (x > 0 ? x : alpha * Math.expm1(x)),
  selu: (x) => 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * Math.expm1(x)),
  gelu: (x, { approximate }) =>
    approximate === "tanh"
      ? 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
      : 0.5 * x * (1 + erf(x / Math.SQRT2)),
  silu: (x) => x * sigmoid(x),
  softplus: (x, { beta, threshold }) =>
    beta * x > threshold ? x : (Math.max(beta * x, 0) + Math.log1p(Math.exp(-Math.abs(beta * x)))) / beta,
  hardsigmoid: (x) => Math.min(Math.max(x / 6 + 0.5, 0), 1),
  affine: (x, { slope, intercept }) => slope * x + intercept,
  exponential: Math.exp,
  hardswish: (x) => x * Math.min(Math.max(x / 6 + 0.5, 0), 1),
  clip: (x, { slope, intercept, low, high }) => Math.min(Math.max(slope * x + intercept, low), high),
};

kernels.activation = (operation, [x], y) => {
  const f = activations[operation.arguments.function];
  for (let i = 0; i < x.length; i++) y[i] = f(x[i], operation.arguments);
};

/** The slope of an activation at x, by the difference of its values close by. */
function slopeAt(operation, x) {
  if (operation.arguments.function === "relu") return x > 0 ? 1 : 0;
  const f = activations[operation.arguments.function];
  const h = 1e-5 * Math.max(1, Math.abs(x));
  return (f(x + h, operation.arguments) - f(x - h, operation.arguments)) / (2 * h);
}
