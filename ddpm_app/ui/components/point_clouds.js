// value = {data: [x, y, ...], clouds: [{method, scale, points: [x, y, ...]}, ...]}, positions in thousandths of the square's half side; null: nothing to show.
// Each canvas shows one method's points over the data of the class, in grey. The slider chooses the guidance scale.
const $ = s => element.querySelector(s), S = element.__ways = { scales: [], at: 0 };
const css = name => getComputedStyle(element).getPropertyValue(name).trim() || '#888';
function dots(g, xy, colour, r, side, alpha) {
  g.globalAlpha = alpha; g.fillStyle = colour; g.beginPath();
  for (let k = 0; k + 1 < xy.length; k += 2) g.rect((xy[k] / 1000 + 1) / 2 * side - r / 2, (1 - xy[k + 1] / 1000) / 2 * side - r / 2, r, r);
  g.fill(); g.globalAlpha = 1;
}
function draw() {
  const v = props.value || {}, ways = v.clouds || [], colours = ['#6366f1', '#d97706', '#0d9488'];
  $('.ways').hidden = !ways.length; if (!ways.length) return;
  S.scales = [...new Set(ways.map(w => w.scale))].sort((a, b) => a - b);
  const range = $('.scale'); range.max = S.scales.length - 1; range.disabled = S.scales.length < 2;
  S.at = Math.min(S.at, S.scales.length - 1); range.value = S.at;
  const s = S.scales[S.at]; $('.at').textContent = String(s); range.setAttribute('aria-valuetext', String(s));
  element.querySelectorAll('canvas').forEach((canvas, k) => {
    const g = canvas.getContext('2d'), side = canvas.width, mine = ways.filter(w => w.method === canvas.dataset.way), found = mine.find(w => w.scale === s) || (mine.length === 1 && canvas.dataset.way === 'conditional' ? mine[0] : null);
    g.clearRect(0, 0, side, side); dots(g, v.data || [], css('--body-text-color-subdued'), 3, side, .4);
    if (found) dots(g, found.points, colours[k], 4, side, .85);
  });
}
element.addEventListener('input', e => { if (e.target.matches('.scale')) { S.at = +e.target.value; draw(); } });
const themed = () => element.isConnected ? draw() : document.removeEventListener('ddpm-theme', themed); document.addEventListener('ddpm-theme', themed);
watch('value', draw); draw();
