// Numbers as colours. The palettes are those of the report: blue, white, red for signed numbers; dark to light for others.

/** 256 colours between those given, as RGBA in one number each. */
function palette(colours) {
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (colours.length - 1);
    const low = Math.min(Math.floor(at), colours.length - 2);
    const [r, g, b] = [0, 1, 2].map((c) => Math.round(colours[low][c] + (colours[low + 1][c] - colours[low][c]) * (at - low)));
    table[i] = (255 << 24) | (b << 16) | (g << 8) | r;
  }
  return table;
}

const SIGNED = palette(given.palettes.signed);
const WARM = palette(given.palettes.warm);

/** How a value is coloured: its largest magnitude, and whether some of it is below zero. */
function scaleOf(array) {
  let least = 0;
  let most = 0;
  for (let i = 0; i < array.length; i++) {
    if (array[i] > most) most = array[i];
    else if (array[i] < least) least = array[i];
  }
  return { signed: least < 0, most: Math.max(most, -least) || 1 };
}

/** The place, 0 to 255, of a number in the palette of its scale. */
function shadeOf(v, { signed, most }) {
  const share = signed ? (v / most + 1) / 2 : v / most;
  return Math.round(Math.min(Math.max(share, 0), 1) * 255);
}

/** Paint numbers [from, from + width * height) of an array on a canvas of that many pixels. */
function paint(canvas, array, from, scale) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  canvas.image ??= context.createImageData(width, height);
  const pixels = new Uint32Array(canvas.image.data.buffer);
  const table = scale.signed ? SIGNED : WARM;
  for (let i = 0; i < width * height; i++) pixels[i] = table[shadeOf(array[from + i], scale)];
  context.putImageData(canvas.image, 0, 0);
}

/** A colour of a palette as CSS, and ink that can be read on it. */
function cssColour(v, scale) {
  const colour = (scale.signed ? SIGNED : WARM)[shadeOf(v, scale)];
  const rgb = [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];
  const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return { background: `rgb(${rgb.join(" ")})`, ink: 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff" };
}

/** Paint pixels (C, H, W), 0 to `most`, as a picture. */
function paintPicture(canvas, pixels, most = 255) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(columnsIn, rowsIn);
  const each = rowsIn * columnsIn;
  for (let i = 0; i < each; i++) {
    for (let c = 0; c < 3; c++) {
      const plane = channelsIn === 3 ? c : 0;
      image.data[4 * i + c] = (pixels[plane * each + i] * 255) / most;
    }
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** A number as people read it: three or four digits. */
function shown(v) {
  if (v === 0 || !Number.isFinite(v)) return String(v === 0 ? 0 : v);
  const size = Math.abs(v);
  if (size >= 1e5 || size < 1e-3) return v.toExponential(1).replace("-", "\u2212").replace("e\u2212", "e-").replace("e+", "e");
  return v.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3).replace("-", "\u2212");
}

const percent = (p) => `${(100 * p).toFixed(p < 0.0995 || p > 0.9995 ? 2 : 1)} %`;
