// The script of what surrounds the views: theme, views and address, explanations of terms, errors under their buttons.
// theme.py puts it into the page's head, once; base.js gives components the same functions.
(() => {
  const GLOSSARY = {/* glossary */};
  const SUB = { points: 'lab', bits: 'lab', scores: 'lab', models: 'lab', glossary: 'lab' }; // tabs of the Lab have addresses, too
  const root = document.documentElement;

  // --- theme: Gradio sets it when the page opens, as a class of <body>, from __theme in the address
  function switchTheme() {
    const dark = document.body.classList.toggle('dark');
    change({ __theme: dark ? 'dark' : 'light' });
    document.dispatchEvent(new CustomEvent('ddpm-theme'));
  }

  // --- the address
  function change(settings, push) {
    const address = new URL(location);
    for (const [name, value] of Object.entries(settings)) {
      if (value === null || value === undefined || value === '') address.searchParams.delete(name);
      else address.searchParams.set(name, value);
    }
    if (address.href !== location.href) history[push ? 'pushState' : 'replaceState'](history.state, '', address);
  }

  // The settings of the shown view: they replace those of before.
  function setAddress(settings) {
    const old = Object.fromEntries([...new URLSearchParams(location.search).keys()].map(name => [name, null]));
    delete old.v;
    delete old.__theme;
    change({ ...old, ...settings });
  }

  function readAddress() {
    const settings = Object.fromEntries(new URLSearchParams(location.search));
    delete settings.v;
    delete settings.__theme;
    return settings;
  }

  async function copyLink(button) {
    let text = 'Link copied';
    try {
      await navigator.clipboard.writeText(location.href);
    } catch {
      text = 'The link is in the address bar'; // a browser allows the clipboard on https and localhost only
    }
    say(button, text);
  }

  function say(button, text) {
    const note = button.parentElement.querySelector('.said');
    note.textContent = text;
    clearTimeout(note.timer);
    note.timer = setTimeout(() => { note.textContent = ''; }, 2500);
  }

  // --- views: each is a Gradio tab, whose hidden button is pressed
  const press = (tabs, key) => {
    const button = document.querySelector(`#${tabs} > .tab-wrapper [data-tab-id="${key}"]`);
    if (button && button.getAttribute('aria-selected') !== 'true') button.click();
    return Boolean(button);
  };

  function goTo(key, push = true) {
    const view = SUB[key] || key;
    if (!press('views', view)) return false;
    if (SUB[key]) whenThere(() => press('lab-tabs', key));
    root.dataset.view = view;
    markLinks();
    if (push) {
      const old = readAddress();
      change({ ...Object.fromEntries(Object.keys(old).map(name => [name, null])), v: key }, true);
      scrollTo(0, 0);
    }
    document.dispatchEvent(new CustomEvent('ddpm-view', { detail: view }));
    return true;
  }

  function markLinks() {
    for (const link of document.querySelectorAll('a[data-view]:not(.brand)')) {
      if (link.dataset.view === root.dataset.view) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    }
    root.dataset.model = document.querySelector('.top-tabs [aria-current]')?.dataset.model ?? 'yes'; // whether its menu is shown
  }

  // Calls until it returns true, when the page changes, for ten seconds.
  function whenThere(attempt) {
    if (attempt()) return;
    const observer = new MutationObserver(() => { if (attempt()) observer.disconnect(); });
    observer.observe(document.body, { childList: true, subtree: true });
    setTimeout(() => observer.disconnect(), 10000);
  }

  const asked = () => new URLSearchParams(location.search).get('v') || 'watch';
  const open = () => goTo(asked(), false) || (document.getElementById('views') && goTo('watch', false));
  addEventListener('popstate', () => goTo(asked(), false) || goTo('watch', false));

  document.addEventListener('click', event => {
    const link = event.target.closest('a[data-view]');
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      if (link.dataset.view !== root.dataset.view) goTo(link.dataset.view);
    }
    const open = document.querySelector('.bottom details[open]');
    if (open && (link || !open.contains(event.target))) open.open = false;
    const lab = event.target.closest('#lab-tabs > .tab-wrapper [data-tab-id]');
    if (lab) change({ v: lab.dataset.tabId });
    const button = event.target.closest('[data-do]');
    if (button?.dataset.do === 'theme') switchTheme();
    if (button?.dataset.do === 'link') copyLink(button);
  });

  // --- terms
  const LABEL = '[class*=explained-] span[data-testid=block-info]';

  function termAt(node) {
    const word = node.closest?.('.term');
    if (word) return [word, GLOSSARY[word.dataset.term]];
    const label = node.closest?.(LABEL);
    const name = label && /explained-([\w-]+)/.exec(label.closest('[class*=explained-]').className);
    return name ? [label, GLOSSARY[name[1]]] : [];
  }

  // Explains the term at this node, or else the term that has the focus; hides the box if there is none.
  function explain(at) {
    let [node, entry] = termAt(at);
    if (!entry) [node, entry] = termAt(document.activeElement || root);
    let box = document.getElementById('explanation');
    if (!entry) {
      if (box) box.hidden = true;
      return;
    }
    if (!box) {
      box = document.createElement('div');
      box.id = 'explanation';
      box.setAttribute('role', 'tooltip');
      document.body.append(box);
    }
    box.replaceChildren(Object.assign(document.createElement('b'), { textContent: entry[0] }), entry[1]);
    box.hidden = false;
    node.setAttribute('aria-describedby', 'explanation');
    const word = node.getBoundingClientRect(), size = box.getBoundingClientRect();
    const above = word.bottom + size.height + 8 > innerHeight;
    box.style.left = `${Math.max(12, Math.min(word.left, innerWidth - size.width - 12))}px`;
    box.style.top = `${above ? word.top - size.height - 6 : word.bottom + 6}px`;
  }

  for (const kind of ['pointerover', 'focusin', 'click']) document.addEventListener(kind, event => explain(event.target));
  document.addEventListener('click', event => {
    if (event.target.closest?.(LABEL)) event.preventDefault(); // or the tap would focus the label's input, over the explanation
  });
  document.addEventListener('focusout', () => explain(root));
  document.addEventListener('keydown', event => {
    const box = document.getElementById('explanation');
    if (event.key === 'Escape' && box) box.hidden = true;
  });
  addEventListener('scroll', () => explain(root), { capture: true, passive: true });

  function term(key, words) {
    const node = document.createElement('span');
    node.className = 'term';
    node.tabIndex = 0;
    node.dataset.term = key;
    node.textContent = words;
    return node;
  }

  // --- errors: Gradio's toast carries the sentence, and in data-at the id of what caused it
  let used = null; // the place of what was clicked or changed last; an upload replaces its own input
  function use(event) {
    const control = event.target.closest?.('button, input, textarea, select');
    if (!control || control.closest('.toast-body, #header')) return;
    used = errorPlace(control);
    // a field reports its change when a button is pressed: if the line went then, the button would move away from under the pointer
    if (event.type !== 'change') errorBelow(used)?.remove();
  }
  for (const kind of ['click', 'input', 'change', 'drop']) document.addEventListener(kind, use, true);

  // What the sentence stands below: the row of the run's buttons, or the control's own block.
  function errorPlace(control) {
    return control.closest('.run-row, .plain-row') || control.closest('.block') || control;
  }

  function errorBelow(place) {
    const line = place.nextElementSibling;
    return line?.matches('.error-line') ? line : null;
  }

  function showError(message) {
    const text = message.textContent.trim();
    const named = document.getElementById(message.querySelector('[data-at]')?.dataset.at ?? '');
    const shown = document.getElementById(`view-${root.dataset.view}`) || document.body;
    const place = named ? errorPlace(named) : used?.isConnected ? used : shown.querySelector('.run-row') || shown.firstElementChild;
    message.closest('.toast-body').querySelector('.toast-close').click();
    if (!text) return;
    let line = errorBelow(place);
    if (!line) {
      line = document.createElement('p');
      line.className = 'error-line';
      line.setAttribute('role', 'alert');
      place.after(line);
    }
    line.textContent = text;
  }

  new MutationObserver(changes => {
    for (const change of changes) for (const node of change.addedNodes) {
      if (node.nodeType !== 1) continue;
      const message = '.toast-message-text.error';
      for (const error of node.matches(message) ? [node] : node.querySelectorAll(message)) showError(error);
      if (node.querySelector('.brand')) { // Gradio writes the header's HTML more than once
        markLinks();
        drawName();
      }
      for (const label of node.matches(LABEL) ? [node] : node.querySelectorAll(LABEL)) label.tabIndex = 0;
    }
  }).observe(root, { childList: true, subtree: true });

  // --- the picture beside the name: a seven, noisier from right to left
  function drawName() {
    const canvas = document.querySelector('.brand canvas');
    if (!canvas) return false;
    canvas.width = canvas.height = 8;
    const context = canvas.getContext('2d');
    const seven = ['00000000', '00111110', '00111110', '00000110', '00001100', '00011000', '00110000', '00000000'];
    let state = 7;
    for (let y = 0; y < 8; y++) for (let x = 0; x < 8; x++) {
      state = (state * 48271) % 2147483647;
      const share = Math.min(1, Math.max(0, (x - 1) / 5));
      const grey = Math.round(share * (seven[y][x] * 235 + 14) + (1 - share) * (state / 2147483647) * 255);
      const pixel = context.createImageData(1, 1);
      pixel.data.set([grey, grey, grey, 255]);
      context.putImageData(pixel, x, y);
    }
    return true;
  }

  window.ddpm = { switchTheme, goTo, setAddress, readAddress, term };
  root.dataset.view = SUB[asked()] || asked();
  whenThere(open);
})();
