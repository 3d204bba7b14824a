// value = {run, strip: base64 PNG of equal cells side by side, w, h, labels: [text], ends: [index], progress, status, done}; run null: empty, or busy.
const $ = s => element.querySelector(s), S = element.__path = { run: null, drawn: 0, stopped: null, turn: 0, last: 0, built: '' };
const bytes = b => Uint8Array.from(atob(b), c => c.charCodeAt(0));
async function upd() {
  const v = props.value; if (!v) return; const p = $('progress'), turn = ++S.turn; // pictures are decoded in any order: an older one never follows a newer
  if (!v.run) { S.run = null; S.last = turn; S.built = ''; p.hidden = true; $('.pv').classList.remove('has'); $('.status').textContent = v.busy || ''; return; }
  if (v.run === S.stopped) return; S.run = v.run;
  const m = await createImageBitmap(new Blob([bytes(v.strip)], { type: 'image/png' })), box = $('.strip'); if (v.run !== S.run || v.run === S.stopped || turn < S.last) return; S.last = turn;
  const cells = `${v.run} ${v.labels.length}`;
  if (S.built !== cells) {
    S.built = cells;
    box.textContent = ''; box.style.setProperty('--columns', v.labels.length); $('.pv').classList.add('has');
    v.labels.forEach((label, k) => { const f = document.createElement('figure'), c = document.createElement('canvas'), t = document.createElement('figcaption'); f.className = v.ends.includes(k) ? 'cell end' : 'cell'; f.setAttribute('role', 'listitem'); c.setAttribute('role', 'img'); c.setAttribute('aria-label', label); c.width = v.w; c.height = v.h; t.textContent = label; f.append(c, t); box.append(f); });
  }
  box.querySelectorAll('canvas').forEach((c, k) => c.getContext('2d').drawImage(m, k * v.w, 0, v.w, v.h, 0, 0, v.w, v.h));
  p.hidden = !!v.done; p.value = v.progress; $('.status').textContent = v.status; S.drawn++; S.done = !!v.done;
}
document.addEventListener('ddpm-stop', e => { if (!element.closest('#' + e.detail)) return; if (!S.run) { $('.status').textContent = ''; return; } if (S.done) return; S.stopped = S.run; $('progress').hidden = true; $('.status').textContent = 'Stopped here.'; });
watch('value', upd); upd();
