// What Watch says about each subject: the six stages with the share of the steps at which each begins, and the parts of one picture.
const STORIES = {
  photos: {
    begins: [0, 0.06, 0.2, 0.4, 0.6, 0.88],
    stages: [
      ['Pure noise', 'We start with random numbers, three for every pixel. There is no picture in them yet.'],
      ['A first guess', 'The network is asked: which picture could be hiding in this? So far it answers with a colour and a blur.'],
      ['The layout', 'A little noise is removed, toward that guess, and the network is asked again. ' +
        'Sky, ground and the main shape find their places now.'],
      ['The shape', 'Each guess is better than the last, because it starts from a cleaner picture. ' +
        'The guess is always ahead of what you see.'],
      ['The details', 'Now the picture is stronger than the noise. Legs, wheels, windows and shadows are filled in.'],
      ['A new picture', 'The last noise is gone. The same steps with other random numbers would have made another picture.']
    ]
  },
  digits: {
    begins: [0, 0.06, 0.2, 0.4, 0.6, 0.88],
    stages: [
      ['Pure noise', 'We start with random numbers, one for every pixel. There is no digit in them yet.'],
      ['A first guess', 'The network is asked: which digit could be hiding in this? So far it answers with a grey smudge.'],
      ['The place', 'A little noise is removed, toward that guess, and the network is asked again. ' +
        'Where there will be ink is decided now.'],
      ['The stroke', 'Each guess is better than the last, because it starts from a cleaner picture. ' +
        'The guess is always ahead of what you see.'],
      ['The edges', 'Now the digit is stronger than the noise. The ends and the width of each stroke are settled.'],
      ['A new digit', 'The last noise is gone. The same steps with other random numbers would have made another handwriting.']
    ]
  },
  points: {
    begins: [0, 0.06, 0.22, 0.42, 0.64, 0.9],
    stages: [
      ['One round cloud', 'Every point starts at a random place. Nothing shows yet where it belongs.'],
      ['A first guess', 'For each point, the network guesses where it came from. ' +
        'From so far away the honest answer is: somewhere in the middle.'],
      ['Small steps', 'Each point moves a little toward its guess, and the network is asked again. A direction begins to show.'],
      ['The parting', 'Points that were neighbours part. Which arm a point ends on is decided within these few steps.'],
      ['The shape', 'The points gather on the curves. Steps grow small: only details are left to settle.'],
      ['The learned shape', 'Nobody placed these points. Together they fill the shape that the network was trained on.']
    ]
  }
};

const PARTS = {
  pictures: {
    title: 'One picture, taken apart',
    parts: ['one picture now', 'the network’s guess of the finished picture', 'the noise it finds in it'],
    shown: ['Noisy picture', 'Network’s guess']
  },
  points: {
    title: 'One point, taken apart',
    parts: ['this point now', 'where it belongs, as the network guesses', 'the noise it finds in it'],
    shown: ['Noisy points', 'Network’s guess']
  }
};

const SYMBOLS = ['x<sub>t</sub>', 'x̂<sub>0</sub>', 'ε̂'];

function seconds(value) {
  return value < 60 ? `${Math.max(1, Math.ceil(value))} s` : `${Math.floor(value / 60)} min ${Math.ceil(value % 60)} s`;
}

// One line about what is shown: a recording, or a live run and how to get back.
function sentenceAbout(run) {
  const what = run.kind === 'points'
    ? `${run.points.toLocaleString('en')} points in the plane`
    : `${run.pictures.length} ${run.subject} of ${run.size} × ${run.size} pixels`;
  const how = `${run.steps} steps of DDIM${run.guidance > 1 ? `, guidance ${run.guidance}` : ''}`;
  const hint = run.kind === 'points' ? '' : 'Point at a picture to see the network’s guess. ';
  if (!run.live) return `${hint}This is a recording: ${what}, ${how}.`;
  if (run.running) return `${hint}Computed now, on this machine: ${what}, ${how}.`;
  const end = run.have < run.steps ? `stopped after ${run.have} of ${run.steps} steps` : `${run.steps} steps in ${seconds(run.took)}`;
  return `${hint}Computed on this machine: ${what}, ${end}.`;
}
