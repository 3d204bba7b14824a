// value = {run, size, channels, x0: base64 uint8 CHW, eps: base64 float32 CHW, T, model: name of its schedule,
// bars: {schedule: [alpha_bar of t = 0..T]}, crop: address of a picture, t}; run null: nothing to show.
// x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps is computed here: the slider needs no server.
const COLOURS = ['--c1', '--c2', '--c3'];
const state = { run: null, value: null, t: 0, x0: null, eps: null, dots: {}, panels: {} };

function curveX(t) {
  return 14 + (t / state.value.T) * 292;
}

function curveY(alphaBar) {
  return 112 - alphaBar * 92;
}

function format(value) {
  if (!isFinite(value)) return value > 0 ? '∞' : '−∞';
  const size = Math.abs(value);
  return size >= 100 ? value.toFixed(0) : size >= 1 ? value.toFixed(2) : value.toPrecision(2);
}

// x_t as pixels. Uint8ClampedArray clips, and rounds half to even as pixels.to_uint8 does.
function noised(alphaBar) {
  const { size, channels } = state.value;
  const signal = Math.sqrt(alphaBar);
  const noise = Math.sqrt(1 - alphaBar);
  const image = new ImageData(size, size);
  for (let pixel = 0; pixel < size * size; pixel++) {
    for (let colour = 0; colour < 3; colour++) {
      const i = (channels === 1 ? 0 : colour) * size * size + pixel;
      image.data[4 * pixel + colour] = (signal * (state.x0[i] / 127.5 - 1) + noise * state.eps[i] + 1) * 127.5;
    }
    image.data[4 * pixel + 3] = 255;
  }
  return image;
}

function draw(canvas, alphaBar) {
  canvas.width = canvas.height = state.value.size;
  canvas.getContext('2d').putImageData(noised(alphaBar), 0, 0);
}

function buildStrip() {
  const { T, bars, model } = state.value;
  const strip = $('.strip');
  strip.textContent = '';
  for (let k = 0; k < 10; k++) {
    const t = Math.round((k * T) / 9);
    const button = el('button');
    button.type = 'button';
    button.dataset.t = t;
    button.setAttribute('aria-label', `Go to t = ${t}`);
    const canvas = el('canvas');
    draw(canvas, bars[model][t]);
    button.append(canvas, el('span', `t = ${t}`));
    strip.append(button);
  }
}

function buildPanels(schedules) {
  const box = $('.three');
  box.textContent = '';
  state.panels = {};
  for (const name of schedules.slice(0, 3)) {
    const figure = el('figure');
    const canvas = el('canvas');
    const caption = el('figcaption', name);
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', name);
    figure.append(caption, canvas);
    box.append(figure);
    state.panels[name] = { caption, canvas };
  }
}

function buildCurve(schedules) {
  const { T, bars, model } = state.value;
  const curve = $('.curve');
  curve.textContent = '';
  state.dots = {};
  curve.append(svg('line', { x1: 14, y1: 112, x2: 306, y2: 112 }));
  const colourOf = (k) => `var(${COLOURS[k % 3]})`;
  schedules.forEach((name, k) => {
    const d = pathThrough(bars[name].map((alphaBar, t) => [curveX(t), curveY(alphaBar)]));
    const label = name + (name === model ? ' (this model)' : '');
    curve.append(svg('path', { style: `stroke:${colourOf(k)}`, 'stroke-dasharray': name === model ? '' : '4 3', d }));
    curve.append(svg('text', { x: 306, y: 14 + 12 * k, 'text-anchor': 'end', style: `fill:${colourOf(k)}` }, label));
  });
  schedules.forEach((name, k) => {
    state.dots[name] = svg('circle', { r: name === model ? 6 : 4, style: `fill:${colourOf(k)}` });
    curve.append(state.dots[name]);
  });
  curve.append(svg('text', { x: 14, y: 126, 'text-anchor': 'start' }, 't = 0'));
  curve.append(svg('text', { x: 306, y: 126, 'text-anchor': 'end' }, `t = ${T}`));
}

function show(wanted) {
  if (!state.value) {
    state.t = wanted;
    return;
  }
  const { T, model, bars } = state.value;
  const t = (state.t = clamp(Math.round(wanted), 0, T));
  const alphaBar = bars[model][t];
  draw($('.xt'), alphaBar);
  $('.main figcaption').textContent = `x at t = ${t} of ${T}, ${model} schedule`;
  for (const name in bars) {
    state.dots[name].setAttribute('cx', curveX(t));
    state.dots[name].setAttribute('cy', curveY(bars[name][t]));
    if (!state.panels[name]) continue;
    draw(state.panels[name].canvas, bars[name][t]);
    state.panels[name].caption.textContent = `${name}: ᾱ = ${bars[name][t].toFixed(3)}`;
  }
  const snr = alphaBar / (1 - alphaBar);
  fillTiles($('.tiles'), [
    [Math.sqrt(alphaBar).toFixed(3), 'signal √ᾱ'],
    [Math.sqrt(1 - alphaBar).toFixed(3), 'noise √(1−ᾱ)'],
    [format(snr), 'SNR'],
    [format(Math.log(snr)), 'log-SNR'],
    [format(Math.sqrt((1 - alphaBar) / alphaBar)), 'σ']
  ]);
  for (const button of element.querySelectorAll('.strip button')) {
    button.setAttribute('aria-pressed', String(+button.dataset.t === t));
  }
}

function update() {
  const value = props.value;
  if (value && !value.run) {
    state.run = state.value = null;
    $('.stage').classList.remove('has');
    return;
  }
  if (!value || value.run === state.run) return;
  state.run = value.run;
  state.value = value;
  state.x0 = bytes(value.x0);
  state.eps = new Float32Array(bytes(value.eps).buffer);
  const schedules = Object.keys(value.bars);
  $('.stage').classList.add('has');
  $('.crop img').src = value.crop;
  buildStrip();
  buildPanels(schedules);
  buildCurve(schedules);
  show(value.t);
}

element.addEventListener('click', event => {
  const button = event.target.closest('.strip button');
  if (!button) return;
  const slider = document.querySelector('#forward-t input[type=range]');
  if (slider) {
    slider.value = button.dataset.t;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
  }
  show(+button.dataset.t);
});

window.ddpmForward = show; // the slider above the component calls it
watch('value', update);
update();
