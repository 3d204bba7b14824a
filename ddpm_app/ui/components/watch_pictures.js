// The pixels of a run of pictures, in model space: run.rows[part][k] is a Float32Array of one level, all pictures side by side;
// part is x (x_t), x0 (the guess) or eps (the noise found). Neighbouring levels are mixed, so that 36 steps look continuous.
const NOISE_SCALE = 4; // x_T is stored divided by this: studio/recordings.py

// The rows of an image, `height` pixels each: RGB in model space, from -1 to 1.
function rowsOfImage(image, height) {
  const canvas = el('canvas');
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const rows = [];
  for (let y = 0; y + height <= image.height; y += height) {
    const pixels = context.getImageData(0, y, image.width, height).data;
    const row = new Float32Array((pixels.length / 4) * 3);
    for (let k = 0, i = 0; i < pixels.length; i++) if (i % 4 !== 3) row[k++] = pixels[i] / 127.5 - 1;
    rows.push(row);
  }
  return rows;
}

async function fetchRows(address, height) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return rowsOfImage(await createImageBitmap(await answer.blob()), height);
}

async function loadPictures(run) {
  const [[noise], guesses] = await Promise.all([
    fetchRows(`${run.address}-noise.png`, run.cell), fetchRows(`${run.address}.jpg`, run.cell)
  ]);
  beginPictures(run, noise);
  for (const guess of guesses) addGuess(run, guess);
}

function beginPictures(run, noise) {
  run.rows = { x: [noise.map(value => value * NOISE_SCALE)], x0: [], eps: [] };
}

// The network's guess at the newest level gives the noise in it, and by DDIM's step the next level.
function addGuess(run, x0) {
  const { rows } = run;
  const level = rows.x0.length;
  const [s, r] = [run.sigma[level], run.sigma[level + 1]];
  const x = rows.x[level];
  rows.x0.push(x0);
  const up = Math.sqrt(1 + s * s);
  rows.eps.push(x.map((value, k) => (value * up - x0[k]) / s));
  rows.x.push(stepOfDdim(x, x0, s, r));
  if (level + 1 === run.steps) rows.x0.push(rows.x[run.steps]); // a finished picture is its own guess
  for (const store of Object.values(run.mixed || {})) store.key = '';
}

// x0 + (r / s)(x - x0), from x_t at level s to x_t at level r.
function stepOfDdim(x, x0, s, r) {
  const [before, after] = [Math.sqrt(1 + s * s), Math.sqrt(1 + r * r)];
  return x.map((value, k) => (x0[k] + (r / s) * (value * before - x0[k])) / after);
}

// A canvas with all pictures of a part at place p, in native pixels. It is drawn again only for another place.
// Noise hides what is behind it, so it is drawn with less contrast unless the exact pixels are wanted.
function mixedRow(run, part, p, exact) {
  const rows = run.rows[part];
  const i = Math.min(Math.floor(p), rows.length - 1);
  const j = Math.min(i + 1, rows.length - 1);
  run.mixed = run.mixed || {};
  const store = (run.mixed[part] = run.mixed[part] || newRow(run));
  const key = `${p} ${exact}`;
  if (store.key === key) return store.canvas;
  const f = j === i ? 0 : p - i;
  const gain = 127.5 * (exact || part === 'x0' ? 1 : contrast(part === 'eps' ? Infinity : sigmaAt(run, p)));
  const [a, b, out] = [rows[i], rows[j], store.pixels.data];
  const [ga, gb] = [gain * (1 - f), gain * f];
  for (let k = 0, o = 0; k < a.length; o += 4) {
    out[o] = a[k] * ga + b[k++] * gb + 127.5;
    out[o + 1] = a[k] * ga + b[k++] * gb + 127.5;
    out[o + 2] = a[k] * ga + b[k++] * gb + 127.5;
  }
  store.canvas.getContext('2d').putImageData(store.pixels, 0, 0);
  store.key = key;
  return store.canvas;
}

function newRow(run) {
  const canvas = el('canvas');
  canvas.width = run.cell * run.pictures.length;
  canvas.height = run.cell;
  return { canvas, pixels: new ImageData(new Uint8ClampedArray(canvas.width * canvas.height * 4).fill(255), canvas.width), key: '' };
}

function drawPicture(context, run, part, k, p, exact, [x, y, width]) {
  if (!run.rows[part].length) return; // a live run has no guess yet
  context.imageSmoothingEnabled = false;
  context.drawImage(mixedRow(run, part, p, exact), k * run.cell, 0, run.size, run.size, x, y, width, width);
}

// Nine pictures, three in a row. part(k): what is shown of picture k.
function drawNine(canvas, run, p, exact, part, gap, radius) {
  const context = canvas.getContext('2d');
  const width = Math.round((canvas.width - 2 * gap) / 3);
  context.clearRect(0, 0, canvas.width, canvas.height);
  for (let k = 0; k < run.pictures.length; k++) {
    const x = Math.round((k % 3) * ((canvas.width - 2 * gap) / 3 + gap));
    const y = Math.round(Math.floor(k / 3) * ((canvas.width - 2 * gap) / 3 + gap));
    context.save();
    context.beginPath();
    context.roundRect(x, y, width, width, radius);
    context.clip();
    drawPicture(context, run, part(k), k, p, exact, [x, y, width]);
    context.restore();
  }
}

// Random numbers in the place of the pictures, until the recording is there.
function drawNoise(canvas, gap, radius) {
  const noise = Float32Array.from({ length: 9 * 32 * 32 * 3 }, () => 2 * Math.random() - 1);
  const run = { cell: 32, size: 32, steps: 0, sigma: [160], pictures: Array.from({ length: 9 }), rows: { x: [noise] } };
  drawNine(canvas, run, 0, true, () => 'x', gap, radius);
}
