// value = {run, model, ...} of a run: begin ("measure" or "curve", with axis), what/done/total/left (progress), rows (all of this run so
// far; a refusal is {refused, says}), point + index (of the curve), over (a closing sentence). Without a run: {model, stored, trouble}.
const $ = s => element.querySelector(s);
const S = element.__evaluate = { run: null, stored: [], fresh: [], rows: [], points: [], axis: '', sort: null, up: true, open: new Set(), stopped: null, over: false, chosen: -1, known: {}, model: '', picked: '', of: '' }; // known: each model's kept numbers; picked: the model chosen above, of: the run's
const el = (tag, content, cls) => { const e = document.createElement(tag); if (content !== undefined && content !== null) e.textContent = content; if (cls) e.className = cls; return e; };
const svg = (tag, at, content) => { const e = document.createElementNS('http://www.w3.org/2000/svg', tag); for (const k in at) e.setAttribute(k, at[k]); if (content !== undefined) e.textContent = content; return e; };
const num = v => typeof v !== 'number' || !isFinite(v) ? '–' : Math.abs(v) >= 100 ? v.toFixed(1) : v.toPrecision(4);
const pct = v => v == null ? '–' : (100 * v).toFixed(1) + ' %';
const span = s => s < 90 ? `${Math.max(1, Math.round(s))} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
const P = r => (r.protocol && typeof r.protocol === 'object' && !Array.isArray(r.protocol)) ? r.protocol : {};
const real = r => r.detail && typeof r.detail['real test images'] === 'number' ? r.detail['real test images'] : null;
const network = r => { const f = P(r).features; return f && f.network ? String(f.network) : ''; };
const COLUMNS = [['Metric', r => String(r.name)], ['Value', r => r.value, 1], ['± s.e.', r => r.error, 1], ['Real images', real, 1], ['n', r => P(r).n, 2], ['Sampler', r => P(r).sampler || ''],
  ['Evals', r => P(r).evaluations, 2], ['s', r => P(r).guidance, 2], ['Network', network]]; // 1: a measured number, 2: a setting

function ordered() {
  const same = r => JSON.stringify([r.name, r.value, P(r)]), now = new Set(S.fresh.map(same)); // a kept number may have come from the run on show
  const all = [...S.stored.filter(r => !now.has(same(r))).map(r => ({ r, fresh: false })), ...S.fresh.map(r => ({ r, fresh: true }))];
  if (S.sort === null) return all.reverse();
  const f = COLUMNS[S.sort][1], sign = S.up ? 1 : -1;
  return all.sort((a, b) => { const x = f(a.r), y = f(b.r), none = v => v === null || v === undefined || v === '';
    if (none(x) || none(y)) return none(x) - none(y); return sign * (typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true })); });
}
function table() {
  const head = $('.results thead tr'), body = $('.results tbody'); head.textContent = ''; body.textContent = '';
  COLUMNS.forEach(([name,, n], k) => { const th = el('th', undefined, n ? 'num' : ''), b = el('button', name + (S.sort === k ? (S.up ? ' ▲' : ' ▼') : '')); b.type = 'button'; b.dataset.sort = k;
    th.setAttribute('scope', 'col'); th.setAttribute('aria-sort', S.sort !== k ? 'none' : S.up ? 'ascending' : 'descending'); th.append(b); head.append(th); });
  head.append(el('th', 'Protocol', 'last'));
  S.rows = ordered();
  S.rows.forEach(({ r, fresh }, i) => {
    const tr = el('tr', undefined, fresh ? 'new' : ''); COLUMNS.forEach(([, f, n]) => { const v = f(r); tr.append(el('td', n === 1 ? num(v) : n && typeof v === 'number' ? v.toLocaleString('en') : v ?? '', n ? 'num' : '')); });
    const more = el('td', undefined, 'more'), b = el('button', S.open.has(r) ? 'hide' : 'show'); b.type = 'button'; b.dataset.row = i; b.setAttribute('aria-expanded', String(S.open.has(r))); b.setAttribute('aria-label', `Protocol of ${r.name}`); more.append(b); tr.append(more); body.append(tr);
    if (S.open.has(r)) { const line = el('tr', undefined, 'protocol'), td = el('td'); td.colSpan = COLUMNS.length + 1; const dl = el('dl');
      const d = r.detail || {}, notes = {};
      if (typeof d.note === 'string') notes.note = d.note; if (typeof d['change from half the steps'] === 'number') notes['change from half the steps'] = `${num(d['change from half the steps'])} bits/dim`;
      for (const [k, v] of [...Object.entries(notes), ...Object.entries(P(r))]) dl.append(el('dt', k), el('dd', v !== null && typeof v === 'object' ? Object.entries(v).map(([a, b]) => `${a} ${b}`).join(', ') : String(v)));
      td.append(dl); line.append(td); body.append(line); }
  });
}
function csv() {
  const keys = [...new Set(S.rows.flatMap(({ r }) => Object.keys(P(r))))], cell = v => { const t = v === null || v === undefined ? '' : typeof v === 'object' ? JSON.stringify(v) : String(v);
    const safe = typeof v === 'string' && /^[=+\-@\t\r]/.test(t) ? "'" + t : t; return /[",\n\r]/.test(safe) ? '"' + safe.replace(/"/g, '""') + '"' : safe; };
  const lines = [['metric', 'value', 'error', 'real test images', ...keys], ...S.rows.map(({ r }) => [r.name, r.value, r.error, real(r), ...keys.map(k => P(r)[k])])];
  const a = el('a'); a.href = URL.createObjectURL(new Blob([lines.map(l => l.map(cell).join(',')).join('\n') + '\n'], { type: 'text/csv' }));
  a.download = `${(S.model || 'model').replace(/[^\w.-]+/g, '-')}-metrics.csv`; a.click(); setTimeout(() => URL.revokeObjectURL(a.href), 10000);
}
function meter(pairs) { const td = el('td', undefined, 'meter'); for (const [share, cls] of pairs) if (share != null) { const i = el('i', undefined, cls); i.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`; td.append(i); } return td; }
function header(t, names) { const tr = el('tr'); for (const n of names) { const th = el('th', n); th.setAttribute('scope', 'col'); tr.append(th); } const h = el('thead'); h.append(tr); t.append(h); }
function reading() {
  const found = [...S.fresh, ...[...S.stored].reverse()].find(r => r.name === 'confidence' && r.detail && r.detail.generated && r.detail.generated.counts);
  $('.reading').hidden = !found; if (!found) return;
  const g = found.detail.generated, q = found.detail.real, names = found.detail.classes && found.detail.classes.length === g.counts.length ? found.detail.classes : g.counts.map((_, k) => String(k));
  const share = (x, k) => x ? x.counts[k] / x.n : null, top = Math.max(...names.map((_, k) => Math.max(share(g, k), share(q, k) || 0)), 1e-9);
  const c = $('.classes'); c.textContent = ''; header(c, ['', '', 'samples', 'real']); const cb = el('tbody'); c.append(cb);
  names.forEach((n, k) => { const tr = el('tr'), th = el('th', n); th.setAttribute('scope', 'row'); tr.append(th, meter([[share(g, k) / top, ''], [q ? share(q, k) / top : null, 'real']]), el('td', pct(share(g, k))), el('td', pct(share(q, k)))); cb.append(tr); });
  $('.uniform').textContent = `Distance from uniform ${num(g.distance)}; equal draws give ${num(g.expected_distance)} by chance.` + (q ? ` Real test images: ${num(q.distance)}.` : '');
  const t = $('.calibration'); t.textContent = ''; header(t, ['confidence', 'read rightly', 'samples', 'real']); const tb = el('tbody'); t.append(tb);
  const bins = g.bins && g.bins.length ? g.bins : (q && q.bins) || [];
  bins.forEach((b, k) => { const own = g.bins && g.bins.length ? g.bins[k] : null, other = q && q.bins.length ? q.bins[k] : null; if (!(own && own[2]) && !(other && other[2])) return;
    const tr = el('tr'), th = el('th', `${Math.round(100 * b[0])}–${Math.round(100 * b[1])} %`); th.setAttribute('scope', 'row');
    tr.append(th, meter([[own && own[4], ''], [other && other[4], 'real']]), el('td', own ? pct(own[4]) : '–'), el('td', other ? pct(other[4]) : '–')); tb.append(tr); });
  $('.ece').textContent = `Expected calibration error: ${g.ece == null ? 'no classes asked for' : 'samples ' + num(g.ece)}${q && q.ece != null ? ', real test images ' + num(q.ece) : ''}.`;
  const m = $('.confusion'); m.textContent = ''; header(m, ['', ...names]); const mb = el('tbody'); m.append(mb); $('.confusion').closest('.scroll').hidden = !(g.confusion && g.confusion.length);
  (g.confusion || []).forEach((row, k) => { const total = row.reduce((a, b) => a + b, 0) || 1, tr = el('tr'), th = el('th', names[k]); th.setAttribute('scope', 'row'); tr.append(th);
    row.forEach((v, j) => { const td = el('td', v || '·'); td.style.background = `color-mix(in srgb, var(--color-accent) ${Math.round(48 * v / total)}%, transparent)`; td.title = `${names[k]} read as ${names[j]}: ${v}`; tr.append(td); }); mb.append(tr); });
}
function bits() {
  const found = [...S.fresh, ...[...S.stored].reverse()].find(r => r.name === 'bpd-bound' && r.detail && Array.isArray(r.detail.levels));
  $('.bits').hidden = !found; if (!found) return;
  const d = found.detail, rows = [['L_0 (t = 1)', d.L_0], ...d.levels.map(([a, b, v]) => [a === b ? `t = ${a}` : `t = ${a} to ${b}`, v]), ['L_T', d.L_T]], top = Math.max(...rows.map(r => r[1]), 1e-9);
  const t = $('.levels'); t.textContent = ''; header(t, ['', '', 'bits/dim']); const tb = el('tbody'); t.append(tb);
  for (const [name, v] of rows) { const tr = el('tr'), th = el('th', name); th.setAttribute('scope', 'row'); tr.append(th, meter([[v / top, '']]), el('td', v.toFixed(4))); tb.append(tr); }
}
function copies() {
  const found = S.fresh.filter(r => r.strip); $('.copies').hidden = !found.length; const box = $('.strips'); box.textContent = '';
  for (const r of found) { const f = el('figure'), i = el('img'), d = r.detail || {}, pixels = r.name.endsWith('-pixels'); i.src = 'data:image/png;base64,' + r.strip.png; i.alt = `Samples above their nearest training images, in ${pixels ? 'pixels' : 'features'}`;
    f.append(i, el('figcaption', `In ${pixels ? 'pixels' : 'features'}, closest first; above the samples, below the training images. Distances ${r.strip.distances.map(v => num(v)).join(', ')}. Closer than the closest 1 % of real test images: ${pct(r.value)} (new images give 1 %); exact copies: ${d.copies}.`)); box.append(f); }
}
function curve() {
  $('.curve').hidden = !S.points.length; if (!S.points.length) return;
  const by = $('.by select').value, s = $('.plot'), W = 420, H = 300, L = 52, R = 16, T = 14, B = 40; s.textContent = ''; $('.curve h3').textContent = `Trade-off over ${S.axis}: ${S.model}`;
  const shown = S.points.map((p, k) => ({ p, k })).filter(({ p }) => p && p.distance != null && p[by] != null), missing = S.points.find(p => p && p.says);
  if (!shown.length) { s.append(svg('text', { x: W / 2, y: H / 2, 'text-anchor': 'middle' }, 'no point yet')); }
  else {
    const range = v => { let a = Math.min(...v), b = Math.max(...v); const e = (b - a || Math.abs(b) || 1) * .12; return [a - e, b + e]; }, [x0, x1] = range(shown.map(q => q.p[by])), [y0, y1] = range(shown.map(q => q.p.distance));
    const X = v => L + (v - x0) / (x1 - x0) * (W - L - R), Y = v => H - B - (v - y0) / (y1 - y0) * (H - T - B);
    for (let k = 0; k <= 4; k++) { const v = y0 + (y1 - y0) * k / 4, u = x0 + (x1 - x0) * k / 4; s.append(svg('line', { class: 'axis', x1: L, x2: W - R, y1: Y(v), y2: Y(v) }), svg('text', { x: L - 6, y: Y(v) + 4, 'text-anchor': 'end' }, +v.toPrecision(3)), svg('text', { x: X(u), y: H - B + 16, 'text-anchor': 'middle' }, +u.toPrecision(3))); }
    s.append(svg('text', { x: (L + W - R) / 2, y: H - 6, 'text-anchor': 'middle' }, by), svg('text', { x: L, y: 10 }, shown[0].p.name + ' (lower is nearer)'));
    if (S.axis !== 'sampler') s.append(svg('path', { d: shown.map(({ p }, k) => `${k ? 'L' : 'M'}${X(p[by])} ${Y(p.distance)}`).join('') }));
    const named = []; // labels that would overprint an earlier one are left to the point's own title
    for (const { p, k } of shown) { const x = X(p[by]), y = Y(p.distance), free = !named.some(([a, b]) => Math.abs(a - x) < 34 && Math.abs(b - y) < 13); if (free) named.push([x, y]); const c = svg('circle', { class: 'point' + (k === S.chosen ? ' on' : ''), cx: X(p[by]), cy: Y(p.distance), r: 6, tabindex: 0, role: 'button', 'data-point': k, 'aria-label': `${S.axis} ${p.value}: ${p.name} ${num(p.distance)}, ${by} ${num(p[by])}; show its samples` });
      c.append(svg('title', {}, `${S.axis} ${p.value}`)); s.append(c); if (free) s.append(svg('text', { x: X(p[by]) + (X(p[by]) > W - 60 ? -9 : 9), y: Y(p.distance) - 8, 'text-anchor': X(p[by]) > W - 60 ? 'end' : 'start' }, String(p.value))); }
  }
  if (missing) trouble(missing.says);
  const p = S.points[S.chosen], f = $('.samples'); f.hidden = !p; if (!p) return;
  f.querySelector('img').src = 'data:image/png;base64,' + p.grid; f.querySelector('img').alt = `The first ${p.shown} samples at ${S.axis} ${p.value}`;
  f.querySelector('figcaption').textContent = `${S.axis} ${p.value}: ${p.name} ${num(p.distance)}, agreement ${pct(p.agreement)}, confidence ${num(p.confidence)}. ` + Object.entries(p.settings).map(([k, v]) => `${k} ${v}`).join(', ') + '.';
}
function trouble(text) { const e = $('.trouble'); e.hidden = !text; e.textContent = text || ''; }
function draw() {
  const refused = S.fresh.filter(r => r.refused), some = S.stored.length || S.fresh.some(r => r.name) || S.points.length;
  S.fresh = S.fresh.filter(r => r.name); $('.empty').hidden = !!(some || S.refused.length || refused.length); $('.body').hidden = !$('.empty').hidden; if (refused.length) S.refused = refused;
  const any = S.stored.length + S.fresh.length > 0; $('.title h3').textContent = S.model ? `Results: ${S.model}` : 'Results'; $('.title').hidden = $('.results').parentElement.hidden = !any; table();
  const list = $('.refused'); list.hidden = !S.refused.length; list.textContent = ''; for (const r of S.refused) list.append(el('li', `${r.refused}: not measured: ${r.says}`));
  reading(); bits(); copies(); curve();
}
S.refused = [];
function upd() {
  const v = props.value; if (!v || (v.run && v.run === S.stopped)) return; // a message may overtake the Stop
  if (v.failed) { $('.bar').hidden = true; return; } // its toast has said why
  if (!v.run) { S.model = S.picked = v.model; S.stored = S.known[v.model] = v.stored || []; S.fresh = []; S.points = []; S.refused = []; S.open.clear(); S.before = null; trouble(v.trouble); if (!S.run) $('.bar').hidden = true; return draw(); }
  if (v.run !== S.run) { S.run = v.run; S.over = false; S.before = null; trouble(''); S.refused = []; if (v.begin === 'curve') { S.points = []; S.chosen = -1; S.axis = v.axis; } if (v.begin === 'measure') { S.stored = [...S.stored, ...S.fresh.map(({ strip, ...r }) => r)]; S.fresh = []; } draw(); }
  S.of = v.model; if (v.model !== S.model) { S.model = v.model; S.stored = S.known[v.model] || []; draw(); } // another model was chosen meanwhile: this run's numbers are not its own
  const bar = $('.bar'); bar.hidden = false;
  if (v.total) { const p = $('progress'); p.hidden = false; p.value = v.done / v.total; $('.what').textContent = `${v.what}: ${v.done.toLocaleString('en')} of ${v.total.toLocaleString('en')}` + (v.left != null ? `, about ${span(v.left)} left` : ''); }
  if (v.rows) { S.fresh = v.rows; draw(); }
  if (v.point) { S.points[v.index] = v.point; if (S.chosen < 0) S.chosen = 0; draw(); }
  if (v.over) { S.over = true; $('progress').hidden = true; $('.what').textContent = v.over; }
}
element.addEventListener('click', e => {
  const sort = e.target.closest('[data-sort]'), row = e.target.closest('[data-row]'), point = e.target.closest('[data-point]');
  if (sort) { const k = +sort.dataset.sort; S.up = S.sort === k ? !S.up : true; S.sort = k; table(); $(`[data-sort="${k}"]`).focus({ preventScroll: true }); }
  if (row) { const r = S.rows[+row.dataset.row].r; S.open.has(r) ? S.open.delete(r) : S.open.add(r); table(); $(`[data-row="${row.dataset.row}"]`).focus({ preventScroll: true }); }
  if (point) { S.chosen = +point.dataset.point; curve(); }
  if (e.target.closest('.csv')) csv();
});
element.addEventListener('keydown', e => { const p = e.target.closest('[data-point]'); if (p && (e.key === 'Enter' || e.key === ' ')) { e.preventDefault(); S.chosen = +p.dataset.point; curve(); $(`[data-point="${S.chosen}"]`).focus(); } });
element.addEventListener('change', e => { if (e.target.matches('.by select')) curve(); });
document.addEventListener('ddpm-stop', e => {
  if (e.detail !== 'evaluate-view' || !S.run || S.over || S.run === S.stopped) return;
  const whose = S.picked !== S.of ? ` of ${S.of}` : ''; S.stopped = S.run; $('progress').hidden = true;
  $('.what').textContent = `Stopped. The samples${whose} so far are kept: the same settings go on from there.`;
  if (whose && !S.fresh.length && !S.points.length) { S.model = S.picked; S.stored = S.known[S.model] || []; S.refused = []; draw(); } // nothing came of it: the chosen model's numbers
});
watch('value', upd); upd();
