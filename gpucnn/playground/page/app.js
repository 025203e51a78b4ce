// The page as a whole: when to run what, the probabilities, Grad-CAM, light and dark.

const values = emptyValues();
const unchanged = emptyValues(); // with nothing switched off, for comparison
let camClass = null; // the class that it explained last
let explained = null; // the class that Grad-CAM explains; null: the answer

// --- running ---------------------------------------------------------------------------------------------------------

/** Milliseconds of work per frame; what takes longer goes on in the next one, so that drawing stays smooth. */
const SLICE = 14;
let frame = 0;
let wanted = false;
let work = null;
let refreshes = 0;

/** Ask for everything to be brought up to date. */
function request() {
  wanted = true;
  frame ||= requestAnimationFrame(tick);
}

function tick() {
  frame = 0;
  const end = performance.now() + SLICE;
  if (!work && wanted) {
    wanted = false;
    work = refresh();
  }
  while (work && performance.now() < end) if (work.next().done) work = null;
  if (work || wanted) frame = requestAnimationFrame(tick);
}

function* refresh() {
  const pixels = currentPixels();
  values[0].set(normalised(pixels, source.most));
  paintPicture($("seen"), ...(source.most === 255 ? [pixels] : lookOf(pixels)));
  yield* running(values, off);
  if (off.size) {
    unchanged[0].set(values[0]);
    yield* running(unchanged, new Map());
  }
  showProbabilities();
  yield;
  inspect(values);
  for (const layer of layers) {
    if (!layer.shows) continue;
    layer.paint(values);
    yield;
  }
  showCam(pixels);
  refreshes++;
}

// --- probabilities ---------------------------------------------------------------------------------------------------

/** Classes that are shown at once; of more, the most probable ones. */
const MOST_BARS = 10;
const bars = [];

function showBars() {
  const count = Math.min(given.classes.length, MOST_BARS);
  for (let i = 0; i < count; i++) {
    const button = element("button", { type: "button", "aria-pressed": "false" });
    const bar = { button, name: element("bdi"), fill: element("i"), before: element("i", { class: "before" }), number: element("span", { class: "number" }) };
    button.append(bar.name, element("span", { class: "track", "aria-hidden": "true" }, bar.fill, bar.before), bar.number);
    button.addEventListener("click", () => {
      explained = explained === bar.index ? null : bar.index;
      request();
    });
    bars.push(bar);
    $("bars").append(element("li", {}, button));
  }
  $("bars").classList.toggle("short", given.classes.every((name) => name.length <= 3));
  $("bars").classList.toggle("long", given.classes.some((name) => name.length > 12));
  const others = given.classes.length - count;
  $("more-classes").hidden = !others;
  $("more-classes").textContent = `The ${count} most probable of ${given.classes.length} classes.`;
}

/** Probabilities from what the network gives. */
const asProbabilities = (scores) => (given.givesProbabilities ? Array.from(scores) : softmax(scores));

/** Show a class's name in two pieces, of which the page cuts the first where room is scarce: names often differ at their end. */
function showName(place, name) {
  if (place.title === name) return;
  const at = name.length > 12 ? name.length - 8 : name.length;
  place.replaceChildren(element("span", {}, name.slice(0, at)), element("span", {}, name.slice(at)));
  place.title = name;
}

function showProbabilities() {
  const probabilities = asProbabilities(values.at(-1));
  const before = off.size ? asProbabilities(unchanged.at(-1)) : null;
  const order = [...probabilities.keys()];
  if (order.length > MOST_BARS) order.sort((a, b) => probabilities[b] - probabilities[a]);
  const answer = probabilities.indexOf(Math.max(...probabilities));
  bars.forEach((bar, i) => {
    bar.index = order[i];
    const p = probabilities[bar.index];
    showName(bar.name, given.classes[bar.index]);
    bar.fill.style.width = `${100 * p}%`;
    bar.before.hidden = !before || Math.abs(before[bar.index] - p) < 0.005;
    if (before) bar.before.style.left = `${100 * before[bar.index]}%`;
    setText(bar.number, percent(p));
    bar.button.classList.toggle("answer", bar.index === answer);
    bar.button.setAttribute("aria-pressed", String(bar.index === explained));
    bar.button.title = before ? `${percent(before[bar.index])} with all maps on` : "Explain this class by Grad-CAM";
  });
  const words = source.empty ? "" : `${cut(given.classes[answer])}, ${percent(probabilities[answer])}`;
  setText($("answer"), words);
  const maps = [...off.values()].reduce((sum, channels) => sum + channels.size, 0);
  $("off").hidden = !maps;
  setText($("off-text"), `${maps} ${maps === 1 ? "map is" : "maps are"} off; the line in a bar shows the probability without that.`);
}

$("all-on").addEventListener("click", () => {
  off.clear();
  for (const layer of layers) layer.showSwitches();
  request();
});

// --- Grad-CAM --------------------------------------------------------------------------------------------------------

function showCamLayers() {
  $("cam-part").hidden = $("cam-choice").hidden = !mapLayers.length;
  for (const value of mapLayers) $("cam-layer").append(element("option", { value }, nameOf(value)));
  if (mapLayers.includes(usualLayer())) $("cam-layer").value = String(usualLayer());
  $("cam-layer").addEventListener("change", request);
}

/** The class that is explained, and its heat on the image. */
function showCam(pixels) {
  if (!mapLayers.length) return;
  const scores = values.at(-1);
  const target = explained ?? scores.indexOf(scores.reduce((a, b) => Math.max(a, b)));
  const heat = gradCam(values, target, Number($("cam-layer").value), off);
  const canvas = $("cam");
  const context = canvas.getContext("2d");
  const image = context.createImageData(columnsIn, rowsIn);
  const [look, most] = source.most === 255 ? [pixels, 255] : lookOf(pixels);
  const each = rowsIn * columnsIn;
  for (let i = 0; i < each; i++) {
    const colour = WARM[Math.round(heat[i] * 255)];
    const share = 0.75 * heat[i];
    for (let c = 0; c < 3; c++) {
      const grey = (look[(channelsIn === 3 ? c : 0) * each + i] * 255) / most;
      image.data[4 * i + c] = (1 - share) * grey + share * ((colour >> (8 * c)) & 255);
    }
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  if (target === camClass) return;
  camClass = target;
  canvas.setAttribute("aria-label", `Grad-CAM: what in the image speaks for ${cut(given.classes[target])}`);
  $("cam-text").replaceChildren("Grad-CAM: what speaks for ", element("bdi", { title: given.classes[target] }, cut(given.classes[target])));
}

// --- the page --------------------------------------------------------------------------------------------------------

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").textContent = dark ? "Light" : "Dark";
  $("theme").setAttribute("aria-pressed", String(dark));
}

function start() {
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  setTheme(darkness.matches);
  darkness.addEventListener("change", () => setTheme(darkness.matches));
  $("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));
  $("about").textContent = given.about;
  for (const id of ["seen", "cam"]) [$(id).width, $(id).height] = [columnsIn, rowsIn];
  $("seen-text").textContent = `What the network sees: ${times([rowsIn, columnsIn])} pixels`;
  $("colour-label").hidden = source.framed;
  showBars();
  showImages();
  showCamLayers();
  showLayers();
  addEventListener("beforeprint", () => { // paper shows what is not in view, too
    if (refreshes) for (const layer of layers) if (layer.root.open) layer.paint(values);
  });
  clearPad();
  if (given.images.count) takeImage(0);
}

start();

/** For tests and for the curious, in the browser's console. */
window.playground = { given, operations, forward, explain, biggestCause, gradCam, softmax, usualLayer, values, off, pin, step, get refreshes() { return refreshes; }, get idle() { return !work && !wanted; }, get pointed() { return pointed; } };
