// value = {run, at, total, frames: [base64 of original | decoded | x_t], meta: [{t, sigma, bits, rate, rmse, cost}], w, h, gap, T, dims, what, visited,
// done, summary: {L_T, L_mid, L_0, total, error, n, files}, flow: {share} or {bits, error, draws}}: only the NEW states. run null with busy: a text while waiting.
// Every decoded state stays here: scrubbing never asks the server; states missed while the tab was not mounted are fetched.
const $ = s => element.querySelector(s), S = element.__coding = { run: null, f: [], meta: [], total: 0, cur: -1, follow: true, timer: null, asked: new Set(), drawn: 0, done: false };
const bytes = b => Uint8Array.from(atob(b), c => c.charCodeAt(0)), decode = b => createImageBitmap(new Blob([bytes(b)], { type: 'image/png' }));
const el = (tag, content, cls) => { const e = document.createElement(tag); if (content !== undefined) e.textContent = content; if (cls) e.className = cls; return e; };
const svg = (tag, at, text) => { const e = document.createElementNS('http://www.w3.org/2000/svg', tag); for (const k in at) e.setAttribute(k, at[k]); if (text !== undefined) e.textContent = text; return e; };
const num = v => v === 0 ? '0' : Math.abs(v) >= 1000 ? Math.round(v).toLocaleString('en') : Math.abs(v) >= 100 ? v.toFixed(0) : Math.abs(v) >= 10 ? v.toFixed(1) : Math.abs(v) >= 0.1 ? v.toFixed(3) : v.toPrecision(2);
const tick = v => v && Math.abs(v) < .001 ? v.toExponential(0) : String(+v.toPrecision(2));
const bar = e => e == null ? '' : ` ± ${e.toFixed(3)}`, known = () => { let n = 0; while (S.meta[n] && S.f[n]) n++; return n; };

function tiles(box, list) { box.textContent = ''; for (const [value, name] of list) { const d = el('div', undefined, 'tile'); d.append(el('b', value), el('small', name)); box.append(d); } }
function show(i) {
  const m = S.meta[i], b = S.f[i]; if (!m || !b) return; S.cur = i; S.drawn++;
  [0, 1, 2].forEach(k => { const c = $('.p' + k); if (c.width !== S.v.w || c.height !== S.v.h) { c.width = S.v.w; c.height = S.v.h; } c.getContext('2d').drawImage(b, k * (S.v.w + S.v.gap), 0, S.v.w, S.v.h, 0, 0, S.v.w, S.v.h); });
  const all = S.done ? S.meta[S.total - 1].bits : null;
  $('.decoded').textContent = m.t ? `decoded from the first ${num(m.bits)} bits` : `all ${num(m.bits)} bits: the exact pixels`;
  tiles($('.now'), [[num(m.bits), 'bits received'], [num(m.rate), 'bits/dim'], [all ? `${(100 * m.bits / all).toFixed(m.bits / all < .01 ? 2 : 1)} %` : '–', 'of all bits'], [num(m.rmse), 'rmse of 255'], [m.rmse ? `${(20 * Math.log10(255 / m.rmse)).toFixed(1)} dB` : '∞', 'PSNR'], [String(m.t), 't'], [num(m.sigma), 'σ']]);
  const r = $('.scrub'); r.value = i; r.setAttribute('aria-valuetext', `${num(m.bits)} bits`); if (document.activeElement !== $('.k')) $('.k').value = Math.ceil(m.bits);
  for (const c of S.charts || []) c.mark(i);
}
function ticks(lo, hi, log) {
  if (log) { const out = []; for (let e = Math.floor(Math.log10(lo)); e <= Math.ceil(Math.log10(hi)); e++) { const v = 10 ** e; if (v >= lo * .999 && v <= hi * 1.001) out.push(v); } while (out.length > 6) for (let k = out.length - 2; k > 0; k -= 2) out.splice(k, 1); return out; }
  const raw = (hi - lo) / 4 || 1, p = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].map(k => k * p).find(s => s >= raw), out = []; for (let v = Math.ceil(lo / step) * step; v <= hi * 1.0001; v += step) out.push(v); return out;
}
function chart(s, x, y, o) { // one curve; returns what marks the state on show
  const W = s.clientWidth || 360, H = 190, L = 50, R = 12, T = 10, B = 26; s.textContent = ''; s.setAttribute('viewBox', `0 0 ${W} ${H}`); s.onpointermove = s.onpointerleave = s.onclick = null;
  const p = S.meta.map((m, i) => ({ i, x: x(m), y: y(m), m })).filter(q => S.meta[q.i] && isFinite(q.x) && isFinite(q.y) && (!o.logx || q.x > 0) && (!o.logy || q.y > 0)); if (p.length < 2) return { mark() {} };
  const fx = o.logx ? Math.log : v => v, fy = o.logy ? Math.log : v => v, xs = p.map(q => q.x), ys = p.map(q => q.y);
  let x0 = Math.min(...xs), x1 = o.xmax || Math.max(...xs), y0 = o.logy ? Math.min(...ys) / 1.3 : 0, y1 = Math.max(...ys) * (o.logy ? 1.3 : 1.05); if (!o.logx) x0 = 0; if (x1 <= x0) x1 = x0 + 1; if (y1 <= y0) y1 = y0 + 1;
  const X = v => { const u = (fx(v) - fx(x0)) / (fx(x1) - fx(x0)); return L + (o.back ? 1 - u : u) * (W - L - R); }, Y = v => H - B - (fy(v) - fy(y0)) / (fy(y1) - fy(y0)) * (H - T - B);
  for (const v of ticks(y0, y1, o.logy)) s.append(svg('line', { class: 'grid-line', x1: L, x2: W - R, y1: Y(v), y2: Y(v) }), svg('text', { x: L - 6, y: Y(v) + 4, 'text-anchor': 'end' }, tick(v)));
  for (const v of ticks(x0, x1, o.logx)) { const at = X(v); s.append(svg('text', { x: at, y: H - 9, 'text-anchor': at > W - 30 ? 'end' : at < L + 8 ? 'start' : 'middle' }, (o.back ? 't = ' : '') + String(+v.toPrecision(3)))); }
  s.append(svg('path', { d: p.map((q, k) => `${k ? 'L' : 'M'}${X(q.x).toFixed(1)} ${Y(q.y).toFixed(1)}`).join('') }));
  if (p.length <= 130) for (const q of p) s.append(svg('circle', { class: 'dot', r: 2, cx: X(q.x).toFixed(1), cy: Y(q.y).toFixed(1) }));
  const dot = svg('circle', { class: 'at', r: 6, cx: -20, cy: -20 }); s.append(dot); const fig = s.parentNode; let tip = fig.querySelector('.tip'); if (!tip) { tip = el('div', '', 'tip'); tip.hidden = true; fig.append(tip); }
  const near = e => { const b = s.getBoundingClientRect(), px = e.clientX - b.left, py = e.clientY - b.top; return p.reduce((a, q) => Math.hypot(X(q.x) - px, (Y(q.y) - py) / 3) < Math.hypot(X(a.x) - px, (Y(a.y) - py) / 3) ? q : a); };
  s.onpointermove = e => { const q = near(e), right = X(q.x) > W / 2; tip.hidden = false; tip.textContent = `t ${q.m.t}: ${o.text(q.m)}`; tip.style.left = right ? '56px' : 'auto'; tip.style.right = right ? 'auto' : '12px'; };
  s.onpointerleave = () => { tip.hidden = true; }; s.onclick = e => { S.follow = false; halt(); show(near(e).i); };
  return { mark(i) { const m = S.meta[i], a = x(m), b = y(m), ok = isFinite(a) && isFinite(b) && (!o.logx || a > 0) && (!o.logy || b > 0); dot.setAttribute('cx', ok ? X(a) : -20); dot.setAttribute('cy', ok ? Y(b) : -20); } };
}
function charts() {
  if (!S.v || !$('.cv').clientWidth) return; const logx = $('.logt').checked, T = S.v.T, t = m => m.t;
  S.charts = [chart($('.c-rate'), t, m => m.rate, { back: true, logx, xmax: T, text: m => `${num(m.rate)} bits/dim` }),
    chart($('.c-rmse'), t, m => m.rmse, { back: true, logx, xmax: T, text: m => `rmse ${num(m.rmse)}` }),
    chart($('.c-rd'), m => m.rate, m => m.rmse, { text: m => `${num(m.rate)} bits/dim, rmse ${num(m.rmse)}` }),
    chart($('.c-cost'), t, m => m.t ? m.cost : NaN, { back: true, logx, logy: true, xmax: T, text: m => `${num(m.cost)} bits/dim` })];
  if (S.cur >= 0) for (const c of S.charts) c.mark(S.cur);
}
function words(v) {
  const got = known(), p = $('progress'), f = v.flow, flowing = f && f.share !== undefined; p.hidden = !(flowing || !v.done) || S.stopped === S.run; p.value = flowing ? f.share : got / Math.max(v.total, 1);
  $('.status').textContent = S.stopped === S.run ? `Stopped after ${got} of ${v.total} states.` : flowing ? `Flow likelihood: ${Math.round(100 * f.share)} %` : v.done ? `${v.what}; ${v.visited}` : `${v.what}: state ${got} of ${v.total}`;
  if (!v.summary) return; const s = v.summary; $('.parts').hidden = false;
  const list = [[s.total.toFixed(3) + bar(s.error), s.n > 1 ? `variational bound, ${s.n} images` : 'variational bound'], [s.L_T.toFixed(3), 'L_T, prior'], [s.L_mid.toFixed(3), 'L_1 … L_T−1, noise levels'], [s.L_0.toFixed(3), 'L_0, pixels']];
  if (f && f.bits !== undefined) list.push([f.bits.toFixed(3) + bar(f.error), `probability flow, ${f.draws} draws`]);
  for (const k in s.files) list.push([s.files[k].toFixed(2), `as a ${k} file`]); tiles($('.sum'), list);
}
const halt = () => { clearInterval(S.timer); S.timer = null; const p = $('.play'); p.innerHTML = '&#9654;'; p.setAttribute('aria-label', 'Play'); };
function play() { if (S.cur >= known() - 1) show(0); S.follow = false; const p = $('.play'); p.innerHTML = '&#10073;&#10073;'; p.setAttribute('aria-label', 'Pause'); S.timer = setInterval(() => { if (S.cur >= known() - 1) return halt(); show(S.cur + 1); }, 110); }
async function put(list, tag) { const got = await Promise.all(list.map(async ([i, b]) => [i, await decode(b).catch(() => null)])); if (tag !== S.run) return; for (const [i, m] of got) if (m) S.f[i] = m; }
async function upd() {
  const v = props.value; if (!v) return;
  if (!v.run) { S.run = null; S.v = null; halt(); $('.cv').classList.remove('has'); $('.empty strong').textContent = v.busy ? v.busy : 'Nothing encoded yet'; return; }
  if (v.run === S.stopped) return;
  if (v.run !== S.run) { halt(); Object.assign(S, { run: v.run, f: [], meta: [], cur: -1, follow: true, asked: new Set(), done: false }); $('.cv').classList.add('has'); $('.parts').hidden = $('.exports').hidden = true; $('.exports .note').textContent = ''; }
  const tag = S.run, at = v.at || 0; S.v = v; S.total = v.total; v.meta.forEach((m, k) => { S.meta[at + k] = m; }); await put(v.frames.map((b, k) => [at + k, b]), tag);
  const miss = []; for (let i = 0; i < at; i++) if (!S.f[i] && !S.asked.has(i)) { miss.push(i); S.asked.add(i); }
  if (miss.length) { const r = await server.frames_missing({ run: tag, want: miss }); for (const [i, , m] of r || []) S.meta[i] = m; await put((r || []).map(x => [x[0], x[1]]), tag); }
  if (tag !== S.run || S.stopped === tag) return; S.done = !!v.done; $('.scrub').max = Math.max(known() - 1, 0); $('.k').max = S.meta[known() - 1] ? Math.ceil(S.meta[known() - 1].bits) : 0; $('.exports').hidden = !S.done; words(v); charts();
  if (S.follow && known()) show(S.done ? Math.max(S.total - 2, 0) : known() - 1); else if (S.cur >= 0) show(S.cur);
}
element.addEventListener('input', e => { if (e.target.matches('.scrub')) { halt(); S.follow = false; show(+e.target.value); } else if (e.target.matches('.logt')) charts();
  else if (e.target.matches('.k')) { halt(); S.follow = false; let i = 0; while (i + 1 < known() && S.meta[i + 1].bits <= +e.target.value) i++; show(i); } });
element.addEventListener('click', async e => {
  if (e.target.closest('.play')) return S.timer ? halt() : play();
  const b = e.target.closest('[data-kind]'); if (!b) return; const note = $('.exports .note'), kind = b.dataset.kind, a = el('a'); a.download = `ddpm-code.${kind}`;
  const save = blob => { a.href = URL.createObjectURL(blob); a.click(); setTimeout(() => URL.revokeObjectURL(a.href), 10000); };
  if (kind === 'csv') return save(new Blob([['t,sigma,bits,bits_per_dim,rmse,cost_bits_per_dim', ...S.meta.map(m => [m.t, m.sigma, m.bits, m.rate, m.rmse, m.cost].join())].join('\n') + '\n'], { type: 'text/csv' }));
  note.textContent = 'Encoding…'; b.disabled = true;
  try { const r = await server.export_animation({ run: S.run, kind }); if (r && r.data) { save(new Blob([bytes(r.data)], { type: r.type })); note.textContent = r.note; } else note.textContent = (r && r.error) || 'This run is no longer kept; encode again.'; }
  catch { note.textContent = 'The server could not be reached.'; } finally { b.disabled = false; }
});
document.addEventListener('ddpm-stop', e => { if (!element.closest('#' + e.detail)) return; if (!S.run) { $('.empty strong').textContent = 'Nothing encoded yet'; return; } if (S.done && !(S.v.flow && S.v.flow.share !== undefined)) return; S.stopped = S.run; if (S.v) { if (S.v.flow) S.v.flow = null; words(S.v); if (S.done) { $('.status').textContent = 'Flow likelihood stopped.'; $('progress').hidden = true; } } });
new ResizeObserver(() => charts()).observe($('.cv')); watch('value', upd); upd();
