// Where the image comes from: drawing, a picture that is dropped, pasted or opened, a test image.

const $ = (id) => document.getElementById(id);

const pad = $("pad");
const PAD = 280;
pad.width = Math.round((PAD * columnsIn) / Math.max(rowsIn, columnsIn));
pad.height = Math.round((PAD * rowsIn) / Math.max(rowsIn, columnsIn));
const padContext = pad.getContext("2d", { willReadFrequently: true });

/** The image at hand: exact pixels of a test image, or what is on the pad, its ink centred or not. */
const source = { exact: null, most: 255, framed: given.framing === "centred" && isGrey, empty: true };

function clearPad() {
  padContext.fillStyle = "#000";
  padContext.fillRect(0, 0, pad.width, pad.height);
  Object.assign(source, { exact: null, framed: given.framing === "centred" && isGrey, empty: true });
  $("pad-hint").hidden = false;
  for (const button of $("images").children) button.setAttribute("aria-pressed", "false");
  request();
}

/** The pixels at hand, (C, H, W) from 0 to `source.most`. */
function currentPixels() {
  if (source.exact) return source.exact;
  source.most = 255;
  const blank = new Float32Array(sizeOf(given.image));
  if (source.empty) return blank;
  const { data } = padContext.getImageData(0, 0, pad.width, pad.height);
  return pixelsOf(data, pad.height, pad.width, source.framed) ?? blank;
}

function filled() {
  source.exact = null;
  source.empty = false;
  $("pad-hint").hidden = true;
  request();
}

// --- drawing ---------------------------------------------------------------------------------------------------------

let stroke = null;

function line(from, to) {
  padContext.strokeStyle = $("colour").value;
  padContext.lineWidth = (Number($("brush").value) * Math.max(pad.width, pad.height)) / 56;
  padContext.lineCap = padContext.lineJoin = "round";
  padContext.beginPath();
  padContext.moveTo(...from);
  padContext.lineTo(to[0] + 0.01, to[1]);
  padContext.stroke();
  filled();
}

function onPad(event) {
  const box = pad.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * pad.width, ((event.clientY - box.top) / box.height) * pad.height];
}

pad.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  try {
    pad.setPointerCapture(event.pointerId);
  } catch {
    // a pointer that has gone already cannot be held
  }
  stroke = onPad(event);
  line(stroke, stroke);
  event.preventDefault();
  pad.focus({ preventScroll: true });
});
pad.addEventListener("pointermove", (event) => {
  if (!stroke) return;
  for (const one of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
    const to = onPad(one);
    line(stroke, to);
    stroke = to;
  }
});
for (const name of ["pointerup", "pointercancel"]) pad.addEventListener(name, () => { stroke = null; });

/** The pen of the keyboard: where it is, and whether it is down. */
const pen = { at: [pad.width / 2, pad.height / 2], down: false };

function showPen() {
  $("pen").hidden = document.activeElement !== pad || !pad.matches(":focus-visible");
  $("pen").style.left = `${(100 * pen.at[0]) / pad.width}%`;
  $("pen").style.top = `${(100 * pen.at[1]) / pad.height}%`;
  $("pen").classList.toggle("down", pen.down);
}

pad.addEventListener("focus", showPen);
pad.addEventListener("blur", () => {
  pen.down = false;
  showPen();
});
pad.addEventListener("keydown", (event) => {
  const step = PAD / 28;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  const move = moves[event.key];
  if (!move && event.key !== " ") return;
  event.preventDefault();
  const before = pen.at;
  if (move) pen.at = [0, 1].map((i) => Math.min(Math.max(before[i] + move[i], 0), i ? pad.height : pad.width));
  else pen.down = !pen.down;
  if (pen.down) line(before, pen.at);
  showPen();
});

// --- pictures --------------------------------------------------------------------------------------------------------

/** Put a picture on the pad: whole where its ink is centred anyway, otherwise its middle. */
async function openPicture(file) {
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    $("message").textContent = `${cut(file.name || "That")} is no picture that this browser can read.`;
    return;
  }
  clearPad();
  const fit = source.framed ? Math.min : Math.max;
  const scale = fit(pad.width / picture.width, pad.height / picture.height);
  const [w, h] = [picture.width * scale, picture.height * scale];
  const edge = padContext;
  edge.imageSmoothingQuality = "high";
  edge.fillStyle = "#fff"; // paper, where a picture is transparent
  edge.fillRect(0, 0, pad.width, pad.height);
  if (source.framed) {
    edge.drawImage(picture, 0, 0, 1, 1, 0, 0, pad.width, pad.height); // the paper goes on beside the picture
  }
  edge.drawImage(picture, (pad.width - w) / 2, (pad.height - h) / 2, w, h);
  picture.close();
  filled();
  $("message").textContent = `${cut(file.name || "The picture")} is on the pad.`;
}

$("file").addEventListener("change", (event) => {
  if (event.target.files.length) openPicture(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (file) openPicture(file);
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData?.files ?? [];
  if (file) openPicture(file);
});
$("clear").addEventListener("click", () => {
  clearPad();
  $("message").textContent = "The pad is empty.";
});

// --- test images -----------------------------------------------------------------------------------------------------

const testImages = given.images.count ? (given.images.floats ? new Float32Array(bytesOf("images").buffer) : bytesOf("images")) : [];
const testImage = (i) => testImages.subarray(i * sizeOf(given.image), (i + 1) * sizeOf(given.image));

/** The brightness that is white in a test image: floats beyond 0 to 1 are shown from least to most. */
function lookOf(pixels) {
  if (!given.images.floats) return [pixels, 255];
  const least = pixels.reduce((a, b) => Math.min(a, b), 0);
  const most = pixels.reduce((a, b) => Math.max(a, b), 1);
  return [pixels.map((v) => v - least), most - least];
}

function takeImage(i) {
  clearPad();
  const pixels = testImage(i);
  const small = document.createElement("canvas");
  [small.width, small.height] = [columnsIn, rowsIn];
  paintPicture(small, ...lookOf(pixels));
  padContext.imageSmoothingEnabled = false;
  padContext.drawImage(small, 0, 0, pad.width, pad.height);
  filled();
  Object.assign(source, { exact: Float32Array.from(pixels), most: given.images.floats ? 1 : 255, framed: false });
  const name = cut(given.classes[given.images.labels[i]]);
  $("message").textContent = `Test image ${i + 1}, of class ${name}.`;
  [...$("images").children].forEach((button, k) => button.setAttribute("aria-pressed", String(k === i)));
}

function showImages() {
  $("images-part").hidden = !given.images.count;
  for (let i = 0; i < given.images.count; i++) {
    const button = document.createElement("button");
    const canvas = document.createElement("canvas");
    button.type = "button";
    button.title = `${given.classes[given.images.labels[i]]}`;
    button.setAttribute("aria-label", `Test image ${i + 1}, class ${button.title}`);
    button.setAttribute("aria-pressed", "false");
    [canvas.width, canvas.height] = [columnsIn, rowsIn];
    button.append(canvas);
    button.addEventListener("click", () => takeImage(i));
    $("images").append(button);
    paintPicture(canvas, ...lookOf(testImage(i)));
  }
}
