// The noise levels of a run. A place p runs from 0 (pure noise) to run.steps (finished); between two levels ln sigma is mixed.
const LOWEST = 0.012; // sigma: below it ln sigma would run away on the last step, to 0

function mixed(values, p) {
  const i = Math.min(Math.floor(p), values.length - 1);
  const j = Math.min(i + 1, values.length - 1);
  return values[i] + (values[j] - values[i]) * (p - i);
}

function sigmaAt(run, p) {
  const i = Math.min(Math.floor(p), run.steps);
  const f = p - i;
  const low = run.sigma[Math.min(i + 1, run.steps)];
  if (f < 1e-6) return run.sigma[i];
  if (!low && f > 0.999) return 0;
  return Math.exp(Math.log(Math.max(run.sigma[i], LOWEST)) * (1 - f) + Math.log(Math.max(low, LOWEST)) * f);
}

function alphaBar(sigma) {
  return 1 / (1 + sigma * sigma);
}

// The contrast at which x_t is drawn: 0.57 for pure noise, 1 for a finished picture.
function contrast(sigma) {
  return 1 / (1 + 0.75 * Math.sqrt(1 - alphaBar(sigma)));
}

function stageAt(story, share) {
  let stage = story.begins.length - 1;
  while (stage > 0 && share < story.begins[stage] - 1e-6) stage--;
  return stage;
}

// [[glossary key, name, text], ...] of the numbers under the scrubber.
function numbersAt(run, p) {
  const sigma = sigmaAt(run, p);
  const small = sigma < 0.01;
  return [
    ['t', 't', String(Math.round(mixed(run.t, p)))],
    ['sigma', 'σ', small ? '0' : sigma > 99 ? sigma.toFixed(0) : sigma.toFixed(2)],
    ['snr', 'log-SNR', small ? '∞' : (-2 * Math.log(sigma)).toFixed(1).replace('-', '−')],
    ['alpha-bar', 'picture', `${Math.round(alphaBar(sigma) * 100)} %`]
  ];
}
