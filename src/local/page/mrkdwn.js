/**
 * Slack's mrkdwn, and the Markdown of `markdown` blocks, as DOM nodes. Untrusted text only ever becomes a text node;
 * a link keeps its real target visible in its title and is a link only for http, https and mailto.
 */
import { DRAWN_CHARACTERS, drawnEmoji } from './glyphs.js';

const EMOJI = {
  eyes: '👀',
  white_check_mark: '✅',
  heavy_check_mark: '✔️',
  x: '❌',
  hourglass: '⌛',
  hourglass_flowing_sand: '⏳',
  warning: '⚠️',
  rotating_light: '🚨',
  tada: '🎉',
  '+1': '👍',
  thumbsup: '👍',
  '-1': '👎',
  thumbsdown: '👎',
  lock: '🔒',
  no_entry: '⛔',
  question: '❓',
  robot_face: '🤖',
  memo: '📝',
  mag: '🔍',
  hammer_and_wrench: '🛠️',
  arrows_counterclockwise: '🔄',
  wave: '👋',
  fire: '🔥',
  rocket: '🚀',
  large_green_circle: '🟢',
  large_yellow_circle: '🟡',
  red_circle: '🔴',
  pushpin: '📌',
  information_source: 'ℹ️',
  stop_sign: '🛑',
};

/** An emoji as a node: drawn by the page where it can, else the character, else its name between colons. */
export function emoji(name) {
  return drawnEmoji(name) ?? document.createTextNode(Object.hasOwn(EMOJI, name) ? EMOJI[name] : `:${name}:`);
}

/** Text as nodes in which the characters that this page draws itself are drawn. */
function words(text) {
  const out = document.createDocumentFragment();
  for (const part of text.split(DRAWN_CHARACTERS)) if (part !== '') out.append(drawnEmoji(part) ?? part);
  return out;
}

export function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const decode = (text) => text.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&');

export function link(url, label) {
  if (!/^(https?:\/\/|mailto:)/i.test(url)) return document.createTextNode(label ?? url);
  const node = element('a', '', label ?? url);
  node.href = url;
  node.title = url;
  node.target = '_blank';
  node.rel = 'noopener noreferrer';
  return node;
}

/** Text of a `mrkdwn` object. `names` maps user and channel ids to what is shown. */
export function mrkdwn(text, names) {
  const out = document.createDocumentFragment();
  for (const [index, part] of String(text).split('```').entries()) {
    if (index % 2 === 1) out.append(element('pre', '', decode(part.replace(/^\n|\n$/g, ''))));
    else out.append(lines(part, (line) => inline(line, names)));
  }
  return out;
}

/** Plain text: nothing is formatted; with `emoji: false` colon codes stay letters. Slack decodes its three entities here too. */
export function plain(text, { emoji: withEmoji = true } = {}) {
  const out = document.createDocumentFragment();
  for (const [index, line] of String(text).split('\n').entries()) {
    if (index > 0) out.append(element('br'));
    for (const [at, part] of line.split(/:([a-z0-9_+-]+):/).entries()) {
      if (at % 2 === 0) out.append(words(decode(part)));
      else out.append(withEmoji && Object.hasOwn(EMOJI, part) ? emoji(part) : `:${part}:`);
    }
  }
  return out;
}

function lines(text, render) {
  const out = document.createDocumentFragment();
  let quote = null;
  for (const [index, line] of text.split('\n').entries()) {
    const quoted = /^(?:&gt;|>)\s?(.*)$/.exec(line);
    if (quoted) {
      if (quote) quote.append(element('br'));
      else {
        quote = element('blockquote');
        out.append(quote);
      }
      quote.append(render(quoted[1]));
      continue;
    }
    if (index > 0 && !quote) out.append(element('br'));
    quote = null;
    out.append(render(line));
  }
  return out;
}

const INLINE =
  /<([^<>\n]+)>|`([^`\n]+)`|(?<![\w*])\*(?!\s)([^*\n]+?)(?<!\s)\*(?![\w*])|(?<![\w_])_(?!\s)([^_\n]+?)(?<!\s)_(?![\w_])|(?<![\w~])~(?!\s)([^~\n]+?)(?<!\s)~(?![\w~])|:([a-z0-9_+-]+):/g;

function inline(text, names) {
  const out = document.createDocumentFragment();
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    out.append(words(decode(text.slice(from, match.index))));
    from = match.index + match[0].length;
    const [, angle, code, bold, italic, strike, emojiName] = match;
    if (angle !== undefined) out.append(special(angle, names));
    else if (code !== undefined) out.append(element('code', '', decode(code)));
    else if (bold !== undefined) out.append(element('b', '', inline(bold, names)));
    else if (italic !== undefined) out.append(element('i', '', inline(italic, names)));
    else if (strike !== undefined) out.append(element('s', '', inline(strike, names)));
    else out.append(emoji(emojiName));
  }
  out.append(words(decode(text.slice(from))));
  return out;
}

function special(inner, names) {
  const [target, label] = splitOnce(inner, '|');
  if (target.startsWith('@')) {
    const id = target.slice(1);
    return element(
      'span',
      id === names.me ? 'mention me' : 'mention',
      `@${names[id] ?? decode(label ?? id)}`,
    );
  }
  if (target.startsWith('#'))
    return element('span', 'mention', `#${names[target.slice(1)] ?? decode(label ?? target.slice(1))}`);
  if (target.startsWith('!date^')) return document.createTextNode(slackDate(target, label));
  if (target.startsWith('!')) return element('span', 'mention', `@${decode(label ?? target.slice(1))}`);
  return link(decode(target), label === undefined ? undefined : decode(label));
}

function splitOnce(text, separator) {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

/** `!date^unix^format`, in the reader's own zone as Slack does. */
function slackDate(target, fallback) {
  const [, seconds, format] = target.split('^');
  const date = new Date(Number(seconds) * 1000);
  if (Number.isNaN(date.getTime()) || !format) return decode(fallback ?? '');
  const day = (options) => date.toLocaleDateString(undefined, options);
  const sameDay = date.toDateString() === new Date().toDateString();
  const tokens = {
    date_num: () => date.toISOString().slice(0, 10),
    date: () => day({ dateStyle: 'long' }),
    date_short: () => day({ dateStyle: 'medium' }),
    date_long: () => day({ dateStyle: 'full' }),
    date_pretty: () => (sameDay ? 'today' : day({ dateStyle: 'long' })),
    date_short_pretty: () => (sameDay ? 'today' : day({ dateStyle: 'medium' })),
    date_long_pretty: () => (sameDay ? 'today' : day({ dateStyle: 'full' })),
    time: () => date.toLocaleTimeString(undefined, { timeStyle: 'short' }),
    time_secs: () => date.toLocaleTimeString(undefined, { timeStyle: 'medium' }),
  };
  return format.replace(/\{(\w+)\}/g, (whole, name) =>
    Object.hasOwn(tokens, name) ? tokens[name]() : whole,
  );
}

/** The subset of Markdown that models write: headings, lists, quotes, code, emphasis, links. */
export function markdown(text) {
  const out = document.createDocumentFragment();
  for (const [index, part] of String(text).split('```').entries()) {
    if (index % 2 === 1) {
      out.append(element('pre', '', part.replace(/^[\w-]*\n/, '').replace(/\n$/, '')));
      continue;
    }
    let list = null;
    for (const line of part.split('\n')) {
      const item = /^\s*(?:[-*+]|(\d+)\.)\s+(.*)$/.exec(line);
      if (item) {
        const tag = item[1] ? 'OL' : 'UL';
        if (list?.tagName !== tag) {
          list = element(tag);
          out.append(list);
        }
        list.append(element('li', '', markdownInline(item[2])));
        continue;
      }
      list = null;
      const heading = /^(#{1,6})\s+(.*)$/.exec(line);
      const quote = /^>\s?(.*)$/.exec(line);
      if (heading) out.append(element(heading[1].length < 3 ? 'h3' : 'h4', '', markdownInline(heading[2])));
      else if (quote) out.append(element('blockquote', '', markdownInline(quote[1])));
      else if (/^\s*(-{3,}|\*{3,})\s*$/.test(line)) out.append(element('hr'));
      else if (line.trim() !== '') out.append(element('p', '', markdownInline(line)));
    }
  }
  return out;
}

const MARKDOWN =
  /`([^`]+)`|\*\*([^*]+)\*\*|(?<!\w)[*_]([^*_]+)[*_](?!\w)|~~([^~]+)~~|\[([^\]]+)\]\(([^()\s]+)\)/g;

function markdownInline(text) {
  const out = document.createDocumentFragment();
  let from = 0;
  for (const match of text.matchAll(MARKDOWN)) {
    out.append(text.slice(from, match.index));
    from = match.index + match[0].length;
    const [, code, bold, italic, strike, label, target] = match;
    if (code !== undefined) out.append(element('code', '', code));
    else if (bold !== undefined) out.append(element('b', '', markdownInline(bold)));
    else if (italic !== undefined) out.append(element('i', '', markdownInline(italic)));
    else if (strike !== undefined) out.append(element('s', '', strike));
    else out.append(link(target, label));
  }
  out.append(text.slice(from));
  return out;
}
