/** Who is acting, and the places they can go: channels, threads they follow, direct messages. Unread marks on all of them. */
import {
  act,
  allNames,
  draw,
  HOME,
  initials,
  load,
  remember,
  shortTime,
  state,
  THREADS,
  tone,
  ui,
} from './client.js';
import { glyph } from './glyphs.js';
import { element } from './mrkdwn.js';

const $ = (id) => document.getElementById(id);

export function avatarOf(id, name, isApp) {
  const node = element('span', `avatar ${isApp ? 'app' : ''}`, isApp ? glyph('seal') : initials(name));
  node.dataset.tone = tone(id);
  node.setAttribute('aria-hidden', 'true');
  return node;
}

/** The people to be, as radio buttons: one click, or arrow keys. */
export function drawPeople() {
  const group = $('people');
  const signature = JSON.stringify([state.people, ui.me]);
  if (group.dataset.signature === signature) return;
  group.dataset.signature = signature;
  const hadFocus = group.contains(document.activeElement);
  group.replaceChildren(
    ...state.people.map((one) => {
      const isMe = one.id === ui.me;
      const waiting = !isMe && one.waiting > 0;
      const node = element(
        'button',
        isMe ? 'person current' : 'person',
        avatarOf(one.id, one.name, false),
        element('span', 'person-name', one.name),
        waiting ? element('span', 'badge', String(one.waiting)) : null,
      );
      node.type = 'button';
      node.dataset.person = one.id;
      node.tabIndex = isMe ? 0 : -1;
      node.setAttribute('role', 'radio');
      node.setAttribute('aria-checked', String(isMe));
      const unread = waiting ? `, ${one.waiting} unread ${one.waiting === 1 ? 'mention' : 'mentions'}` : '';
      node.setAttribute('aria-label', `${one.name}${one.guest ? ', a guest account' : ''}${unread}`);
      node.title = one.guest ? `${one.name} (guest account)` : one.name;
      node.addEventListener('click', () => become(one.id));
      return node;
    }),
  );
  if (hadFocus) group.querySelector('.current')?.focus();
}

$('people').addEventListener('keydown', (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const at = state.people.findIndex((one) => one.id === ui.me);
  become(state.people.at((at + step) % state.people.length).id);
});

async function become(id) {
  if (id === ui.me) return;
  ui.me = id;
  sessionStorage.setItem('me', id);
  ui.troubles.clear();
  ui.readAtEntry = '';
  await load();
  enter();
}

/** Goes to a channel, to Home or to Threads. */
export function go(id, thread = null) {
  ui.channel = id;
  ui.thread = thread;
  if (id === HOME) act({ kind: 'home' });
  enter();
  draw();
  // Its buttons are the next stops of the Tab key.
  if (thread) $('replies').focus({ preventScroll: true });
}

/** Notes how far this place was read, before it counts as read. */
export function enter() {
  ui.readAtEntry = state.channels.find((one) => one.id === ui.channel)?.read ?? '';
  remember();
}

export function drawRail() {
  const rooms = state.channels.filter((one) => !one.is_im);
  const direct = state.channels.filter((one) => one.is_im);
  const threads = state.unread.filter((one) => one.thread !== null);
  const marks = (list) => ({
    count: list.reduce((sum, one) => sum + one.count, 0),
    mentions: list.reduce((sum, one) => sum + one.mentions, 0),
  });
  const ofChannel = (id) => marks(state.unread.filter((one) => one.channel === id && one.thread === null));
  const signature = JSON.stringify([state.channels, state.unread, ui.channel, ui.me]);
  const rail = $('rail');
  if (rail.dataset.signature === signature) return;
  rail.dataset.signature = signature;
  const focused = rail.contains(document.activeElement) ? document.activeElement.dataset.place : null;
  rail.replaceChildren(
    ...(threads.length > 0 ? [entry(THREADS, '⤷', 'Threads', marks(threads))] : []),
    element('h2', '', 'Channels'),
    ...rooms.map((one) =>
      entry(one.id, '#', `${one.name}${one.is_archived ? ' (archived)' : ''}`, ofChannel(one.id)),
    ),
    element('h2', '', 'Apps'),
    ...direct.map((one) => entry(one.id, '✓', one.name, ofChannel(one.id))),
  );
  if (focused) rail.querySelector(`[data-place="${focused}"]`)?.focus();
}

function entry(id, sign, label, { count, mentions }) {
  const isHere = id === ui.channel || (ui.channel === HOME && id.startsWith('D'));
  const node = element(
    'button',
    `place${isHere ? ' active' : ''}${count > 0 ? ' unread' : ''}`,
    element('span', 'sign', sign),
    element('span', 'label', label),
    mentions > 0 ? element('span', 'badge', String(mentions)) : null,
  );
  node.type = 'button';
  node.dataset.place = id;
  if (isHere) node.setAttribute('aria-current', 'page');
  const unread = mentions > 0 ? `${mentions} unread for you` : count > 0 ? 'unread' : '';
  node.setAttribute('aria-label', unread ? `${label}, ${unread}` : label);
  node.addEventListener('click', () => go(id));
  return node;
}

/** The threads this person follows, newest first, as rows that lead into them. */
export function threadRows() {
  const names = allNames();
  return state.unread
    .filter((one) => one.thread !== null)
    .sort((a, b) => (a.latest < b.latest ? 1 : -1))
    .map((one) => {
      const messages = state.messages[one.channel] ?? [];
      const root = messages.find((message) => message.ts === one.thread);
      const last = messages.find((message) => message.ts === one.latest);
      const words = (message) => element('span', 'excerpt', excerpt(message, names));
      const node = element(
        'button',
        one.count > 0 ? 'thread-row unread' : 'thread-row',
        element('span', 'thread-place', `# ${names[one.channel] ?? ''}`),
        element('span', 'thread-root', element('b', '', names[root?.user] ?? ''), ' ', words(root)),
        element(
          'span',
          'thread-last',
          element('b', '', names[last?.user] ?? ''),
          ' ',
          words(last),
          element('time', '', ` ${shortTime(one.latest)}`),
        ),
        one.count > 0 ? element('span', 'badge', `${one.count} new`) : null,
      );
      node.type = 'button';
      node.addEventListener('click', () => go(one.channel, one.thread));
      return {
        ts: `${one.channel}/${one.thread}`,
        signature: JSON.stringify([one, root?.text, last?.text]),
        node,
      };
    });
}

function excerpt(message, names) {
  return String(message?.text ?? '')
    .replace(/<@([A-Z0-9]+)[^>]*>/g, (_whole, id) => `@${names[id] ?? id}`)
    .replace(/<!date\^[^|>]*\|([^>]*)>/g, '$1')
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&amp;', '&')
    .replaceAll('*', '')
    .slice(0, 140);
}
