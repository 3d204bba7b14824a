// value = {run, model, ...} of a run: begin ("measure" or "curve", with axis); what, done, total, left (progress);
// rows (all of this run so far; a refusal is {refused, says}); point and index (of the curve);
// over (the last sentence). failed: the run failed.
// Without a run: {model, stored: [row], trouble}.
const state = (element.__evaluate = {
  run: null, stopped: null, over: false, axis: '',
  model: '', // the model whose numbers are shown
  pickedModel: '', // chosen at the top of the page
  runModel: '', // of the run
  known: {}, // each model's stored numbers
  stored: [], fresh: [], refused: [], points: [], // fresh: of the run shown
  rows: [], open: new Set(), sort: null, ascending: true, // of the table
  chosen: -1 // a point of the curve
});

// column: [title, row -> value, kind]
const MEASURED = 1;
const SETTING = 2;
const COLUMNS = [
  ['Metric', row => String(row.name)],
  ['Value', row => row.value, MEASURED],
  ['± s.e.', row => row.error, MEASURED],
  ['Real images', ofRealImages, MEASURED],
  ['n', row => protocol(row).n, SETTING],
  ['Sampler', row => protocol(row).sampler || ''],
  ['Evals', row => protocol(row).evaluations, SETTING],
  ['s', row => protocol(row).guidance, SETTING],
  ['Network', networkOf]
];

function format(value) {
  if (typeof value !== 'number' || !isFinite(value)) return '–';
  return Math.abs(value) >= 100 ? value.toFixed(1) : value.toPrecision(4);
}

function percent(share) {
  return share == null ? '–' : (100 * share).toFixed(1) + ' %';
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function protocol(row) {
  return row.protocol && typeof row.protocol === 'object' && !Array.isArray(row.protocol) ? row.protocol : {};
}

function ofRealImages(row) {
  const value = row.detail && row.detail['real test images'];
  return typeof value === 'number' ? value : null;
}

function networkOf(row) {
  const { features } = protocol(row);
  return features && features.network ? String(features.network) : '';
}

function heading(text) {
  const th = el('th', text);
  th.setAttribute('scope', 'row');
  return th;
}

function emptyTable(selector, titles) {
  const table = $(selector);
  const row = el('tr');
  for (const title of titles) {
    const th = el('th', title);
    th.setAttribute('scope', 'col');
    row.append(th);
  }
  const [head, body] = [el('thead'), el('tbody')];
  head.append(row);
  table.textContent = '';
  table.append(head, body);
  return body;
}

function addRow(body, ...cells) {
  const row = el('tr');
  row.append(...cells);
  body.append(row);
}

// A table cell with a bar for each [share, class].
function meter(bars) {
  const cell = el('td', undefined, 'meter');
  for (const [share, className] of bars) {
    if (share == null) continue;
    const bar = el('i', undefined, className);
    bar.style.width = `${clamp(share, 0, 1) * 100}%`;
    cell.append(bar);
  }
  return cell;
}

function compare(a, b) {
  const value = COLUMNS[state.sort][1];
  const [x, y] = [value(a.row), value(b.row)];
  const isEmpty = v => v === null || v === undefined || v === '';
  if (isEmpty(x) || isEmpty(y)) return isEmpty(x) - isEmpty(y);
  const numbers = typeof x === 'number' && typeof y === 'number';
  const order = numbers ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
  return state.ascending ? order : -order;
}

// Stored and fresh rows, without stored copies of fresh ones.
function orderedRows() {
  const identity = row => JSON.stringify([row.name, row.value, protocol(row)]);
  const fresh = new Set(state.fresh.map(identity));
  const rows = [
    ...state.stored.filter(row => !fresh.has(identity(row))).map(row => ({ row, fresh: false })),
    ...state.fresh.map(row => ({ row, fresh: true }))
  ];
  return state.sort === null ? rows.reverse() : rows.sort(compare);
}

function drawTableHead() {
  const head = $('.results thead tr');
  head.textContent = '';
  COLUMNS.forEach(([title, , kind], k) => {
    const sorted = state.sort === k;
    const th = el('th', undefined, kind ? 'num' : '');
    const button = el('button', title + (sorted ? (state.ascending ? ' ▲' : ' ▼') : ''));
    button.type = 'button';
    button.dataset.sort = k;
    th.setAttribute('scope', 'col');
    th.setAttribute('aria-sort', !sorted ? 'none' : state.ascending ? 'ascending' : 'descending');
    th.append(button);
    head.append(th);
  });
  head.append(el('th', 'Protocol', 'last'));
}

function cellOf(row, [, value, kind]) {
  const v = value(row);
  if (kind === MEASURED) return el('td', format(v), 'num');
  return el('td', kind && typeof v === 'number' ? v.toLocaleString('en') : v ?? '', kind ? 'num' : '');
}

function protocolRow(row) {
  const detail = row.detail || {};
  const change = detail['change from half the steps'];
  const list = el('dl');
  if (typeof detail.note === 'string') list.append(el('dt', 'note'), el('dd', detail.note));
  if (typeof change === 'number') {
    list.append(el('dt', 'change from half the steps'), el('dd', `${format(change)} bits/dim`));
  }
  for (const [name, value] of Object.entries(protocol(row))) {
    const nested = value !== null && typeof value === 'object';
    const text = nested ? Object.entries(value).map(([k, v]) => `${k} ${v}`).join(', ') : String(value);
    list.append(el('dt', name), el('dd', text));
  }
  const cell = el('td');
  cell.colSpan = COLUMNS.length + 1;
  cell.append(list);
  const line = el('tr', undefined, 'protocol');
  line.append(cell);
  return line;
}

function drawTable() {
  const body = $('.results tbody');
  body.textContent = '';
  drawTableHead();
  state.rows = orderedRows();
  state.rows.forEach(({ row, fresh }, i) => {
    const isOpen = state.open.has(row);
    const button = el('button', isOpen ? 'hide' : 'show');
    button.type = 'button';
    button.dataset.row = i;
    button.setAttribute('aria-expanded', String(isOpen));
    button.setAttribute('aria-label', `Protocol of ${row.name}`);
    const more = el('td', undefined, 'more');
    more.append(button);
    const line = el('tr', undefined, fresh ? 'new' : '');
    line.append(...COLUMNS.map(column => cellOf(row, column)), more);
    body.append(line);
    if (isOpen) body.append(protocolRow(row));
  });
}

function csvCell(value) {
  let text = value === null || value === undefined ? '' : String(value);
  if (value !== null && typeof value === 'object') text = JSON.stringify(value);
  if (typeof value === 'string' && /^[=+\-@\t\r]/.test(text)) text = "'" + text; // a spreadsheet would run it
  return /[",\n\r]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
}

function downloadCsv() {
  const rows = state.rows.map(({ row }) => row);
  const keys = [...new Set(rows.flatMap(row => Object.keys(protocol(row))))];
  const lines = [
    ['metric', 'value', 'error', 'real test images', ...keys],
    ...rows.map(row => [row.name, row.value, row.error, ofRealImages(row), ...keys.map(key => protocol(row)[key])])
  ];
  const text = lines.map(line => line.map(csvCell).join(',')).join('\n') + '\n';
  const name = `${(state.model || 'model').replace(/[^\w.-]+/g, '-')}-metrics.csv`;
  download(new Blob([text], { type: 'text/csv' }), name);
}

// The newest row that matches: of this run, else of the stored ones.
function newestRow(fits) {
  return [...state.fresh, ...[...state.stored].reverse()].find(fits);
}

function drawReading() {
  const row = newestRow(({ name, detail }) => {
    return name === 'confidence' && detail && detail.generated && detail.generated.counts;
  });
  $('.reading').hidden = !row;
  if (!row) return;
  const { generated, real, classes } = row.detail;
  const named = classes && classes.length === generated.counts.length;
  const names = named ? classes : generated.counts.map((_, k) => String(k));
  drawClassShares(names, generated, real);
  drawCalibration(generated, real);
  drawConfusion(names, generated.confusion || []);
}

function drawClassShares(names, generated, real) {
  const share = (reading, k) => (reading ? reading.counts[k] / reading.n : null);
  const shares = names.flatMap((_, k) => [share(generated, k), share(real, k) || 0]);
  const top = Math.max(...shares, 1e-9);
  const body = emptyTable('.classes', ['', '', 'samples', 'real']);
  names.forEach((name, k) => {
    const [ours, reals] = [share(generated, k), share(real, k)];
    const bars = meter([[ours / top, ''], [real ? reals / top : null, 'real']]);
    addRow(body, heading(name), bars, el('td', percent(ours)), el('td', percent(reals)));
  });
  const [distance, expected] = [format(generated.distance), format(generated.expected_distance)];
  $('.uniform').textContent =
    `Distance from uniform ${distance}; equal draws give ${expected} by chance.` +
    (real ? ` Real test images: ${format(real.distance)}.` : '');
}

// bin: [low, high, n, mean confidence, share classified as expected]
function drawCalibration(generated, real) {
  const binsOf = reading => (reading && reading.bins && reading.bins.length ? reading.bins : null);
  const [ours, reals] = [binsOf(generated), binsOf(real)];
  const body = emptyTable('.calibration', ['confidence', 'read rightly', 'samples', 'real']);
  (ours || reals || []).forEach(([low, high], k) => {
    const [bin, realBin] = [ours && ours[k], reals && reals[k]];
    if (!(bin && bin[2]) && !(realBin && realBin[2])) return;
    const range = `${Math.round(100 * low)}–${Math.round(100 * high)} %`;
    const bars = meter([[bin && bin[4], ''], [realBin && realBin[4], 'real']]);
    const texts = [bin, realBin].map(b => el('td', b ? percent(b[4]) : '–'));
    addRow(body, heading(range), bars, ...texts);
  });
  const samples = generated.ece == null ? 'no requested classes' : 'samples ' + format(generated.ece);
  const reference = real && real.ece != null ? ', real test images ' + format(real.ece) : '';
  $('.ece').textContent = `Expected calibration error: ${samples}${reference}.`;
}

function drawConfusion(names, confusion) {
  const body = emptyTable('.confusion', ['', ...names]);
  $('.confusion').closest('.scroll').hidden = !confusion.length;
  confusion.forEach((counts, k) => {
    const total = counts.reduce((sum, count) => sum + count, 0) || 1;
    const cells = counts.map((count, j) => {
      const cell = el('td', count || '·');
      const strength = Math.round((48 * count) / total);
      cell.style.background = `color-mix(in srgb, var(--ink) ${strength}%, transparent)`;
      cell.title = `${names[k]} read as ${names[j]}: ${count}`;
      return cell;
    });
    addRow(body, heading(names[k]), ...cells);
  });
}

function drawBits() {
  const row = newestRow(({ name, detail }) => name === 'bpd-bound' && detail && Array.isArray(detail.levels));
  $('.bits').hidden = !row;
  if (!row) return;
  const { L_0, L_T, levels } = row.detail;
  const parts = [
    ['L_0 (t = 1)', L_0],
    ...levels.map(([first, last, bits]) => [first === last ? `t = ${first}` : `t = ${first} to ${last}`, bits]),
    ['L_T', L_T]
  ];
  const top = Math.max(...parts.map(part => part[1]), 1e-9);
  const body = emptyTable('.levels', ['', '', 'bits/dim']);
  for (const [name, bits] of parts) addRow(body, heading(name), meter([[bits / top, '']]), el('td', bits.toFixed(4)));
}

function drawNeighbours() {
  const rows = state.fresh.filter(row => row.strip);
  const box = $('.strips');
  box.textContent = '';
  $('.copies').hidden = !rows.length;
  for (const row of rows) {
    const space = row.name.endsWith('-pixels') ? 'pixels' : 'features';
    const image = el('img');
    image.src = 'data:image/png;base64,' + row.strip.png;
    image.alt = `Samples above their nearest training images, in ${space}`;
    const distances = row.strip.distances.map(format).join(', ');
    const caption =
      `In ${space}, closest first; above the samples, below the training images. Distances ${distances}. ` +
      `Closer than the closest 1 % of real test images: ${percent(row.value)} (new images give 1 %); ` +
      `exact copies: ${(row.detail || {}).copies}.`;
    const figure = el('figure');
    figure.append(image, el('figcaption', caption));
    box.append(figure);
  }
}

// [low, high] of the values with a margin of 12 % on both sides.
function paddedRange(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * 0.12;
  return [low - room, high + room];
}

function drawCurve() {
  $('.curve').hidden = !state.points.length;
  if (!state.points.length) return;
  $('.curve h3').textContent = `Trade-off over ${state.axis}: ${state.model}`;
  const against = $('.by select').value;
  const shown = [];
  state.points.forEach((point, k) => {
    if (point && point.distance != null && point[against] != null) shown.push({ point, k });
  });
  const plot = $('.plot');
  plot.textContent = '';
  if (shown.length) drawPoints(plot, shown, against);
  else plot.append(svg('text', { x: 210, y: 150, 'text-anchor': 'middle' }, 'no point yet'));
  const missing = state.points.find(point => point && point.says);
  if (missing) showTrouble(missing.says);
  drawPointSamples();
}

function drawPoints(plot, shown, against) {
  const [width, height, left, right, top, bottom] = [420, 300, 52, 16, 14, 40];
  const [x0, x1] = paddedRange(shown.map(({ point }) => point[against]));
  const [y0, y1] = paddedRange(shown.map(({ point }) => point.distance));
  const placeX = value => left + ((value - x0) / (x1 - x0)) * (width - left - right);
  const placeY = value => height - bottom - ((value - y0) / (y1 - y0)) * (height - top - bottom);
  for (let k = 0; k <= 4; k++) {
    const [x, y] = [x0 + ((x1 - x0) * k) / 4, y0 + ((y1 - y0) * k) / 4];
    plot.append(
      svg('line', { class: 'axis', x1: left, x2: width - right, y1: placeY(y), y2: placeY(y) }),
      svg('text', { x: left - 6, y: placeY(y) + 4, 'text-anchor': 'end' }, +y.toPrecision(3)),
      svg('text', { x: placeX(x), y: height - bottom + 16, 'text-anchor': 'middle' }, +x.toPrecision(3))
    );
  }
  const title = shown[0].point.name + ' (lower is nearer)';
  plot.append(svg('text', { x: (left + width - right) / 2, y: height - 6, 'text-anchor': 'middle' }, against));
  plot.append(svg('text', { x: left, y: 10 }, title));
  const places = shown.map(({ point }) => [placeX(point[against]), placeY(point.distance)]);
  if (state.axis !== 'sampler') plot.append(svg('path', { d: pathThrough(places) }));

  const labels = []; // a label that would cover an earlier one is left out; the point's title has it
  shown.forEach(({ point, k }, i) => {
    const [x, y] = places[i];
    const free = !labels.some(([a, b]) => Math.abs(a - x) < 34 && Math.abs(b - y) < 13);
    const setting = `${state.axis} ${point.value}`;
    const numbers = `${point.name} ${format(point.distance)}, ${against} ${format(point[against])}`;
    const circle = svg('circle', {
      class: 'point' + (k === state.chosen ? ' on' : ''),
      cx: x, cy: y, r: 6, tabindex: 0, role: 'button', 'data-point': k,
      'aria-label': `${setting}: ${numbers}; show its samples`
    });
    circle.append(svg('title', {}, setting));
    plot.append(circle);
    if (!free) return;
    labels.push([x, y]);
    const atEdge = x > width - 60;
    const anchor = atEdge ? 'end' : 'start';
    plot.append(svg('text', { x: x + (atEdge ? -9 : 9), y: y - 8, 'text-anchor': anchor }, String(point.value)));
  });
}

function drawPointSamples() {
  const point = state.points[state.chosen];
  const figure = $('.samples');
  figure.hidden = !point;
  if (!point) return;
  const setting = `${state.axis} ${point.value}`;
  const image = figure.querySelector('img');
  image.src = 'data:image/png;base64,' + point.grid;
  image.alt = `The first ${point.shown} samples at ${setting}`;
  const numbers = `${point.name} ${format(point.distance)}, agreement ${percent(point.agreement)}`;
  const settings = Object.entries(point.settings).map(([name, value]) => `${name} ${value}`).join(', ');
  figure.querySelector('figcaption').textContent =
    `${setting}: ${numbers}, confidence ${format(point.confidence)}. ${settings}.`;
}

function showTrouble(text) {
  $('.trouble').hidden = !text;
  $('.trouble').textContent = text || '';
}

function draw() {
  const refused = state.fresh.filter(row => row.refused);
  if (refused.length) state.refused = refused;
  state.fresh = state.fresh.filter(row => row.name);
  const numbers = state.stored.length + state.fresh.length;
  const anything = numbers || state.points.length || state.refused.length;
  $('.empty').hidden = !!anything;
  $('.body').hidden = !anything;
  $('.title h3').textContent = state.model ? `Results: ${state.model}` : 'Results';
  $('.title').hidden = $('.results').parentElement.hidden = !numbers;
  const list = $('.refused');
  list.hidden = !state.refused.length;
  list.textContent = '';
  for (const { refused: metric, says } of state.refused) list.append(el('li', `${metric}: not measured: ${says}`));
  drawTable();
  drawReading();
  drawBits();
  drawNeighbours();
  drawCurve();
}

function showModel({ model, stored, trouble }) {
  state.model = state.pickedModel = model;
  state.stored = state.known[model] = stored || [];
  Object.assign(state, { fresh: [], points: [], refused: [] });
  state.open.clear();
  showTrouble(trouble);
  if (!state.run) $('.bar').hidden = true;
  draw();
}

function beginRun({ run, begin, axis }) {
  Object.assign(state, { run, over: false, refused: [] });
  showTrouble('');
  if (begin === 'curve') Object.assign(state, { points: [], chosen: -1, axis });
  if (begin === 'measure') {
    state.stored = [...state.stored, ...state.fresh.map(({ strip, ...row }) => row)];
    state.fresh = [];
  }
  draw();
}

function showProgress({ what, done, total, left }) {
  $('progress').hidden = false;
  $('progress').value = done / total;
  const counts = `${done.toLocaleString('en')} of ${total.toLocaleString('en')}`;
  $('.what').textContent = `${what}: ${counts}` + (left != null ? `, about ${duration(left)} left` : '');
}

function update() {
  const value = props.value;
  if (!value || (value.run && value.run === state.stopped)) return; // a message may arrive after the Stop
  if (value.failed) {
    $('.bar').hidden = true; // the error message has the reason
    return;
  }
  if (!value.run) return showModel(value);
  if (value.run !== state.run) beginRun(value);
  state.runModel = value.model;
  if (value.model !== state.model) { // another model was chosen meanwhile: these are not its numbers
    state.model = value.model;
    state.stored = state.known[value.model] || [];
    draw();
  }
  $('.bar').hidden = false;
  if (value.total) showProgress(value);
  if (value.rows) {
    state.fresh = value.rows;
    draw();
  }
  if (value.point) {
    state.points[value.index] = value.point;
    if (state.chosen < 0) state.chosen = 0;
    draw();
  }
  if (value.over) {
    state.over = true;
    $('progress').hidden = true;
    $('.what').textContent = value.over;
  }
}

function sortBy(column) {
  state.ascending = state.sort === column ? !state.ascending : true;
  state.sort = column;
  drawTable();
  $(`[data-sort="${column}"]`).focus({ preventScroll: true });
}

function toggleProtocol(i) {
  const { row } = state.rows[i];
  if (state.open.has(row)) state.open.delete(row);
  else state.open.add(row);
  drawTable();
  $(`[data-row="${i}"]`).focus({ preventScroll: true });
}

element.addEventListener('click', event => {
  const sort = event.target.closest('[data-sort]');
  const row = event.target.closest('[data-row]');
  const point = event.target.closest('[data-point]');
  if (sort) sortBy(+sort.dataset.sort);
  if (row) toggleProtocol(+row.dataset.row);
  if (point) {
    state.chosen = +point.dataset.point;
    drawCurve();
  }
  if (event.target.closest('.csv')) downloadCsv();
});

element.addEventListener('keydown', event => {
  const point = event.target.closest('[data-point]');
  if (!point || (event.key !== 'Enter' && event.key !== ' ')) return;
  event.preventDefault();
  state.chosen = +point.dataset.point;
  drawCurve();
  $(`[data-point="${state.chosen}"]`).focus();
});

element.addEventListener('change', event => {
  if (event.target.matches('.by select')) drawCurve();
});

onStop(() => {
  if (!state.run || state.over || state.run === state.stopped) return;
  const ofModel = state.pickedModel !== state.runModel ? ` of ${state.runModel}` : '';
  state.stopped = state.run;
  $('progress').hidden = true;
  $('.what').textContent = `Stopped. The samples${ofModel} so far are kept: the same settings go on from there.`;
  if (ofModel && !state.fresh.length && !state.points.length) { // no numbers: show the chosen model's
    state.model = state.pickedModel;
    state.stored = state.known[state.model] || [];
    state.refused = [];
    draw();
  }
});

watch('value', update);
update();
