// A run of points. run.cloud: {x, x0: Float32Array of each level (x and y of each point), arm: of each point}.
// Places are thousandths of the square's half side.

// A recording holds x_T and the guesses; DDIM's rule, x0 + (r / s)(x - x0), gives the points of every other level.
async function loadPoints(run) {
  const answer = await fetch(`${run.address}.bin`);
  if (!answer.ok) throw new Error(`${run.address}.bin: ${answer.status}`);
  const data = new Uint8Array(await new Response(answer.body.pipeThrough(new DecompressionStream('deflate'))).arrayBuffer());
  const count = run.points * 2;
  const low = data.subarray(run.points);
  const high = low.subarray(low.length / 2);
  const number = k => ((low[k] | (high[k] << 8)) << 16) >> 16;
  const cloud = (run.cloud = { arm: data.slice(0, run.points), x: [Float32Array.from({ length: count }, (_, k) => number(k))], x0: [] });
  let guess = new Float32Array(count);
  for (let level = 0; level < run.steps; level++) {
    guess = guess.map((value, k) => value + number((level + 1) * count + k));
    cloud.x0.push(guess);
    cloud.x.push(stepOfDdim(cloud.x[level], guess, run.sigma[level], run.sigma[level + 1]));
  }
  cloud.x0.push(cloud.x[run.steps]);
}

function placeOf(levels, p, k) {
  const i = Math.min(Math.floor(p), levels.length - 1);
  const j = Math.min(i + 1, levels.length - 1);
  const f = p - i;
  return [levels[i][2 * k] * (1 - f) + levels[j][2 * k] * f, levels[i][2 * k + 1] * (1 - f) + levels[j][2 * k + 1] * f];
}

function scaleOf(canvas) {
  const half = Math.min(canvas.width, canvas.height) / 2 / 980;
  return [x => canvas.width / 2 + x * half, y => canvas.height / 2 - y * half];
}

// options: {radius, trails: every how many points a trail is drawn (0: none), pale}
function drawCloud(canvas, run, levels, p, { radius, trails = 0, pale = false }) {
  const context = canvas.getContext('2d');
  const [X, Y] = scaleOf(canvas);
  const colours = [css('--c1'), css('--c2'), css('--c3')];
  context.globalAlpha = 1;
  context.fillStyle = css('--card');
  context.fillRect(0, 0, canvas.width, canvas.height);
  const places = Array.from({ length: run.points }, (_, k) => placeOf(levels, p, k));
  if (trails) drawTrails(context, run, levels, p, trails, radius, colours, places, X, Y);
  context.globalAlpha = pale ? 0.22 : 0.84;
  for (let arm = 0; arm < 2; arm++) {
    context.fillStyle = colours[arm];
    context.beginPath();
    places.forEach(([x, y], k) => {
      if (run.cloud.arm[k] !== arm) return;
      context.moveTo(X(x) + radius, Y(y));
      context.arc(X(x), Y(y), radius, 0, 7);
    });
    context.fill();
  }
  context.globalAlpha = 1;
}

function drawTrails(context, run, levels, p, trails, radius, colours, places, X, Y) {
  context.lineWidth = Math.max(1, radius * 0.7);
  context.globalAlpha = 0.22;
  for (let arm = 0; arm < 2; arm++) {
    context.strokeStyle = colours[arm];
    context.beginPath();
    for (let k = 0; k < run.points; k += trails) {
      if (run.cloud.arm[k] !== arm) continue;
      for (let level = 0; level <= p; level++) {
        const draw = level ? 'lineTo' : 'moveTo';
        context[draw](X(levels[level][2 * k]), Y(levels[level][2 * k + 1]));
      }
      context.lineTo(X(places[k][0]), Y(places[k][1]));
    }
    context.stroke();
  }
}

function drawDot(canvas, [x, y], colour, radius) {
  const context = canvas.getContext('2d');
  const [X, Y] = scaleOf(canvas);
  context.fillStyle = colour;
  context.beginPath();
  context.arc(X(x), Y(y), radius, 0, 7);
  context.fill();
}

// The point's noise as an arrow from the middle: what is left of it when sqrt(alpha-bar) times the guess is taken away.
function noiseOf(run, p, k) {
  const share = alphaBar(Math.max(sigmaAt(run, p), LOWEST));
  const [now, guess] = [placeOf(run.cloud.x, p, k), placeOf(run.cloud.x0, p, k)];
  return now.map((value, axis) => (value - Math.sqrt(share) * guess[axis]) / Math.sqrt(1 - share));
}

function drawArrow(canvas, [x, y], colour, width) {
  const context = canvas.getContext('2d');
  const [X, Y] = scaleOf(canvas);
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.beginPath();
  context.moveTo(X(0), Y(0));
  context.lineTo(X(x), Y(y));
  context.stroke();
}
