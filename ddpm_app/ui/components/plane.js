// value = {run, data: {points, colour, half, name, dim},
// move: {n, sigma: [...], frames: base64 int16 (K, n, 2), particles}, field, density, hint, keep, locked}.
// run null: the plane keeps its picture, and only locked is read (no drawing during a run).
// Positions are thousandths of the square's half side. All frames of the particles are here: play, pause, scrub and
// speed need no server.
const COLOURS = ['--c1', '--c2', '--c3', '--c4', '--c5', '--ink'];
const LEVELS = [-0.5, -1.5, -3, -5, -8]; // of the contours, in nats below the peak
const MOST_STROKES = 60;
const MOST_POINTS = 400; // of a stroke
const canvas = $('.plane');
const context = canvas.getContext('2d');
const state = (element.__lab = {
  run: null, value: null, locked: false, drawn: 0,
  positions: null, now: null, // of the particles: at all levels, and between two of them
  at: 0, playing: false, lastTick: 0,
  background: null, backgroundKey: null,
  strokes: [], stroke: null, beforeDrawing: null
});

const side = () => canvas.width;
const unit = () => side() / 640; // line widths and dots grow with the canvas
const pixelX = x => ((x / 1000 + 1) / 2) * side();
const pixelY = y => ((1 - y / 1000) / 2) * side();
const isOn = layer => $('.show-' + layer).checked;
const isDark = () => document.body.classList.contains('dark');
const levels = () => (state.value && state.value.move ? state.value.move.sigma.length : 0);

function resize() {
  const wanted = Math.round(Math.max(200, canvas.clientWidth) * Math.min(2, window.devicePixelRatio || 1));
  if (canvas.width === wanted) return;
  canvas.width = canvas.height = wanted;
  state.background = null;
}

function line([x1, y1], [x2, y2]) {
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
}

// Marching squares: a segment for each pair of crossed edges of a cell.
function drawContours(density) {
  const n = density.side;
  const point = (i, j) => [pixelX(((2 * j) / (n - 1) - 1) * 1000), pixelY(((2 * i) / (n - 1) - 1) * 1000)];
  function crossings(i, j, level) {
    const corners = [[i, j], [i, j + 1], [i + 1, j + 1], [i + 1, j]];
    const crossed = [];
    corners.forEach(([i1, j1], edge) => {
      const [i2, j2] = corners[(edge + 1) % 4];
      const from = density.log_p[i1 * n + j1] - level;
      const to = density.log_p[i2 * n + j2] - level;
      if (from < 0 === to < 0) return;
      const share = from / (from - to);
      crossed.push(point(i1 + share * (i2 - i1), j1 + share * (j2 - j1)));
    });
    return crossed;
  }
  context.strokeStyle = css('--ink2');
  context.lineWidth = unit();
  LEVELS.forEach((level, k) => {
    context.globalAlpha = 0.9 - 0.15 * k;
    context.beginPath();
    for (let i = 0; i < n - 1; i++) {
      for (let j = 0; j < n - 1; j++) {
        const crossed = crossings(i, j, level);
        for (let e = 0; e + 1 < crossed.length; e += 2) line(crossed[e], crossed[e + 1]);
      }
    }
    context.stroke();
  });
  context.globalAlpha = 1;
}

function drawHeat({ side: n, heat }) {
  const cell = side() / n;
  context.fillStyle = css('--signal-f');
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      context.globalAlpha = (0.75 * heat[i * n + j]) / 255;
      context.fillRect(j * cell, side() - (i + 1) * cell, cell + 1, cell + 1);
    }
  }
  context.globalAlpha = 1;
}

function drawArrow(from, to) {
  const angle = Math.atan2(to[1] - from[1], to[0] - from[0]);
  const head = Math.min(0.35 * Math.hypot(to[0] - from[0], to[1] - from[1]), 5 * unit());
  line(from, to);
  for (const offset of [-0.5, 0.5]) {
    line(to, [to[0] - head * Math.cos(angle + offset), to[1] - head * Math.sin(angle + offset)]);
  }
}

function drawArrows({ side: n, arrows }) {
  let longest = 1;
  for (let k = 0; k < n * n; k++) longest = Math.max(longest, Math.hypot(arrows[2 * k], arrows[2 * k + 1]));
  const cell = 2000 / (n - 1);
  const scale = (0.9 * cell) / longest;
  context.strokeStyle = css('--ink');
  context.lineWidth = 1.2 * unit();
  context.globalAlpha = 0.75;
  context.beginPath();
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      const k = 2 * (i * n + j);
      const [x, y] = [-1000 + j * cell, -1000 + i * cell];
      const tip = [pixelX(x + scale * arrows[k]), pixelY(y + scale * arrows[k + 1])];
      drawArrow([pixelX(x), pixelY(y)], tip);
    }
  }
  context.stroke();
  context.globalAlpha = 1;
}

// One path per colour, which is fast for thousands of squares. colours: index of each point's colour, or null for grey.
function drawPoints(positions, colours, n, size, opacity) {
  context.globalAlpha = opacity;
  const used = colours ? COLOURS.map(css) : [css('--ink2')];
  used.forEach((colour, c) => {
    let any = false;
    context.fillStyle = colour;
    context.beginPath();
    for (let k = 0; k < n; k++) {
      if (colours && colours[k] % COLOURS.length !== c) continue;
      context.rect(pixelX(positions[2 * k]) - size / 2, pixelY(positions[2 * k + 1]) - size / 2, size, size);
      any = true;
    }
    if (any) context.fill();
  });
  context.globalAlpha = 1;
}

// The paths of about 120 particles, every k-th one, up to now.
function drawPaths() {
  const { n, particles } = state.value.move;
  const step = Math.max(1, Math.floor(n / 120));
  const last = Math.min(levels() - 1, Math.ceil(state.at));
  context.lineWidth = side() / 900;
  context.globalAlpha = isDark() ? 0.6 : 0.35;
  const colours = COLOURS.map(css);
  for (let k = 0; k < n; k += step) {
    context.strokeStyle = colours[particles[k] % COLOURS.length];
    context.beginPath();
    for (let level = 0; level <= last; level++) {
      const i = 2 * (level * n + k);
      const point = [pixelX(state.positions[i]), pixelY(state.positions[i + 1])];
      if (level) context.lineTo(...point);
      else context.moveTo(...point);
    }
    context.stroke();
  }
  context.globalAlpha = 1;
}

// Everything that does not move is drawn once and kept as a picture.
function drawBackground() {
  const moving = levels() > 0;
  const key = [side(), state.run, isOn('data'), isOn('contours'), isOn('field'), isDark(), moving].join();
  if (!state.background || state.backgroundKey !== key) {
    const { data, density, field } = state.value;
    context.clearRect(0, 0, side(), side());
    if (field && isOn('field')) (field.kind === 'heat' ? drawHeat : drawArrows)(field);
    if (isOn('data')) {
      const opacity = moving ? (isDark() ? 0.6 : 0.3) : isDark() ? 0.9 : 0.7;
      drawPoints(data.points, moving ? null : data.colour, data.points.length / 2, 2.4 * unit(), opacity);
    }
    if (density && isOn('contours')) drawContours(density);
    state.background = state.background || el('canvas');
    state.background.width = state.background.height = side();
    state.background.getContext('2d').drawImage(canvas, 0, 0);
    state.backgroundKey = key;
  }
  context.clearRect(0, 0, side(), side());
  context.drawImage(state.background, 0, 0);
}

// Particles are interpolated between two levels, so that they move smoothly at any speed.
function drawParticles() {
  const { n, sigma: sigmas, particles } = state.value.move;
  const before = Math.min(Math.floor(state.at), levels() - 1);
  const after = Math.min(before + 1, levels() - 1);
  const share = state.at - before;
  for (let i = 0; i < 2 * n; i++) {
    const [from, to] = [state.positions[before * 2 * n + i], state.positions[after * 2 * n + i]];
    state.now[i] = (1 - share) * from + share * to;
  }
  drawPoints(state.now, particles, n, 3 * unit(), 0.85);
  const sigma = sigmas[Math.round(state.at)];
  $('.at').textContent = `σ ${sigma >= 100 || !sigma ? sigma.toFixed(0) : sigma.toPrecision(2)}`;
  $('.scrub').value = state.at;
  $('.scrub').setAttribute('aria-valuetext', `sigma ${sigma.toPrecision(3)}`);
}

function drawStrokes(strokes) {
  const place = ([x, y]) => [pixelX(x * 1000), pixelY(y * 1000)];
  context.strokeStyle = css('--ink');
  context.lineWidth = 10 * unit();
  context.lineCap = context.lineJoin = 'round';
  for (const stroke of strokes) {
    const [[x, y], ...others] = stroke.map(place);
    context.beginPath();
    context.moveTo(x, y);
    for (const point of others) context.lineTo(...point);
    if (!others.length) context.lineTo(x + 0.1, y); // a very short line, whose round ends make a dot
    context.stroke();
  }
}

function draw() {
  resize();
  if (state.value && state.value.data) {
    drawBackground();
    if (levels() && isOn('paths')) drawPaths();
    if (levels()) drawParticles();
  } else {
    context.clearRect(0, 0, side(), side());
  }
  drawStrokes(state.stroke ? [...state.strokes, state.stroke] : state.strokes);
  state.drawn++;
}

// From noise to data in three seconds at speed 1.
function tick(now) {
  if (!state.playing) return;
  const seconds = Math.min(0.1, (now - (state.lastTick || now)) / 1000);
  const last = levels() - 1;
  state.lastTick = now;
  state.at += ((seconds * last) / 3) * +$('.speed').value;
  if (state.at >= last) {
    state.at = last;
    halt();
  }
  draw();
  if (state.playing) requestAnimationFrame(tick);
}

function updatePlayer() {
  $('.play').disabled = $('.scrub').disabled = !levels();
  showPlaying(state.playing);
}

function play() {
  if (!levels()) return;
  if (state.at >= levels() - 1) state.at = 0;
  state.playing = true;
  state.lastTick = 0;
  updatePlayer();
  requestAnimationFrame(tick);
}

function halt() {
  state.playing = false;
  updatePlayer();
}

function updateDrawBar() {
  $('.draw').disabled = state.locked;
  $('.use').disabled = state.locked || !state.strokes.length;
  $('.clear').disabled = !state.strokes.length;
}

function takeMove(value, before) {
  if (value.keep && before && before.move && !value.move) {
    value.move = before.move; // a new field or contours: the particles stay
  } else if (value.move) {
    state.positions = new Int16Array(bytes(value.move.frames).buffer);
    state.now = new Float32Array(2 * value.move.n);
    $('.scrub').max = levels() - 1;
    state.at = window.matchMedia('(prefers-reduced-motion: reduce)').matches ? levels() - 1 : 0;
  } else {
    state.at = 0;
    halt();
    $('.at').textContent = '\u00a0';
  }
}

function update() {
  const value = props.value;
  if (!value) return;
  state.locked = !!value.locked;
  if (state.locked && isDrawing()) leaveDrawing();
  updateDrawBar();
  if (!value.run || value.run === state.run) return;

  const before = state.value;
  Object.assign(state, { run: value.run, value, backgroundKey: null });
  $('.lab').classList.toggle('has', !!value.data);
  if (value.keep && before && !value.density) value.density = before.density;
  takeMove(value, before);
  if (!value.drawing) {
    state.strokes = [];
    updateDrawBar();
  }
  $('.hint').textContent = value.hint || '';
  canvas.setAttribute('aria-label', value.hint || 'Points in the plane');
  updatePlayer();
  if (value.move && value.move !== (before && before.move) && state.at === 0) play();
  draw();
}

function positionOf(event) {
  const box = canvas.getBoundingClientRect();
  const x = (2 * (event.clientX - box.left)) / box.width - 1;
  const y = 1 - (2 * (event.clientY - box.top)) / box.height;
  return [clamp(x, -1, 1), clamp(y, -1, 1)];
}

function isDrawing() {
  return $('.draw').getAttribute('aria-pressed') === 'true';
}

function beginDrawing() {
  state.beforeDrawing = state.value && [state.value, state.run];
  state.value = state.run = null;
  $('.draw').setAttribute('aria-pressed', 'true');
  $('.lab').classList.add('drawing');
  halt();
  $('.lab').classList.remove('has');
}

// Restores the plane from before the drawing.
function leaveDrawing() {
  if (!state.value && state.beforeDrawing) {
    [state.value, state.run] = state.beforeDrawing;
    state.backgroundKey = null;
    $('.lab').classList.add('has');
    updatePlayer();
  }
  state.stroke = null;
  $('.draw').setAttribute('aria-pressed', 'false');
  $('.lab').classList.remove('drawing');
}

function endStroke() {
  if (!state.stroke) return;
  if (state.strokes.length < MOST_STROKES) state.strokes.push(state.stroke);
  state.stroke = null;
  updateDrawBar();
  draw();
}

function useDrawing() {
  const rounded = value => Math.round(value * 1000) / 1000;
  leaveDrawing();
  trigger('sketch', { strokes: state.strokes.map(stroke => stroke.map(point => point.map(rounded))) });
}

canvas.addEventListener('pointerdown', event => {
  if (!isDrawing()) return;
  canvas.setPointerCapture(event.pointerId);
  state.stroke = [positionOf(event)];
  draw();
});
canvas.addEventListener('pointermove', event => {
  if (!state.stroke || state.stroke.length > MOST_POINTS) return;
  state.stroke.push(positionOf(event));
  draw();
});
canvas.addEventListener('pointerup', endStroke);
canvas.addEventListener('pointercancel', endStroke);

element.addEventListener('input', event => {
  if (event.target.matches('.scrub')) {
    halt();
    state.at = +event.target.value;
    draw();
  } else if (event.target.matches('[type=checkbox]')) {
    draw();
  }
});

element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.matches('.play')) {
    if (state.playing) halt();
    else play();
  } else if (button.matches('.draw')) {
    if (isDrawing()) leaveDrawing();
    else beginDrawing();
    draw();
  } else if (button.matches('.clear')) {
    state.strokes = [];
    updateDrawBar();
    draw();
  } else if (button.matches('.use')) {
    useDrawing();
  }
});

new ResizeObserver(draw).observe(canvas);
onThemeChange(draw);
watch('value', update);
update();
