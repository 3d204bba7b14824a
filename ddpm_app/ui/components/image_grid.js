const $ = s => element.querySelector(s);
const S = element.__grid = { run: null, labels: [], pngs: [], settings: [], size: [32, 32], chosen: -1, drawn: 0 };
const bytes = b => Uint8Array.from(atob(b), c => c.charCodeAt(0));
const decode = (b, type) => createImageBitmap(new Blob([bytes(b)], { type }));
const text = (tag, content, cls) => { const e = document.createElement(tag); e.textContent = content; if (cls) e.className = cls; return e; };

function arrange(box, order, columns, rows) { // put existing cells into a box, in this order, with a header a row; columns 0: as many as fit
  const widest = Math.max(40, Math.min(112, Math.floor(760 / columns))); box.textContent = '';
  box.style.gridTemplateColumns = (rows ? 'max-content ' : '') + (columns ? `repeat(${columns}, minmax(0, ${widest}px))` : 'repeat(auto-fill, 64px)');
  order.forEach((i, k) => {
    if (rows && k % columns === 0) box.append(text('div', rows[k / columns] ?? '', 'rowhead'));
    S.cells[i].querySelector('span').hidden = !!rows && !S.scores; box.append(S.cells[i]);
  });
}
function build(v) {
  S.labels = v.labels; S.size = v.size; S.pngs = []; S.settings = []; S.cells = []; S.scores = null; choose(-1);
  S.canvases = [];
  v.order.forEach(i => {
    const cell = document.createElement('button'); cell.type = 'button'; cell.className = 'cell'; cell.disabled = true; cell.dataset.i = i;
    cell.setAttribute('role', 'listitem'); cell.setAttribute('aria-label', `Image ${i + 1}: ${v.labels[i]}`); cell.setAttribute('aria-pressed', 'false');
    const c = document.createElement('canvas'); [c.width, c.height] = v.size; cell.append(c, text('span', v.labels[i])); S.canvases[i] = c; S.cells[i] = cell;
  });
  $('.rejected').hidden = true; $('.rejected .cells').textContent = ''; arrange($('.stage .cells'), v.order, v.columns, v.rows);
  $('.stage').classList.add('has'); $('.zip').hidden = true;
}
function showRanked(r) { // the kept ones in their places, the rejected ones below, each with its score
  S.scores = r.scores;
  r.scores.forEach((s, i) => { S.cells[i].querySelector('span').textContent = r.layout.rows ? s : `${s} ${S.labels[i]}`;
    S.cells[i].setAttribute('aria-label', `Image ${i + 1}: ${S.labels[i]}, ${r.score_name} ${s}`); });
  arrange($('.stage .cells'), r.layout.order, r.layout.columns, r.layout.rows);
  arrange($('.rejected .cells'), r.rejected, 0, null);
  r.rejected.forEach(i => S.cells[i].querySelector('span').textContent = `${r.scores[i]} ${S.labels[i]}`);
  $('.rejected').hidden = false; $('.rejected').open = true; $('.rejected summary').textContent = `Rejected: ${r.rejected.length}, by ${r.score_name}, the best first`;
}
async function preview(b, columns, tag) { // one picture holding all cells, cut up here
  const m = await decode(b, 'image/jpeg'); if (tag !== S.run || S.pngs.length) return;
  const [w, h] = S.size; S.canvases.forEach((c, i) => c.getContext('2d').drawImage(m, (i % columns) * w, Math.floor(i / columns) * h, w, h, 0, 0, w, h)); S.drawn++;
}
async function finish(v, tag) {
  const maps = await Promise.all(v.pngs.map(b => decode(b, 'image/png'))); if (tag !== S.run) return;
  S.pngs = v.pngs; S.settings = v.settings;
  maps.forEach((m, i) => S.canvases[i].getContext('2d').drawImage(m, 0, 0));
  if (v.ranked) showRanked(v.ranked);
  element.querySelectorAll('.cell').forEach(c => c.disabled = false); $('.zip').hidden = false; S.drawn++;
}
function choose(i) {
  S.chosen = i; element.querySelectorAll('.cell').forEach(c => c.setAttribute('aria-pressed', String(+c.dataset.i === i)));
  const d = $('.detail'); d.hidden = i < 0; d.textContent = ''; if (i < 0) return;
  const big = document.createElement('canvas'); [big.width, big.height] = S.size; big.getContext('2d').drawImage(S.canvases[i], 0, 0);
  big.setAttribute('role', 'img'); big.setAttribute('aria-label', S.labels[i]);
  const side = document.createElement('div'), dl = document.createElement('dl'), actions = text('div', '', 'actions');
  for (const [k, v] of S.settings[i]) dl.append(text('dt', k), text('dd', v));
  const a = text('a', 'Download PNG'); a.download = `ddpm-${S.labels[i].replace(/\W+/g, '-')}-${i}.png`;
  a.href = 'data:image/png;base64,' + S.pngs[i]; a.className = 'png';
  const use = text('button', 'Use these settings'); use.type = 'button'; use.onclick = () => trigger('recall', { png: S.pngs[i] });
  actions.append(a, use); side.append(dl, actions); d.append(big, side); d.scrollIntoView({ block: 'nearest', behavior: 'smooth' });
}
async function upd() {
  const v = props.value, hero = $('.hero');
  if (v && !v.run) { if (v.hero) hero.src = v.hero; hero.hidden = !v.hero; } if (!v || !v.run || v.run === S.stopped) return; // a message may overtake the Stop
  if (v.run !== S.run) { S.run = v.run; build(v); }
  const bar = $('progress'); bar.hidden = v.done || v.stopped; bar.value = v.progress || 0; $('.status').textContent = v.status || '';
  if (v.preview) await preview(v.preview, v.preview_columns, S.run);
  if (v.pngs) await finish(v, S.run);
}
element.addEventListener('click', async e => {
  const cell = e.target.closest('.cell'); if (cell && !cell.disabled) return choose(S.chosen === +cell.dataset.i ? -1 : +cell.dataset.i);
  if (e.target.closest('.zip')) {
    const r = await server.zip_of({ run: S.run }); if (!r) { $('.status').textContent = 'These images are no longer kept; generate again.'; return; }
    const a = document.createElement('a'); a.href = URL.createObjectURL(new Blob([bytes(r)], { type: 'application/zip' })); a.download = 'ddpm-images.zip'; a.click();
    setTimeout(() => URL.revokeObjectURL(a.href), 10000);
  }
});
document.addEventListener('ddpm-stop', e => {
  if (!S.run || S.run === S.stopped || S.pngs.length || !element.closest('#' + e.detail)) return;
  S.stopped = S.run; $('progress').hidden = true; $('.status').textContent = 'Stopped at ' + $('.status').textContent;
});
watch('value', upd); upd();
