// From a picture (RGBA pixels of a canvas) to what the network takes: as Python's `gpucnn predict` does, with the browser's scaling.

const [channelsIn, rowsIn, columnsIn] = given.image;
const isGrey = channelsIn === 1;

/** Brightness from which a pixel counts as ink; differences below FAINTEST are noise. As in gpucnn/data/pictures.py. */
const MARKED = 64;
const FAINTEST = 16;

/** Grey values (0 to 255) of RGBA pixels, with the weights of ITU-R 601, as Pillow has them. */
function greyOf(rgba) {
  const grey = new Float32Array(rgba.length / 4);
  for (let i = 0; i < grey.length; i++) grey[i] = 0.299 * rgba[4 * i] + 0.587 * rgba[4 * i + 1] + 0.114 * rgba[4 * i + 2];
  return grey;
}

/** For n pixels scaled to m: the first source pixel that each target pixel covers, how many, and the share of each. */
function covered(n, m) {
  const size = n / m;
  return Array.from({ length: m }, (_, i) => {
    const [start, end] = [i * size, Math.min((i + 1) * size, n)];
    const first = Math.floor(start + 1e-9);
    const shares = [];
    for (let at = first; at < end - 1e-9; at++) shares.push((Math.min(end, at + 1) - Math.max(start, at)) / (end - start));
    return { first, shares };
  });
}

/** A plane (h, w) scaled to (H, W) by the mean of the area that each pixel covers. */
function resized(plane, h, w, H, W) {
  const across = new Float32Array(h * W);
  covered(w, W).forEach(({ first, shares }, x) => {
    for (let y = 0; y < h; y++) {
      let sum = 0;
      for (let k = 0; k < shares.length; k++) sum += shares[k] * plane[y * w + first + k];
      across[y * W + x] = sum;
    }
  });
  const out = new Float32Array(H * W);
  covered(h, H).forEach(({ first, shares }, y) => {
    for (let k = 0; k < shares.length; k++)
      for (let x = 0; x < W; x++) out[y * W + x] += shares[k] * across[(first + k) * W + x];
  });
  return out;
}

/** Ink, light on dark, whichever way it came: the distance of each pixel from the paper, whose brightness the border has. */
function inkOf(grey, h, w) {
  const border = [];
  for (let x = 0; x < w; x++) border.push(grey[x], grey[(h - 1) * w + x]);
  for (let y = 0; y < h; y++) border.push(grey[y * w], grey[y * w + w - 1]);
  border.sort((a, b) => a - b);
  const paper = border[border.length >> 1];
  const ink = new Float32Array(grey.length);
  let most = 0;
  for (let i = 0; i < grey.length; i++) {
    ink[i] = Math.abs(grey[i] - paper);
    if (ink[i] > most) most = ink[i];
  }
  if (most < FAINTEST) return null;
  for (let i = 0; i < ink.length; i++) ink[i] *= 255 / most;
  return ink;
}

/** The ink in a box of 20/28 of the image, its centre of mass in the middle, as MNIST was made (LeCun et al. 1998). */
function centred(ink, h, w) {
  const H = rowsIn;
  const W = columnsIn;
  let [top, bottom, left, right] = [h, -1, w, -1];
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++)
      if (ink[y * w + x] > MARKED) {
        if (y < top) top = y;
        if (y > bottom) bottom = y;
        if (x < left) left = x;
        if (x > right) right = x;
      }
  const boxH = bottom - top + 1;
  const boxW = right - left + 1;
  const box = new Float32Array(boxH * boxW);
  for (let y = 0; y < boxH; y++) box.set(ink.subarray((top + y) * w + left, (top + y) * w + left + boxW), y * boxW);
  const thick = thickened(box, boxH, boxW);
  const scale = ((20 / 28) * Math.min(H, W)) / Math.max(thick.h, thick.w);
  const smallH = Math.max(Math.round(thick.h * scale), 1);
  const smallW = Math.max(Math.round(thick.w * scale), 1);
  const small = resized(thick.plane, thick.h, thick.w, smallH, smallW);
  let [mass, down, across] = [0, 0, 0];
  small.forEach((v, i) => {
    mass += v;
    down += v * Math.floor(i / smallW);
    across += v * (i % smallW);
  });
  mass = Math.max(mass, 1);
  const y0 = Math.min(Math.max(Math.round(H / 2 - 0.5 - down / mass), 0), H - smallH);
  const x0 = Math.min(Math.max(Math.round(W / 2 - 0.5 - across / mass), 0), W - smallW);
  const page = new Float32Array(H * W);
  for (let y = 0; y < smallH; y++) for (let x = 0; x < smallW; x++) page[(y0 + y) * W + x0 + x] = small[y * smallW + x];
  return page;
}

/** Strokes much thinner than MNIST's thickened to its width: hairlines would fade when scaled down. */
function thickened(box, h, w) {
  const side = Math.min(Math.max(h, w), 160);
  const H = Math.max(Math.round((h * side) / Math.max(h, w)), 1);
  const W = Math.max(Math.round((w * side) / Math.max(h, w)), 1);
  const page = resized(box, h, w, H, W);
  let most = 1;
  for (let i = 0; i < page.length; i++) if (page[i] > most) most = page[i];
  for (let i = 0; i < page.length; i++) page[i] *= 255 / most;
  let [all, inner] = [0, 0];
  for (let y = 0; y < H; y++) {
    for (let x = 0; x < W; x++) {
      const i = y * W + x;
      if (page[i] <= MARKED) continue;
      all++;
      if (x && y && x < W - 1 && y < H - 1 && Math.min(page[i - 1], page[i + 1], page[i - W], page[i + W]) > MARKED) inner++;
    }
  }
  const width = (2 * all) / Math.max(all - inner, 1); // a stroke has two edges
  if (width >= 0.06 * side) return { plane: box, h, w };
  const steps = Math.round((0.1 * side - width) / 2);
  const strong = Array.from(page).filter((v) => v > MARKED).sort((a, b) => a - b);
  const usual = strong[strong.length >> 1];
  const wide = { plane: new Float32Array((H + 2 * steps) * (W + 2 * steps)), h: H + 2 * steps, w: W + 2 * steps };
  for (let y = 0; y < H; y++)
    for (let x = 0; x < W; x++) wide.plane[(y + steps) * wide.w + x + steps] = Math.min((page[y * W + x] * 255) / usual, 255);
  for (let step = 0; step < steps; step++) wide.plane = largestAround(wide.plane, wide.h, wide.w);
  return wide;
}

/** The maximum of each pixel and the eight around it. */
function largestAround(plane, h, w) {
  const along = (from, n, step) => from.map((v, i) => {
    const at = Math.floor(i / step) % n;
    return Math.max(v, at ? from[i - step] : 0, at < n - 1 ? from[i + step] : 0);
  });
  return along(along(plane, w, 1), h, w);
}

/** Pixels 0 to 255, (C, H, W), of RGBA pixels (h, w); null where they show nothing. framed: centre the ink. */
function pixelsOf(rgba, h, w, framed) {
  if (isGrey && framed) {
    const ink = inkOf(greyOf(rgba), h, w);
    return ink && centred(ink, h, w);
  }
  if (isGrey) return resized(greyOf(rgba), h, w, rowsIn, columnsIn);
  const out = new Float32Array(sizeOf(given.image));
  for (let c = 0; c < 3; c++) {
    const plane = new Float32Array(h * w);
    for (let i = 0; i < plane.length; i++) plane[i] = rgba[4 * i + c];
    out.set(resized(plane, h, w, rowsIn, columnsIn), c * rowsIn * columnsIn);
  }
  return out;
}

/** Pixels as the network takes them: scaled to 0 to 1 (those of 0 to 255), minus the mean, over the standard deviation. */
function normalised(pixels, most = 255) {
  const { mean, std } = given.normalisation;
  const each = pixels.length / channelsIn;
  return Float32Array.from(pixels, (v, i) => (v / most - mean[Math.floor(i / each)]) / std[Math.floor(i / each)]);
}
