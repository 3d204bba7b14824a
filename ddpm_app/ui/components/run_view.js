// value = {select: the run to show, stamp}. Everything else comes from server.train_poll, every 1.5 s while the tab is
// on screen, so that the runs appear again after a reload, in another browser and after a restart of the server. Nodes
// are updated in place, without flicker. A `ddpm-run` event on document tells the time machine which run is chosen.
const COLOURS = ['--c1', '--c2', '--c3', '--c4', '--c5', '--ink'];
const LIVE = ['starting', 'queued', 'running', 'paused'];
const POLL = 1500; // ms
const MOST_OPEN = 6; // runs whose curves are shown at once
const LEGEND_NOTE = 'dashed: validation, EMA weights; drag over the chart to look closer';
const state = {
  stamp: 0, shown: null, picked: null, compared: new Set(), // names of runs; picked: by the visitor
  runs: [], details: {}, // heads of all runs; by name, of the open ones
  busy: false, lost: false, announced: null,
  lines: [], parts: null, axes: null, // of the chart: curves, SVG groups, scales
  hover: null, zoom: null, drag: null // pixels; [from, to] in images; pixel where a drag began
};

function large(value) {
  if (value >= 1e6) return (value / 1e6).toFixed(value >= 1e7 ? 0 : 1) + ' M';
  return value >= 1e4 ? (value / 1e3).toFixed(0) + ' k' : String(Math.round(value));
}

function duration(seconds) {
  if (seconds == null) return '–';
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function format(value, digits = 3) {
  if (value == null) return '–';
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(digits);
}

function isLive(run) {
  return LIVE.includes(run.status);
}

function findRun(name) {
  return state.runs.find(run => run.name === name);
}

// The shown run and the compared ones, those that still exist.
function openRuns() {
  return [...new Set([state.shown, ...state.compared])].filter(name => name && findRun(name)).slice(0, MOST_OPEN);
}

function say(text) {
  $('.trouble').hidden = !text;
  setText($('.trouble'), text || '');
}

function isOnScreen() {
  return !document.hidden && (element.offsetParent !== null || $('.tv').getClientRects().length > 0);
}

// The run to show if the chosen one was deleted: the running one first.
function defaultRun() {
  if (state.picked && findRun(state.picked)) return state.picked;
  const run = state.runs.find(r => r.status === 'running') || state.runs.find(isLive) || state.runs[0];
  return run ? run.name : null;
}

async function askServer() {
  const have = {};
  const grids = {};
  for (const name in state.details) {
    have[name] = state.details[name].rows;
    grids[name] = state.details[name].grid;
  }
  const wanted = openRuns();
  if (state.shown && !wanted.includes(state.shown)) wanted.unshift(state.shown);
  return server.train_poll({ open: wanted, have, grids });
}

function takeAnswer(answer) {
  state.runs = answer.runs;
  if (!findRun(state.shown)) state.shown = defaultRun();
  for (const name in state.details) if (!findRun(name)) delete state.details[name];
  for (const name in answer.open) {
    const before = state.details[name] || {};
    const now = answer.open[name];
    const curves = now.curves || before.curves; // sent only when they have changed
    const picture = now.picture || before.picture;
    state.details[name] = { ...before, ...now, curves, picture };
  }
}

async function poll(force) {
  if (state.busy || (!force && !isOnScreen())) return;
  state.busy = true;
  try {
    const answer = await askServer();
    if (state.lost) {
      state.lost = false;
      say('');
    }
    takeAnswer(answer);
    draw();
    if (state.shown && !state.details[state.shown]) {
      state.busy = false;
      return poll(true);
    }
  } catch (error) {
    state.lost = true;
    say('The studio does not answer; the runs go on. Trying again…');
  }
  state.busy = false;
}

function draw() {
  $('.empty').hidden = state.runs.length > 0;
  $('.body').hidden = !state.runs.length;
  drawList();
  if (!state.runs.length && state.announced) announceRun(null, ''); // the last run was deleted
  const run = state.details[state.shown];
  $('.panel').hidden = !run;
  if (!run) return;
  setText($('h3'), run.name);
  showChip($('.head .chip'), run.status);
  setText($('.about'), run.about);
  $('progress').value = run.progress;
  $('.message').hidden = !run.message;
  setText($('.message'), run.message);
  drawSkipped(run.skipped || []);
  drawActions(run);
  drawTiles(run);
  drawSamples(run);
  drawFork(run);
  setText($('.command code'), run.command);
  drawBands(run.curves ? run.curves.bands : []);
  drawChart();
  announceRun(run.name, [run.name, run.status, run.grid, run.snapshots.join()].join());
}

function drawSkipped(skipped) {
  const box = $('.skipped');
  box.hidden = !skipped.length;
  if (box.dataset.of === skipped.join()) return;
  box.dataset.of = skipped.join();
  const one = skipped.length === 1;
  const count = `${skipped.length}${skipped.length === 50 ? ' or more' : ''} ${one ? 'image' : 'images'}`;
  setText(box.querySelector('summary'), `${count} could not be read and ${one ? 'was' : 'were'} left out`);
  const list = box.querySelector('ul');
  list.textContent = '';
  for (const sentence of skipped) list.append(el('li', sentence));
}

function drawActions(run) {
  const possible = {
    pause: ['running', 'starting'].includes(run.status),
    resume: ['paused', 'stopped', 'interrupted', 'failed'].includes(run.status),
    stop: isLive(run),
    delete: !isLive(run)
  };
  for (const button of element.querySelectorAll('[data-do]')) button.disabled = !possible[button.dataset.do];
}

function drawTiles(run) {
  const tiles = [
    [large(run.images), 'images'],
    [format(run.images_per_s), 'images/s'],
    [`${(100 * run.progress).toFixed(run.progress > 0.9995 ? 0 : 1)} %`, 'of the budget'],
    [isLive(run) ? duration(run.eta_seconds) : '–', 'left'],
    [format(run.loss), 'loss'],
    [format(run.validation_loss), 'validation'],
    [run.lr == null ? '–' : run.lr.toExponential(1), 'learning rate'],
    [format(run.grad_norm, 2), 'gradient norm'],
    [run.memory_mb ? `${(run.memory_mb / 1000).toFixed(1)} GB` : '–', 'memory']
  ];
  const box = $('.tiles');
  if (!box.children.length) fillTiles(box, tiles);
  tiles.forEach(([value], k) => setText(box.children[k].querySelector('b'), value));
}

function drawSamples(run) {
  const image = $('.grid');
  const identity = run.name + run.grid;
  if (run.picture && image.dataset.of !== identity) {
    image.src = 'data:image/png;base64,' + run.picture;
    image.dataset.of = identity;
  }
  image.hidden = !run.picture;
  $('.samples .none').hidden = !!run.picture;
}

// The newest snapshot stays chosen as snapshots come, unless the visitor chose an older one.
function drawFork(run) {
  const { snapshots } = run;
  const menu = $('.fork select');
  const identity = run.name + snapshots.join();
  $('.fork').hidden = !snapshots.length;
  if (menu.dataset.of === identity) return;
  menu.dataset.of = identity;
  const newest = menu.options.length ? menu.options[menu.options.length - 1].value : '';
  const chosen = menu.value === newest ? '' : menu.value;
  menu.textContent = '';
  for (const snapshot of snapshots) {
    const option = el('option', `after ${(+snapshot).toLocaleString('en')} images`);
    option.value = snapshot;
    menu.append(option);
  }
  menu.value = snapshots.includes(chosen) ? chosen : snapshots[snapshots.length - 1];
}

function announceRun(run, sig) {
  state.announced = run;
  document.dispatchEvent(new CustomEvent('ddpm-run', { detail: { run, sig } }));
}

function showChip(chip, status) {
  setText(chip, status);
  chip.dataset.s = status;
}

function buildListItem(name) {
  const item = el('div', undefined, 'item');
  item.setAttribute('role', 'listitem');
  item.dataset.run = name;

  const compare = el('input');
  compare.type = 'checkbox';
  compare.setAttribute('aria-label', `Compare ${name}`);
  compare.title = 'Overlay its curves';
  compare.onchange = () => {
    if (compare.checked) state.compared.add(name);
    else state.compared.delete(name);
    poll(true);
    drawChart();
  };

  const button = el('button', name);
  button.type = 'button';
  button.onclick = () => {
    if (state.shown !== name) state.zoom = null;
    state.picked = state.shown = name;
    draw();
    poll(true);
  };
  item.append(compare, button, el('span', '', 'share'), el('span', '', 'chip'));
  return item;
}

function drawList() {
  const box = $('.list');
  const names = state.runs.map(run => run.name);
  if (box.dataset.of !== names.join('|')) {
    box.dataset.of = names.join('|');
    box.textContent = '';
    box.append(...names.map(buildListItem));
  }
  state.runs.forEach((run, k) => {
    const item = box.children[k];
    item.classList.toggle('on', run.name === state.shown);
    item.querySelector('input').checked = state.compared.has(run.name);
    setText(item.querySelector('.share'), `${(100 * run.progress).toFixed(0)} %`);
    showChip(item.querySelector('.chip'), run.status);
  });
}

// Exponential moving average of [x, y] points, without its bias towards zero at the start.
function smooth(points, decay) {
  let mean = 0;
  let weight = 0;
  return points.map(([x, y]) => {
    mean = mean * decay + y * (1 - decay);
    weight = weight * decay + 1 - decay;
    return [x, mean / weight];
  });
}

function ticksOf(low, high, logarithmic, count) {
  if (logarithmic && low > 0) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const factor of high / low > 30 ? [1] : [1, 2, 5]) {
        const tick = factor * 10 ** power;
        if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
      }
    }
    if (ticks.length > 1) return ticks; // a narrow range has none of these: use even steps
  }
  return evenTicks(low, high, count);
}

function waitingSentence(run) {
  if (run.status === 'queued') return 'It waits until the run that trains on the device ends.';
  if (run.status === 'paused') return 'Paused before the first loss.';
  return isLive(run) ? 'The first loss appears some seconds after the start.' : 'This run has logged no loss.';
}

// The positions of values on the chart: {x, y: value -> pixel; images: pixel -> images seen; and the sizes}.
function buildAxes(all, width) {
  const [height, left, right, top, bottom] = [260, 52, 14, 12, 30];
  const [logx, logy] = [$('.logx').checked, $('.logy').checked];
  const scaleX = logx ? value => Math.log(Math.max(value, 1)) : value => value;
  const scaleY = logy ? value => Math.log(Math.max(value, 1e-6)) : value => value;
  const xs = all.map(point => point[0]);
  const ys = visiblePoints(all).map(point => point[1]).filter(isFinite);

  let [x0, x1] = [logx ? Math.max(1, Math.min(...xs)) : 0, Math.max(...xs)];
  if (state.zoom) {
    const [from, to] = state.zoom;
    [x0, x1] = [logx ? Math.max(1, from) : from, Math.max(to, from + 1)];
  }
  if (x1 <= x0) x1 = x0 + 1;
  let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  if (logy) {
    y0 /= 1.06;
    y1 *= 1.06;
  } else {
    const room = (y1 - y0 || y1 || 1) * 0.06;
    y0 = Math.max(0, y0 - room);
    y1 += room;
  }
  const [inWidth, inHeight] = [width - left - right, height - top - bottom];
  const [from, toX] = [scaleX(x0), scaleX(x1) - scaleX(x0)];
  const [low, toY] = [scaleY(y0), scaleY(y1) - scaleY(y0)];
  return {
    width, height, left, right, top, bottom, inWidth, logx, logy, x0, x1, y0, y1,
    x: value => left + ((scaleX(value) - from) / toX) * inWidth,
    y: value => height - bottom - ((scaleY(Math.max(value, 1e-6)) - low) / toY) * inHeight,
    images: pixel => {
      const value = from + ((clamp(pixel, left, width - right) - left) / inWidth) * toX;
      return logx ? Math.exp(value) : value;
    }
  };
}

// The points inside the zoom, or all where it has none.
function visiblePoints(points) {
  const inside = points.filter(isVisible);
  return inside.length ? inside : points;
}

function isVisible([x]) {
  return !state.zoom || (x >= state.zoom[0] && x <= state.zoom[1]);
}

function buildParts(chart, { left, top, bottom, height }) {
  const parts = {
    axes: svg('g', {}),
    lines: svg('g', { 'clip-path': 'url(#loss-inside)' }),
    cursor: svg('line', { class: 'cursor', y1: top, y2: height - bottom, visibility: 'hidden' }),
    marked: svg('rect', { class: 'marked', y: top, height: height - top - bottom, visibility: 'hidden' }),
    clip: svg('clipPath', { id: 'loss-inside' })
  };
  parts.clip.append(svg('rect', { x: left, y: 0, height }));
  chart.textContent = '';
  chart.append(parts.clip, parts.axes, parts.lines, parts.cursor, parts.marked);
  return parts;
}

function drawAxes(group, axes) {
  const { left, right, height, width, x0, x1, y0, y1, logx, logy } = axes;
  group.textContent = '';
  for (const tick of ticksOf(y0, y1, logy, 5)) {
    const at = axes.y(tick);
    group.append(svg('line', { class: 'grid-line', x1: left, x2: width - right, y1: at, y2: at }));
    group.append(svg('text', { x: left - 7, y: at + 4, 'text-anchor': 'end' }, +tick.toPrecision(3)));
  }
  for (const tick of ticksOf(x0, x1, logx, width < 480 ? 3 : 6)) {
    const at = axes.x(tick);
    const anchor = at > width - 40 ? 'end' : 'middle';
    group.append(svg('text', { x: at, y: height - 10, 'text-anchor': anchor }, large(tick)));
  }
}

// Three paths per run, reused: raw, smoothed, validation.
function drawLines(group, axes, smoothing) {
  const count = 3 * state.lines.length;
  while (group.children.length > count) group.lastChild.remove();
  while (group.children.length < count) group.append(svg('path', {}));
  function pathOf(points) {
    const inside = ([x, y]) => [axes.x(x), clamp(axes.y(y), axes.top, axes.height - axes.bottom)];
    return pathThrough(points.map(inside)) + (points.length === 1 ? 'h.01' : ''); // a dot: the round ends of a short line
  }
  state.lines.forEach(({ colour, raw, smoothed, validation }, k) => {
    const paths = [['raw', smoothing > 0 ? raw : [], ''], ['smoothed', smoothed, ''], ['held', validation, '5 4']];
    paths.forEach(([className, points, dashes], j) => {
      const path = group.children[3 * k + j];
      path.setAttribute('class', className);
      path.style.stroke = colour;
      path.setAttribute('stroke-dasharray', dashes);
      path.setAttribute('d', pathOf(points));
    });
  });
}

function drawLegend(names) {
  const legend = $('.legend');
  if (legend.dataset.of === names.join('|') && legend.children.length) return;
  legend.dataset.of = names.join('|');
  legend.textContent = '';
  for (const { name, colour } of state.lines) {
    const entry = el('span', name);
    entry.style.setProperty('--c', colour);
    legend.append(entry);
  }
  legend.append(el('em', LEGEND_NOTE));
}

function drawChart() {
  const chart = $('.chart');
  const width = chart.clientWidth || 600;
  const smoothing = +$('.smooth').value;
  const curvesOf = name => state.details[name] && state.details[name].curves;
  const names = openRuns().filter(name => curvesOf(name) && curvesOf(name).train.length);
  const run = state.details[state.shown];
  $('.waiting').hidden = names.length > 0;
  if (run) setText($('.waiting'), waitingSentence(run));
  chart.setAttribute('viewBox', `0 0 ${width} 260`);
  state.lines = names.map((name, k) => {
    const { train, held } = curvesOf(name);
    return { name, colour: `var(${COLOURS[k % 6]})`, raw: train, smoothed: smooth(train, smoothing), validation: held };
  });
  const all = state.lines.flatMap(line => [...line.smoothed, ...line.validation]);
  if (!all.some(isVisible)) state.zoom = null; // other runs, or a new log
  $('.unzoom').hidden = !state.zoom;
  if (!all.length) {
    chart.textContent = '';
    state.parts = null;
    $('.legend').textContent = '';
    return;
  }
  state.axes = buildAxes(all, width);
  if (!state.parts || !state.parts.axes.isConnected) state.parts = buildParts(chart, state.axes);
  state.parts.clip.firstChild.setAttribute('width', Math.max(state.axes.inWidth, 1));
  drawAxes(state.parts.axes, state.axes);
  drawLines(state.parts.lines, state.axes, smoothing);
  drawLegend(names);
  if (state.hover !== null) showHover(state.hover);
}

function hoverText(line, images) {
  const points = line.smoothed;
  if (!points.length || images > points[points.length - 1][0]) { // a shorter run has no value there
    const run = findRun(line.name);
    return `${line.name}: ${run && isLive(run) ? 'not there yet' : 'ended before'}`;
  }
  const pixel = state.axes.x(images);
  const loss = nearestPoint(points, pixel);
  const validation = nearestPoint(line.validation, pixel);
  if (!validation) return `${line.name}: ${format(loss[1])}`;
  const far = Math.abs(state.axes.x(validation[0]) - pixel) > 20;
  const after = far ? ` (after ${large(validation[0])})` : '';
  return `${line.name}: ${format(loss[1])}, validation ${format(validation[1])}${after}`;
}

function nearestPoint(points, pixel) {
  if (!points.length) return null;
  const distance = ([x]) => Math.abs(state.axes.x(x) - pixel);
  return points.reduce((best, point) => (distance(point) < distance(best) ? point : best));
}

// Shows the values at the pointer; pixel null: none.
function showHover(pixel) {
  const tip = $('.tip');
  const cursor = state.parts && state.parts.cursor;
  state.hover = pixel;
  if (!cursor) return;
  if (pixel === null || !state.lines.length) {
    tip.hidden = true;
    cursor.setAttribute('visibility', 'hidden');
    return;
  }
  const points = visiblePoints(state.lines.flatMap(line => line.smoothed));
  const [images] = nearestPoint(points, pixel);
  const x = state.axes.x(images);
  cursor.setAttribute('x1', x);
  cursor.setAttribute('x2', x);
  cursor.setAttribute('visibility', 'visible');
  tip.hidden = false;
  tip.textContent = '';
  tip.append(el('div', `${large(images)} images`));
  for (const line of state.lines) {
    const text = el('div', hoverText(line, images));
    text.style.color = line.colour;
    text.style.fontWeight = 600;
    tip.append(text);
  }
  const onRight = x > state.axes.width / 2;
  tip.style.left = onRight ? 'auto' : `${x + 10}px`;
  tip.style.right = onRight ? `${state.axes.width - x + 10}px` : 'auto';
}

// The newest loss in each of ten ranges of noise.
function drawBands(bands) {
  const chart = $('.bars');
  const small = 'font-size:9px';
  const top = Math.max(...bands.filter(loss => loss != null), 1e-9);
  if (!chart.children.length) {
    for (let k = 0; k < 10; k++) {
      chart.append(svg('rect', { class: 'band', x: 12 + k * 30, width: 24, rx: 3 }));
      chart.append(svg('text', { x: 24 + k * 30, 'text-anchor': 'middle', style: small }));
    }
    chart.append(svg('text', { x: 12, y: 144, 'text-anchor': 'start', style: small }, 'little noise'));
    chart.append(svg('text', { x: 306, y: 144, 'text-anchor': 'end', style: small }, 'much noise'));
  }
  for (let k = 0; k < 10; k++) {
    const loss = bands[k];
    const height = loss == null ? 0 : Math.max(1, (loss / top) * 104);
    const [bar, text] = [chart.children[2 * k], chart.children[2 * k + 1]];
    bar.setAttribute('y', 128 - height);
    bar.setAttribute('height', height);
    text.setAttribute('y', 124 - height);
    const tiny = loss > 0 && loss < 0.01;
    setText(text, loss == null ? '' : tiny ? loss.toExponential(0) : format(loss, 2));
  }
}

function askAgain(button) {
  button.classList.add('sure');
  button.textContent = 'Really? Moves it to the trash';
  clearTimeout(state.calmTimer);
  state.calmTimer = setTimeout(calm, 5000);
}

function calm() {
  const button = $('[data-do=delete]');
  button.classList.remove('sure');
  button.textContent = 'Delete';
}

async function act(button) {
  const action = button.dataset.do;
  if (action === 'delete' && !button.classList.contains('sure')) return askAgain(button);
  calm();
  button.disabled = true;
  let answer;
  try {
    answer = await server.train_act({ run: state.shown, do: action });
  } catch {
    // without a server Gradio returns nothing or an error
  }
  const sentence = answer ? answer.error || answer.ok || '' : 'The studio does not answer.';
  say(sentence);
  if (sentence) setTimeout(() => say(''), 8000);
  poll(true);
}

// navigator.clipboard does not exist over plain HTTP from another device.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el('textarea');
    area.value = text;
    area.style.position = 'fixed';
    area.style.opacity = 0;
    document.body.append(area);
    area.select();
    const copied = document.execCommand('copy');
    area.remove();
    return copied;
  }
}

function copyCommand(button) {
  copyText($('.command code').textContent).then(copied => {
    button.textContent = copied ? 'Copied' : 'Select it, please';
  });
  setTimeout(() => { button.textContent = 'Copy'; }, 1500);
}

element.addEventListener('click', event => {
  const action = event.target.closest('[data-do]');
  if (action && !action.disabled) return act(action);
  if (event.target.closest('.take')) trigger('recall', { run: state.shown, snapshot: $('.fork select').value });
  if (event.target.closest('.copy')) copyCommand($('.copy'));
});

element.addEventListener('input', event => {
  if (event.target.matches('.logx, .logy, .smooth')) drawChart();
});

function pixelOf(event) {
  return event.clientX - $('.chart').getBoundingClientRect().left;
}

// Marks the dragged range, inside the axes; pixel null: none.
function markDrag(pixel) {
  const marked = state.parts && state.parts.marked;
  if (!marked) return;
  if (pixel === null) return marked.setAttribute('visibility', 'hidden');
  const inside = value => clamp(value, state.axes.left, state.axes.width - state.axes.right);
  const [from, to] = [inside(Math.min(state.drag, pixel)), inside(Math.max(state.drag, pixel))];
  marked.setAttribute('x', from);
  marked.setAttribute('width', to - from);
  marked.setAttribute('visibility', 'visible');
}

function endDrag(pixel) {
  if (state.drag === null) return;
  const [from, to] = [state.drag, pixel].sort((a, b) => a - b);
  state.drag = null;
  markDrag(null);
  if (to - from < 8 || !state.parts) return; // a click
  const wanted = [state.axes.images(from), state.axes.images(to)];
  const inside = ([x]) => x >= wanted[0] && x <= wanted[1];
  if (!state.lines.some(line => [...line.smoothed, ...line.validation].some(inside))) return;
  state.zoom = wanted;
  drawChart();
}

function unzoom() {
  state.zoom = null;
  drawChart();
}

$('.chart').addEventListener('pointerdown', event => {
  if (event.button || !state.parts) return;
  state.drag = pixelOf(event);
  $('.chart').setPointerCapture(event.pointerId);
});
$('.chart').addEventListener('pointermove', event => {
  showHover(pixelOf(event));
  if (state.drag !== null) markDrag(pixelOf(event));
});
$('.chart').addEventListener('pointerup', event => endDrag(pixelOf(event)));
$('.chart').addEventListener('pointercancel', () => {
  state.drag = null;
  markDrag(null);
});
$('.chart').addEventListener('pointerleave', () => showHover(null));
$('.chart').addEventListener('dblclick', unzoom);
$('.unzoom').addEventListener('click', unzoom);

new ResizeObserver(() => {
  if (!$('.panel').hidden) drawChart();
}).observe($('.tv'));

function update() {
  const value = props.value;
  if (value && value.select && value.stamp !== state.stamp) {
    state.stamp = value.stamp;
    state.shown = state.picked = value.select;
  }
  poll(true);
}

watch('value', update);
update();
const timer = setInterval(() => {
  if (element.isConnected) poll();
  else clearInterval(timer);
}, POLL);
