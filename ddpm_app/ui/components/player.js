// value = {run, at, total, frames: [base64], meta: [...], panels: {titles, w, h, gap}, curve, done}:
// only the NEW frames, from index `at`.
// meta: one entry for each run in the frame, {t, sigma, log_snr, nfe, of} or {tiles: [[name, text]]}.
// curve: alpha_bar of t = 0..T, or null for none. empty: [title, sentence] of the empty state.
// name: of a downloaded file.
// Every decoded frame stays here, so scrubbing needs no server. Frames sent while the tab was closed are fetched.
const BEAT = 1000 / (props.fps || 20); // ms
const MOST_LAG = 24; // frames; a live view that is further behind skips some
const state = (element.__player = {
  run: null, stopped: null, done: false, total: 0,
  frames: [], meta: [], requested: new Set(), // by index; requested: fetched once already
  shown: -1, mode: 'live', timer: null, drawn: 0
});

function lastFrame() {
  let i = state.frames.length - 1;
  while (i >= 0 && !state.frames[i]) i--;
  return i;
}

function format(value) {
  if (value === null) return '∞';
  const size = Math.abs(value);
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  return value.toFixed(size < 0.1 ? 3 : 2);
}

function buildPanels({ titles, w, h }) {
  const box = $('.panels');
  box.textContent = '';
  box.style.setProperty('--columns', Math.min(titles.length, 2));
  state.canvases = titles.map(title => {
    const canvas = el('canvas');
    canvas.width = w;
    canvas.height = h;
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', title);
    const figure = el('figure');
    figure.append(el('figcaption', title), canvas);
    box.append(figure);
    return canvas;
  });
}

function buildCurve(alphaBar) {
  const curve = $('.curve');
  curve.textContent = '';
  curve.style.display = alphaBar ? '' : 'none';
  state.placeOnCurve = null;
  if (!alphaBar) return;
  const T = alphaBar.length - 1;
  const place = t => [14 + (t / T) * 292, 112 - alphaBar[t] * 92];
  state.placeOnCurve = t => {
    const [, y] = place(clamp(Math.round(t), 0, T));
    return [14 + (t / T) * 292, y];
  };
  curve.append(svg('line', { x1: 14, y1: 112, x2: 306, y2: 112 }));
  curve.append(svg('path', { d: pathThrough(alphaBar.map((_, t) => place(t))) }));
  curve.append(svg('text', { x: 14, y: 126, 'text-anchor': 'start' }, 't = 0'));
  curve.append(svg('text', { x: 306, y: 126, 'text-anchor': 'end' }, `t = ${T}`));
  curve.append(svg('text', { x: 306, y: 16, 'text-anchor': 'end' }, 'share of signal, ᾱ'));
  state.dots = ['a', 'b'].map(run => svg('circle', { r: 6, class: run, cx: -20, cy: -20 }));
  curve.append(...state.dots);
}

function build(value) {
  Object.assign(state, { panels: value.panels, name: value.name });
  buildPanels(value.panels);
  buildCurve(value.curve);
  $('.stage').classList.add('has');
  $('.fp').classList.add('on');
  $('.exports').hidden = true;
  $('.exports .note').textContent = '';
}

function tilesOf(meta) {
  return meta.tiles || [
    ['t', format(meta.t)],
    ['σ', format(meta.sigma)],
    ['log-SNR', format(meta.log_snr)],
    ['evaluations', `${meta.nfe} / ${meta.of}`]
  ];
}

function showMeta(runs) {
  const tiles = runs.flatMap((meta, k) => {
    return tilesOf(meta).map(([name, text]) => [text, runs.length > 1 ? `${name} · ${'AB'[k]}` : name]);
  });
  fillTiles($('.tiles'), tiles);
  if (!state.placeOnCurve) return;
  runs.forEach((meta, k) => {
    const [x, y] = state.placeOnCurve(meta.t);
    state.dots[k].setAttribute('cx', x);
    state.dots[k].setAttribute('cy', y);
  });
}

function show(i) {
  const frame = state.frames[i];
  if (!frame) return;
  const { w, h, gap } = state.panels;
  state.canvases.forEach((canvas, k) => {
    canvas.getContext('2d').drawImage(frame, k * (w + gap), 0, w, h, 0, 0, w, h);
  });
  state.shown = i;
  state.drawn++;
  if (state.meta[i]) showMeta(state.meta[i]);
  const place = `${i} / ${Math.max(state.total - 1, 0)}`;
  $('.scrub').value = i;
  $('.scrub').setAttribute('aria-valuetext', `step ${place}`);
  $('.at').textContent = place;
}

function updateControls() {
  $('.scrub').max = Math.max(0, state.total - 1);
  $('.scrub').disabled = $('.play').disabled = lastFrame() < 0;
  showPlaying(state.mode !== 'pause' && state.timer);
  $('.exports').hidden = !state.done;
}

// One frame per BEAT. A live view that is far behind skips frames.
function beat() {
  const last = lastFrame();
  if (state.shown < last) {
    const lag = last - state.shown;
    const step = state.mode === 'live' && lag > MOST_LAG ? Math.ceil(lag / MOST_LAG) : 1;
    let next = Math.min(last, state.shown + step);
    while (next <= last && !state.frames[next]) next++;
    show(next);
  } else if (state.mode === 'play' || state.done || (state.total && state.shown >= state.total - 1)) {
    halt(state.done ? 'done' : 'pause');
  }
}

function play(mode) {
  state.mode = mode;
  if (!state.timer) state.timer = setInterval(beat, BEAT);
  updateControls();
}

function halt(mode) {
  clearInterval(state.timer);
  state.timer = null;
  state.mode = mode;
  updateControls();
}

// entries: [[index, base64], ...]
async function keepFrames(entries, run) {
  const decoded = await Promise.all(entries.map(([, base64]) => decodeImage(base64).catch(() => null)));
  if (run !== state.run || run === state.stopped) return;
  decoded.forEach((frame, k) => {
    if (frame) state.frames[entries[k][0]] = frame;
  });
  updateControls();
}

async function fetchMissing(before, run) {
  const missing = [];
  for (let i = 0; i < before; i++) if (!state.frames[i] && !state.requested.has(i)) missing.push(i);
  if (!missing.length) return;
  for (const i of missing) state.requested.add(i);
  const fetched = (await server.frames_missing({ run, want: missing })) || [];
  for (const [i, , meta] of fetched) state.meta[i] = meta;
  await keepFrames(fetched, run);
}

async function update() {
  const value = props.value;
  if (value && value.empty) value.empty.forEach((text, k) => { $('.empty').children[k].textContent = text; });
  if (!value || !value.run || value.run === state.stopped) return; // a message may arrive after the Stop
  if (value.run !== state.run) {
    const asked = new Set();
    Object.assign(state, { run: value.run, frames: [], meta: [], total: 0, shown: -1, asked, done: false });
    build(value);
    halt('live');
    play('live');
  }
  const run = state.run;
  const first = value.at || 0;
  const frames = value.frames || [];
  state.total = value.stopped ? first + frames.length : value.total || 0;
  (value.meta || []).forEach((meta, k) => { state.meta[first + k] = meta; });
  await keepFrames(frames.map((base64, k) => [first + k, base64]), run);
  await fetchMissing(first, run);
  if (value.done) {
    state.done = true;
    updateControls();
  }
  if (state.mode === 'live' && !state.timer) play('live');
}

element.addEventListener('input', event => {
  if (!event.target.matches('.scrub')) return;
  halt('pause');
  let i = +event.target.value;
  while (i > 0 && !state.frames[i]) i--;
  show(i);
});

element.addEventListener('click', event => {
  if (event.target.closest('.play')) {
    if (state.timer) return halt('pause');
    if (state.shown >= lastFrame()) state.shown = -1;
    play('play');
  }
  const button = event.target.closest('[data-kind]');
  const gone = 'This run is no longer kept; denoise again.';
  if (button) exportAnimation(button, state.run, state.name || 'ddpm-denoising', gone);
});

// After a Stop, the frames that have arrived are the whole run.
onStop(() => {
  if (state.done || !state.run) return;
  state.stopped = state.run;
  state.total = lastFrame() + 1;
  state.done = true;
  $('.exports .note').textContent = 'Stopped here.';
  updateControls();
});

watch('value', update);
update();
