/** The page put together: draws everything from the state, listens for hints, and remembers what a browser remembers. */

import { renderBlocks } from './blocks.js';
import { act, draw, HOME, load, onState, remember, setStatus, state, THREADS, ui } from './client.js';
import { buildComposer, say } from './composer.js';
import { glyph } from './glyphs.js';
import { channelItems, drawItem, sync, threadItems } from './messages.js';
import { drawModal, viewContext } from './modal.js';
import { element } from './mrkdwn.js';
import { drawPeople, drawRail, enter, go, threadRows } from './rail.js';
import { loadRepository, showRepository } from './repository.js';
import { TRIES } from './tries.js';

const $ = (id) => document.getElementById(id);
const current = () => state.channels.find((one) => one.id === ui.channel);

const composer = buildComposer($('composer'), {
  label: 'Message',
  placeOf: () => ({
    channel: ui.channel,
    threadTs: null,
    placeholder: current()?.is_im ? `Message ${current().name}` : `Message #${current()?.name ?? ''}`,
  }),
});
const reply = buildComposer($('reply'), {
  label: 'Reply',
  placeOf: () => ({ channel: ui.channel, threadTs: ui.thread, placeholder: 'Reply…' }),
});

let entered = false;

onState(() => {
  const own = state.channels.find((one) => one.is_im)?.id;
  // Whoever stood in somebody else's direct message stands in their own after becoming another person.
  if (ui.channel.startsWith('D') && ui.channel !== own && own) ui.channel = own;
  if (!current() && ui.channel !== HOME && ui.channel !== THREADS) ui.channel = state.channels[0]?.id ?? HOME;
  if (!entered) {
    entered = true;
    enter();
    if (ui.channel === HOME) act({ kind: 'home' });
  }
  drawPeople();
  drawRail();
  drawMain();
  drawThread();
  drawModal();
  markRead();
});

function drawMain() {
  const isPlace = current() !== undefined;
  $('composer').hidden = !isPlace;
  $('tries').hidden = !isPlace;
  drawTitle();
  if (ui.channel === HOME) {
    sync($('messages'), [{ ts: 'home', home: state.home }], drawHome);
    return;
  }
  if (ui.channel === THREADS) {
    sync($('messages'), threadRows(), (row) => row.node);
    return;
  }
  const items = channelItems(ui.channel);
  sync($('messages'), items.length > 0 ? items : [{ ts: 'welcome', name: current().name }], (item) =>
    item.ts === 'welcome' ? welcome() : drawItem(item, { inThread: false }),
  );
  composer.draw();
  drawTries(items.length > 0);
}

function drawTitle() {
  const isApp = ui.channel === HOME || current()?.is_im === true;
  const title = isApp ? state.bot.name : ui.channel === THREADS ? 'Threads' : `# ${current()?.name ?? ''}`;
  if ($('title').textContent !== title) $('title').textContent = title;
  document.title = `${title} · Countersign`;
  const tabs = $('tabs');
  tabs.hidden = !isApp;
  const direct = state.channels.find((one) => one.is_im)?.id;
  const signature = `${isApp}/${ui.channel}`;
  if (!isApp || tabs.dataset.signature === signature) return;
  tabs.dataset.signature = signature;
  const tab = (id, label) => {
    const node = element('button', id === ui.channel ? 'tab current' : 'tab', label);
    node.type = 'button';
    node.setAttribute('aria-pressed', String(id === ui.channel));
    node.addEventListener('click', () => go(id));
    return node;
  };
  tabs.replaceChildren(tab(HOME, 'Home'), ...(direct ? [tab(direct, 'Messages')] : []));
}

function drawHome({ home }) {
  if (home) return element('div', 'home', renderBlocks(home.blocks, viewContext(home)));
  return element(
    'div',
    'empty',
    element('h2', '', 'Nothing on Home yet'),
    element('p', 'note', 'The app has not published a Home tab for you. Its messages are beside it.'),
  );
}

function welcome() {
  return element(
    'div',
    'empty',
    element('span', 'seal big', glyph('seal')),
    element('h2', '', 'Give an agent something to do'),
    element(
      'p',
      'note',
      'It works by itself. What it may not do alone waits here for a person’s countersign, and you can be every one of those people.',
    ),
  );
}

/** The ready list: cards where nothing was said yet, a slim row afterwards. */
function drawTries(isSlim) {
  const node = $('tries');
  const signature = `${isSlim}/${ui.channel}`;
  node.className = isSlim ? 'tries slim' : 'tries';
  if (node.dataset.signature === signature) return;
  node.dataset.signature = signature;
  node.replaceChildren(
    element('span', 'tries-label', 'Try'),
    ...TRIES.map((one) => {
      const card = element(
        'button',
        'try',
        element('span', `tier ${one.tier}`, one.tier),
        element('span', 'try-text', one.text),
        element('span', 'try-says', one.says),
      );
      card.type = 'button';
      card.dataset.tier = one.tier;
      card.title = one.says;
      card.addEventListener('click', async () => {
        const mention = current()?.is_im ? '' : `@${state.bot.name} `;
        card.disabled = true;
        await say(`${mention}${one.text}`, { channel: ui.channel });
        card.disabled = false;
      });
      return card;
    }),
  );
}

function drawThread() {
  const panel = $('thread');
  panel.hidden = !ui.thread || !current();
  document.body.classList.toggle('with-thread', !panel.hidden);
  if (panel.hidden) return;
  sync($('replies'), threadItems(ui.channel, ui.thread), (message) => drawItem(message, { inThread: true }));
  reply.draw();
}

/** What is on the screen of a person who is looking counts as read; each mark is sent once. */
const marked = new Set();
function markRead() {
  if (document.visibilityState !== 'visible' || !current()) return;
  for (const { channel, thread, count, latest } of state.unread) {
    if (channel !== ui.channel || count === 0) continue;
    if (thread !== null && thread !== ui.thread) continue;
    const key = `${ui.me}/${channel}/${thread}/${latest}`;
    if (marked.has(key)) continue;
    marked.add(key);
    act({ kind: 'read', channel, ...(thread === null ? {} : { thread }), ts: latest });
  }
}
document.addEventListener('visibilitychange', () => draw());

$('thread')
  .querySelector('.close')
  .addEventListener('click', () => {
    ui.thread = null;
    remember();
    draw();
    $('messages').focus();
  });

const prefersDark = matchMedia('(prefers-color-scheme: dark)');
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem('theme', theme);
}
setTheme(localStorage.getItem('theme') ?? '');
$('theme').append(glyph('sun'));
$('theme').addEventListener('click', () => {
  const chosen = document.documentElement.dataset.theme || (prefersDark.matches ? 'dark' : 'light');
  setTheme(chosen === 'dark' ? 'light' : 'dark');
});
$('seal').append(glyph('seal'));

// What scrolls is reachable by keyboard.
for (const id of ['messages', 'replies']) $(id).tabIndex = 0;

const hints = new EventSource('/page/events');
hints.onmessage = () => load();
hints.addEventListener('repository', () => loadRepository());
hints.onopen = () => loadRepository();
hints.onerror = () => setStatus('Reconnecting…');
showRepository(window.innerWidth >= 1180);
load();
