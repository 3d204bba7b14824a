// Clicks, keys and the pointer.

function onClick(event) {
  const button = event.target.closest('button, a');
  if (!button) return;
  const { subject, show, stage, picture, kind } = button.dataset;
  if (subject) {
    const live = state.live.run;
    if (live && live.subject === subject && live.ready && state.subject !== subject) {
      choose(subject).then(() => showRun(live));
    } else choose(subject);
    setAddress(subject === 'photos' ? {} : { s: subject });
  } else if (show) {
    state.show = show;
    for (const other of element.querySelectorAll('[data-show]')) other.setAttribute('aria-pressed', other === button);
    draw();
  } else if (stage !== undefined) {
    setPlaying(false);
    seek(+stage === 5 ? state.run.steps : (STORIES[state.run.subject].begins[stage] + 0.002) * state.run.steps);
  } else if (picture !== undefined) {
    state.chosen = +picture;
    for (const other of element.querySelectorAll('[data-picture]')) other.setAttribute('aria-pressed', other === button);
    showAbout();
    drawTrack();
    draw();
  } else if (kind) exportAnimation(button, exportQuery(), `ddpm-${state.subject}`, 'This run is no longer kept; run it live again.');
  else if (button.matches('.play')) setPlaying(!state.playing);
  else if (button.matches('.back')) choose(state.subject);
  else if (button.matches('.live')) (state.live.waiting || (state.live.run && state.live.run.running) ? stopLive : startLive)();
  else if (button.matches('.make') && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    goTo('create');
    setAddress(settingsOf(state.run || state.runs[state.subject]));
    document.dispatchEvent(new CustomEvent('ddpm-settings', { detail: 'create' }));
  }
}

function exportQuery() {
  return state.run && state.run.live ? state.run.id : `recording:${state.subject}`;
}

// The keys work wherever the focus is on Watch, but never take a key from an input.
function onKey(event) {
  if (!element.isConnected) return document.removeEventListener('keydown', onKey);
  if (!element.offsetParent || !state.run || event.ctrlKey || event.metaKey || event.altKey) return;
  const { target } = event;
  if (target.matches?.('input, select, textarea, [contenteditable], [role=slider]:not(.track), [role=tab]')) return;
  const key = event.key;
  if (key === ' ' && !target.closest?.('button, a, summary')) setPlaying(!state.playing);
  else if (key === 'ArrowRight' || key === 'ArrowUp') moveTo(Math.floor(state.p + 1e-6) + 1, event);
  else if (key === 'ArrowLeft' || key === 'ArrowDown') moveTo(Math.ceil(state.p - 1e-6) - 1, event);
  else if (key === 'Home' && target.matches('.track')) moveTo(0, event);
  else if (key === 'End' && target.matches('.track')) moveTo(state.run.have, event);
  else if (key === 'g' && !state.held) hold(true);
  else return;
  event.preventDefault();
}

function moveTo(p, event) {
  if (event.key.match(/Up|Down/) && !event.target.matches('.track')) return; // they scroll the page
  setPlaying(false);
  seek(p);
}

function hold(held) {
  state.held = held;
  draw();
}

function hoverOver(event) {
  const picture = event.target.dataset.picture;
  state.hover = picture === undefined || event.pointerType === 'touch' ? -1 : +picture;
  draw();
}

function listen() {
  element.addEventListener('click', onClick);
  element.addEventListener('change', event => {
    if (event.target.matches('.speed')) state.speed = +event.target.value;
    if (event.target.matches('.exact')) {
      state.exact = event.target.checked;
      drawTrack();
      draw();
    }
  });
  $('.hot').addEventListener('pointerover', hoverOver);
  for (const kind of ['pointerleave', 'pointercancel']) $('.hot').addEventListener(kind, () => { state.hover = -1; draw(); });
  document.addEventListener('keydown', onKey);
  document.addEventListener('keyup', event => { if (event.key === 'g' && state.held) hold(false); });
}
