// The scrubber: a filmstrip of the chosen picture, over the schedule itself (the picture's share alpha-bar against the noise's).

function buildTrack() {
  const track = $('.track');
  function placeAt(event) {
    const box = $('.film').getBoundingClientRect();
    seek(clamp((event.clientX - box.left) / box.width, 0, 1) * state.run.steps);
  }
  track.addEventListener('pointerdown', event => {
    track.setPointerCapture(event.pointerId);
    track.classList.add('held');
    setPlaying(false);
    placeAt(event);
  });
  track.addEventListener('pointermove', event => { if (track.classList.contains('held')) placeAt(event); });
  for (const kind of ['pointerup', 'pointercancel']) track.addEventListener(kind, () => track.classList.remove('held'));
}

// Film and schedule are drawn once for a run, a size and a theme, and again when a live run has a new level.
function drawTrack() {
  const { run } = state;
  const film = $('.film');
  fit(film);
  fit($('.share'));
  state.filmed = null;
  if (run && run.ready) {
    drawFilm(film, run);
    state.filmed = copyOf(film);
  }
  if (run) drawShare($('.share'), run);
}

function drawFilm(film, run) {
  const context = film.getContext('2d');
  const count = Math.max(6, Math.round(film.width / film.height));
  const width = film.width / count;
  context.fillStyle = css('--sunk');
  context.fillRect(0, 0, film.width, film.height);
  for (let i = 0; i < count; i++) {
    const p = (i / (count - 1)) * run.steps;
    if (p > run.have + 1e-6) break;
    const [x, size] = [Math.round(i * width), Math.ceil(width)];
    context.save();
    context.beginPath();
    context.rect(x, 0, size, film.height);
    context.clip();
    if (run.kind === 'points') context.drawImage(smallCloud(run, p, size, film.height), x, 0);
    else drawPicture(context, run, 'x', state.chosen, p, state.exact, [x, 0, Math.max(size, film.height)]);
    context.restore();
  }
}

function smallCloud(run, p, width, height) {
  const canvas = el('canvas');
  canvas.width = width;
  canvas.height = height;
  drawCloud(canvas, run, run.cloud.x, p, { radius: 0.9 * state.density });
  return canvas;
}

function copyOf(canvas) {
  const copy = el('canvas');
  copy.width = canvas.width;
  copy.height = canvas.height;
  copy.getContext('2d').drawImage(canvas, 0, 0);
  return copy;
}

function drawShare(canvas, run) {
  const context = canvas.getContext('2d');
  const { width, height } = canvas;
  context.fillStyle = css('--noise-f');
  context.fillRect(0, 0, width, height);
  context.fillStyle = css('--signal-f');
  context.beginPath();
  context.moveTo(0, height);
  for (let x = 0; x <= width; x += 2) {
    context.lineTo(x, height * (1 - alphaBar(sigmaAt(run, (x / width) * run.steps))));
  }
  context.lineTo(width, height);
  context.fill();
}

// The film is pale where the run has not come yet.
function drawPlace() {
  const { run, p } = state;
  const film = $('.film');
  const share = p / run.steps;
  if (state.filmed) {
    const context = film.getContext('2d');
    const x = Math.round(share * film.width);
    context.globalAlpha = 1;
    context.clearRect(0, 0, film.width, film.height);
    context.drawImage(state.filmed, 0, 0);
    context.globalAlpha = 0.65;
    context.fillStyle = css('--paper');
    context.fillRect(x, 0, film.width - x, film.height);
    context.globalAlpha = 1;
  }
  $('.head').style.left = `${share * 100}%`;
}
