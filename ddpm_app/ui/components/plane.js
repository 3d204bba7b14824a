// value = {run, data: {points, colour, half, name, dim}, move: {n, sigma: [...], frames: base64 int16 (K, n, 2), particles}, field, density, locked}
// run null: what is shown stays, only locked (no drawing while something runs) is heard.
// positions are thousandths of the square's half side; the particles' whole way is here, so that play, pause, scrub and speed ask no server.
const $ = s => element.querySelector(s), canvas = $('.plane'), g = canvas.getContext('2d');
const S = element.__lab = { run: null, v: null, xy: null, at: 0, playing: false, last: 0, drawn: 0, strokes: [], stroke: null, locked: false };
const COLOURS = ['#6366f1', '#d97706', '#0d9488', '#db2777', '#65a30d', '#0284c7', '#9333ea', '#dc2626'];
const css = name => getComputedStyle(element).getPropertyValue(name).trim() || '#888';
const on = c => $('.show-' + c).checked, dark = () => document.body.classList.contains('dark'), W = () => canvas.width, px = u => (u / 1000 + 1) / 2 * W(), py = u => (1 - u / 1000) / 2 * W();
const frames = () => S.v && S.v.move ? S.v.move.sigma.length : 0;

function resize() {
  const side = Math.round(Math.max(200, canvas.clientWidth) * Math.min(2, window.devicePixelRatio || 1));
  if (canvas.width !== side) { canvas.width = canvas.height = side; S.back = null; }
}
function line(a, b) { g.moveTo(a[0], a[1]); g.lineTo(b[0], b[1]); }
function contours(d) { // marching squares, a segment for each pair of crossed edges
  const n = d.side, at = (i, j) => d.log_p[i * n + j], X = j => px((2 * j / (n - 1) - 1) * 1000), Y = i => py((2 * i / (n - 1) - 1) * 1000);
  g.strokeStyle = css('--body-text-color-subdued'); g.lineWidth = W() / 640;
  [-0.5, -1.5, -3, -5, -8].forEach((level, k) => {
    g.globalAlpha = .9 - .15 * k; g.beginPath();
    for (let i = 0; i < n - 1; i++) for (let j = 0; j < n - 1; j++) {
      const c = [[i, j], [i, j + 1], [i + 1, j + 1], [i + 1, j]], hit = [];
      for (let e = 0; e < 4; e++) {
        const [p, q] = [c[e], c[(e + 1) % 4]], a = at(...p) - level, b = at(...q) - level;
        if (a < 0 !== b < 0) { const t = a / (a - b); hit.push([X(p[1] + t * (q[1] - p[1])), Y(p[0] + t * (q[0] - p[0]))]); }
      }
      for (let e = 0; e + 1 < hit.length; e += 2) line(hit[e], hit[e + 1]);
    }
    g.stroke();
  });
  g.globalAlpha = 1;
}
function field(f) {
  const n = f.side;
  if (f.kind === 'heat') {
    const cell = W() / n;
    g.fillStyle = dark() ? '#f59e0b' : '#dc2626';
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) { g.globalAlpha = .75 * f.heat[i * n + j] / 255; g.fillRect(j * cell, W() - (i + 1) * cell, cell + 1, cell + 1); }
    g.globalAlpha = 1; return;
  }
  let top = 1; for (let k = 0; k < n * n; k++) top = Math.max(top, Math.hypot(f.arrows[2 * k], f.arrows[2 * k + 1]));
  const cell = 2000 / (n - 1), s = .9 * cell / top; g.strokeStyle = css('--color-accent'); g.lineWidth = 1.2 * W() / 640; g.globalAlpha = .75; g.beginPath();
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
    const k = i * n + j, x = -1000 + j * cell, y = -1000 + i * cell, u = x + s * f.arrows[2 * k], v = y + s * f.arrows[2 * k + 1];
    const a = [px(x), py(y)], b = [px(u), py(v)], q = Math.atan2(b[1] - a[1], b[0] - a[0]), h = Math.min(.35 * Math.hypot(b[0] - a[0], b[1] - a[1]), 5 * W() / 640);
    line(a, b); line(b, [b[0] - h * Math.cos(q - .5), b[1] - h * Math.sin(q - .5)]); line(b, [b[0] - h * Math.cos(q + .5), b[1] - h * Math.sin(q + .5)]);
  }
  g.stroke(); g.globalAlpha = 1;
}
function dots(xy, colour, n, r, alpha) { // one path a colour: two thousand squares in a millisecond
  g.globalAlpha = alpha; const most = COLOURS.length, r2 = r / 2;
  for (let c = 0; c < most; c++) {
    let any = false; g.fillStyle = colour ? COLOURS[c] : css('--body-text-color-subdued'); g.beginPath();
    for (let k = 0; k < n; k++) { if (colour && colour[k] % most !== c) continue; g.rect(px(xy[2 * k]) - r2, py(xy[2 * k + 1]) - r2, r, r); any = true; }
    if (any) g.fill(); if (!colour) break;
  }
  g.globalAlpha = 1;
}
function paths() {
  const m = S.v.move, K = frames(), step = Math.max(1, Math.floor(m.n / 120)); g.lineWidth = W() / 900; g.globalAlpha = dark() ? .6 : .35;
  const upto = Math.min(K - 1, Math.ceil(S.at));
  for (let k = 0; k < m.n; k += step) {
    g.strokeStyle = COLOURS[m.particles[k] % COLOURS.length]; g.beginPath();
    for (let f = 0; f <= upto; f++) { const i = 2 * (f * m.n + k), x = px(S.xy[i]), y = py(S.xy[i + 1]); f ? g.lineTo(x, y) : g.moveTo(x, y); }
    g.stroke();
  }
  g.globalAlpha = 1;
}
function background() { // what does not move is drawn once
  const key = [W(), S.run, on('data'), on('contours'), on('field'), dark(), frames() > 0].join();
  if (S.back && S.key === key) return;
  g.clearRect(0, 0, W(), W()); const v = S.v, r = W() / 640;
  if (v.field && on('field')) field(v.field);
  if (v.data && on('data')) dots(v.data.points, frames() ? null : v.data.colour, v.data.points.length / 2, 2.4 * r, frames() ? (dark() ? .6 : .3) : dark() ? .9 : .7);
  if (v.density && on('contours')) contours(v.density);
  S.back = S.back || document.createElement('canvas'); S.back.width = S.back.height = W(); S.back.getContext('2d').drawImage(canvas, 0, 0); S.key = key;
}
function draw() {
  resize(); const r = W() / 640;
  if (S.v && S.v.data) {
    background(); g.clearRect(0, 0, W(), W()); g.drawImage(S.back, 0, 0);
    if (frames()) {
      if (on('paths')) paths();
      const m = S.v.move, K = frames(), f = Math.min(Math.floor(S.at), K - 1), h = Math.min(f + 1, K - 1), w = S.at - f, n = m.n, xy = S.now;
      for (let i = 0; i < 2 * n; i++) xy[i] = (1 - w) * S.xy[f * 2 * n + i] + w * S.xy[h * 2 * n + i]; // between frames: smooth at any speed
      dots(xy, m.particles, n, 3 * r, .85);
      const sigma = m.sigma[Math.round(S.at)]; $('.at').textContent = `σ ${sigma >= 100 || !sigma ? sigma.toFixed(0) : sigma.toPrecision(2)}`;
      $('.scrub').value = S.at; $('.scrub').setAttribute('aria-valuetext', `sigma ${sigma.toPrecision(3)}`);
    }
  } else g.clearRect(0, 0, W(), W());
  if (S.strokes.length || S.stroke) {
    g.strokeStyle = css('--color-accent'); g.lineWidth = 10 * r; g.lineCap = g.lineJoin = 'round';
    for (const s of [...S.strokes, ...(S.stroke ? [S.stroke] : [])]) { g.beginPath(); s.forEach(([x, y], k) => k ? g.lineTo(px(x * 1000), py(y * 1000)) : g.moveTo(px(x * 1000), py(y * 1000))); if (s.length === 1) g.lineTo(px(s[0][0] * 1000) + .1, py(s[0][1] * 1000)); g.stroke(); }
  }
  S.drawn++;
}
function tick(now) {
  if (!S.playing) return;
  const seconds = Math.min(.1, (now - (S.last || now)) / 1000); S.last = now;
  S.at += seconds * (frames() - 1) / 3 * +$('.speed').value; // three seconds from noise to data at speed 1
  if (S.at >= frames() - 1) { S.at = frames() - 1; halt(); }
  draw(); if (S.playing) requestAnimationFrame(tick);
}
function ui() { const p = $('.play'), has = frames() > 0; p.disabled = $('.scrub').disabled = !has; p.innerHTML = S.playing ? '&#10073;&#10073;' : '&#9654;'; p.setAttribute('aria-label', S.playing ? 'Pause' : 'Play'); }
function run() { if (!frames()) return; if (S.at >= frames() - 1) S.at = 0; S.playing = true; S.last = 0; ui(); requestAnimationFrame(tick); }
function halt() { S.playing = false; ui(); }
function tools() { $('.draw').disabled = S.locked; $('.use').disabled = S.locked || !S.strokes.length; $('.clear').disabled = !S.strokes.length; }
function upd() {
  const v = props.value; if (!v) return;
  S.locked = !!v.locked; if (S.locked && drawing()) leave(); tools();
  if (!v.run || v.run === S.run) return;
  const before = S.v; S.run = v.run; S.v = v; S.key = null; $('.lab').classList.toggle('has', !!v.data);
  if (v.keep && before && !v.density) v.density = before.density;
  if (v.keep && before && before.move && !v.move) v.move = before.move; // a field or contours under the particles that are there
  else if (v.move) {
    S.xy = new Int16Array(Uint8Array.from(atob(v.move.frames), c => c.charCodeAt(0)).buffer); S.now = new Float32Array(2 * v.move.n);
    $('.scrub').max = frames() - 1; S.at = 0;
    if (window.matchMedia('(prefers-reduced-motion: reduce)').matches) S.at = frames() - 1;
  } else { S.at = 0; halt(); $('.at').textContent = '\u00a0'; }
  if (!v.drawing) { S.strokes = []; tools(); }
  $('.hint').textContent = v.hint || ''; canvas.setAttribute('aria-label', v.hint || 'Points in the plane'); ui();
  if (v.move && v.move !== (before && before.move) && S.at === 0) run(); draw();
}
const where = e => { const b = canvas.getBoundingClientRect(); return [Math.max(-1, Math.min(1, 2 * (e.clientX - b.left) / b.width - 1)), Math.max(-1, Math.min(1, 1 - 2 * (e.clientY - b.top) / b.height))]; };
function leave() { // the plane that was there before drawing began comes back
  if (!S.v && S.before) { [S.v, S.run] = S.before; S.key = null; $('.lab').classList.add('has'); ui(); }
  S.stroke = null; $('.draw').setAttribute('aria-pressed', 'false'); $('.lab').classList.remove('drawing'); }
const drawing = () => $('.draw').getAttribute('aria-pressed') === 'true';
canvas.addEventListener('pointerdown', e => { if (!drawing()) return; canvas.setPointerCapture(e.pointerId); S.stroke = [where(e)]; draw(); });
canvas.addEventListener('pointermove', e => { if (!S.stroke || S.stroke.length > 400) return; S.stroke.push(where(e)); draw(); });
const lift = () => { if (!S.stroke) return; if (S.strokes.length < 60) S.strokes.push(S.stroke); S.stroke = null; tools(); draw(); };
canvas.addEventListener('pointerup', lift); canvas.addEventListener('pointercancel', lift);
element.addEventListener('input', e => { if (e.target.matches('.scrub')) { halt(); S.at = +e.target.value; draw(); } else if (e.target.matches('[type=checkbox]')) draw(); });
element.addEventListener('click', e => {
  const b = e.target.closest('button'); if (!b) return;
  if (b.matches('.play')) S.playing ? halt() : run();
  else if (b.matches('.draw')) { if (drawing()) leave(); else { b.setAttribute('aria-pressed', 'true'); $('.lab').classList.add('drawing'); S.before = S.v && [S.v, S.run]; S.v = S.run = null; halt(); $('.lab').classList.remove('has'); } draw(); }
  else if (b.matches('.clear')) { S.strokes = []; tools(); draw(); }
  else if (b.matches('.use')) { leave(); trigger('sketch', { strokes: S.strokes.map(s => s.map(p => p.map(c => Math.round(c * 1000) / 1000))) }); }
});
new ResizeObserver(() => draw()).observe(canvas);
const themed = () => element.isConnected ? draw() : document.removeEventListener('ddpm-theme', themed); document.addEventListener('ddpm-theme', themed);
watch('value', upd); upd();
