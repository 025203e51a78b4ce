// The panel that shows how one number came about, and the way back from it to the image.

/** The number that is looked at: its value and index, whether it is kept, what it was reached from, its explanation. */
const pointed = { value: -1, index: 0, pinned: false, before: [], explanation: null, channel: null };

function go(value, index, pinned, before) {
  Object.assign(pointed, { value, index, pinned, before, channel: null });
  document.body.classList.toggle("inspecting", value >= 0);
  request();
}

/** Look at a number while the pointer is on it. */
function point(value, index) {
  if (!pointed.pinned && (value !== pointed.value || index !== pointed.index)) go(value, index, false, []);
}

/** Look at a number until something else is clicked. */
const pin = (value, index) => go(value, index, true, []);

/** Go to a number that had part in this one. */
function step(value, index) {
  go(value, index, true, [...pointed.before, [pointed.value, pointed.index]]);
  const layer = layers.find((one) => one.value === value);
  if (layer && !layer.root.open) layer.root.open = true;
}

function stepBack() {
  const cause = pointed.explanation && biggestCause(pointed.explanation);
  if (cause) step(...cause);
}

function undoStep() {
  const last = pointed.before.at(-1);
  if (last) go(...last, true, pointed.before.slice(0, -1));
}

const letGo = () => go(-1, 0, false, []);

/** A place in words: "conv1, map 3, row 5, column 7". */
function placeText(value, index) {
  const [C, H, W] = asMaps(shapeOf(value));
  const { channel, row, column } = placeOf(value, index);
  const map = C === 1 ? "" : H * W === 1 ? `, number ${channel + 1}` : `, map ${channel + 1}`;
  return `${nameOf(value)}${map}${H * W === 1 ? "" : `, row ${row + 1}, column ${column + 1}`}`;
}

/** A place in few words: "pool2, map 11 (1, 4)", the row and the column in brackets. */
function shortPlace(value, index) {
  const [C, H, W] = asMaps(shapeOf(value));
  if (H * W === 1) return placeText(value, index);
  const { channel, row, column } = placeOf(value, index);
  return `${nameOf(value)}${C === 1 ? "" : `, map ${channel + 1}`} (${row + 1}, ${column + 1})`;
}

/** Boxes, in pixels of the tile, around what is to be outlined on it. */
function marksOn(value, tile, isVector) {
  const explanation = pointed.value < 0 ? null : pointed.explanation;
  if (!explanation) return [];
  const size = tile.rows * tile.columns;
  const at = (index) => ({ top: Math.floor((index - tile.from) / tile.columns), left: (index - tile.from) % tile.columns, height: 1, width: 1 });
  if (value === explanation.value) {
    return explanation.index >= tile.from && explanation.index < tile.from + size ? [at(explanation.index)] : [];
  }
  for (const part of explanation.parts) {
    if (part.from !== value) continue;
    const indices = part.cells.map((cell) => cell.index).filter((index) => index >= tile.from && index < tile.from + size);
    if (!indices.length || (part.list && indices.length > 1)) continue;
    const boxes = indices.map(at);
    const top = Math.min(...boxes.map((box) => box.top));
    const left = Math.min(...boxes.map((box) => box.left));
    const bottom = Math.max(...boxes.map((box) => box.top)) + 1;
    const right = Math.max(...boxes.map((box) => box.left)) + 1;
    if (!isVector || indices.length === 1) return [{ top, left, height: bottom - top, width: right - left }];
  }
  return [];
}

/** Write the panel anew for the values at hand. */
function inspect(values) {
  const { value, index } = pointed;
  $("inspector-part").hidden = value < 0;
  $("inspector-help").hidden = value >= 0;
  pointed.explanation = value < 0 ? null : explain(value, index, values);
  if (value < 0) return;
  const { explanation } = pointed;
  const [C, H, W] = asMaps(shapeOf(value));
  const focused = [...$("parts").querySelectorAll("button")].indexOf(document.activeElement);
  $("place").textContent = placeText(value, index);
  $("value").textContent = `= ${shown(explanation.y)}`;
  $("trail").textContent = pointed.before.length ? `from ${pointed.before.map(([k]) => nameOf(k)).reverse().join(", from ")}` : pointed.pinned ? "Kept; Escape lets go." : "Click to keep it.";
  $("step").disabled = !biggestCause(explanation);
  $("undo").disabled = !pointed.before.length;
  $("switch").hidden = !value;
  const what = H * W === 1 ? "number" : "map";
  $("switch").textContent = `Switch this ${what} ${isOff(value, explanation.place.channel) ? "on" : "off"}`;
  $("parts").replaceChildren(...inspectorParts(explanation, values));
  if (focused >= 0) ($("parts").querySelectorAll("button")[focused] ?? $("step")).focus();
  const words = `${placeText(value, index)}: ${shown(explanation.y)}`;
  if (pointed.pinned) setText($("pointed"), words);
}

const line_ = (...children) => element("p", {}, ...children);

function inspectorParts(explanation, values) {
  const { operation, parts, formula, bias, y, value } = explanation;
  const channel = explanation.place.channel;
  if (!value) return [pixelFormula(explanation)];
  const silent = isOff(value, channel) ? [line_("It is switched off, and 0 whatever is before it.")] : [];
  if (operation.kind === "conv") return [...silent, ...convolution(explanation)];
  if (operation.kind === "linear") return [...silent, ...weightedSum(explanation)];
  const [part] = parts;
  if (part.rows) {
    const chosen = part.chosen === undefined;
    const words = chosen ? `The mean of the window, ${part.cells.length} numbers of ${nameOf(part.from)}:` : `The largest in the window of ${nameOf(part.from)}:`;
    return [...silent, line_(words), grid(part, "x", `Window of ${nameOf(part.from)}`), line_(element("b", {}, `${chosen ? "mean" : "largest"} = ${shown(y)}`))];
  }
  const back = (one) => causeButton(one.from, one.cells[0].index, placeText(one.from, one.cells[0].index));
  const list = element("ul", { class: "causes" }, ...parts.map((one) => element("li", {}, back(one), element("span", {}, shown(one.sum)))));
  return [...silent, list, line_(element("b", {}, formulaText(explanation, values)))];
}

/** A button that goes back to a number. */
function causeButton(value, index, words) {
  const button = element("button", { type: "button", class: "link" }, words);
  button.addEventListener("click", () => step(value, index));
  return button;
}

function formulaText({ operation, parts, formula, y, index }, values) {
  const x = parts[0].sum;
  const put = (v) => (v < 0 ? `(${shown(v)})` : shown(v));
  if (formula?.kind === "norm") return `(${shown(x)} \u2212 ${put(formula.mean)}) \u00d7 ${put(formula.scale)} + ${put(formula.shift)} = ${shown(y)}`;
  if (formula?.kind === "function") return `${formula.name}(${shown(x)}) = ${shown(y)}`;
  if (formula?.kind === "softmax") return `${formula.logarithm ? "log of " : ""}e^${put(x)} over the sum of all e^x = ${shown(y)}`;
  if (formula?.kind === "product") return `${parts.map((part) => put(part.sum)).join(" \u00d7 ")} = ${shown(y)}`;
  if (operation.kind === "add") return `${parts.map((part) => put(part.sum)).join(" + ")} = ${shown(y)}`;
  return `the same number: ${shown(y)}`;
}

/** The image: from the pixel's brightness to what the network takes. */
function pixelFormula({ place, y }) {
  const { mean, std } = given.normalisation;
  const [m, s] = [mean[place.channel], std[place.channel]];
  const brightness = y * s + m;
  return line_(`Brightness ${shown(Math.abs(brightness) < 1e-6 ? 0 : brightness)} of the pixel, minus the mean of the training images, ${shown(m)}, over their standard deviation, ${shown(s)}: `, element("b", {}, shown(y)));
}

/** Most causes that are listed one by one. */
const MOST_CAUSES = 8;

/** A list of causes with their shares as bars, the biggest first; the others as one sum. */
function causeList(items, rest) {
  const most = Math.max(...items.map((item) => Math.abs(item.sum)), Math.abs(rest?.sum ?? 0), 1e-30);
  const bar = (sum) => {
    const filled = element("i", { class: sum < 0 ? "minus" : "plus" });
    filled.style.width = `${(50 * Math.abs(sum)) / most}%`;
    return element("span", { class: "signed-bar", "aria-hidden": "true" }, filled);
  };
  const rows = items.map((item) => element("li", {}, item.button, bar(item.sum), element("span", {}, shown(item.sum))));
  if (rest) rows.push(element("li", {}, element("span", {}, rest.words), bar(rest.sum), element("span", {}, shown(rest.sum))));
  return element("ul", { class: "causes bars" }, ...rows);
}

const biggest = (items) => [...items].sort((a, b) => Math.abs(b.sum) - Math.abs(a.sum));

function convolution(explanation) {
  const { operation, parts, bias, place } = explanation;
  const from = nameOf(operation.inputs[0]);
  const sorted = biggest(parts);
  const part = parts.find((one) => one.channel === pointed.channel) ?? sorted[0];
  const which = (one) => (shapeOf(one.from)[0] > 1 ? `map ${one.channel + 1} of ${from}` : from);
  const out = [];
  const words = part.cells.some((cell) => cell.index < 0) ? " Where it hangs over the edge there is padding." : "";
  out.push(line_(`Window of ${which(part)}, times filter ${place.channel + 1}, summed.${words}`));
  out.push(element("div", { class: "grids" }, grid(part, "x", `Window of ${which(part)}`), grid(part, "w", `Filter ${place.channel + 1}`)));
  out.push(line_("window \u00d7 filter = ", element("b", {}, shown(part.sum))));
  if (parts.length > 1) {
    const items = sorted.slice(0, MOST_CAUSES).map((one) => {
      const button = element("button", { type: "button", class: "link", "aria-pressed": String(one === part) }, `map ${one.channel + 1}`);
      button.addEventListener("click", () => {
        pointed.channel = one.channel;
        request();
      });
      return { button, sum: one.sum };
    });
    const others = sorted.slice(MOST_CAUSES);
    const rest = others.length ? { words: `${others.length} others`, sum: others.reduce((sum, one) => sum + one.sum, 0) } : null;
    out.push(line_(`All ${parts.length} maps of ${from}, the biggest first:`), causeList(items, rest));
  }
  out.push(total(explanation));
  return out;
}

/** The sum of the parts and the bias. */
function total({ parts, bias, y, value, place }) {
  const sum = parts.reduce((all, part) => all + part.sum, 0);
  const end = isOff(value, place.channel) ? sum + (bias ?? 0) : y;
  return line_(element("b", {}, bias === undefined ? `sum = ${shown(end)}` : `${shown(sum)} + bias ${bias < 0 ? `(${shown(bias)})` : shown(bias)} = ${shown(end)}`));
}

function weightedSum(explanation) {
  const [part] = explanation.parts;
  const sorted = biggest(part.cells.map((cell) => ({ ...cell, sum: cell.x * cell.w })));
  const items = sorted.slice(0, MOST_CAUSES).map((cell) => {
    const origin = originOf(part.from, cell.index);
    const button = causeButton(part.from, cell.index, shortPlace(...origin));
    const words = `${placeText(...origin)}: ${shown(cell.x)} times weight ${shown(cell.w)}`;
    button.title = words;
    button.setAttribute("aria-label", words);
    return { button: element("span", {}, button, element("small", {}, `${shown(cell.x)} \u00d7 ${shown(cell.w)}`)), sum: cell.sum };
  });
  const others = sorted.slice(MOST_CAUSES);
  const rest = others.length ? { words: `${others.length} others`, sum: others.reduce((sum, cell) => sum + cell.sum, 0) } : null;
  return [line_(`${part.cells.length} numbers of ${nameOf(part.from)}, each times its weight, the biggest products first:`), causeList(items, rest), total(explanation)];
}

/** The number as it was before it was put in a row or passed on: its place there says more. */
function originOf(value, index) {
  let at = value;
  while (at && ["flatten", "identity"].includes(operations[at - 1].kind)) [at] = operations[at - 1].inputs;
  return [at, index];
}

/** A window or filter as a table of numbers on their colours; numbers of a window lead back to them. */
function grid(part, what, title) {
  const numbers = part.cells.map((cell) => cell[what]);
  const scale = scaleOf(numbers);
  const body = element("tbody");
  const wide = part.columns <= 9;
  for (let i = 0; i < part.rows; i++) {
    const row = element("tr");
    for (let j = 0; j < part.columns; j++) {
      const cell = part.cells[i * part.columns + j];
      const v = cell[what];
      const made = element("td", { title: shown(v) });
      const { background, ink } = cssColour(v, scale);
      made.style.background = background;
      made.style.color = ink;
      if (what === "x" && cell.index < 0) {
        made.className = "padding";
        made.title = "padding";
        made.append(wide ? "pad" : "");
      } else if (what === "x") {
        const button = element("button", { type: "button", title: placeText(part.from, cell.index), "aria-label": `${placeText(part.from, cell.index)}: ${shown(v)}` }, wide ? shown(v) : "");
        button.addEventListener("click", () => step(part.from, cell.index));
        if (part.chosen === cell.index) made.className = "chosen";
        made.append(button);
      } else made.append(wide ? shown(v) : "");
      row.append(made);
    }
    body.append(row);
  }
  const table = element("table", { class: "grid" }, element("caption", {}, title), body);
  table.style.setProperty("--columns", part.columns);
  return table;
}

$("step").addEventListener("click", stepBack);
$("undo").addEventListener("click", undoStep);
$("close").addEventListener("click", letGo);
$("switch").addEventListener("click", () => switchMap(pointed.value, placeOf(pointed.value, pointed.index).channel));
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && pointed.value >= 0) letGo(); });
