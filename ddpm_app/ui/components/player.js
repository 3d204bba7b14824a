// value = {run, at, total, frames: [base64], meta: [...], panels: {titles, w, h, gap}, curve, done}: only the NEW frames.
// A meta may bring its own {tiles: [[name, text]]}; curve null: no schedule beside them; empty: [title, sentence] of the empty state.
// Every decoded frame stays here, so scrubbing never asks the server; frames missed while the tab was not mounted are fetched.
const $ = s => element.querySelector(s), PACE = 1000 / (props.fps || 20);
const S = element.__player = { run: null, f: [], meta: [], total: 0, cur: -1, mode: 'live', timer: null, asked: new Set(), drawn: 0, done: false };
const bytes = b => Uint8Array.from(atob(b), c => c.charCodeAt(0));
const decode = b => createImageBitmap(new Blob([bytes(b)], { type: b[0] === '/' ? 'image/jpeg' : 'image/png' }));
const el = (tag, content, cls) => { const e = document.createElement(tag); if (content !== undefined) e.textContent = content; if (cls) e.className = cls; return e; };
const svg = (tag, at) => { const e = document.createElementNS('http://www.w3.org/2000/svg', tag); for (const k in at) e.setAttribute(k, at[k]); return e; };
const end = () => { let i = S.f.length - 1; while (i >= 0 && !S.f[i]) i--; return i; };
const num = v => v === null ? '∞' : Math.abs(v) >= 100 ? v.toFixed(0) : Math.abs(v) >= 10 ? v.toFixed(1) : v.toFixed(Math.abs(v) < 0.1 ? 3 : 2);

function build(v) {
  const box = $('.panels'); box.textContent = ''; S.canvas = [];
  box.style.setProperty('--columns', Math.min(v.panels.titles.length, 2));
  for (const title of v.panels.titles) {
    const fig = el('figure'), c = el('canvas'); c.width = v.panels.w; c.height = v.panels.h; c.setAttribute('role', 'img'); c.setAttribute('aria-label', title);
    fig.append(el('figcaption', title), c); box.append(fig); S.canvas.push(c);
  }
  const s = $('.curve'); s.textContent = ''; s.style.display = v.curve ? '' : 'none'; S.name = v.name; S.place = null;
  if (v.curve) curve(s, v);
  S.panels = v.panels; $('.stage').classList.add('has'); $('.fp').classList.add('on'); $('.exports').hidden = true; $('.exports .note').textContent = '';
}
function curve(s, v) {
  S.T = v.curve.length - 1;
  const X = t => 14 + t / S.T * 292, Y = a => 112 - a * 92; S.place = t => [X(t), Y(v.curve[Math.max(0, Math.min(S.T, Math.round(t)))])];
  s.append(svg('line', { x1: 14, y1: 112, x2: 306, y2: 112 }), svg('path', { d: v.curve.map((a, t) => `${t ? 'L' : 'M'}${X(t).toFixed(1)} ${Y(a).toFixed(1)}`).join('') }));
  for (const [x, y, t, a] of [[14, 126, 't = 0', 'start'], [306, 126, `t = ${S.T}`, 'end'], [306, 16, 'share of signal, ᾱ', 'end']]) { const e = svg('text', { x, y, 'text-anchor': a }); e.textContent = t; s.append(e); }
  S.dots = [0, 1].map(k => { const d = svg('circle', { r: 6, class: k ? 'b' : 'a', cx: -20, cy: -20 }); s.append(d); return d; });
}
function tiles(m) {
  const box = $('.tiles'); box.textContent = '';
  m.forEach((c, k) => {
    for (const [name, value] of c.tiles || [['t', num(c.t)], ['σ', num(c.sigma)], ['log-SNR', num(c.log_snr)], ['evaluations', `${c.nfe} / ${c.of}`]]) {
      const d = el('div', undefined, 'tile'); d.append(el('b', value), el('small', m.length > 1 ? `${name} · ${'AB'[k]}` : name)); box.append(d);
    }
    if (!S.place) return;
    const [x, y] = S.place(c.t); S.dots[k].setAttribute('cx', x); S.dots[k].setAttribute('cy', y);
  });
}
function show(i) {
  const b = S.f[i]; if (!b) return false;
  S.canvas.forEach((c, k) => c.getContext('2d').drawImage(b, k * (S.panels.w + S.panels.gap), 0, S.panels.w, S.panels.h, 0, 0, S.panels.w, S.panels.h));
  S.cur = i; S.drawn++; if (S.meta[i]) tiles(S.meta[i]);
  const r = $('.scrub'), t = `${i} / ${Math.max(S.total - 1, 0)}`; r.value = i; $('.at').textContent = t; r.setAttribute('aria-valuetext', `step ${t}`); return true;
}
function ui() {
  const r = $('.scrub'), p = $('.play'), has = end() >= 0; r.max = Math.max(0, S.total - 1); r.disabled = p.disabled = !has;
  const playing = S.mode !== 'pause' && S.timer; p.innerHTML = playing ? '&#10073;&#10073;' : '&#9654;'; p.setAttribute('aria-label', playing ? 'Pause' : 'Play');
  $('.exports').hidden = !S.done;
}
function tick() { // one frame a beat; live, catch up gently so that the picture never lags far behind
  const e = end();
  if (S.cur < e) { const lag = e - S.cur, step = S.mode === 'live' && lag > 24 ? Math.ceil(lag / 24) : 1; let k = Math.min(e, S.cur + step); while (k <= e && !S.f[k]) k++; show(k); }
  else if (S.mode === 'play' || S.done || (S.total && S.cur >= S.total - 1)) halt(S.done ? 'done' : 'pause');
}
function run(m) { S.mode = m; if (!S.timer) S.timer = setInterval(tick, PACE); ui(); }
function halt(m) { clearInterval(S.timer); S.timer = null; S.mode = m; ui(); }
async function put(list, tag) { const got = await Promise.all(list.map(async ([i, b]) => [i, await decode(b).catch(() => null)])); if (tag !== S.run || tag === S.stopped) return; for (const [i, m] of got) if (m) S.f[i] = m; ui(); }
async function upd() {
  const v = props.value; if (v && v.empty) v.empty.forEach((t, k) => { $('.empty').children[k].textContent = t; });
  if (!v || !v.run || v.run === S.stopped) return; // a message may overtake the Stop
  if (v.run !== S.run) { Object.assign(S, { run: v.run, f: [], meta: [], total: 0, cur: -1, asked: new Set(), done: false }); build(v); halt('live'); run('live'); }
  const at = v.at || 0, tag = S.run; S.total = v.total || 0; (v.meta || []).forEach((m, k) => S.meta[at + k] = m);
  if (v.stopped) S.total = at + (v.frames || []).length;
  await put((v.frames || []).map((b, k) => [at + k, b]), tag);
  const miss = []; for (let i = 0; i < at; i++) if (!S.f[i] && !S.asked.has(i)) { miss.push(i); S.asked.add(i); }
  if (miss.length) { const r = await server.frames_missing({ run: tag, want: miss }); for (const [i, , m] of r || []) S.meta[i] = m; await put((r || []).map(x => [x[0], x[1]]), tag); }
  if (v.done) { S.done = true; ui(); }
  if (S.mode === 'live' && !S.timer) run('live');
}
element.addEventListener('input', e => { if (e.target.matches('.scrub')) { halt('pause'); let i = +e.target.value; while (i > 0 && !S.f[i]) i--; show(i); } });
element.addEventListener('click', async e => {
  if (e.target.closest('.play')) { if (S.timer) halt('pause'); else { if (S.cur >= end()) S.cur = -1; run('play'); } }
  const b = e.target.closest('[data-kind]'); if (!b) return;
  const note = $('.exports .note'), kind = b.dataset.kind; note.textContent = 'Encoding…'; b.disabled = true;
  try {
    const r = await server.export_animation({ run: S.run, kind });
    if (r && r.data) { const a = el('a'); a.href = URL.createObjectURL(new Blob([bytes(r.data)], { type: r.type })); a.download = `${S.name || 'ddpm-denoising'}.${kind}`; a.click(); setTimeout(() => URL.revokeObjectURL(a.href), 10000); note.textContent = r.note; }
    else note.textContent = (r && r.error) || 'This run is no longer kept; denoise again.';
  } catch { note.textContent = 'The server could not be reached.'; } finally { b.disabled = false; }
});
document.addEventListener('ddpm-stop', e => { // Stop was pressed: what has arrived is all there will be
  if (S.done || !S.run || !element.closest('#' + e.detail)) return;
  S.stopped = S.run; S.total = end() + 1; S.done = true; $('.exports .note').textContent = 'Stopped here.'; ui();
});
watch('value', upd); upd();
