// value = {run, labels, size: [w, h], order, columns, rows: [header] or null}, during the run also
// progress, status, preview (base64 of all cells in one picture) with preview_columns,
// and at the end done, pngs: [base64], settings: [[[name, text], ...]] per image, ranked (of a re-ranked run).
// Without a run: hero, the address of an animation for the empty state.
const state = (element.__grid = { run: null, stopped: null, chosen: -1, drawn: 0, labels: [], pngs: [], settings: [] });

// Puts existing cells into a box, in this order, with a header per row. columns 0: as many as fit.
function arrange(box, order, columns, rows) {
  const widest = clamp(Math.floor(760 / columns), 40, 112);
  const cells = columns ? `repeat(${columns}, minmax(0, ${widest}px))` : 'repeat(auto-fill, 64px)';
  box.textContent = '';
  box.style.gridTemplateColumns = (rows ? 'max-content ' : '') + cells;
  order.forEach((i, place) => {
    if (rows && place % columns === 0) box.append(el('div', rows[place / columns] ?? '', 'rowhead'));
    state.cells[i].querySelector('span').hidden = !!rows && !state.scores;
    box.append(state.cells[i]);
  });
}

function buildCell(i, label, [width, height]) {
  const cell = el('button', undefined, 'cell');
  cell.type = 'button';
  cell.disabled = true;
  cell.dataset.i = i;
  cell.setAttribute('role', 'listitem');
  cell.setAttribute('aria-label', `Image ${i + 1}: ${label}`);
  cell.setAttribute('aria-pressed', 'false');
  const canvas = el('canvas');
  canvas.width = width;
  canvas.height = height;
  cell.append(canvas, el('span', label));
  state.canvases[i] = canvas;
  state.cells[i] = cell;
}

function build(value) {
  const { labels, size } = value;
  Object.assign(state, { labels, size, pngs: [], settings: [], cells: [], canvases: [], scores: null });
  choose(-1);
  for (const i of value.order) buildCell(i, labels[i], size);
  $('.rejected').hidden = true;
  $('.rejected .cells').textContent = '';
  arrange($('.stage .cells'), value.order, value.columns, value.rows);
  $('.stage').classList.add('has');
  $('.zip').hidden = true;
}

// The kept images in the grid and the rejected ones below, each with its score.
function showRanked(ranked) {
  const { scores, layout, rejected } = ranked;
  state.scores = scores;
  const caption = i => state.cells[i].querySelector('span');
  scores.forEach((score, i) => {
    const label = state.labels[i];
    caption(i).textContent = layout.rows ? score : `${score} ${label}`;
    state.cells[i].setAttribute('aria-label', `Image ${i + 1}: ${label}, ${ranked.score_name} ${score}`);
  });
  arrange($('.stage .cells'), layout.order, layout.columns, layout.rows);
  arrange($('.rejected .cells'), rejected, 0, null);
  for (const i of rejected) caption(i).textContent = `${scores[i]} ${state.labels[i]}`;
  $('.rejected').hidden = false;
  $('.rejected').open = true;
  $('.rejected summary').textContent = `Rejected: ${rejected.length}, by ${ranked.score_name}, the best first`;
}

// Cuts one picture of all cells into cells.
async function showPreview(base64, columns, run) {
  const picture = await decodeImage(base64);
  if (run !== state.run || state.pngs.length) return;
  const [width, height] = state.size;
  state.canvases.forEach((canvas, i) => {
    const x = (i % columns) * width;
    const y = Math.floor(i / columns) * height;
    canvas.getContext('2d').drawImage(picture, x, y, width, height, 0, 0, width, height);
  });
  state.drawn++;
}

async function finish(value, run) {
  const pictures = await Promise.all(value.pngs.map(decodeImage));
  if (run !== state.run) return;
  state.pngs = value.pngs;
  state.settings = value.settings;
  pictures.forEach((picture, i) => state.canvases[i].getContext('2d').drawImage(picture, 0, 0));
  if (value.ranked) showRanked(value.ranked);
  for (const cell of element.querySelectorAll('.cell')) cell.disabled = false;
  $('.zip').hidden = false;
  state.drawn++;
}

function choose(i) {
  state.chosen = i;
  for (const cell of element.querySelectorAll('.cell')) {
    cell.setAttribute('aria-pressed', String(+cell.dataset.i === i));
  }
  const detail = $('.detail');
  detail.hidden = i < 0;
  detail.textContent = '';
  if (i >= 0) showDetail(detail, i);
}

function showDetail(detail, i) {
  const large = el('canvas');
  [large.width, large.height] = state.size;
  large.getContext('2d').drawImage(state.canvases[i], 0, 0);
  large.setAttribute('role', 'img');
  large.setAttribute('aria-label', state.labels[i]);

  const settings = el('dl');
  for (const [name, text] of state.settings[i]) settings.append(el('dt', name), el('dd', text));

  const link = el('a', 'Download PNG', 'png');
  link.download = `ddpm-${state.labels[i].replace(/\W+/g, '-')}-${i}.png`;
  link.href = 'data:image/png;base64,' + state.pngs[i];
  const use = el('button', 'Use these settings');
  use.type = 'button';
  use.onclick = () => trigger('recall', { png: state.pngs[i] });

  const side = el('div');
  const actions = el('div', '', 'actions');
  actions.append(link, use);
  side.append(settings, actions);
  detail.append(large, side);
  detail.scrollIntoView({ block: 'nearest', behavior: 'smooth' });
}

async function downloadAll() {
  const zip = await server.zip_of({ run: state.run });
  if (zip) download(new Blob([bytes(zip)], { type: 'application/zip' }), 'ddpm-images.zip');
  else $('.status').textContent = 'These images are no longer kept; generate again.';
}

async function update() {
  const value = props.value;
  if (value && !value.run) {
    const hero = $('.hero');
    if (value.hero) hero.src = value.hero;
    hero.hidden = !value.hero;
  }
  if (!value || !value.run || value.run === state.stopped) return; // a message may arrive after the Stop
  if (value.run !== state.run) {
    state.run = value.run;
    build(value);
  }
  const bar = $('progress');
  bar.hidden = value.done || value.stopped;
  bar.value = value.progress || 0;
  $('.status').textContent = value.status || '';
  if (value.preview) await showPreview(value.preview, value.preview_columns, state.run);
  if (value.pngs) await finish(value, state.run);
}

element.addEventListener('click', event => {
  const cell = event.target.closest('.cell');
  if (cell && !cell.disabled) choose(state.chosen === +cell.dataset.i ? -1 : +cell.dataset.i);
  else if (event.target.closest('.zip')) downloadAll();
});

onStop(() => {
  if (!state.run || state.run === state.stopped || state.pngs.length) return;
  state.stopped = state.run;
  $('progress').hidden = true;
  $('.status').textContent = 'Stopped at ' + $('.status').textContent;
});

watch('value', update);
update();
