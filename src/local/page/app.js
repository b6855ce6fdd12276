/**
 * The client: keeps one copy of a person's state, redraws what changed when the server hints so, and sends acts.
 * A message's node is replaced only when that message changed, so a press is never lost to a redraw of another.
 */
import { renderBlocks, textNode } from './blocks.js';
import { element, emoji, mrkdwn } from './mrkdwn.js';

const $ = (id) => document.getElementById(id);
const place = new URLSearchParams(location.search);
const HINT_REQUEST = '@Countersign merge pull request 1 in acme/shop';
const HOME = 'HOME';

let state = null;
let me = sessionStorage.getItem('me') ?? '';
let channel = place.get('channel') ?? 'C0ENG';
let thread = place.get('thread');
let highlighted = place.get('ts');
let loading = false;
let loadAgain = false;
/** Messages of failed presses, by message timestamp: shown until the next press on that message. */
const troubles = new Map();

async function load() {
  if (loading) {
    loadAgain = true;
    return;
  }
  loading = true;
  try {
    const answer = await fetch(`/page/state?as=${encodeURIComponent(me)}`);
    if (!answer.ok) throw new Error(await answer.text());
    state = await answer.json();
    me = state.me;
    draw();
  } catch (error) {
    setStatus(`Not reachable: ${error.message}`, 'bad');
  } finally {
    loading = false;
    if (loadAgain) {
      loadAgain = false;
      load();
    }
  }
}

async function act(wish) {
  try {
    const answer = await fetch('/page/act', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ as: me, ...wish }),
    });
    return await answer.json();
  } catch {
    return { error: 'The local Slack is not reachable.' };
  } finally {
    load();
  }
}

function draw() {
  const known = state.channels.some((one) => one.id === channel);
  if (!known && channel !== HOME) channel = state.channels[0]?.id ?? HOME;
  setStatus(state.connected ? '' : 'No app connected yet', 'bad');
  drawPersona();
  drawChannels();
  drawMessages();
  drawThread();
  drawModal();
}

function setStatus(text, className) {
  const node = $('status');
  node.textContent = text;
  node.className = `status ${className}`;
}

function drawPersona() {
  const select = $('persona');
  const signature = JSON.stringify(state.people);
  if (select.dataset.signature !== signature) {
    select.dataset.signature = signature;
    select.replaceChildren(
      ...state.people.map((one) => new Option(one.guest ? `${one.name} (guest account)` : one.name, one.id)),
    );
  }
  select.value = me;
}

function drawChannels() {
  const entry = (id, label) => {
    const node = element('button', id === channel ? 'active' : '', label);
    node.type = 'button';
    node.addEventListener('click', () => go(id));
    return node;
  };
  const rooms = state.channels
    .filter((one) => !one.is_im)
    .map((one) => entry(one.id, `# ${one.name}${one.is_archived ? ' (archived)' : ''}`));
  const direct = state.channels.filter((one) => one.is_im).map((one) => entry(one.id, `✉ ${one.name}`));
  $('channels').replaceChildren(
    element('h2', '', 'Channels'),
    ...rooms,
    element('h2', '', 'Apps'),
    ...direct,
    entry(HOME, '⌂ Home'),
  );
}

function go(id) {
  channel = id;
  thread = null;
  if (id === HOME) act({ kind: 'home' });
  draw();
}

function drawMessages() {
  const current = state.channels.find((one) => one.id === channel);
  $('title').textContent =
    channel === HOME ? 'Home' : current?.is_im ? current.name : `# ${current?.name ?? ''}`;
  $('composer').hidden = channel === HOME;
  $('hints').hidden = channel === HOME;
  if (channel === HOME) {
    sync($('messages'), [{ ts: 'home', home: state.home }], drawHome);
    return;
  }
  const roots = (state.messages[channel] ?? []).filter(
    (one) => one.thread_ts === undefined || one.thread_ts === one.ts || one.broadcast,
  );
  const private_ = state.ephemerals.filter((one) => one.channel === channel && !one.thread_ts);
  const all = [...roots, ...private_].sort(byTs);
  sync($('messages'), all, (message) => drawMessage(message, { inThread: false }));
  drawHints(all.length);
}

function drawHome({ home }) {
  if (!home) return element('p', 'note', 'The app has not published a Home tab for you.');
  return element('div', 'home', renderBlocks(home.blocks, viewContext(home)));
}

function drawHints(count) {
  const node = $('hints');
  if (node.dataset.drawn !== String(count === 0)) {
    node.dataset.drawn = String(count === 0);
    const button = element('button', 'hint', element('span', '', 'Try: '), HINT_REQUEST);
    button.type = 'button';
    button.addEventListener('click', () => say($('composer'), HINT_REQUEST, {}));
    node.replaceChildren(button);
  }
}

function drawThread() {
  const panel = $('thread');
  panel.hidden = !thread || channel === HOME;
  if (panel.hidden) return;
  const all = (state.messages[channel] ?? []).filter((one) => one.ts === thread || one.thread_ts === thread);
  const private_ = state.ephemerals.filter((one) => one.channel === channel && one.thread_ts === thread);
  sync($('replies'), [...all, ...private_].sort(byTs), (message) => drawMessage(message, { inThread: true }));
}

const byTs = (a, b) => (a.ts < b.ts ? -1 : 1);

/** Draws a list by key, touching only what changed, and stays at the bottom if it was there. */
function sync(container, items, build) {
  const atBottom = container.scrollHeight - container.scrollTop - container.clientHeight < 60;
  const view = `${channel}/${thread}/${me}`;
  const moved = container.dataset.view !== view;
  container.dataset.view = view;
  const existing = new Map([...container.children].map((node) => [node.dataset.key, node]));
  let grew = false;
  let previous = null;
  for (const item of items) {
    const signature = JSON.stringify([item, me, channel, troubles.get(item.ts) ?? null]);
    let node = existing.get(item.ts);
    existing.delete(item.ts);
    if (!node || node.signature !== signature) {
      const fresh = build(item);
      fresh.dataset.key = item.ts;
      fresh.signature = signature;
      if (node) node.replaceWith(fresh);
      else grew = true;
      node = fresh;
    }
    const next = previous ? previous.nextSibling : container.firstChild;
    if (next !== node) container.insertBefore(node, next);
    previous = node;
  }
  for (const node of existing.values()) node.remove();
  if (moved || (grew && atBottom)) container.scrollTop = container.scrollHeight;
  const target = highlighted && [...container.children].find((node) => node.dataset.key === highlighted);
  if (target) {
    highlighted = null;
    target.scrollIntoView({ block: 'center' });
    target.classList.add('highlight');
  }
}

function drawMessage(message, { inThread }) {
  const names = allNames();
  const who = names[message.user] ?? message.user;
  const isApp = message.bot_id !== undefined;
  const time = new Date(Number(message.ts) * 1000).toLocaleTimeString([], {
    hour: '2-digit',
    minute: '2-digit',
  });
  const body = element('div', 'body');
  if (message.ephemeral) body.append(element('div', 'only-you', 'Only visible to you'));
  body.append(
    element(
      'div',
      'who',
      element('b', '', who),
      isApp ? element('span', 'tag', 'APP') : null,
      element('time', '', time),
    ),
  );
  if (message.subtype === 'tombstone') body.append(element('p', 'note', message.text));
  else if (message.blocks?.length)
    body.append(element('div', 'blocks', renderBlocks(message.blocks, messageContext(message, names))));
  else body.append(element('div', 'b-text', mrkdwn(message.text, names)));
  for (const file of message.files ?? []) body.append(fileLink(file));
  if (message.edited) body.append(element('small', 'note', '(edited)'));
  if (troubles.has(message.ts)) body.append(element('div', 'trouble', `⚠ ${troubles.get(message.ts)}`));
  if (message.reactions?.length)
    body.append(
      element('div', 'reactions', ...message.reactions.map((one) => reaction(message, one, names))),
    );
  if (!message.ephemeral && message.subtype !== 'tombstone') body.append(drawFooter(message, inThread));
  const avatar = element('div', `avatar ${isApp ? 'app' : ''}`, isApp ? '✓' : initials(who));
  avatar.dataset.tone = String([...message.user].reduce((sum, letter) => sum + letter.charCodeAt(0), 0) % 5);
  return element('article', message.ephemeral ? 'message private' : 'message', avatar, body);
}

function initials(name) {
  return name
    .split('-')
    .map((part) => part[0] ?? '')
    .join('')
    .slice(0, 2)
    .toUpperCase();
}

function fileLink(file) {
  const node = element('a', 'file', `📎 ${file.title ?? file.name}`);
  node.href = `/files/${encodeURIComponent(file.id)}`;
  return element('div', '', node);
}

function reaction(message, one, names) {
  const mine = one.users.includes(me);
  const node = element('button', mine ? 'mine' : '', `${emoji(one.name)} ${one.count}`);
  node.type = 'button';
  node.title = `${one.users.map((id) => names[id] ?? id).join(', ')} · :${one.name}:`;
  node.addEventListener('click', () =>
    act({ kind: 'react', channel, ts: message.ts, name: one.name, what: mine ? 'remove' : 'add' }),
  );
  return node;
}

function drawFooter(message, inThread) {
  const footer = element('div', 'footer');
  if (!inThread) {
    const count = message.reply_count ?? 0;
    const open = element(
      'button',
      'replies',
      count === 0 ? 'Reply' : `${count} ${count === 1 ? 'reply' : 'replies'}`,
    );
    open.type = 'button';
    open.addEventListener('click', () => {
      thread = message.thread_ts ?? message.ts;
      draw();
      $('reply').querySelector('textarea').focus();
    });
    footer.append(open);
  }
  const thumb = element('button', 'react', '👍');
  thumb.type = 'button';
  thumb.title = 'React';
  thumb.addEventListener('click', () =>
    act({ kind: 'react', channel, ts: message.ts, name: '+1', what: 'add' }),
  );
  footer.append(thumb);
  return footer;
}

function allNames() {
  return { ...state.names, ...Object.fromEntries(state.channels.map((one) => [one.id, one.name])) };
}

function messageContext(message, names) {
  return {
    names,
    values: message.inputs,
    act: (press) => click(press, { channel, ts: message.ts }, message.ts),
  };
}

async function click(press, where, key) {
  if (press.element.confirm && !(await confirmed(press.element.confirm))) return;
  troubles.delete(key);
  const { actionId, blockId, chosen } = press;
  const result = await act({
    kind: 'click',
    ...where,
    actionId,
    blockId,
    ...(chosen === undefined ? {} : { chosen }),
  });
  if (!result.error) return;
  troubles.set(key, result.error);
  if (where.viewId) toast(result.error);
  draw();
}

function confirmed(confirm) {
  const dialog = $('confirm');
  return new Promise((resolve) => {
    const answer = (label, value, className) => {
      const node = element('button', className, textNode(label, allNames()));
      node.type = 'button';
      node.addEventListener('click', () => dialog.close(value));
      return node;
    };
    dialog.replaceChildren(
      element('h2', '', textNode(confirm.title, allNames())),
      element('div', 'b-text', textNode(confirm.text, allNames())),
      element(
        'div',
        'modal-actions',
        answer(confirm.deny, 'no', 'ghost'),
        answer(confirm.confirm, 'yes', `b-button ${confirm.style ?? 'primary'}`),
      ),
    );
    dialog.returnValue = 'no';
    dialog.onclose = () => resolve(dialog.returnValue === 'yes');
    dialog.showModal();
  });
}

/** What has been typed into the open modal, by view and action id; survives redraws. */
const typed = { viewId: '', values: {}, errors: {} };

function viewContext(view) {
  return {
    names: allNames(),
    values: view.state.values,
    errors: typed.errors,
    choose: (_blockId, actionId, value) => {
      if (view.type === 'modal' && value !== undefined) typed.values[actionId] = value;
    },
    act: (press) => click(press, { viewId: view.id }, view.id),
  };
}

function drawModal() {
  const dialog = $('modal');
  const view = state.views.at(-1);
  if (!view) {
    if (dialog.open) dialog.close();
    dialog.dataset.signature = '';
    typed.viewId = '';
    return;
  }
  const signature = `${view.id}/${view.hash}/${JSON.stringify(typed.errors)}`;
  if (dialog.dataset.signature !== signature) {
    if (typed.viewId !== view.id) Object.assign(typed, { viewId: view.id, values: {}, errors: {} });
    dialog.dataset.signature = signature;
    buildModal(dialog, view);
  }
  if (!dialog.open) dialog.showModal();
}

function buildModal(dialog, view) {
  const kept = { ...typed.values };
  const close = element('button', 'ghost', view.close ? textNode(view.close, {}) : 'Close');
  close.type = 'button';
  close.addEventListener('click', () => closeView(view));
  const submit = view.submit ? element('button', 'b-button primary', textNode(view.submit, {})) : null;
  const form = element(
    'form',
    '',
    element('h2', '', textNode(view.title, {})),
    element(
      'div',
      'modal-body',
      renderBlocks(view.blocks, { ...viewContext(view), values: withTyped(view, kept) }),
    ),
    element('div', 'modal-actions', close, submit),
  );
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    submitView(view);
  });
  dialog.replaceChildren(form);
}

/** The view's stored state, overlaid with text typed since. */
function withTyped(view, kept) {
  const values = structuredClone(view.state.values);
  for (const block of Object.values(values)) {
    for (const [actionId, one] of Object.entries(block)) {
      if (typeof kept[actionId] === 'string' && 'value' in one) one.value = kept[actionId];
    }
  }
  return values;
}

async function submitView(view) {
  const result = await act({ kind: 'submit', viewId: view.id, values: typed.values });
  typed.errors = result.fieldErrors ?? {};
  if (result.error && !result.fieldErrors) toast(result.error);
  draw();
}

async function closeView(view) {
  typed.errors = {};
  const result = await act({ kind: 'close', viewId: view.id });
  if (result.error) toast(result.error);
}

$('modal').addEventListener('cancel', (event) => {
  event.preventDefault();
  const view = state?.views.at(-1);
  if (view) closeView(view);
});

function toast(text) {
  const node = $('toast');
  node.textContent = text;
  node.hidden = false;
  clearTimeout(node.timer);
  node.timer = setTimeout(() => {
    node.hidden = true;
  }, 6000);
}

async function say(_form, text, extra) {
  const result = await act({ kind: 'say', channel, text, ...extra });
  if (result.error) toast(result.error);
  else if (!extra.threadTs && result.ts) $('messages').scrollTop = $('messages').scrollHeight;
  return !result.error;
}

for (const id of ['composer', 'reply']) {
  const form = $(id);
  const box = form.querySelector('textarea');
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const text = box.value;
    if (text.trim() === '') return;
    box.value = '';
    const sent = await say(form, text, id === 'reply' ? { threadTs: thread } : {});
    if (!sent) box.value = text;
  });
  box.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.querySelector('.at').addEventListener('click', () => {
    box.value = `@Countersign ${box.value}`;
    box.focus();
  });
}

$('persona').addEventListener('change', (event) => {
  me = event.target.value;
  sessionStorage.setItem('me', me);
  typed.viewId = '';
  troubles.clear();
  load();
});
$('thread')
  .querySelector('.close')
  .addEventListener('click', () => {
    thread = null;
    draw();
  });

function showRepository(shown) {
  $('repo').hidden = !shown;
  $('repo-toggle').setAttribute('aria-expanded', String(shown));
  if (shown) loadPulls();
}
$('repo-toggle').addEventListener('click', () => showRepository($('repo').hidden));
$('repo')
  .querySelector('.close')
  .addEventListener('click', () => showRepository(false));

async function loadPulls() {
  if ($('repo').hidden) return;
  const answer = await fetch('/page/github')
    .then((response) => response.json())
    .catch(() => ({ pulls: [], error: 'not reachable' }));
  const rows = answer.pulls.map((pull) =>
    element(
      'div',
      'pull',
      element('span', `state ${pull.state}`, pull.state),
      element('b', '', `#${pull.number} ${pull.title}`),
      element(
        'small',
        '',
        `${pull.head} → ${pull.base} · ${(pull.merge_commit_sha ?? pull.sha).slice(0, 7)}`,
      ),
    ),
  );
  $('pulls').replaceChildren(
    ...(rows.length > 0 ? rows : [element('p', 'note', answer.error ?? 'No pull requests.')]),
  );
}

const hints = new EventSource('/page/events');
hints.onmessage = () => {
  load();
  loadPulls();
};
hints.onerror = () => setStatus('Reconnecting…', 'bad');
// A merge happens in GitHub, which gives this page no hint.
setInterval(loadPulls, 3000);
showRepository(window.innerWidth >= 1100);
load();
