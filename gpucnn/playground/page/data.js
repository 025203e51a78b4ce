// What Python put into the page: the network's description as JSON, its numbers as base64.

const given = JSON.parse(document.getElementById("given").textContent);

/** The bytes of a base64 block of the page. */
function bytesOf(id) {
  const text = atob(document.getElementById(`given-${id}`).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

const allNumbers = new Float32Array(bytesOf("numbers").buffer);

/** An array of the network: [offset, length] among all numbers. */
const arrayAt = ([offset, length]) => allNumbers.subarray(offset, offset + length);

const operations = given.operations.map((operation) => ({
  ...operation,
  arrays: Object.fromEntries(Object.entries(operation.arrays).map(([name, place]) => [name, arrayAt(place)])),
}));

/** A name that came with the data, cut in the middle where it is long. */
const cut = (name) => (name.length > 40 ? `${name.slice(0, 26)}\u2026${name.slice(-13)}` : name);

/** How many numbers a shape holds. */
const sizeOf = (shape) => shape.reduce((product, n) => product * n, 1);

/** A shape as (channels, rows, columns); a vector is channels of one pixel. */
const asMaps = (shape) => (shape.length === 3 ? shape : [sizeOf(shape), 1, 1]);

/** The shape of a value: 0 is the image, k what operation k - 1 makes. */
const shapeOf = (value) => (value ? operations[value - 1].shape : given.image);
