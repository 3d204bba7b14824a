// Watch: a run from pure noise to pictures, played, scrubbed, taken apart. It opens with a recording and asks the server for nothing.
// props.recordings = {photos, digits, points: the description of each, see studio/recordings.py}; props.folder: where their files lie.
// props.value: a message of a live run, see watch_live.js.
const LOOP = { travel: 9, rest: 2600 }; // seconds at an even pace, 8 as it is paced; ms at the end
const state = (element.__watch = {
  subject: 'photos', run: null, runs: {}, // runs: recordings by subject, loaded when they are chosen
  p: 0, playing: true, rested: 0, speed: 1, last: 0,
  show: 'x', held: false, hover: -1, chosen: 4, exact: false,
  seen: true, // whether the pictures are on the screen
  density: Math.min(2, window.devicePixelRatio || 1),
  live: { run: null, waiting: false, since: 0, queue: Promise.resolve() },
  drawn: 0, times: [] // how long the last frames took to draw, ms
});
const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
const isNarrow = () => element.clientWidth < 760;

function fit(canvas) {
  const box = canvas.getBoundingClientRect();
  const [width, height] = [Math.round(box.width * state.density), Math.round(box.height * state.density)];
  if (!width || !height || (canvas.width === width && canvas.height === height)) return;
  canvas.width = width;
  canvas.height = height;
}

// --- choosing what is shown

function recordingOf(subject) {
  const run = (state.runs[subject] = state.runs[subject] || { ...props.recordings[subject] });
  if (run.loading) return run;
  Object.assign(run, { subject, address: `${props.folder}/${subject}`, have: run.steps });
  run.loading = (run.kind === 'points' ? loadPoints(run) : loadPictures(run)).then(() => { run.ready = true; });
  run.loading.catch(() => { run.loading = null; });
  return run;
}

async function choose(subject) {
  state.subject = subject;
  const run = recordingOf(subject);
  for (const button of element.querySelectorAll('[data-subject]')) {
    button.setAttribute('aria-pressed', button.dataset.subject === subject);
  }
  if (!run.ready && !state.run) showStory(run);
  try {
    await run.loading;
  } catch {
    return showError('The recording could not be loaded. Run it live computes a new one.');
  }
  if (state.subject === subject) showRun(run);
}

function showRun(run) {
  const isNew = !state.run || state.run.subject !== run.subject;
  Object.assign(state, { run, p: 0, rested: 0, hover: -1 });
  if (isNew) state.chosen = run.kind === 'points' ? 31 : 4;
  if (still && !run.running) state.p = run.have;
  setPlaying(!still || Boolean(run.running));
  showStory(run);
  fitAll();
  drawTrack();
  draw();
}

function showStory(run) {
  const story = STORIES[run.subject];
  const words = PARTS[run.kind];
  $('.steps').replaceChildren(...story.stages.map(([title, sentence], k) => {
    const button = el('button', title);
    button.type = 'button';
    button.dataset.stage = k;
    const item = el('li');
    item.append(el('i', String(k + 1)), button, el('p', sentence));
    return item;
  }));
  state.stage = -1;
  $('.apart h3').textContent = words.title;
  element.querySelectorAll('.what').forEach((node, k) => {
    const symbol = el('em');
    symbol.innerHTML = SYMBOLS[k];
    node.replaceChildren(`${words.parts[k]} `, symbol);
    node.parentElement.querySelector('canvas').setAttribute('aria-label', words.parts[k]);
  });
  element.querySelectorAll('[data-show]').forEach((button, k) => setText(button, words.shown[k]));
  $('.hot').hidden = run.kind === 'points';
  $('.hot').replaceChildren(...(run.pictures || []).map(({ label }, k) => {
    const button = el('button');
    button.type = 'button';
    button.title = label;
    button.setAttribute('aria-label', `${label}: take this picture apart`);
    button.setAttribute('aria-pressed', k === state.chosen);
    button.dataset.picture = k;
    return button;
  }));
  $('.view canvas').setAttribute('aria-label', run.kind === 'points' ? 'Points finding their shape' : 'Nine pictures forming from noise');
  $('.track').setAttribute('aria-valuemax', run.steps);
  showAbout();
}

function showAbout() {
  const { run } = state;
  const shown = run || state.runs[state.subject];
  const note = $('.tell .note');
  if (note.run !== shown || note.said !== sentenceAbout(shown)) {
    note.run = shown;
    note.said = sentenceAbout(shown);
    note.replaceChildren(note.said);
    if (shown.live && !shown.running) {
      const back = el('button', 'Show the recording', 'back');
      back.type = 'button';
      note.append(' ', back);
    }
  }
  $('.make').href = `?${new URLSearchParams({ v: 'create', ...settingsOf(shown) })}`;
}

// What Create needs to make the chosen picture again.
function settingsOf(run) {
  if (run.kind === 'points') return {};
  const { label, seed } = run.pictures[state.chosen] || run.pictures[0];
  return { m: run.checkpoint, c: label, g: run.guidance, n: run.steps, seed, sampler: run.sampler };
}

// --- drawing

function fitAll() {
  fit($('.view canvas'));
  element.querySelectorAll('.part canvas').forEach(fit);
}

function partOf(k) {
  const other = state.show === 'x' ? 'x0' : 'x';
  return state.held || (k === state.hover && k >= 0) ? other : state.show;
}

function draw() {
  const { run, p } = state;
  if (!run || !run.ready) return;
  const started = performance.now();
  const parts = [...element.querySelectorAll('.part canvas')];
  if (run.kind === 'points') {
    drawPointsView(run, p, parts);
  } else {
    drawNine($('.view canvas'), run, p, state.exact, partOf, Math.round((isNarrow() ? 5 : 8) * state.density), 8 * state.density);
    ['x', 'x0', 'eps'].forEach((part, k) => {
      drawPicture(parts[k].getContext('2d'), run, part, state.chosen, p, state.exact, [0, 0, parts[k].width]);
    });
  }
  drawPlace();
  showNumbers(run, p);
  state.drawn++;
  state.times.push(performance.now() - started);
  if (state.times.length > 600) state.times.shift();
}

function drawPointsView(run, p, parts) {
  const { cloud } = run;
  const view = $('.view canvas');
  const shown = cloud[partOf(-1)];
  drawCloud(view, run, shown, p, { radius: (2.3 * view.width) / 560, trails: shown === cloud.x ? 9 : 0 });
  drawDot(view, placeOf(shown, p, state.chosen), css('--ink'), 5 * state.density);
  const small = { radius: 1.1 * state.density, pale: true };
  const dot = 5 * state.density;
  drawCloud(parts[0], run, cloud.x, p, small);
  drawDot(parts[0], placeOf(cloud.x, p, state.chosen), css('--ink'), dot);
  drawCloud(parts[1], run, cloud.x0, p, small);
  drawDot(parts[1], placeOf(cloud.x0, p, state.chosen), css('--signal'), dot);
  drawCloud(parts[2], run, cloud.x, p, small);
  const noise = noiseOf(run, p, state.chosen);
  drawArrow(parts[2], noise, css('--noise'), 2 * state.density);
  drawDot(parts[2], noise, css('--noise'), dot);
}

function showNumbers(run, p) {
  const share = alphaBar(sigmaAt(run, p));
  const [signal, noise] = element.querySelectorAll('.times span');
  setText(signal, Math.sqrt(share).toFixed(2));
  setText(noise, Math.sqrt(1 - share).toFixed(2));
  const box = $('.numbers');
  const numbers = numbersAt(run, p);
  if (!box.children.length) box.append(...numbers.map(([key, name]) => numberNode(key, name)));
  numbers.forEach(([, , text], k) => setText(box.children[k].lastChild, text));
  const mix = `${Math.round(share * 100)}%`;
  if (mix !== state.mix) $('.watch').style.setProperty('--share', (state.mix = mix));
  const stage = stageAt(STORIES[run.subject], p / run.steps);
  if (stage !== state.stage) showStage((state.stage = stage));
  const track = $('.track');
  const step = String(Math.round(p));
  if (track.getAttribute('aria-valuenow') === step && track.run === run) return;
  track.run = run;
  track.setAttribute('aria-valuenow', step);
  track.setAttribute('aria-valuetext', `step ${step} of ${run.steps}, ${numbers[3][2]} picture: ${STORIES[run.subject].stages[stage][0]}`);
}

function numberNode(key, name) {
  const node = el('span', undefined, key === 'alpha-bar' ? 'signal' : '');
  node.append(term(key, name), ' ', el('b'));
  if (name.length === 1) node.firstChild.classList.add('symbol');
  return node;
}

function showStage(stage) {
  element.querySelectorAll('.steps li').forEach((item, k) => {
    item.className = k === stage ? 'on' : k < stage ? 'done' : '';
    if (k === stage) item.setAttribute('aria-current', 'step');
    else item.removeAttribute('aria-current');
  });
}

// --- time

function setPlaying(playing) {
  state.playing = playing;
  if (playing && state.run && state.p >= state.run.have && !state.run.running) state.p = 0;
  $('.play path').setAttribute('d', playing ? 'M4 3h4v14H4zM12 3h4v14h-4z' : 'M5 3v14l12-7z');
  $('.play').setAttribute('aria-label', playing ? 'Pause' : 'Play');
}

function seek(p) {
  state.p = clamp(p, 0, state.run.have);
  state.rested = 0;
  draw();
}

// Noise passes quickly, the picture arrives slowly.
function pace(share) {
  return share < 0.45 ? 1.7 : share < 0.75 ? 1 : 0.75;
}

function advance(ms) {
  const { run } = state;
  if (run.running) { // a live run sets the pace
    if (state.p >= run.have) return false;
    const rate = Math.max(run.have / ((performance.now() - state.live.since) / 1000), (run.have - state.p) * 2);
    state.p = Math.min(run.have, state.p + (rate * ms) / 1000);
  } else if (state.p < run.have) {
    state.p = Math.min(run.have, state.p + (ms / 1000) * state.speed * (run.steps / LOOP.travel) * pace(state.p / run.steps));
  } else if ((state.rested += ms) > LOOP.rest) {
    Object.assign(state, { p: 0, rested: 0 });
  } else {
    return false;
  }
  return true;
}

function tick(now) {
  if (!element.isConnected) return;
  const ms = Math.min(60, now - state.last);
  state.last = now;
  if (state.playing && state.run && state.run.ready && state.seen && advance(ms)) {
    draw();
    if (!state.moved && state.p > 0) state.moved = performance.mark('watch-moves').startTime;
  }
  requestAnimationFrame(tick);
}

onThemeChange(() => { drawTrack(); draw(); });
const onScreen = new Map();
const observer = new IntersectionObserver(entries => {
  for (const entry of entries) onScreen.set(entry.target, entry.isIntersecting);
  state.seen = [...onScreen.values()].some(Boolean); // a hidden view does not intersect
});
for (const part of ['.view', '.apart']) observer.observe($(part));
new ResizeObserver(() => { fitAll(); drawTrack(); draw(); }).observe($('.watch'));

listen();
buildTrack();
fit($('.view canvas'));
drawNoise($('.view canvas'), Math.round((isNarrow() ? 5 : 8) * state.density), 8 * state.density);
const asked = readAddress().s;
choose(props.recordings[asked] ? asked : 'photos');
watch('value', receiveLive);
requestAnimationFrame(now => { state.last = now; tick(now); });
