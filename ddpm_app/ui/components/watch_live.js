// A live run in the place of the recording. value = {run, subject, description, at, frames, left, took, done} or {run, error}:
// only the new frames, from index `at`; one that did not come is fetched.
// Pictures: frame 0 is x_T, a PNG; frame k is the guess at level k - 1, a JPEG. DDIM's step gives x_t from them, as in a recording.
// Points: a frame is [x_t, the guess] of a level, int16; arm: of each point. All levels come at once.

function startLive() {
  Object.assign(state.live, { waiting: true, since: performance.now(), subject: state.subject });
  showError('');
  pressWhenEnabled(`watch-live-${state.subject}`);
  showLive();
}

function stopLive() {
  const { live } = state;
  const run = live.run && live.run.running ? live.run : null;
  live.waiting = false;
  if (run) endLive(run);
  pressWhenEnabled('watch-stop');
  showLive();
}

// The buttons of the server's events are hidden. They are disabled for a moment after a Stop.
function pressWhenEnabled(id, attempts = 100) {
  const button = document.getElementById(id);
  if (button && !button.disabled) button.click();
  else if (attempts) setTimeout(() => pressWhenEnabled(id, attempts - 1), 50);
}

function endLive(run) {
  run.running = false;
  run.took = (performance.now() - state.live.since) / 1000;
  showAbout();
}

function beginLive(value) {
  const run = { ...value.description, subject: value.subject, id: value.run, live: true, running: true, have: -1, received: 0 };
  if (run.kind === 'points') run.cloud = { x: [], x0: [], arm: bytes(value.arm) };
  Object.assign(state.live, { run, waiting: false });
  return run;
}

// Messages are worked on one after the other: decoding a picture takes a moment.
function receiveLive() {
  const value = props.value;
  if (value && value.run) state.live.queue = state.live.queue.then(() => receive(value)).catch(error => failLive(String(error)));
}

async function receive(value) {
  const { live } = state;
  if (value.error) {
    if (live.waiting || (live.run && live.run.running)) failLive(value.error);
    return;
  }
  if (live.waiting) beginLive(value);
  const { run } = live;
  if (!run || run.id !== value.run || !run.running) return; // a message may arrive after the Stop
  const had = run.have;
  if (run.kind === 'points') keepPoints(run, value);
  else await keepPictures(run, value);
  if (!run.running) return;
  run.left = value.left;
  if (value.done) {
    endLive(run);
    run.took = value.took;
  }
  if (!run.ready) {
    run.ready = true;
    if (run.subject === state.subject) showRun(run);
  }
  if (state.run === run && run.have > had) drawTrack();
  showLive();
  showAbout();
}

function failLive(sentence) {
  Object.assign(state.live, { waiting: false });
  if (state.live.run) state.live.run.running = false;
  state.live.run = null;
  showError(sentence);
  showLive();
  if (state.run && state.run.live) choose(state.subject);
}

async function keepPictures(run, value) {
  const { frames } = value;
  const missing = Array.from({ length: Math.max(0, value.at - run.received) }, (_, k) => run.received + k);
  if (missing.length) frames.unshift(...(await server.frames_missing({ run: run.id, want: missing })).map(([, data]) => data));
  const images = await Promise.all(frames.map(decodeImage));
  if (!run.running) return;
  for (const image of images) {
    const [row] = rowsOfImage(image, run.cell);
    if (run.received++) addGuess(run, row);
    else beginPictures(run, row);
  }
  run.have = run.rows.x.length - 1;
}

function keepPoints(run, value) {
  const words = base64 => Float32Array.from(new Int16Array(bytes(base64).buffer));
  run.cloud.x = value.frames.map(([x]) => words(x));
  run.cloud.x0 = value.frames.map(([x, x0]) => words(x0));
  run.have = run.steps;
}

// The button: "Run it live", or "Stop" with the step and the time left.
function showLive() {
  const { live } = state;
  const running = live.run && live.run.running ? live.run : null;
  const busy = live.waiting || running;
  const button = $('.live');
  let text = 'Run it live';
  if (live.waiting) text = 'Stop · starting';
  if (running) {
    const left = running.left ? ` · ${seconds(running.left)} left` : '';
    text = `Stop · step ${Math.max(running.have, 0)} of ${running.steps}${left}`;
  }
  setText(button.querySelector('span'), text);
  button.querySelector('path').setAttribute('d', busy ? 'M3 3h10v10H3z' : 'M3 2v12l11-6z');
  button.classList.toggle('busy', Boolean(busy));
}

function showError(sentence) {
  $('.tell .error').hidden = !sentence;
  setText($('.tell .error'), sentence);
}
