// value = {run, strip: base64 PNG of equal cells side by side, w, h, labels: [text], ends: [index],
// progress, status, done}. run null: empty, or busy: a sentence shown during the preparation.
const state = { run: null, stopped: null, done: false, builtFor: '', newestMessage: 0, shownMessage: 0 };

function buildCells(value) {
  const box = $('.strip');
  box.textContent = '';
  box.style.setProperty('--columns', value.labels.length);
  $('.pv').classList.add('has');
  value.labels.forEach((label, k) => {
    const figure = el('figure', undefined, value.ends.includes(k) ? 'cell end' : 'cell');
    figure.setAttribute('role', 'listitem');
    const canvas = el('canvas');
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', label);
    canvas.width = value.w;
    canvas.height = value.h;
    figure.append(canvas, el('figcaption', label));
    box.append(figure);
  });
}

function clear(status) {
  Object.assign(state, { run: null, builtFor: '' });
  $('progress').hidden = true;
  $('.pv').classList.remove('has');
  $('.status').textContent = status || '';
}

async function update() {
  const value = props.value;
  if (!value) return;
  const message = ++state.newestMessage;
  if (!value.run) {
    state.shownMessage = message;
    return clear(value.busy);
  }
  if (value.run === state.stopped) return;
  state.run = value.run;
  const picture = await decodeImage(value.strip);
  // pictures may finish decoding in any order: an older one must not replace a newer one
  if (value.run !== state.run || value.run === state.stopped || message < state.shownMessage) return;
  state.shownMessage = message;

  const cells = `${value.run} ${value.labels.length}`;
  if (state.builtFor !== cells) {
    state.builtFor = cells;
    buildCells(value);
  }
  const { w, h } = value;
  $('.strip').querySelectorAll('canvas').forEach((canvas, k) => {
    canvas.getContext('2d').drawImage(picture, k * w, 0, w, h, 0, 0, w, h);
  });
  state.done = !!value.done;
  $('progress').hidden = state.done;
  $('progress').value = value.progress;
  $('.status').textContent = value.status;
}

onStop(() => {
  if (!state.run) {
    $('.status').textContent = '';
    return;
  }
  if (state.done) return;
  state.stopped = state.run;
  $('progress').hidden = true;
  $('.status').textContent = 'Stopped here.';
});

watch('value', update);
update();
