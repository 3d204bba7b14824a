// value = {select: the run to show, stamp}. Everything else is asked for: server.train_poll every 1.5 s while the tab is on screen, so a
// reload, another browser or a restarted server finds the runs again. Nodes are updated in place: nothing flickers, nothing resets.
const $ = s => element.querySelector(s);
const S = element.__train = { sel: null, stamp: 0, picked: false, compare: new Set(), data: {}, heads: [], busy: false, drawn: 0, hover: null, zoom: null, drag: null };
const el = (tag, content, cls) => { const e = document.createElement(tag); if (content !== undefined) e.textContent = content; if (cls) e.className = cls; return e; };
const svg = (tag, at) => { const e = document.createElementNS('http://www.w3.org/2000/svg', tag); for (const k in at) e.setAttribute(k, at[k]); return e; };
const COLOURS = ['#6366f1', '#d97706', '#0d9488', '#db2777', '#0284c7', '#65a30d'], LIVE = ['starting', 'queued', 'running', 'paused'];
const big = v => v >= 1e6 ? (v / 1e6).toFixed(v >= 1e7 ? 0 : 1) + ' M' : v >= 1e4 ? (v / 1e3).toFixed(0) + ' k' : String(Math.round(v));
const span = s => s == null ? '–' : s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
const num = (v, d = 3) => v == null ? '–' : Math.abs(v) >= 100 ? v.toFixed(0) : v.toPrecision(d);
const setText = (e, t) => { if (e.textContent !== t) e.textContent = t; };
const open = () => [S.sel, ...S.compare].filter((n, k, a) => n && a.indexOf(n) === k && S.heads.some(h => h.name === n)).slice(0, 6);
const say = (t) => { const e = $('.trouble'); e.hidden = !t; setText(e, t || ''); };

async function poll(force) {
  if (S.busy || (!force && (document.hidden || element.offsetParent === null && !$('.tv').getClientRects().length))) return;
  S.busy = true;
  try {
    const have = {}, grids = {}; for (const n in S.data) { have[n] = S.data[n].rows; grids[n] = S.data[n].grid; }
    const want = open(); if (S.sel && !want.includes(S.sel)) want.unshift(S.sel);
    const r = await server.train_poll({ open: want, have, grids });
    if (S.lost) { S.lost = false; say(''); }
    S.heads = r.runs;
    if (!S.heads.some(h => h.name === S.sel)) S.sel = S.picked && S.heads.some(h => h.name === S.picked) ? S.picked : (S.heads.find(h => h.status === 'running') || S.heads.find(h => LIVE.includes(h.status)) || S.heads[0] || {}).name || null;
    for (const n in S.data) if (!S.heads.some(h => h.name === n)) delete S.data[n];
    for (const n in r.open) { const old = S.data[n] || {}, d = r.open[n]; S.data[n] = { ...old, ...d, curves: d.curves || old.curves, picture: d.picture || old.picture }; }
    draw();
    if (S.sel && !S.data[S.sel]) { S.busy = false; return poll(true); }
  } catch (e) { S.lost = true; say('The studio does not answer; the runs go on. Trying again…'); }
  S.busy = false;
}

function draw() {
  $('.empty').hidden = S.heads.length > 0; $('.body').hidden = !S.heads.length; list();
  if (!S.heads.length && S.told) tell(null, ''); // the last run was deleted
  const d = S.data[S.sel]; $('.panel').hidden = !d; if (!d) return;
  setText($('h3'), d.name); chip($('.head .chip'), d.status); setText($('.about'), d.about); $('progress').value = d.progress;
  const m = $('.message'); m.hidden = !d.message; setText(m, d.message);
  const k = $('.skipped'), gone = d.skipped || []; k.hidden = !gone.length; if (k.dataset.of !== gone.join()) { k.dataset.of = gone.join(); setText(k.firstChild, `${gone.length}${gone.length === 50 ? ' or more' : ''} ${gone.length === 1 ? 'image' : 'images'} could not be read and ${gone.length === 1 ? 'was' : 'were'} left out`); k.lastChild.textContent = ''; for (const g of gone) k.lastChild.append(el('li', g)); }
  const can = { pause: ['running', 'starting'].includes(d.status), resume: ['paused', 'stopped', 'interrupted', 'failed'].includes(d.status), stop: LIVE.includes(d.status), delete: !LIVE.includes(d.status) };
  element.querySelectorAll('[data-do]').forEach(b => { b.disabled = !can[b.dataset.do]; });
  const t = [[big(d.images), 'images'], [num(d.images_per_s), 'images/s'], [`${(100 * d.progress).toFixed(d.progress > .9995 ? 0 : 1)} %`, 'of the budget'], [LIVE.includes(d.status) ? span(d.eta_seconds) : '–', 'left'],
    [num(d.loss), 'loss'], [num(d.validation_loss), 'validation'], [d.lr == null ? '–' : d.lr.toExponential(1), 'learning rate'], [num(d.grad_norm, 2), 'gradient norm'], [d.memory_mb ? `${(d.memory_mb / 1000).toFixed(1)} GB` : '–', 'memory']];
  const box = $('.tiles'); t.forEach(([v, n], k) => { let e = box.children[k]; if (!e) { e = el('div', undefined, 'tile'); e.append(el('b'), el('small')); box.append(e); } setText(e.firstChild, v); setText(e.lastChild, n); });
  const img = $('.grid'); if (d.picture && img.dataset.of !== d.name + d.grid) { img.src = 'data:image/png;base64,' + d.picture; img.dataset.of = d.name + d.grid; }
  img.hidden = !d.picture; $('.samples .none').hidden = !!d.picture;
  const pick = $('.fork select'), names = d.snapshots.join(); $('.fork').hidden = !d.snapshots.length;
  if (pick.dataset.of !== d.name + names) { const last = pick.options.length ? pick.options[pick.options.length - 1].value : '', keep = pick.value === last ? '' : pick.value; pick.dataset.of = d.name + names; pick.textContent = ''; for (const n of d.snapshots) { const o = el('option', `after ${(+n).toLocaleString('en')} images`); o.value = n; pick.append(o); } pick.value = d.snapshots.includes(keep) ? keep : d.snapshots[d.snapshots.length - 1]; }
  setText($('.command code'), d.command); bars(d.curves ? d.curves.bands : []); chart(); S.drawn++;
  tell(d.name, [d.name, d.status, d.grid, names].join());
}
const tell = (run, sig) => { S.told = run; document.dispatchEvent(new CustomEvent('ddpm-run', { detail: { run, sig } })); };
const chip = (e, s) => { setText(e, s); e.dataset.s = s; };
function list() {
  const box = $('.list'), names = S.heads.map(h => h.name).join('|');
  if (box.dataset.of !== names) {
    box.dataset.of = names; box.textContent = '';
    for (const h of S.heads) {
      const row = el('div', undefined, 'item'), c = el('input'), b = el('button', h.name); row.setAttribute('role', 'listitem'); row.dataset.run = h.name; c.type = 'checkbox'; c.setAttribute('aria-label', `Compare ${h.name}`); c.title = 'Overlay its curves';
      b.type = 'button'; c.onchange = () => { c.checked ? S.compare.add(h.name) : S.compare.delete(h.name); poll(true); chart(); }; b.onclick = () => { if (S.sel !== h.name) S.zoom = null; S.picked = S.sel = h.name; draw(); poll(true); };
      row.append(c, b, el('span', '', 'share'), el('span', '', 'chip')); box.append(row);
    }
  }
  S.heads.forEach((h, k) => { const r = box.children[k]; r.classList.toggle('on', h.name === S.sel); r.children[0].checked = S.compare.has(h.name); setText(r.children[2], `${(100 * h.progress).toFixed(0)} %`); chip(r.children[3], h.status); });
}
function smooth(points, a) { let m = null, w = 0; return points.map(([x, y]) => { m = (m ?? 0) * a + y * (1 - a); w = w * a + 1 - a; return [x, m / w]; }); }
async function copied(t) { // over plain HTTP from another device there is no navigator.clipboard
  try { await navigator.clipboard.writeText(t); return true; } catch { /* the older way */ }
  const a = el('textarea'); a.value = t; a.style.position = 'fixed'; a.style.opacity = 0; document.body.append(a); a.select(); const ok = document.execCommand('copy'); a.remove(); return ok;
}
function ticks(lo, hi, log, n) {
  if (log && lo > 0) { const out = []; for (let e = Math.floor(Math.log10(lo)); e <= Math.ceil(Math.log10(hi)); e++) for (const k of hi / lo > 30 ? [1] : [1, 2, 5]) { const v = k * 10 ** e; if (v >= lo * .999 && v <= hi * 1.001) out.push(v); } if (out.length > 1) return out; } // a narrow range has none of these: even steps

  const raw = (hi - lo) / n, p = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].map(k => k * p).find(s => s >= raw), out = [];
  for (let v = Math.ceil(lo / step) * step; v <= hi * 1.0001; v += step) out.push(v); return out;
}
function chart() {
  const s = $('.chart'), names = open().filter(n => S.data[n] && S.data[n].curves && S.data[n].curves.train.length), W = s.clientWidth || 600, H = 260, L = 52, R = 14, T = 12, B = 30;
  const d = S.data[S.sel]; $('.waiting').hidden = names.length > 0; if (d) setText($('.waiting'), d.status === 'queued' ? 'It waits for its turn: another run trains on the device.' : d.status === 'paused' ? 'Paused before the first loss.' : LIVE.includes(d.status) ? 'The first loss appears some seconds after the start.' : 'This run has logged no loss.');
  const a = +$('.smooth').value, logy = $('.logy').checked, logx = $('.logx').checked; s.setAttribute('viewBox', `0 0 ${W} ${H}`);
  S.lines = names.map((n, k) => ({ name: n, colour: COLOURS[k % 6], raw: S.data[n].curves.train, line: smooth(S.data[n].curves.train, a), held: S.data[n].curves.held }));
  const all = S.lines.flatMap(l => [...l.line, ...l.held]), xs = all.map(p => p[0]);
  let seen = S.zoom ? all.filter(p => p[0] >= S.zoom[0] && p[0] <= S.zoom[1]) : all; if (S.zoom && !seen.length) { S.zoom = null; seen = all; } // other runs, or a log that began anew
  const ys = seen.map(p => p[1]).filter(isFinite); $('.unzoom').hidden = !S.zoom;
  if (!xs.length) { s.textContent = ''; S.parts = null; $('.legend').textContent = ''; return; }
  const f = { x: logx ? v => Math.log(Math.max(v, 1)) : v => v, y: logy ? v => Math.log(Math.max(v, 1e-6)) : v => v };
  let [x0, x1] = S.zoom ? [logx ? Math.max(1, S.zoom[0]) : S.zoom[0], Math.max(S.zoom[1], S.zoom[0] + 1)] : [logx ? Math.max(1, Math.min(...xs)) : 0, Math.max(...xs)], y0 = Math.min(...ys), y1 = Math.max(...ys); if (x1 <= x0) x1 = x0 + 1;
  const pad = logy ? 1.06 : 0; if (logy) { y0 /= pad; y1 *= pad; } else { const e = (y1 - y0 || y1 || 1) * .06; y0 = Math.max(0, y0 - e); y1 += e; }
  const X = v => L + (f.x(v) - f.x(x0)) / (f.x(x1) - f.x(x0)) * (W - L - R), Y = v => H - B - (f.y(Math.max(v, 1e-6)) - f.y(y0)) / (f.y(y1) - f.y(y0)) * (H - T - B); S.X = X; S.Y = Y; S.inv = px => { const u = f.x(x0) + (Math.max(L, Math.min(W - R, px)) - L) / (W - L - R) * (f.x(x1) - f.x(x0)); return logx ? Math.exp(u) : u; }; S.box = { L, R, T, B, W, H };
  const path = p => p.map(([x, y], k) => `${k ? 'L' : 'M'}${X(x).toFixed(1)} ${Math.max(T, Math.min(H - B, Y(y))).toFixed(1)}`).join('') + (p.length === 1 ? 'h.01' : ''); // a single point: the round ends of a line of no length
  if (!S.parts || !S.parts.axes.isConnected) { s.textContent = ''; S.parts = { axes: svg('g', {}), lines: svg('g', {}), cursor: svg('line', { class: 'cursor', y1: T, y2: H - B, visibility: 'hidden' }), marked: svg('rect', { class: 'marked', y: T, height: H - T - B, visibility: 'hidden' }), clip: svg('clipPath', { id: 'loss-inside' }) };
    S.parts.clip.append(svg('rect', { x: L, y: 0, height: H })); S.parts.lines.setAttribute('clip-path', 'url(#loss-inside)'); s.append(S.parts.clip, S.parts.axes, S.parts.lines, S.parts.cursor, S.parts.marked); }
  S.parts.clip.firstChild.setAttribute('width', Math.max(W - L - R, 1));
  const g = S.parts.axes; g.textContent = '';
  for (const v of ticks(y0, y1, logy, 5)) { const t = svg('text', { x: L - 7, y: Y(v) + 4, 'text-anchor': 'end' }); t.textContent = +v.toPrecision(3); g.append(svg('line', { class: 'grid-line', x1: L, x2: W - R, y1: Y(v), y2: Y(v) }), t); }
  for (const v of ticks(x0, x1, logx, W < 480 ? 3 : 6)) { const t = svg('text', { x: X(v), y: H - 10, 'text-anchor': X(v) > W - 40 ? 'end' : 'middle' }); t.textContent = big(v); g.append(t); }
  const lines = S.parts.lines; while (lines.children.length > 3 * names.length) lines.lastChild.remove(); while (lines.children.length < 3 * names.length) lines.append(svg('path', {}));
  S.lines.forEach((l, k) => [['raw', a > 0 ? l.raw : [], ''], ['smoothed', l.line, ''], ['held', l.held, '5 4']].forEach(([cls, p, dash], j) => { const e = lines.children[3 * k + j]; e.setAttribute('class', cls); e.setAttribute('stroke', l.colour); e.setAttribute('stroke-dasharray', dash); e.setAttribute('d', path(p)); }));
  const legend = $('.legend'), key = names.join('|'); if (legend.dataset.of !== key || !legend.children.length) { legend.dataset.of = key; legend.textContent = ''; for (const l of S.lines) { const e = el('span', l.name); e.style.setProperty('--c', l.colour); legend.append(e); } legend.append(el('em', 'dashed: validation, EMA weights; drag over the chart to look closer')); }
  if (S.hover !== null) hover(S.hover);
}
function hover(px) {
  const tip = $('.tip'), c = S.parts && S.parts.cursor; S.hover = px; if (!c) return; if (px === null || !S.lines.length) { tip.hidden = true; c.setAttribute('visibility', 'hidden'); return; }
  const near = p => p.length ? p.reduce((m, q) => Math.abs(S.X(q[0]) - px) < Math.abs(S.X(m[0]) - px) ? q : m) : null, shown = S.zoom ? S.lines.flatMap(l => l.line).filter(p => p[0] >= S.zoom[0] && p[0] <= S.zoom[1]) : [], at = near(shown.length ? shown : S.lines.flatMap(l => l.line)), within = l => l.line.length && at[0] <= l.line[l.line.length - 1][0]; // a shorter run has no value there
  const x = S.X(at[0]); c.setAttribute('x1', x); c.setAttribute('x2', x); c.setAttribute('visibility', 'visible'); tip.hidden = false; tip.textContent = ''; tip.append(el('div', `${big(at[0])} images`));
  for (const l of S.lines) { const p = near(l.line), h = near(l.held), live = S.heads.some(q => q.name === l.name && LIVE.includes(q.status)), far = h && Math.abs(S.X(h[0]) - x) > 20 ? ` (after ${big(h[0])})` : '', e = el('div', !within(l) ? `${l.name}: ${live ? 'not there yet' : 'ended before'}` : `${l.name}: ${num(p[1])}${h ? `, validation ${num(h[1])}${far}` : ''}`); e.style.color = l.colour; e.style.fontWeight = 600; tip.append(e); }
  tip.style.left = x > S.box.W / 2 ? 'auto' : `${x + 10}px`; tip.style.right = x > S.box.W / 2 ? `${S.box.W - x + 10}px` : 'auto';
}
function bars(bands) {
  const s = $('.bars'), top = Math.max(...bands.filter(v => v != null), 1e-9);
  if (!s.children.length) { for (let k = 0; k < 10; k++) { s.append(svg('rect', { class: 'band', x: 12 + k * 30, width: 24, rx: 3 })); s.append(svg('text', { x: 24 + k * 30, 'text-anchor': 'middle', style: 'font-size:9px' })); } for (const [x, t, at] of [[12, 'little noise', 'start'], [306, 'much noise', 'end']]) { const e = svg('text', { x, y: 144, 'text-anchor': at, style: 'font-size:9px' }); e.textContent = t; s.append(e); } }
  for (let k = 0; k < 10; k++) { const v = bands[k], h = v == null ? 0 : Math.max(1, v / top * 104); s.children[2 * k].setAttribute('y', 128 - h); s.children[2 * k].setAttribute('height', h); const t = s.children[2 * k + 1]; t.setAttribute('y', 124 - h); setText(t, v == null ? '' : v > 0 && v < .01 ? v.toExponential(0) : num(v, 2)); }
}
async function act(b) {
  if (b.dataset.do === 'delete' && !b.classList.contains('sure')) { b.classList.add('sure'); b.textContent = 'Really? Moves it to the trash'; clearTimeout(S.sure); S.sure = setTimeout(calm, 5000); return; }
  calm(); b.disabled = true; let r; try { r = await server.train_act({ run: S.sel, do: b.dataset.do }); } catch { /* Gradio answers a lost server with nothing or with an error */ } r = r || { error: 'The studio does not answer.' };
  say(r.error || r.ok || ''); if (r.error || r.ok) setTimeout(() => say(''), 8000); poll(true);
}
function calm() { const b = $('[data-do=delete]'); b.classList.remove('sure'); b.textContent = 'Delete'; }
element.addEventListener('click', e => {
  const b = e.target.closest('[data-do]'); if (b && !b.disabled) return act(b);
  if (e.target.closest('.take')) trigger('recall', { run: S.sel, snapshot: $('.fork select').value });
  if (e.target.closest('.copy')) { const t = $('.command code').textContent; const c = $('.copy'); copied(t).then(ok => { c.textContent = ok ? 'Copied' : 'Select it, please'; }); setTimeout(() => { c.textContent = 'Copy'; }, 1500); }
});
element.addEventListener('input', e => { if (e.target.matches('.logx, .logy, .smooth')) chart(); });
const at = e => e.clientX - $('.chart').getBoundingClientRect().left;
function mark(px) { // the stretch under the drag; both ends inside the axes
  const r = S.parts && S.parts.marked; if (!r) return; if (px === null) return r.setAttribute('visibility', 'hidden');
  const in_ = v => Math.max(S.box.L, Math.min(S.box.W - S.box.R, v)), a = in_(Math.min(S.drag, px)), b = in_(Math.max(S.drag, px)); r.setAttribute('x', a); r.setAttribute('width', b - a); r.setAttribute('visibility', 'visible');
}
$('.chart').addEventListener('pointerdown', e => { if (e.button || !S.parts) return; S.drag = at(e); $('.chart').setPointerCapture(e.pointerId); });
$('.chart').addEventListener('pointermove', e => { hover(at(e)); if (S.drag !== null) mark(at(e)); });
$('.chart').addEventListener('pointerup', e => {
  if (S.drag === null) return; const [a, b] = [S.drag, at(e)].sort((u, v) => u - v); S.drag = null; mark(null);
  if (b - a < 8 || !S.parts) return; const want = [S.inv(a), S.inv(b)]; // a click is no stretch; one without a point stays unzoomed
  if (S.lines.some(l => [...l.line, ...l.held].some(p => p[0] >= want[0] && p[0] <= want[1]))) { S.zoom = want; chart(); }
});
$('.chart').addEventListener('pointercancel', () => { S.drag = null; mark(null); }); $('.chart').addEventListener('pointerleave', () => hover(null));
const unzoom = () => { S.zoom = null; chart(); }; $('.chart').addEventListener('dblclick', unzoom); $('.unzoom').addEventListener('click', unzoom);
new ResizeObserver(() => { if (!$('.panel').hidden) chart(); }).observe($('.tv'));
function upd() { const v = props.value; if (v && v.select && v.stamp !== S.stamp) { S.stamp = v.stamp; S.sel = S.picked = v.select; } poll(true); }
watch('value', upd); upd(); S.timer = setInterval(() => { if (!element.isConnected) return clearInterval(S.timer); poll(); }, 1500);
