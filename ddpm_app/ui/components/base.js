// Component puts this file before every component's script.
// Gradio gives each script its element, props, server, trigger and watch.

function $(selector) {
  return element.querySelector(selector);
}

function el(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function svg(tag, attributes, text) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const name in attributes) node.setAttribute(name, attributes[name]);
  if (text !== undefined) node.textContent = text;
  return node;
}

// Writes only a different text, so that a selection in the page survives a refresh.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// The value of a CSS variable, for drawing on a canvas.
function css(name) {
  return getComputedStyle(element).getPropertyValue(name).trim() || 'currentColor';
}

// A word whose explanation appears on hover, focus and tap; keys are those of glossary.py.
function term(key, words) {
  return window.ddpm.term(key, words);
}

// The shown view's settings in the address, beside ?v=; the link button copies them.
function setAddress(settings) {
  window.ddpm.setAddress(settings);
}

function readAddress() {
  return window.ddpm.readAddress();
}

// Opens a view, or a tab of the Lab, by its key.
function goTo(key) {
  window.ddpm.goTo(key);
}

function clamp(value, low, high) {
  return Math.max(low, Math.min(high, value));
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), character => character.charCodeAt(0));
}

function decodeImage(base64) {
  const type = base64[0] === '/' ? 'image/jpeg' : 'image/png'; // a JPEG begins with / in base64
  return createImageBitmap(new Blob([bytes(base64)], { type }));
}

function download(blob, name) {
  const link = el('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function fillTiles(box, tiles) {
  box.textContent = '';
  for (const [value, name] of tiles) {
    const tile = el('div', undefined, 'tile');
    tile.append(el('b', value), el('small', name));
    box.append(tile);
  }
}

function showPlaying(playing) {
  const button = $('.play');
  setText(button, playing ? '\u2759\u2759' : '\u25b6');
  button.setAttribute('aria-label', playing ? 'Pause' : 'Play');
}

// 'M x y L x y ...' through [x, y] pairs of pixels.
function pathThrough(points) {
  return points.map(([x, y], k) => `${k ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');
}

// About `count` round numbers from low to high.
function evenTicks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(candidate => candidate >= raw);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high * 1.0001; tick += step) ticks.push(tick);
  return ticks;
}

// After a Stop the page sends an event with the id of the stopped component.
function onStop(handler) {
  document.addEventListener('ddpm-stop', event => {
    if (element.closest('#' + event.detail)) handler();
  });
}

function onThemeChange(draw) {
  function changed() {
    if (element.isConnected) draw();
    else document.removeEventListener('ddpm-theme', changed);
  }
  document.addEventListener('ddpm-theme', changed);
}

// Downloads the frames of a run as an animation made by the server. Progress and errors are shown in .exports .note.
async function exportAnimation(button, run, name, goneSentence) {
  const note = $('.exports .note');
  const kind = button.dataset.kind;
  note.textContent = 'Encoding…';
  button.disabled = true;
  try {
    const answer = await server.export_animation({ run, kind });
    if (answer && answer.data) {
      download(new Blob([bytes(answer.data)], { type: answer.type }), `${name}.${kind}`);
      note.textContent = answer.note;
    } else {
      note.textContent = (answer && answer.error) || goneSentence;
    }
  } catch {
    note.textContent = 'The server could not be reached.';
  } finally {
    button.disabled = false;
  }
}

