// Shows the run named by a `ddpm-run` event {run, sig}; sig changes when the run has new results.
// Gets pictures and numbers from server.time_look, more often while work is active.
const HINT = 'The same noise, denoised by the network as it was then.';
const EMPTY_TABLE =
  'Empty: 200 samples at each share are judged by the classifier that ships for the data. ' +
  'Half a minute a row on two cores.';
const NEARBY = 0.03; // share of the run: largest distance of a picture from the moment shown
const BEAT = 250; // ms per moment when played
const LOOK_AGAIN = 700; // ms, while work is active
const state = {
  run: null, sig: '', answer: null,
  pictures: {}, // {set: {images: address}}
  at: null, // images seen, chosen by the visitor; null: the newest
  busy: false, missed: false, timer: null, playing: null,
  wish: false // whether to sample with the chosen weights after the active work
};

function format(value, digits = 3) {
  return value == null ? '–' : value.toFixed(digits);
}

function percent(share) {
  return share == null ? '–' : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

function thousands(value) {
  return String(value).replace(/\B(?=(\d{3})+$)/g, ' ');
}

function distance(value) {
  return value == null ? '–' : value.toPrecision(3);
}

// The slider has EMA lengths from 0.01 to 0.28, on a log scale.
function emaLength() {
  return +(0.01 * Math.pow(28, +$('.length').value / 100)).toFixed(3);
}

// "own", "raw", or an EMA length.
function chosenWeights() {
  return $('.weights').value === 'any' ? emaLength() : $('.weights').value;
}

function chosenSet() {
  const weights = chosenWeights();
  return typeof weights === 'number' ? `ema-${weights}` : weights;
}

function labelOf(set) {
  if (set === 'own') return "the run's own EMA";
  return set === 'raw' ? 'raw weights' : `EMA ${set.slice(4)} of the run`;
}

function isWorking() {
  return !!(state.answer && state.answer.task && state.answer.task.live);
}

function say(text, fades) {
  $('.say').hidden = !text;
  setText($('.say'), text || '');
  clearTimeout(state.saying);
  if (text && fades) state.saying = setTimeout(() => say(''), 9000);
}

// Images seen at every moment that has something to show.
function moments() {
  return Object.keys(state.answer ? state.answer.moments : {}).map(Number).sort((a, b) => a - b);
}

function nearest(numbers, wanted) {
  if (!numbers.length) return null;
  return numbers.reduce((best, n) => (Math.abs(n - wanted) < Math.abs(best - wanted) ? n : best));
}

function snapshotHere() {
  const { snapshots } = state.answer;
  const images = snapshots.map(Number);
  return snapshots[images.indexOf(nearest(images, moments()[+$('.when').value]))];
}

function keepPictures(pictures) {
  for (const set in pictures) {
    state.pictures[set] = state.pictures[set] || {};
    for (const images in pictures[set]) {
      state.pictures[set][images] = 'data:image/png;base64,' + pictures[set][images];
    }
  }
}

// Returns whether to look again soon.
async function askServer() {
  const { run } = state;
  const want = [...new Set([chosenSet(), $('.beside').value].filter(Boolean))];
  const have = {};
  for (const set of want) have[set] = Object.keys(state.pictures[set] || {}).map(Number);
  const answer = await server.time_look({ run, want, have });
  if (run !== state.run) return true;
  if (answer.error) {
    $('.tm').hidden = true;
    state.answer = null;
    return false;
  }
  const taskBefore = state.answer && state.answer.task;
  const { task } = answer;
  state.answer = answer;
  keepPictures(answer.pictures);
  if (task && task.error && (!taskBefore || taskBefore.error !== task.error)) say(task.error);
  const again = answer.more || isWorking();
  state.more = answer.more;
  draw();
  if (state.wish && !isWorking()) sampleChosen();
  return again;
}

// A call during another one makes it run again: the pending answer may be older than the caller's action.
async function look() {
  if (state.busy) {
    state.missed = true;
    return;
  }
  if (!state.run) return;
  state.busy = true;
  state.missed = false;
  let again;
  try {
    again = await askServer();
  } catch (error) {
    again = element.isConnected && isWorking(); // the view of the runs shows that the server is lost
  }
  state.busy = false;
  if (!again && !state.missed) return;
  clearTimeout(state.timer);
  state.timer = setTimeout(look, state.more || state.missed ? 30 : LOOK_AGAIN);
}

function draw() {
  const list = moments();
  $('.tm').hidden = !list.length;
  if (!list.length) return;
  const { answer } = state;
  const images = list[placeInTime(list)];
  setText($('.at'), answer.moments[images].share == null ? '' : percent(answer.moments[images].share));
  drawMenus();
  drawPicture($('.a'), chosenSet(), images);
  const beside = $('.beside').value;
  $('.b').hidden = !beside;
  if (beside) drawPicture($('.b'), beside, images);
  drawFacts(images);
  drawButtons();
  $('.tm > progress').hidden = !isWorking();
  if (isWorking()) $('.tm > progress').value = answer.task.share;
  setText($('.hint'), isWorking() ? answer.task.what + '…' : HINT);
  setText($('.ema'), answer.kept ? `The run's checkpoint holds: ${answer.kept}` : '');
  drawTable(answer.table);
}

// Sets the slider; returns the index of the moment shown: the visitor's, else the newest with a picture.
function placeInTime(list) {
  const last = list.length - 1;
  const drawn = state.answer.sets[chosenSet()] || [];
  const newest = Math.max(list.indexOf(drawn[drawn.length - 1]), 0) || last;
  const place = state.at === null ? newest : list.indexOf(nearest(list, state.at));
  const slider = $('.when');
  if (+slider.max !== last) slider.max = last;
  if (+slider.value !== place) slider.value = place;
  return place;
}

function drawMenus() {
  const sets = Object.keys(state.answer.sets);
  const beside = $('.beside');
  if (beside.dataset.of !== sets.join()) {
    const chosen = beside.value;
    beside.dataset.of = sets.join();
    beside.textContent = '';
    for (const set of ['', ...sets]) {
      const option = el('option', set ? labelOf(set) : 'nothing');
      option.value = set;
      beside.append(option);
    }
    beside.value = sets.includes(chosen) ? chosen : '';
  }
  $('.len').hidden = $('.weights').value !== 'any';
  setText($('.len output'), emaLength().toFixed(3));
  for (const option of element.querySelectorAll('.weights option')) {
    option.disabled = option.value !== 'own' && !state.answer.lengths.length; // no stored averages to make them from
  }
}

function drawFacts(images) {
  const moment = state.answer.moments[images];
  const row = state.answer.table.find(r => r.images === images);
  const facts = [
    ['images seen', thousands(images)],
    ['of the budget', percent(moment.share)],
    ['loss', format(moment.loss, 4)],
    ['validation', format(moment.validation, 4)]
  ];
  if (row) {
    facts.push(['read as asked', format(row.agreement)], ['confidence', format(row.confidence)]);
    facts.push([row.distance_name || 'distance', distance(row.distance)]);
  }
  $('.facts').textContent = '';
  for (const [name, value] of facts) $('.facts').append(el('span', name), el('b', value));
}

function drawButtons() {
  const { answer } = state;
  const working = isWorking();
  const blocked = working || !answer.snapshots.length;
  for (const action of ['one', 'all', 'table']) $(`[data-t=${action}]`).disabled = blocked;
  $('[data-t=stop]').disabled = !working;
  const keep = $('[data-t=keep]');
  keep.disabled = blocked || answer.live;
  keep.title = answer.live ? 'When the run has ended' : 'They become the checkpoint that Generate and ship.py use';
  const drawn = (answer.sets[chosenSet()] || []).length;
  for (const button of element.querySelectorAll('[data-x]')) button.disabled = drawn < 2;
}

// The set's picture nearest to the moment, within NEARBY.
function drawPicture(figure, set, images) {
  const list = moments();
  const near = nearest(Object.keys(state.pictures[set] || {}).map(Number), images);
  const shown = near !== null && Math.abs(near - images) <= (list[list.length - 1] || 1) * NEARBY;
  const image = figure.querySelector('img');
  image.hidden = !shown;
  figure.querySelector('.none').hidden = shown;
  if (shown && image.dataset.of !== state.run + set + near) {
    image.src = state.pictures[set][near];
    image.dataset.of = state.run + set + near;
    image.alt = `Samples after ${near} images, ${labelOf(set)}, one row a class`;
  }
  const elsewhere = shown && near !== images ? `, after ${thousands(near)} images` : '';
  setText(figure.querySelector('figcaption'), labelOf(set) + elsewhere);
}

function tableRow(cells, tag) {
  const row = el('tr');
  for (const cell of cells) {
    const node = el(tag);
    node.append(cell); // a text or a node
    row.append(node);
  }
  return row;
}

// Small bars: how often each class was predicted.
function countBars({ counts, classes }) {
  if (!counts) return '–';
  const box = el('span', undefined, 'counts');
  const top = Math.max(...counts, 1);
  counts.forEach((count, k) => {
    const bar = el('i');
    bar.style.height = `${Math.max(1, (26 * count) / top)}px`;
    bar.title = `${(classes || [])[k] ?? k}: ${count}`;
    box.append(bar);
  });
  box.setAttribute('role', 'img');
  box.setAttribute('aria-label', 'Classes read: ' + counts.join(', '));
  return box;
}

function drawTable(rows) {
  const table = $('table');
  const identity = JSON.stringify(rows);
  if (table.dataset.of === identity) return;
  table.dataset.of = identity;
  const [head, body] = [$('thead'), $('tbody')];
  head.textContent = body.textContent = '';
  const hasClip = rows.some(row => row.clip != null);
  const named = rows.find(row => row.distance_name);
  const titles = ['budget', 'images', 'samples', 'loss', 'validation', 'read as asked', 'confidence', 'classes read'];
  titles.push(named ? named.distance_name : 'distance');
  head.append(tableRow(hasClip ? [...titles, 'CLIP'] : titles, 'th'));
  for (const row of rows) {
    const cells = [
      percent(row.share),
      thousands(row.images),
      row.n == null ? '–' : thousands(row.n),
      format(row.loss, 4),
      format(row.validation, 4),
      format(row.agreement),
      format(row.confidence),
      countBars(row),
      distance(row.distance)
    ];
    body.append(tableRow(hasClip ? [...cells, format(row.clip)] : cells, 'td'));
  }
  const real = rows.find(row => row.real_distance != null) || rows.find(row => row.real_agreement != null);
  if (real) {
    const numbers = [format(real.real_agreement), format(real.real_confidence), '', distance(real.real_distance)];
    const cells = ['real test images', '', '', '', '', ...numbers];
    body.append(tableRow(hasClip ? [...cells, ''] : cells, 'td'));
  }
  $('.scroll').hidden = !rows.length;
  const refused = [...new Set(rows.flatMap(row => row.refused || []))].join(' · ');
  setText($('.refused'), rows.length ? refused : EMPTY_TABLE);
}

async function act(query) {
  let answer;
  say('');
  try {
    answer = await server.time_act({ run: state.run, weights: chosenWeights(), ...query });
  } catch {
    // handled below like an empty answer
  }
  answer = answer || { error: 'The studio does not answer.' };
  if (answer.error || answer.ok) say(answer.error || answer.ok, !answer.error);
  look();
  return answer;
}

// Chosen weights without a picture here are sampled now, or after the active work.
async function sampleChosen() {
  const { answer } = state;
  state.wish = false;
  if (chosenWeights() === 'own' || !answer || !answer.lengths.length) return;
  if ((answer.sets[chosenSet()] || []).includes(+snapshotHere())) return;
  if (isWorking()) {
    state.wish = true;
    return;
  }
  const { busy } = await act({ do: 'draw', snapshot: snapshotHere() });
  if (busy) { // the answer was older than the active work
    state.wish = true;
    say('');
  }
}

// Keeping replaces the run's checkpoint, so the first click only asks. Returns whether the visitor has confirmed.
function isSure(button) {
  if (button.classList.contains('sure')) {
    calm();
    return true;
  }
  button.classList.add('sure');
  button.textContent = "Really? Replaces the run's checkpoint";
  clearTimeout(state.calmTimer);
  state.calmTimer = setTimeout(calm, 5000);
  return false;
}

function calm() {
  const button = $('[data-t=keep]');
  button.classList.remove('sure');
  button.textContent = 'Keep these weights';
}

function press(button) {
  const action = button.dataset.t;
  if (action === 'keep' && !isSure(button)) return;
  if (action === 'one') act({ do: 'draw', snapshot: snapshotHere() });
  else if (action === 'all') act({ do: 'draw' });
  else if (action === 'keep') act({ do: 'keep', snapshot: snapshotHere() });
  else act({ do: action });
}

async function saveAs(button) {
  const kind = button.dataset.x;
  const name = `${state.run}-${chosenSet()}.${kind}`;
  button.disabled = true;
  const answer = await act({ do: 'export', kind });
  button.disabled = false;
  if (answer.data) download(new Blob([bytes(answer.data)], { type: answer.type }), name);
}

function halt() {
  clearInterval(state.playing);
  state.playing = null;
  showPlaying(false);
}

function play() {
  const list = moments();
  if (state.at === null || state.at >= list[list.length - 1]) state.at = list[0];
  showPlaying(true);
  state.playing = setInterval(() => {
    const k = list.indexOf(nearest(list, state.at));
    if (k >= list.length - 1 || !element.isConnected) return halt();
    state.at = list[k + 1];
    draw();
  }, BEAT);
}

element.addEventListener('click', event => {
  const action = event.target.closest('[data-t]');
  const save = event.target.closest('[data-x]');
  if (action && !action.disabled) press(action);
  if (save && !save.disabled) saveAs(save);
  if (event.target.closest('.play')) {
    if (state.playing) halt();
    else play();
  }
});

element.addEventListener('input', event => {
  if (event.target.matches('.when')) {
    state.at = moments()[+event.target.value];
    draw();
  }
  if (event.target.matches('.length')) setText($('.len output'), emaLength().toFixed(3));
});

element.addEventListener('change', event => {
  calm();
  if (event.target.matches('.beside')) look();
  if (event.target.matches('.weights, .length')) {
    draw();
    look();
    sampleChosen();
  }
});

function showRun(run) {
  calm();
  Object.assign(state, { run, pictures: {}, at: null, answer: null });
  $('.tm').hidden = true;
  $('.weights').value = 'own';
  $('.beside').value = '';
  if (state.playing) halt();
  say('');
}

function runChosen(event) {
  if (!element.isConnected) return document.removeEventListener('ddpm-run', runChosen);
  const { run, sig } = event.detail;
  if (run !== state.run) showRun(run);
  if (sig !== state.sig) {
    state.sig = sig;
    look();
  }
}

document.addEventListener('ddpm-run', runChosen);
