// Listens for `ddpm-run` {run, snapshots, rows} from the runs' view above; asks server.time_look, faster while work goes on.
const $ = s => element.querySelector(s), setText = (e, t) => { if (e.textContent !== t) e.textContent = t; };
const T = element.__time = { run: null, sig: '', data: null, pics: {}, at: null, busy: false, timer: null, playing: null };
const el = (tag, content, cls) => { const e = document.createElement(tag); if (content !== undefined) e.textContent = content; if (cls) e.className = cls; return e; };
const num = (v, d = 3) => v == null ? '–' : v.toFixed(d), pct = v => v == null ? '–' : `${(100 * v).toFixed(v < .1 ? 1 : 0)} %`;
const count = v => String(v).replace(/\B(?=(\d{3})+$)/g, ' ');
const length = () => +(0.01 * Math.pow(28, +$('.length').value / 100)).toFixed(3);
const weights = () => $('.weights').value === 'any' ? length() : $('.weights').value;
const setName = w => typeof w === 'number' ? `ema-${w}` : w;
const label = n => n === 'own' ? "the run's own EMA" : n === 'raw' ? 'raw weights' : `EMA ${n.slice(4)} of the run`;
const say = (t, ok) => { const e = $('.say'); e.hidden = !t; setText(e, t || ''); clearTimeout(T.saying); if (t && ok) T.saying = setTimeout(() => say(''), 9000); };
const times = () => Object.keys(T.data ? T.data.moments : {}).map(Number).sort((a, b) => a - b);
const nearest = (list, x) => list.length ? list.reduce((m, v) => Math.abs(v - x) < Math.abs(m - x) ? v : m) : null;

async function look() { // asked for while an answer is on its way: that one may be older than what was done meanwhile, so another follows
  if (T.busy) { T.missed = true; return; }
  if (!T.run) return; T.busy = true; T.missed = false; let again = false;
  try {
    const run = T.run, want = [...new Set([setName(weights()), $('.beside').value].filter(Boolean))], have = {};
    for (const n of want) have[n] = Object.keys(T.pics[n] || {}).map(Number);
    const r = await server.time_look({ run, want, have });
    if (run === T.run) {
      if (r.error) { $('.tm').hidden = true; T.data = null; }
      else {
        const before = T.data && T.data.task; T.data = r;
        for (const n in r.pictures) { T.pics[n] = T.pics[n] || {}; for (const k in r.pictures[n]) T.pics[n][k] = 'data:image/png;base64,' + r.pictures[n][k]; }
        if (r.task && r.task.error && (!before || before.error !== r.task.error)) say(r.task.error);
        again = r.more || !!(r.task && r.task.live); T.more = r.more; draw(); if (T.wish && !(r.task && r.task.live)) wanted();
      }
    } else again = true;
  } catch (e) { again = element.isConnected && !!(T.data && T.data.task && T.data.task.live); /* the runs' view says so */ }
  T.busy = false;
  if (again || T.missed) { clearTimeout(T.timer); T.timer = setTimeout(look, T.more || T.missed ? 30 : 700); }
}
function draw() {
  const d = T.data, list = times(); $('.tm').hidden = !list.length; if (!list.length) return;
  const w = $('.when'), last = list.length - 1, drawn = d.sets[setName(weights())] || [], at = T.at === null ? Math.max(list.indexOf(drawn[drawn.length - 1]), 0) || last : list.indexOf(nearest(list, T.at));
  if (+w.max !== last) w.max = last; if (+w.value !== at) w.value = at;
  const images = list[at], m = d.moments[images], live = d.task && d.task.live;
  setText($('.at'), m.share == null ? '' : pct(m.share));
  const b = $('.beside'), names = Object.keys(d.sets); if (b.dataset.of !== names.join()) { const keep = b.value; b.dataset.of = names.join(); b.textContent = ''; b.append(el('option', 'nothing')); b.firstChild.value = ''; for (const n of names) { const o = el('option', label(n)); o.value = n; b.append(o); } b.value = names.includes(keep) ? keep : ''; }
  figure($('.a'), setName(weights()), images); $('.b').hidden = !b.value; if (b.value) figure($('.b'), b.value, images);
  const row = d.table.find(r => r.images === images), f = [['images seen', count(images)], ['of the budget', pct(m.share)], ['loss', num(m.loss, 4)], ['validation', num(m.validation, 4)]];
  if (row) f.push(['read as asked', num(row.agreement)], ['confidence', num(row.confidence)], [row.distance_name || 'distance', row.distance == null ? '–' : row.distance.toPrecision(3)]);
  const box = $('.facts'); box.textContent = ''; for (const [n, v] of f) box.append(el('span', n), el('b', v));
  const stored = d.lengths.length > 0; $('.len').hidden = $('.weights').value !== 'any';
  setText($('.len output'), length().toFixed(3));
  element.querySelectorAll('.weights option').forEach(o => { o.disabled = o.value !== 'own' && !stored; });
  $('[data-t=one]').disabled = $('[data-t=all]').disabled = live || !d.snapshots.length; $('[data-t=stop]').disabled = !live; $('[data-t=table]').disabled = live || !d.snapshots.length;
  $('[data-t=keep]').disabled = live || d.live || !d.snapshots.length; $('[data-t=keep]').title = d.live ? 'When the run has ended' : 'They become the checkpoint that Generate and ship.py use';
  const p = $('.tm > progress'); p.hidden = !live; if (live) p.value = d.task.share; setText($('.hint'), live ? d.task.what + '…' : 'The same noise, denoised by the network as it was then.');
  const shown = (d.sets[setName(weights())] || []).length; element.querySelectorAll('[data-x]').forEach(x => { x.disabled = shown < 2; });
  setText($('.ema'), d.kept ? `The run's checkpoint holds: ${d.kept}` : ''); table(d.table);
}
function figure(box, name, images) {
  const have = Object.keys(T.pics[name] || {}).map(Number), near = nearest(have, images), share = times().length ? (times()[times().length - 1] || 1) * .03 : 0;
  const ok = near !== null && Math.abs(near - images) <= share, img = box.querySelector('img'); img.hidden = !ok; box.querySelector('.none').hidden = ok;
  if (ok && img.dataset.of !== T.run + name + near) { img.src = T.pics[name][near]; img.dataset.of = T.run + name + near; img.alt = `Samples after ${near} images, ${label(name)}, one row a class`; }
  setText(box.querySelector('figcaption'), ok && near !== images ? `${label(name)}, after ${count(near)} images` : label(name));
}
function table(rows) {
  const key = JSON.stringify(rows), t = $('table'); if (t.dataset.of === key) return; t.dataset.of = key;
  const head = $('thead'), body = $('tbody'); head.textContent = body.textContent = '';
  const line = (cells, tag) => { const tr = el('tr'); for (const c of cells) { const e = el(tag); if (c instanceof Node) e.append(c); else e.textContent = c; tr.append(e); } return tr; };
  const named = rows.find(r => r.distance_name), clip = rows.some(r => r.clip != null);
  head.append(line(['budget', 'images', 'samples', 'loss', 'validation', 'read as asked', 'confidence', 'classes read', (named || {}).distance_name || 'distance', ...(clip ? ['CLIP'] : [])], 'th'));
  const bars = r => { if (!r.counts) return '–'; const s = el('span', undefined, 'counts'), top = Math.max(...r.counts, 1); r.counts.forEach((c, k) => { const i = el('i'); i.style.height = `${Math.max(1, 26 * c / top)}px`; i.title = `${(r.classes || [])[k] ?? k}: ${c}`; s.append(i); }); s.setAttribute('role', 'img'); s.setAttribute('aria-label', 'Classes read: ' + r.counts.join(', ')); return s; };
  for (const r of rows) body.append(line([pct(r.share), count(r.images), r.n == null ? '–' : count(r.n), num(r.loss, 4), num(r.validation, 4), num(r.agreement), num(r.confidence), bars(r), r.distance == null ? '–' : r.distance.toPrecision(3), ...(clip ? [num(r.clip)] : [])], 'td'));
  const real = rows.find(r => r.real_distance != null) || rows.find(r => r.real_agreement != null);
  if (real) body.append(line(['real test images', '', '', '', '', num(real.real_agreement), num(real.real_confidence), '', real.real_distance == null ? '–' : real.real_distance.toPrecision(3), ...(clip ? [''] : [])], 'td'));
  $('.scroll').hidden = !rows.length;
  setText($('.refused'), rows.length ? [...new Set(rows.flatMap(r => r.refused || []))].join(' · ') : 'Empty: 200 samples at each share are judged by the classifier that ships for the data. Half a minute a row on two cores.');
}
async function act(query) {
  say(''); let r; try { r = await server.time_act({ run: T.run, weights: weights(), ...query }); } catch { /* as nothing */ } r = r || { error: 'The studio does not answer.' };
  if (r.error || r.ok) say(r.error || r.ok, !r.error); look(); return r;
}
function wanted() { // chosen weights without a picture here are sampled at once, or when the work going on is done
  const w = weights(); T.wish = false;
  if (w === 'own' || !T.data || !T.data.lengths.length || (T.data.sets[setName(w)] || []).includes(+here())) return;
  if (T.data.task && T.data.task.live) T.wish = true;
  else act({ do: 'draw', snapshot: here() }).then(r => { if (r.busy) { T.wish = true; say(''); } }); // what is known here may be older than the work
}
function sure(b) { // the run's checkpoint is replaced: asked once
  if (b.classList.contains('sure')) { calm(); return true; }
  b.classList.add('sure'); b.textContent = "Really? Replaces the run's checkpoint"; clearTimeout(T.sure); T.sure = setTimeout(calm, 5000); return false;
}
function calm() { const b = $('[data-t=keep]'); b.classList.remove('sure'); b.textContent = 'Keep these weights'; }
const here = () => { const list = times(), x = list[+$('.when').value], s = T.data.snapshots; return s[s.map(Number).indexOf(nearest(s.map(Number), x))]; };
element.addEventListener('click', async e => {
  const b = e.target.closest('[data-t]'), x = e.target.closest('[data-x]');
  if (b && !b.disabled) { const t = b.dataset.t; if (t === 'keep' && !sure(b)) return; act(t === 'one' ? { do: 'draw', snapshot: here() } : t === 'all' ? { do: 'draw' } : t === 'keep' ? { do: 'keep', snapshot: here() } : { do: t }); }
  if (x && !x.disabled) { x.disabled = true; const r = await act({ do: 'export', kind: x.dataset.x }); x.disabled = false; if (r.data) { const a = el('a'); a.href = `data:${r.type};base64,${r.data}`; a.download = `${T.run}-${setName(weights())}.${x.dataset.x}`; a.click(); } }
  if (e.target.closest('.play')) play();
});
function play() {
  if (T.playing) { clearInterval(T.playing); T.playing = null; setText($('.play'), '▶'); $('.play').setAttribute('aria-label', 'Play'); return; }
  const list = times(); if (T.at === null || T.at >= list[list.length - 1]) T.at = list[0]; setText($('.play'), '❚❚'); $('.play').setAttribute('aria-label', 'Pause');
  T.playing = setInterval(() => { const k = list.indexOf(nearest(list, T.at)); if (k >= list.length - 1 || !element.isConnected) return play(); T.at = list[k + 1]; draw(); }, 250);
}
element.addEventListener('input', e => { if (e.target.matches('.when')) { T.at = times()[+e.target.value]; draw(); } if (e.target.matches('.length')) setText($('.len output'), length().toFixed(3)); });
element.addEventListener('change', e => {
  calm(); if (e.target.matches('.beside')) look();
  if (e.target.matches('.weights, .length')) { draw(); look(); wanted(); }
});
function chosen(e) {
  if (!element.isConnected) return document.removeEventListener('ddpm-run', chosen);
  const { run, sig } = e.detail; if (run !== T.run) { calm(); T.run = run; T.pics = {}; T.at = null; T.data = null; $('.tm').hidden = true; $('.weights').value = 'own'; $('.beside').value = ''; if (T.playing) play(); say(''); }
  if (sig !== T.sig) { T.sig = sig; look(); }
}
document.addEventListener('ddpm-run', chosen);
