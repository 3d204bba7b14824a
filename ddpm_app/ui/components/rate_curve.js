// value = {run, at, total, frames: [base64 of original | decoded | x_t], meta: [{t, sigma, bits, rate, rmse, cost}],
// w, h, gap, T, dims, what, visited, done, summary: {L_T, L_mid, L_0, total, error, n, files},
// flow: {share} or {bits, error, draws}}: only the NEW states, from index `at`.
// run null: nothing yet, or busy: a sentence while the image is prepared.
// Every decoded state stays here, so scrubbing needs no server. States sent while the tab was closed are fetched.
const BEAT = 110; // ms
const EMPTY = 'Nothing encoded yet';
const state = {
  run: null, stopped: null, done: false, value: null, total: 0,
  frames: [], meta: [], requested: new Set(), // by index; requested: fetched once already
  shown: -1, follow: true, timer: null, charts: []
};

function format(value) {
  const size = Math.abs(value);
  if (value === 0) return '0';
  if (size >= 1000) return Math.round(value).toLocaleString('en');
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  return size >= 0.1 ? value.toFixed(3) : value.toPrecision(2);
}

function formatTick(value) {
  return value && Math.abs(value) < 0.001 ? value.toExponential(0) : String(+value.toPrecision(2));
}

function errorBar(error) {
  return error == null ? '' : ` ± ${error.toFixed(3)}`;
}

// The number of states that have arrived, counted from the first up to a gap.
function arrived() {
  let n = 0;
  while (state.meta[n] && state.frames[n]) n++;
  return n;
}

function drawPictures(frame) {
  const { w, h, gap } = state.value;
  ['.p0', '.p1', '.p2'].forEach((selector, k) => {
    const canvas = $(selector);
    if (canvas.width !== w || canvas.height !== h) {
      canvas.width = w;
      canvas.height = h;
    }
    canvas.getContext('2d').drawImage(frame, k * (w + gap), 0, w, h, 0, 0, w, h);
  });
}

function show(i) {
  const meta = state.meta[i];
  const frame = state.frames[i];
  if (!meta || !frame) return;
  state.shown = i;
  drawPictures(frame);
  const bits = format(meta.bits);
  const allBits = state.done ? state.meta[state.total - 1].bits : null;
  const share = meta.bits / allBits;
  $('.decoded').textContent = meta.t ? `decoded from the first ${bits} bits` : `all ${bits} bits: the exact pixels`;
  fillTiles($('.now'), [
    [bits, 'bits received'],
    [format(meta.rate), 'bits/dim'],
    [allBits ? `${(100 * share).toFixed(share < 0.01 ? 2 : 1)} %` : '–', 'of all bits'],
    [format(meta.rmse), 'rmse of 255'],
    [meta.rmse ? `${(20 * Math.log10(255 / meta.rmse)).toFixed(1)} dB` : '∞', 'PSNR'],
    [String(meta.t), 't'],
    [format(meta.sigma), 'σ']
  ]);
  $('.scrub').value = i;
  $('.scrub').setAttribute('aria-valuetext', `${bits} bits`);
  if (document.activeElement !== $('.k')) $('.k').value = Math.ceil(meta.bits);
  for (const chart of state.charts) chart.moveDot(i);
}

// Powers of ten from low to high, at most six.
function decadeTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    const tick = 10 ** power;
    if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
  }
  while (ticks.length > 6) for (let k = ticks.length - 2; k > 0; k -= 2) ticks.splice(k, 1);
  return ticks;
}

function ticksOf(low, high, logarithmic) {
  return logarithmic ? decadeTicks(low, high) : evenTicks(low, high, 4);
}

// One curve over the states. x, y: meta -> number.
// options: logx, logy, back (x grows to the left), xmax, text: meta -> label.
// Returns {moveDot(i)}, which moves the dot to state i.
function buildChart(chart, x, y, options) {
  const [width, height, left, right, top, bottom] = [chart.clientWidth || 360, 190, 50, 12, 10, 26];
  chart.textContent = '';
  chart.setAttribute('viewBox', `0 0 ${width} ${height}`);
  chart.onpointermove = chart.onpointerleave = chart.onclick = null;
  const drawable = (vx, vy) => isFinite(vx) && isFinite(vy) && (!options.logx || vx > 0) && (!options.logy || vy > 0);
  const points = [];
  state.meta.forEach((meta, i) => {
    if (drawable(x(meta), y(meta))) points.push({ i, meta, x: x(meta), y: y(meta) });
  });
  if (points.length < 2) return { moveDot() {} };

  const xs = points.map(point => point.x);
  const ys = points.map(point => point.y);
  const low = { x: options.logx ? Math.min(...xs) : 0, y: options.logy ? Math.min(...ys) / 1.3 : 0 };
  const high = { x: options.xmax || Math.max(...xs), y: Math.max(...ys) * (options.logy ? 1.3 : 1.05) };
  for (const axis of ['x', 'y']) if (high[axis] <= low[axis]) high[axis] = low[axis] + 1;
  const scaleX = options.logx ? Math.log : value => value;
  const scaleY = options.logy ? Math.log : value => value;
  function placeX(value) {
    const share = (scaleX(value) - scaleX(low.x)) / (scaleX(high.x) - scaleX(low.x));
    return left + (options.back ? 1 - share : share) * (width - left - right);
  }
  function placeY(value) {
    const share = (scaleY(value) - scaleY(low.y)) / (scaleY(high.y) - scaleY(low.y));
    return height - bottom - share * (height - top - bottom);
  }

  for (const tick of ticksOf(low.y, high.y, options.logy)) {
    const at = placeY(tick);
    chart.append(svg('line', { class: 'grid-line', x1: left, x2: width - right, y1: at, y2: at }));
    chart.append(svg('text', { x: left - 6, y: at + 4, 'text-anchor': 'end' }, formatTick(tick)));
  }
  for (const tick of ticksOf(low.x, high.x, options.logx)) {
    const at = placeX(tick);
    const anchor = at > width - 30 ? 'end' : at < left + 8 ? 'start' : 'middle';
    const text = (options.back ? 't = ' : '') + String(+tick.toPrecision(3));
    chart.append(svg('text', { x: at, y: height - 9, 'text-anchor': anchor }, text));
  }
  chart.append(svg('path', { d: pathThrough(points.map(point => [placeX(point.x), placeY(point.y)])) }));
  if (points.length <= 130) {
    for (const point of points) {
      const place = { cx: placeX(point.x).toFixed(1), cy: placeY(point.y).toFixed(1) };
      chart.append(svg('circle', { class: 'dot', r: 2, ...place }));
    }
  }
  const dot = svg('circle', { class: 'at', r: 6, cx: -20, cy: -20 });
  chart.append(dot);
  addPointer(chart, points, placeX, placeY, width, options.text);
  return {
    moveDot(i) {
      const [vx, vy] = [x(state.meta[i]), y(state.meta[i])];
      dot.setAttribute('cx', drawable(vx, vy) ? placeX(vx) : -20);
      dot.setAttribute('cy', drawable(vx, vy) ? placeY(vy) : -20);
    }
  };
}

// Shows the values of the state nearest to the pointer; a click shows that state.
function addPointer(chart, points, placeX, placeY, width, text) {
  const figure = chart.parentNode;
  let tip = figure.querySelector('.tip');
  if (!tip) {
    tip = el('div', '', 'tip');
    tip.hidden = true;
    figure.append(tip);
  }
  function nearest(event) {
    const box = chart.getBoundingClientRect();
    // the vertical distance counts a third: the pointer selects a position along the curve
    const distance = point => Math.hypot(
      placeX(point.x) - (event.clientX - box.left),
      (placeY(point.y) - (event.clientY - box.top)) / 3
    );
    return points.reduce((best, point) => (distance(point) < distance(best) ? point : best));
  }
  chart.onpointermove = event => {
    const point = nearest(event);
    const onRight = placeX(point.x) > width / 2;
    tip.hidden = false;
    tip.textContent = `t ${point.meta.t}: ${text(point.meta)}`;
    tip.style.left = onRight ? '56px' : 'auto';
    tip.style.right = onRight ? 'auto' : '12px';
  };
  chart.onpointerleave = () => { tip.hidden = true; };
  chart.onclick = event => {
    state.follow = false;
    halt();
    show(nearest(event).i);
  };
}

function drawCharts() {
  if (!state.value || !$('.cv').clientWidth) return;
  const overT = { back: true, logx: $('.logt').checked, xmax: state.value.T };
  const t = meta => meta.t;
  const rate = meta => meta.rate;
  const rmse = meta => meta.rmse;
  const cost = meta => (meta.t ? meta.cost : NaN); // the last state has no step after it
  const both = meta => `${format(meta.rate)} bits/dim, rmse ${format(meta.rmse)}`;
  state.charts = [
    buildChart($('.c-rate'), t, rate, { ...overT, text: meta => `${format(meta.rate)} bits/dim` }),
    buildChart($('.c-rmse'), t, rmse, { ...overT, text: meta => `rmse ${format(meta.rmse)}` }),
    buildChart($('.c-rd'), rate, rmse, { text: both }),
    buildChart($('.c-cost'), t, cost, { ...overT, logy: true, text: meta => `${format(meta.cost)} bits/dim` })
  ];
  if (state.shown >= 0) for (const chart of state.charts) chart.moveDot(state.shown);
}

function statusOf(value, n, flowShare) {
  if (state.stopped === state.run) return `Stopped after ${n} of ${value.total} states.`;
  if (flowShare !== undefined) return `Flow likelihood: ${Math.round(100 * flowShare)} %`;
  return value.done ? `${value.what}; ${value.visited}` : `${value.what}: state ${n} of ${value.total}`;
}

function showStatus(value) {
  const n = arrived();
  const flowShare = value.flow ? value.flow.share : undefined;
  const flowing = flowShare !== undefined;
  $('progress').hidden = !(flowing || !value.done) || state.stopped === state.run;
  $('progress').value = flowing ? flowShare : n / Math.max(value.total, 1);
  $('.status').textContent = statusOf(value, n, flowShare);
  if (value.summary) showSummary(value.summary, value.flow);
}

function showSummary(summary, flow) {
  const images = summary.n > 1 ? `, ${summary.n} images` : '';
  const tiles = [
    [summary.total.toFixed(3) + errorBar(summary.error), `variational bound${images}`],
    [summary.L_T.toFixed(3), 'L_T, prior'],
    [summary.L_mid.toFixed(3), 'L_1 … L_T−1, noise levels'],
    [summary.L_0.toFixed(3), 'L_0, pixels']
  ];
  if (flow && flow.bits !== undefined) {
    tiles.push([flow.bits.toFixed(3) + errorBar(flow.error), `probability flow, ${flow.draws} draws`]);
  }
  for (const kind in summary.files) tiles.push([summary.files[kind].toFixed(2), `as a ${kind} file`]);
  $('.parts').hidden = false;
  fillTiles($('.sum'), tiles);
}

function halt() {
  clearInterval(state.timer);
  state.timer = null;
  showPlaying(false);
}

function play() {
  if (state.shown >= arrived() - 1) show(0);
  state.follow = false;
  showPlaying(true);
  state.timer = setInterval(() => {
    if (state.shown >= arrived() - 1) halt();
    else show(state.shown + 1);
  }, BEAT);
}

// entries: [[index, base64], ...]
async function keepFrames(entries, run) {
  const decoded = await Promise.all(entries.map(([, base64]) => decodeImage(base64).catch(() => null)));
  if (run !== state.run) return;
  decoded.forEach((frame, k) => {
    if (frame) state.frames[entries[k][0]] = frame;
  });
}

async function fetchMissing(before, run) {
  const missing = [];
  for (let i = 0; i < before; i++) if (!state.frames[i] && !state.requested.has(i)) missing.push(i);
  if (!missing.length) return;
  for (const i of missing) state.requested.add(i);
  const fetched = (await server.frames_missing({ run, want: missing })) || [];
  for (const [i, , meta] of fetched) state.meta[i] = meta;
  await keepFrames(fetched, run);
}

function clear(busy) {
  state.run = state.value = null;
  halt();
  $('.cv').classList.remove('has');
  $('.empty strong').textContent = busy || EMPTY;
}

function beginRun(run) {
  halt();
  Object.assign(state, { run, frames: [], meta: [], shown: -1, follow: true, requested: new Set(), done: false });
  $('.cv').classList.add('has');
  $('.parts').hidden = $('.exports').hidden = true;
  $('.exports .note').textContent = '';
}

async function update() {
  const value = props.value;
  if (!value) return;
  if (!value.run) return clear(value.busy);
  if (value.run === state.stopped) return;
  if (value.run !== state.run) beginRun(value.run);
  const run = state.run;
  const first = value.at || 0;
  state.value = value;
  state.total = value.total;
  value.meta.forEach((meta, k) => { state.meta[first + k] = meta; });
  await keepFrames(value.frames.map((base64, k) => [first + k, base64]), run);
  await fetchMissing(first, run);
  if (run !== state.run || state.stopped === run) return;

  const n = arrived();
  const newest = state.value; // a message without frames may have overtaken this one, whose frames had to be decoded
  state.done = !!newest.done;
  $('.scrub').max = Math.max(n - 1, 0);
  $('.k').max = state.meta[n - 1] ? Math.ceil(state.meta[n - 1].bits) : 0;
  $('.exports').hidden = !state.done;
  showStatus(newest);
  drawCharts();
  // at the end the state before the last: the last one's decoded picture is the original
  if (state.follow && n) show(state.done ? Math.max(state.total - 2, 0) : n - 1);
  else if (state.shown >= 0) show(state.shown);
}

function showFirstBits(bits) {
  let i = 0;
  while (i + 1 < arrived() && state.meta[i + 1].bits <= bits) i++;
  show(i);
}

function downloadCsv() {
  const rows = state.meta.map(({ t, sigma, bits, rate, rmse, cost }) => [t, sigma, bits, rate, rmse, cost].join());
  const text = ['t,sigma,bits,bits_per_dim,rmse,cost_bits_per_dim', ...rows].join('\n') + '\n';
  download(new Blob([text], { type: 'text/csv' }), 'ddpm-code.csv');
}

element.addEventListener('input', event => {
  if (event.target.matches('.logt')) return drawCharts();
  if (!event.target.matches('.scrub, .k')) return;
  halt();
  state.follow = false;
  if (event.target.matches('.scrub')) show(+event.target.value);
  else showFirstBits(+event.target.value);
});

element.addEventListener('click', event => {
  if (event.target.closest('.play')) return state.timer ? halt() : play();
  const button = event.target.closest('[data-kind]');
  if (!button) return;
  if (button.dataset.kind === 'csv') downloadCsv();
  else exportAnimation(button, state.run, 'ddpm-code', 'This run is no longer kept; encode again.');
});

onStop(() => {
  if (!state.run) {
    $('.empty strong').textContent = EMPTY;
    return;
  }
  const { flow } = state.value || {};
  if (state.done && !(flow && flow.share !== undefined)) return;
  state.stopped = state.run;
  if (!state.value) return;
  if (flow) state.value.flow = null;
  showStatus(state.value);
  if (state.done) {
    $('.status').textContent = 'Flow likelihood stopped.';
    $('progress').hidden = true;
  }
});

new ResizeObserver(drawCharts).observe($('.cv'));
watch('value', update);
update();
