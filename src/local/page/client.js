/**
 * What the page knows and how it talks to the local Slack: one copy of a person's state, acts, and a hint to draw again.
 * `ui` is where the person is looking; everything else comes from the server, so a reload loses nothing but that.
 */
const place = new URLSearchParams(location.search);

export const HOME = 'HOME';
export const THREADS = 'THREADS';

export const ui = {
  me: place.get('as') ?? sessionStorage.getItem('me') ?? '',
  channel: place.get('channel') ?? 'C0ENG',
  thread: place.get('thread'),
  /** The message a permalink leads to, until it was shown. */
  highlighted: place.get('ts'),
  /** Messages of failed presses, by message or view: shown until the next press there. */
  troubles: new Map(),
  /** Presses under way, as `message/block/action`. */
  busy: new Set(),
  /** How far this place was read when it was entered: the line "New" stands there. */
  readAtEntry: '',
  repositoryShown: false,
};

/** The person's state as last answered, or null before the first answer. */
export let state = null;

let redraw = () => {};
/** The answer that is awaited, and the one after it. */
let reading = null;
let nextReading = null;

/** `draw` is called after every answer; `trouble` with words when the local Slack cannot be reached. */
export function onState(draw) {
  redraw = draw;
}

export function draw() {
  if (state) whenFree(redraw);
}

let isPressing = false;
const postponed = new Set();

/** Runs it now, or right after the finger is up: nothing is redrawn under a press, which would be lost with the node it began on. */
export function whenFree(work) {
  if (isPressing) postponed.add(work);
  else work();
}
addEventListener('pointerdown', () => {
  isPressing = true;
});
for (const end of ['pointerup', 'pointercancel'])
  addEventListener(end, () => {
    isPressing = false;
    // The click itself comes after this event.
    setTimeout(() => {
      const work = [...postponed];
      postponed.clear();
      for (const one of work) whenFree(one);
    });
  });

/** Reads the state anew; resolves when an answer that was asked for after this call is there. */
export function load() {
  if (!reading) return read();
  nextReading ??= reading.then(() => {
    nextReading = null;
    return read();
  });
  return nextReading;
}

function read() {
  reading = readState().finally(() => {
    reading = null;
  });
  return reading;
}

async function readState() {
  const asked = ui.me;
  try {
    const answer = await fetch(`/page/state?as=${encodeURIComponent(asked)}`);
    if (!answer.ok) throw new Error(await answer.text());
    const answered = await answer.json();
    // Whoever became another person meanwhile has asked again, and this is not theirs.
    if (ui.me !== asked) return;
    state = answered;
    ui.me = state.me;
    setStatus(state.connected ? '' : 'No app is connected yet');
    whenFree(redraw);
  } catch (error) {
    setStatus(`Not reachable: ${error.message}`);
  }
}

/** Does something as the person shown. Always resolves; `error` says what went wrong in words for that person. */
export async function act(wish) {
  try {
    const answer = await fetch('/page/act', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ as: ui.me, ...wish }),
    });
    return await answer.json();
  } catch {
    return { error: 'The local Slack is not reachable.' };
  } finally {
    load();
  }
}

/** Keeps the address in step with what is shown, so that a reload comes back here; the token stays out of it. */
export function remember() {
  const query = new URLSearchParams({ channel: ui.channel });
  if (ui.thread) query.set('thread', ui.thread);
  history.replaceState(null, '', `/?${query}`);
}

export function setStatus(text) {
  const node = document.getElementById('status');
  if (node.textContent !== text) node.textContent = text;
}

export function toast(text) {
  const node = document.getElementById('toast');
  node.textContent = text;
  node.hidden = false;
  clearTimeout(node.timer);
  node.timer = setTimeout(() => {
    node.hidden = true;
  }, 6000);
}

/** Tells screen readers, once. */
export function announce(text) {
  document.getElementById('announcer').textContent = text;
}

/** Ids to what is shown; `me` is the reader, whose own mentions stand out. */
export function allNames() {
  return {
    ...state.names,
    ...Object.fromEntries(state.channels.map((one) => [one.id, one.name])),
    me: ui.me,
  };
}

export function initials(name) {
  const parts = name.split('-');
  return (parts.length > 1 ? parts.map((part) => part[0] ?? '').join('') : name.slice(0, 2))
    .slice(0, 2)
    .toUpperCase();
}

/** One of a few calm colours, the same for the same person everywhere. */
export function tone(id) {
  return String([...id].reduce((sum, letter) => sum + letter.charCodeAt(0), 0) % 5);
}

/** `10:02`, with the day in front when it is not today. */
export function shortTime(ts) {
  const date = new Date(Number(ts) * 1000);
  const time = date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
  return date.toDateString() === new Date().toDateString()
    ? time
    : `${date.toLocaleDateString([], { day: 'numeric', month: 'short' })} ${time}`;
}
