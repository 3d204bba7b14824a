// value = {data: [x, y, ...], clouds: [{method, scale, points: [x, y, ...]}, ...]}, or null: nothing to show.
// Positions are thousandths of the square's half side. Each canvas shows one method's points over the data of the class,
// in grey. The slider chooses the guidance scale.
const COLOURS = ['--c1', '--c2', '--c3'];
let scales = [];
let chosen = 0; // index into scales

function drawPoints(context, positions, colour, size, side, opacity) {
  context.globalAlpha = opacity;
  context.fillStyle = colour;
  context.beginPath();
  for (let k = 0; k + 1 < positions.length; k += 2) {
    const x = ((positions[k] / 1000 + 1) / 2) * side;
    const y = ((1 - positions[k + 1] / 1000) / 2) * side;
    context.rect(x - size / 2, y - size / 2, size, size);
  }
  context.fill();
  context.globalAlpha = 1;
}

// The points of a method at a scale. Conditional sampling without guidance has one set for all scales.
function pointsOf(clouds, method, scale) {
  const ofMethod = clouds.filter(cloud => cloud.method === method);
  const atScale = ofMethod.find(cloud => cloud.scale === scale);
  return atScale || (ofMethod.length === 1 && method === 'conditional' ? ofMethod[0] : null);
}

function draw() {
  const value = props.value || {};
  const clouds = value.clouds || [];
  $('.ways').hidden = !clouds.length;
  if (!clouds.length) return;
  scales = [...new Set(clouds.map(cloud => cloud.scale))].sort((a, b) => a - b);
  chosen = Math.min(chosen, scales.length - 1);
  const scale = scales[chosen];

  const range = $('.scale');
  range.max = scales.length - 1;
  range.disabled = scales.length < 2;
  range.value = chosen;
  range.setAttribute('aria-valuetext', String(scale));
  $('.at').textContent = String(scale);

  element.querySelectorAll('canvas').forEach((canvas, k) => {
    const context = canvas.getContext('2d');
    const side = canvas.width;
    const cloud = pointsOf(clouds, canvas.dataset.way, scale);
    context.clearRect(0, 0, side, side);
    drawPoints(context, value.data || [], css('--ink2'), 3, side, 0.4);
    if (cloud) drawPoints(context, cloud.points, css(COLOURS[k]), 4, side, 0.85);
  });
}

element.addEventListener('input', event => {
  if (!event.target.matches('.scale')) return;
  chosen = +event.target.value;
  draw();
});
onThemeChange(draw);
watch('value', draw);
draw();
