// The list of layers: each a row that opens, with a tile for each map; and what is switched off.

/** Switched-off channels: value -> set of channels. */
const off = new Map();

const isOff = (value, channel) => off.get(value)?.has(channel) ?? false;

function switchMap(value, channel) {
  const channels = off.get(value) ?? new Set();
  if (!channels.delete(channel)) channels.add(channel);
  if (channels.size) off.set(value, channels);
  else off.delete(value);
  for (const layer of layers) if (layer.value === value) layer.showSwitches();
  request();
}

/** An element with attributes and children; text is text, never markup. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Change the text of an element, if it is another: the browser would lay out the page again. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const nameOf = (value) => (value ? cut(operations[value - 1].name) : "image");
const times = (sizes) => sizes.join("\u00d7");

/** What an operation does, in a few words. */
function described(operation) {
  const { kind, arguments: a, inputs } = operation;
  const from = inputs.map(nameOf).join(" and ");
  const steps = a.stride?.some((s) => s > 1) ? `, every ${times(a.stride)} pixels` : "";
  const parts = a.groups > 1 ? ` in ${a.groups} groups` : "";
  const words = {
    conv: () => `${operation.shape[0]} filters of ${times(a.kernel)} on ${from}${steps}${parts}`,
    max_pool: () => `largest of ${times(a.kernel)} pixels of ${from}`,
    avg_pool: () => `mean of ${times(a.kernel)} pixels of ${from}`,
    bins_mean: () => `mean over pixels of ${from}`,
    bins_max: () => `largest over pixels of ${from}`,
    norm: () => (operation.name.startsWith("norm") ? `batch normalisation of ${from}` : `${from}, each map ${operation.name.startsWith("scale") ? "times" : "plus"} a number`),
    activation: () => `${a.function} of ${from}`,
    linear: () => `${operation.shape[0]} weighted sums of all of ${from}`,
    flatten: () => `${from} as one row`,
    add: () => `sum of ${from}`,
    multiply: () => `product of ${from}`,
    concat: () => `maps of ${from}, one after the other`,
    identity: () => `${from} as it is${operation.name.startsWith("dropout") ? " (drops numbers in training only)" : ""}`,
    softmax: () => `${from} as shares of 1`,
    log_softmax: () => `logarithm of ${from} as shares of 1`,
  };
  return words[kind]();
}

/** One row of the list. Its tiles are made when it is first seen open. */
class LayerRow {
  constructor(value, open) {
    this.value = value;
    this.shape = asMaps(shapeOf(value));
    this.visible = false;
    this.tiles = [];
    this.current = 0;
    const operation = operations[value - 1];
    const path = operation.path ? ` (${operation.path})` : "";
    this.ends = [element("span"), element("i"), element("span")];
    this.range = element("span", { class: "range" }, ...this.ends);
    const summary = element("summary", {},
      element("h3", {}, element("bdi", { title: `${operation.name}${path}` }, cut(operation.name))),
      element("span", { class: "what" }, described(operation)),
      element("span", { class: "shape" }, times(shapeOf(value))), this.range);
    this.grid = element("div", { class: "maps", role: "group", "aria-label": `Maps of ${nameOf(value)}` });
    this.root = element("details", { class: "layer" }, summary, this.grid);
    this.root.open = open;
    this.root.addEventListener("toggle", request);
    this.filters = new FilterSheet(value);
    if (this.filters.root) this.root.append(this.filters.root);
  }

  /** Whether it has one number per channel, all shown in one tile. */
  get isVector() {
    return this.shape[1] * this.shape[2] === 1;
  }

  make() {
    const [C, H, W] = this.shape;
    const count = this.isVector ? 1 : C;
    for (let c = 0; c < count; c++) this.tiles.push(this.isVector ? this.strip(C) : this.tile(c, H, W));
    this.grid.append(...this.tiles.map((tile) => tile.root));
    this.showSwitches();
  }

  tile(channel, H, W) {
    const canvas = element("canvas", { width: W, height: H });
    const map = element("div", { class: "map", tabindex: channel ? -1 : 0, role: "application",
      "aria-label": `${nameOf(this.value)}, map ${channel + 1} of ${this.shape[0]}: arrow keys move over pixels, Page Up and Page Down over maps, Enter goes back to the biggest cause, O switches the map off`,
    }, canvas);
    const zoom = Math.max(W, H) > 84 ? 84 / Math.max(W, H) : Math.max(1, Math.round(56 / Math.max(W, H)));
    canvas.style.width = `${W * zoom}px`;
    canvas.style.height = `${H * zoom}px`;
    const toggle = element("button", { type: "button", class: "switch", tabindex: channel ? -1 : 0 }, String(channel + 1));
    toggle.addEventListener("click", () => switchMap(this.value, channel));
    const root = element("div", { class: "tile" }, map, toggle);
    this.listen(map, canvas, (x, y) => indexAt(this.value, { channel, row: Math.min(Math.floor(y * H), H - 1), column: Math.min(Math.floor(x * W), W - 1) }));
    return { root, canvas, map, toggle, from: channel * H * W, columns: W, rows: H };
  }

  strip(C) {
    const even = Array.from({ length: 27 }, (_, i) => 42 - i).find((n) => C % n === 0);
    const columns = C <= 42 ? C : even ?? 40;
    const rows = Math.ceil(C / columns);
    const canvas = element("canvas", { width: columns, height: rows });
    const map = element("div", { class: "map strip", tabindex: 0, role: "application",
      "aria-label": `${nameOf(this.value)}, ${C} numbers: arrow keys move over them, Enter goes back to the biggest cause, O switches one off` }, canvas);
    canvas.style.width = `min(100%, ${columns * (C > 42 ? 12 : 24)}px)`;
    canvas.style.aspectRatio = `${columns} / ${rows}`;
    const root = element("div", { class: "tile wide" }, map);
    this.listen(map, canvas, (x, y) => Math.min(Math.min(Math.floor(y * rows), rows - 1) * columns + Math.min(Math.floor(x * columns), columns - 1), C - 1));
    return { root, canvas, map, from: 0, columns, rows };
  }

  listen(map, canvas, indexOf) {
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const share = (v, start, size) => Math.min(Math.max((v - start) / size, 0), 1);
      return indexOf(share(event.clientX, box.left, box.width), share(event.clientY, box.top, box.height));
    };
    map.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") point(this.value, at(event)); });
    map.addEventListener("click", (event) => pin(this.value, at(event)));
    map.addEventListener("keydown", (event) => this.onKey(event));
    map.addEventListener("focus", () => { if (map.matches(":focus-visible") && pointed.value !== this.value) pin(this.value, this.home(map)); });
  }

  /** The first number of the tile that an element belongs to. */
  home(map) {
    return this.tiles.find((tile) => tile.map === map).from;
  }

  onKey(event) {
    const [C, H, W] = this.isVector ? [1, this.tiles[0].rows, this.tiles[0].columns] : this.shape;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -W, ArrowDown: W, PageUp: -H * W, PageDown: H * W };
    const here = pointed.value === this.value ? pointed.index : this.home(event.currentTarget);
    if (event.key in moves) {
      const to = here + moves[event.key];
      if (to >= 0 && to < sizeOf(this.shape) && (event.key.startsWith("Page") || Math.floor(to / (H * W)) === Math.floor(here / (H * W)))) {
        pin(this.value, to);
        this.focus(to);
      }
    } else if (event.key === "Enter") stepBack();
    else if (event.key === "Backspace") undoStep();
    else if (event.key === "o" || event.key === "O") switchMap(this.value, placeOf(this.value, here).channel);
    else return;
    event.preventDefault();
  }

  /** Let the Tab key stop at the tile of this number, and go there. */
  focus(index) {
    const now = this.isVector ? 0 : placeOf(this.value, index).channel;
    this.tiles.forEach((tile, i) => {
      tile.map.tabIndex = i === now ? 0 : -1;
      if (tile.toggle) tile.toggle.tabIndex = tile.map.tabIndex;
    });
    this.tiles[now].map.focus({ preventScroll: false });
  }

  showSwitches() {
    this.tiles.forEach((tile, channel) => {
      if (!tile.toggle) return;
      const silent = isOff(this.value, channel);
      tile.root.classList.toggle("silent", silent);
      tile.toggle.setAttribute("aria-pressed", String(!silent));
      tile.toggle.setAttribute("aria-label", `Map ${channel + 1} of ${nameOf(this.value)}: ${silent ? "off" : "on"}`);
      tile.toggle.title = silent ? "Switch this map on again" : "Switch this map off";
    });
  }

  get shows() {
    return this.root.open && this.visible;
  }

  paint(values) {
    if (!this.tiles.length) this.make();
    const array = values[this.value];
    const scale = scaleOf(array);
    for (const tile of this.tiles) {
      if (!this.isVector) paint(tile.canvas, array, tile.from, scale);
      else {
        const padded = new Float32Array(tile.canvas.width * tile.canvas.height);
        padded.set(array);
        paint(tile.canvas, padded, 0, scale);
        const last = array.length % tile.columns;
        if (last) tile.canvas.getContext("2d").clearRect(last, tile.rows - 1, tile.columns, 1);
      }
    }
    setText(this.ends[0], shown(scale.signed ? -scale.most : 0));
    setText(this.ends[2], shown(scale.most));
    this.ends[1].className = scale.signed ? "signed" : "warm";
    this.mark();
  }

  /** Outline the pointed pixel, or the pixels that it was made of. */
  mark() {
    for (const tile of this.tiles) {
      const boxes = marksOn(this.value, tile, this.isVector);
      tile.marks ??= [];
      while (tile.marks.length < boxes.length) {
        const mark = element("span", { class: "mark" });
        tile.marks.push(mark);
        tile.map.append(mark);
      }
      tile.marks.forEach((mark, i) => {
        mark.hidden = i >= boxes.length;
        if (mark.hidden) return;
        const { top, left, height, width } = boxes[i];
        mark.style.top = `${(100 * top) / tile.rows}%`;
        mark.style.left = `${(100 * left) / tile.columns}%`;
        mark.style.height = `${(100 * height) / tile.rows}%`;
        mark.style.width = `${(100 * width) / tile.columns}%`;
      });
    }
  }
}

const layers = [];

/** Tiles up to which layers are open at first. */
const MOST_OPEN = 110;

function showLayers() {
  let tiles = 0;
  operations.forEach((operation, i) => {
    const [C, H, W] = asMaps(operation.shape);
    const isVector = H * W === 1;
    const open = !["flatten", "identity"].includes(operation.kind) && (isVector || (tiles += C) <= MOST_OPEN);
    layers.push(new LayerRow(i + 1, open));
  });
  $("list").append(...layers.map((layer) => layer.root));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) layers.find((layer) => layer.root === entry.target).visible = entry.isIntersecting;
    request();
  }, { rootMargin: "200px" });
  for (const layer of layers) watcher.observe(layer.root);
  for (const [id, open] of [["open-all", true], ["close-all", false]])
    $(id).addEventListener("click", () => { for (const layer of layers) layer.root.open = open; });
}

/** The filters of a convolution as pictures, beside those from before training where the run kept them. */
class FilterSheet {
  constructor(value) {
    const operation = operations[value - 1];
    const { weight } = operation.arrays;
    if (operation.kind !== "conv") return;
    const [KH, KW] = operation.arguments.kernel;
    if (KH * KW === 1) return;
    this.operation = operation;
    const before = given.filtersBefore?.operation === value - 1 ? arrayAt(given.filtersBefore.place) : null;
    const channels = weight.length / (operation.shape[0] * KH * KW);
    const mean = channels > 1 ? `, the mean of their ${channels} channels` : "";
    const stacks = before ? [["before training", before], ["after training", weight]] : [["after training", weight]];
    this.root = element("details", { class: "filters" }, element("summary", {}, before ? "Filters before and after training" : "Filters"));
    this.root.addEventListener("toggle", () => {
      if (this.made) return;
      this.made = true;
      const planes = stacks.map(([, numbers]) => this.planes(numbers, channels));
      const most = Math.max(...planes.map((plane) => scaleOf(plane).most));
      stacks.forEach(([when], i) => this.root.append(this.sheet(when, planes[i], most)));
      this.root.append(element("p", { class: "quiet" }, `${operation.shape[0]} filters of ${KH}\u00d7${KW}${mean}; blue is below 0, red above, full colour ${shown(most)}.`));
    });
  }

  /** The filters (F, C, KH, KW) as (F, KH, KW), the mean of their channels. */
  planes(numbers, channels) {
    const F = this.operation.shape[0];
    const taps = numbers.length / F / channels;
    const out = new Float32Array(F * taps);
    for (let f = 0; f < F; f++)
      for (let c = 0; c < channels; c++)
        for (let k = 0; k < taps; k++) out[f * taps + k] += numbers[(f * channels + c) * taps + k] / channels;
    return out;
  }

  sheet(when, plane, most) {
    const [KH, KW] = this.operation.arguments.kernel;
    const row = element("div", { class: "sheet", role: "img", "aria-label": `Filters ${when}` });
    for (let f = 0; f < this.operation.shape[0]; f++) {
      const canvas = element("canvas", { width: KW, height: KH, title: `filter ${f + 1}` });
      paint(canvas, plane, f * KH * KW, { signed: true, most });
      row.append(canvas);
    }
    return element("figure", {}, element("figcaption", {}, when), row);
  }
}
