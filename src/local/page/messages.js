/**
 * Messages of a channel or a thread. A message's node is replaced only when that message changed, so a press is never lost to a redraw
 * of another, and whoever had the focus inside a replaced message keeps it.
 */
import { renderBlocks, textNode } from './blocks.js';
import {
  act,
  allNames,
  announce,
  draw,
  HOME,
  remember,
  shortTime,
  state,
  THREADS,
  toast,
  ui,
} from './client.js';
import { glyph } from './glyphs.js';
import { element, emoji, mrkdwn } from './mrkdwn.js';
import { avatarOf } from './rail.js';

const $ = (id) => document.getElementById(id);
const QUICK_REACTIONS = ['+1', 'eyes', 'white_check_mark'];
const byTs = (a, b) => (a.ts < b.ts ? -1 : 1);

/** The messages of a channel that are not in a thread, private ones in their place, with day and "New" lines. */
export function channelItems(channel) {
  const roots = (state.messages[channel] ?? []).filter(
    (one) => one.thread_ts === undefined || one.thread_ts === one.ts || one.broadcast,
  );
  const hidden = state.ephemerals.filter((one) => one.channel === channel && !one.thread_ts);
  return withLines([...roots, ...hidden].sort(byTs), ui.readAtEntry);
}

export function threadItems(channel, thread) {
  const all = (state.messages[channel] ?? []).filter((one) => one.ts === thread || one.thread_ts === thread);
  const hidden = state.ephemerals.filter((one) => one.channel === channel && one.thread_ts === thread);
  return [...all, ...hidden].sort(byTs);
}

function withLines(messages, readAtEntry) {
  const items = [];
  let day = '';
  let saidNew = readAtEntry === '';
  for (const message of messages) {
    const date = new Date(Number(message.ts) * 1000);
    if (date.toDateString() !== day) {
      day = date.toDateString();
      const today = day === new Date().toDateString();
      const label = today
        ? 'Today'
        : date.toLocaleDateString([], { weekday: 'long', day: 'numeric', month: 'long' });
      items.push({ ts: `day-${day}`, line: label });
    }
    if (!saidNew && message.ts > readAtEntry && message.user !== ui.me) {
      saidNew = true;
      items.push({ ts: 'new', line: 'New', fresh: true });
    }
    items.push(message);
  }
  return items;
}

function isAtEnd(container) {
  return container.scrollHeight - container.scrollTop - container.clientHeight < 60;
}

/** Whether the end is in view, or the beginning of a last message that is higher than the view. */
function showsNewest(container) {
  const last = container.lastElementChild;
  return !last || isAtEnd(container) || Math.abs(above(container, last)) < 60;
}

/** Scrolls to the end; of a last message that is higher than the view, to its beginning: what a card says comes before its buttons. */
function showNewest(container) {
  container.scrollTop = container.scrollHeight;
  const last = container.lastElementChild;
  if (last) container.scrollTop -= Math.max(0, above(container, last));
}

/** How far the node begins above the view. */
function above(container, node) {
  return container.getBoundingClientRect().top - node.getBoundingClientRect().top;
}

/** Draws a list by key, touching only what changed; shows what is new to whoever has seen the newest before, and moves nobody else. */
export function sync(container, items, build) {
  const isList = container.id === 'messages' && (ui.channel === HOME || ui.channel === THREADS);
  const atNewest = showsNewest(container);
  const atEnd = isAtEnd(container);
  const last = container.lastElementChild?.dataset.key;
  const view = `${ui.channel}/${container.id === 'replies' ? ui.thread : ''}/${ui.me}`;
  const moved = container.dataset.view !== view;
  container.dataset.view = view;
  const existing = new Map([...container.children].map((node) => [node.dataset.key, node]));
  let previous = null;
  for (const item of items) {
    const busy = [...ui.busy].filter((key) => key.startsWith(`${item.ts}/`));
    const unread = state.unread.find((one) => one.channel === ui.channel && one.thread === item.ts)?.count;
    const signature = JSON.stringify([
      item,
      ui.me,
      ui.channel,
      ui.troubles.get(item.ts) ?? null,
      busy,
      unread ?? 0,
    ]);
    let node = existing.get(item.ts);
    existing.delete(item.ts);
    if (!node || node.signature !== signature) {
      const fresh = build(item);
      fresh.dataset.key = item.ts;
      fresh.signature = signature;
      fresh.content = JSON.stringify([item.blocks, item.text]);
      if (node) {
        replace(node, fresh);
        if (!moved && node.content !== fresh.content) {
          fresh.classList.add('changed');
          if (item.text) announce(`Updated: ${item.text}`);
        }
      } else {
        if (!moved && item.text && item.user !== ui.me)
          announce(`${allNames()[item.user] ?? ''}: ${item.text}`);
      }
      node = fresh;
    }
    const next = previous ? previous.nextSibling : container.firstChild;
    if (next !== node) container.insertBefore(node, next);
    previous = node;
  }
  for (const node of existing.values()) node.remove();
  const isNew = container.lastElementChild?.dataset.key !== last;
  if (isList) {
    if (moved) container.scrollTop = 0;
  } else if (moved || (isNew && atNewest)) showNewest(container);
  // Whoever is about to press a button at the end stays there while the message above it is redrawn.
  else if (atEnd) container.scrollTop = container.scrollHeight;
  const target =
    ui.highlighted && [...container.children].find((node) => node.dataset.key === ui.highlighted);
  if (target) {
    ui.highlighted = null;
    target.scrollIntoView({ block: 'center' });
    target.classList.add('highlight');
  }
}

/** Replaces a node; the focus goes to the same control in the new one, or to the whole message when that is gone. */
function replace(old, fresh) {
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  old.replaceWith(fresh);
  if (!focused) return;
  const same =
    focused.dataset.focus && fresh.querySelector(`[data-focus="${CSS.escape(focused.dataset.focus)}"]`);
  (same || fresh).focus({ preventScroll: true });
}

export function drawItem(message, { inThread }) {
  if (message.line) {
    const node = element('div', message.fresh ? 'line fresh' : 'line', element('span', '', message.line));
    node.setAttribute('role', 'separator');
    return node;
  }
  return drawMessage(message, inThread);
}

function drawMessage(message, inThread) {
  const names = allNames();
  const who = names[message.user] ?? message.user;
  const isApp = message.bot_id !== undefined;
  const body = element('div', 'body');
  if (message.ephemeral) body.append(onlyYou(message));
  const time = element('time', '', shortTime(message.ts));
  time.title = new Date(Number(message.ts) * 1000).toLocaleString();
  body.append(
    element('div', 'who', element('b', '', who), isApp ? element('span', 'tag', 'APP') : null, time),
  );
  if (message.subtype === 'tombstone') body.append(element('p', 'note', message.text));
  else if (message.blocks?.length)
    body.append(element('div', 'blocks', renderBlocks(message.blocks, messageContext(message, names))));
  else body.append(element('div', 'b-text', mrkdwn(message.text, names)));
  for (const file of message.files ?? []) body.append(fileCard(file));
  if (message.edited && !isApp) body.append(element('small', 'note', '(edited)'));
  if (ui.troubles.has(message.ts)) {
    const trouble = element('div', 'trouble', `⚠ ${ui.troubles.get(message.ts)}`);
    trouble.setAttribute('role', 'alert');
    body.append(trouble);
  }
  if (message.reactions?.length)
    body.append(
      element('div', 'reactions', ...message.reactions.map((one) => reaction(message, one, names))),
    );
  if (!inThread && message.reply_count > 0) body.append(threadLink(message, names));
  const avatar = avatarOf(message.user, who, isApp);
  const node = element('article', message.ephemeral ? 'message private' : 'message', avatar, body);
  node.tabIndex = -1;
  node.dataset.author = message.user;
  if (!message.ephemeral && message.subtype !== 'tombstone') node.append(toolbar(message, inThread));
  return node;
}

function onlyYou(message) {
  const dismiss = button('Dismiss', 'dismiss');
  dismiss.addEventListener('click', () => act({ kind: 'dismiss', channel: message.channel, ts: message.ts }));
  return element('div', 'only-you', 'Only visible to you · ', dismiss);
}

function fileCard(file) {
  const size = file.size === undefined ? '' : ` · ${readable(file.size)}`;
  const node = element(
    'a',
    'file',
    glyph('file'),
    element(
      'span',
      '',
      element('b', '', file.title ?? file.name),
      element('small', '', `${file.name}${size}`),
    ),
  );
  node.href = `/files/${encodeURIComponent(file.id)}`;
  node.setAttribute('download', file.name ?? '');
  return node;
}

function readable(bytes) {
  return bytes < 1000 ? `${bytes} bytes` : `${(bytes / 1000).toFixed(bytes < 100_000 ? 1 : 0)} kB`;
}

function reaction(message, one, names) {
  const mine = one.users.includes(ui.me);
  const node = element('button', mine ? 'mine' : '', emoji(one.name), element('span', '', String(one.count)));
  node.type = 'button';
  const who = one.users.map((id) => names[id] ?? id).join(', ');
  node.title = `${who} · :${one.name}:`;
  node.setAttribute('aria-pressed', String(mine));
  node.setAttribute('aria-label', `${one.name.replaceAll('_', ' ')}, ${one.count}: ${who}`);
  node.dataset.focus = `reaction-${one.name}`;
  node.addEventListener('click', () =>
    act({
      kind: 'react',
      channel: ui.channel,
      ts: message.ts,
      name: one.name,
      what: mine ? 'remove' : 'add',
    }),
  );
  return node;
}

function threadLink(message, names) {
  const fresh = state.unread.find((one) => one.channel === ui.channel && one.thread === message.ts);
  const count = message.reply_count;
  const node = element(
    'button',
    fresh?.count > 0 ? 'replies unread' : 'replies',
    ...(message.reply_users ?? [])
      .slice(0, 4)
      .map((id) => avatarOf(id, names[id] ?? id, id === state.bot.id)),
    element('span', 'count', `${count} ${count === 1 ? 'reply' : 'replies'}`),
    fresh?.count > 0
      ? element('span', 'badge', `${fresh.count} new`)
      : element('span', 'last', `Last reply ${shortTime(message.latest_reply)}`),
  );
  node.type = 'button';
  node.dataset.focus = 'replies';
  node.addEventListener('click', () => openThread(message));
  return node;
}

function openThread(message) {
  ui.thread = message.thread_ts ?? message.ts;
  remember();
  draw();
  $('reply').querySelector('textarea')?.focus();
}

function toolbar(message, inThread) {
  const bar = element('div', 'toolbar');
  bar.setAttribute('role', 'group');
  bar.setAttribute('aria-label', 'Message actions');
  for (const name of QUICK_REACTIONS) {
    const node = button('', 'icon', emoji(name));
    node.setAttribute('aria-label', `React with ${name.replaceAll('_', ' ')}`);
    node.dataset.focus = `react-${name}`;
    node.addEventListener('click', () =>
      act({ kind: 'react', channel: ui.channel, ts: message.ts, name, what: 'add' }),
    );
    bar.append(node);
  }
  if (!inThread) {
    const node = button('', 'icon', glyph('reply'));
    node.setAttribute('aria-label', 'Reply in thread');
    node.dataset.focus = 'reply';
    node.addEventListener('click', () => openThread(message));
    bar.append(node);
  }
  return bar;
}

function button(label, className, ...children) {
  const node = element('button', className, label, ...children);
  node.type = 'button';
  return node;
}

function messageContext(message, names) {
  return {
    names,
    key: message.ts,
    values: message.inputs,
    isBusy: (blockId, actionId) => ui.busy.has(`${message.ts}/${blockId}/${actionId}`),
    act: (press) => click(press, { channel: message.channel ?? ui.channel, ts: message.ts }, message.ts),
  };
}

/** Presses something of a message or a view. It shows as busy until the app has acknowledged, and says when it did not. */
export async function click(press, where, key) {
  const { actionId, blockId, chosen } = press;
  const mark = `${key}/${blockId}/${actionId}`;
  if (ui.busy.has(mark)) return;
  if (press.element.confirm && !(await confirmed(press.element.confirm))) return;
  ui.troubles.delete(key);
  ui.busy.add(mark);
  draw();
  const result = await act({
    kind: 'click',
    ...where,
    actionId,
    blockId,
    ...(chosen === undefined ? {} : { chosen }),
  });
  ui.busy.delete(mark);
  if (result.error) {
    ui.troubles.set(key, result.error);
    if (where.viewId) toast(result.error);
  }
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
        answer(confirm.deny, 'no', 'b-button'),
        answer(confirm.confirm, 'yes', `b-button ${confirm.style ?? 'primary'}`),
      ),
    );
    dialog.returnValue = 'no';
    dialog.onclose = () => resolve(dialog.returnValue === 'yes');
    dialog.showModal();
  });
}
