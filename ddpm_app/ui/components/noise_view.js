// value = {run, size, channels, x0: base64 uint8 CHW, eps: base64 float32 CHW, T, model: name, bars: {name: [alpha_bar of t = 0..T]}, crop, t}
// x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps is computed here: the slider never asks the server.
const $ = s => element.querySelector(s), S = element.__forward = { run: null, t: 0, drawn: 0 };
const bytes = b => Uint8Array.from(atob(b), c => c.charCodeAt(0));
const el = (tag, content, cls) => { const e = document.createElement(tag); if (content !== undefined) e.textContent = content; if (cls) e.className = cls; return e; };
const svg = (tag, at) => { const e = document.createElementNS('http://www.w3.org/2000/svg', tag); for (const k in at) e.setAttribute(k, at[k]); return e; };
const COLOURS = ['#6366f1', '#d97706', '#0d9488'];
const fmt = v => !isFinite(v) ? (v > 0 ? '∞' : '−∞') : Math.abs(v) >= 100 ? v.toFixed(0) : Math.abs(v) >= 1 ? v.toFixed(2) : v.toPrecision(2);
const X = t => 14 + t / S.v.T * 292, Y = a => 112 - a * 92;

function pixels(bar) { // as data.to_uint8: clip, scale, round half to even as the core does
  const { size: n, channels: c } = S.v, a = Math.sqrt(bar), b = Math.sqrt(1 - bar), out = new ImageData(n, n);
  for (let p = 0; p < n * n; p++) for (let k = 0; k < 3; k++) {
    const i = (c === 1 ? 0 : k) * n * n + p; out.data[4 * p + k] = (a * (S.x0[i] / 127.5 - 1) + b * S.eps[i] + 1) * 127.5; // Uint8ClampedArray clips and rounds
  }
  for (let p = 0; p < n * n; p++) out.data[4 * p + 3] = 255;
  return out;
}
const draw = (canvas, bar) => { canvas.width = canvas.height = S.v.size; canvas.getContext('2d').putImageData(pixels(bar), 0, 0); };
function build() {
  const v = S.v, names = Object.keys(v.bars); $('.stage').classList.add('has'); $('.crop img').src = v.crop;
  const strip = $('.strip'); strip.textContent = '';
  for (let k = 0; k < 10; k++) {
    const t = Math.round(k * v.T / 9), b = el('button'), c = el('canvas'); b.type = 'button'; b.dataset.t = t; b.setAttribute('aria-label', `Go to t = ${t}`);
    draw(c, v.bars[v.model][t]); b.append(c, el('span', `t = ${t}`)); strip.append(b);
  }
  const three = $('.three'); three.textContent = ''; S.three = {};
  const s = $('.curve'); s.textContent = ''; s.append(svg('line', { x1: 14, y1: 112, x2: 306, y2: 112 })); S.dots = {};
  names.forEach((name, k) => {
    if (k < 3) { const f = el('figure'), c = el('canvas'); c.setAttribute('role', 'img'); c.setAttribute('aria-label', name); S.three[name] = [f, c]; f.append(el('figcaption', name), c); three.append(f); }
    s.append(svg('path', { stroke: COLOURS[k % 3], 'stroke-dasharray': name === v.model ? '' : '4 3', d: v.bars[name].map((a, t) => `${t ? 'L' : 'M'}${X(t).toFixed(1)} ${Y(a).toFixed(1)}`).join('') }));
    const label = svg('text', { x: 306, y: 14 + 12 * k, 'text-anchor': 'end', style: `fill:${COLOURS[k % 3]}` }); label.textContent = name + (name === v.model ? ' (this model)' : ''); s.append(label);
  });
  names.forEach((name, k) => { const d = svg('circle', { r: name === v.model ? 6 : 4, fill: COLOURS[k % 3] }); S.dots[name] = d; s.append(d); });
  for (const [x, t, a] of [[14, 't = 0', 'start'], [306, `t = ${v.T}`, 'end']]) { const e = svg('text', { x, y: 126, 'text-anchor': a }); e.textContent = t; s.append(e); }
}
function show(t) {
  if (!S.v) { S.t = t; return; }
  t = Math.max(0, Math.min(S.v.T, Math.round(t))); S.t = t; const v = S.v, bar = v.bars[v.model][t];
  draw($('.xt'), bar); $('.main figcaption').textContent = `x at t = ${t} of ${v.T}, ${v.model} schedule`;
  for (const name in v.bars) {
    const b = v.bars[name][t]; S.dots[name].setAttribute('cx', X(t)); S.dots[name].setAttribute('cy', Y(b));
    if (S.three[name]) { draw(S.three[name][1], b); S.three[name][0].firstChild.textContent = `${name}: ᾱ = ${b.toFixed(3)}`; }
  }
  const snr = bar / (1 - bar), box = $('.tiles'); box.textContent = '';
  for (const [value, name] of [[Math.sqrt(bar).toFixed(3), 'signal √ᾱ'], [Math.sqrt(1 - bar).toFixed(3), 'noise √(1−ᾱ)'], [fmt(snr), 'SNR'], [fmt(Math.log(snr)), 'log-SNR'], [fmt(Math.sqrt((1 - bar) / bar)), 'σ']]) {
    const d = el('div', undefined, 'tile'); d.append(el('b', value), el('small', name)); box.append(d);
  }
  element.querySelectorAll('.strip button').forEach(b => b.setAttribute('aria-pressed', String(+b.dataset.t === t))); S.drawn++;
}
function upd() {
  const v = props.value; if (v && !v.run) { S.run = S.v = null; $('.stage').classList.remove('has'); return; } // cleared, or not a picture
  if (!v || v.run === S.run) return;
  S.run = v.run; S.v = v; S.x0 = bytes(v.x0); S.eps = new Float32Array(bytes(v.eps).buffer); build(); show(v.t);
}
element.addEventListener('click', e => {
  const b = e.target.closest('.strip button'); if (!b) return;
  const r = document.querySelector('#forward-t input[type=range]'); if (r) { r.value = b.dataset.t; r.dispatchEvent(new Event('input', { bubbles: true })); } show(+b.dataset.t);
});
window.ddpmForward = show;
watch('value', upd); upd();
