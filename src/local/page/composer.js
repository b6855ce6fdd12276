/**
 * The box people write in: grows with its text, sends on Enter, completes people, channels and slash commands as a combobox does, and keeps
 * a draft per person and place.
 */
import { act, state, toast, ui } from './client.js';
import { element } from './mrkdwn.js';
import { avatarOf } from './rail.js';

const drafts = new Map();
const OPTIONS_SHOWN = 6;

/** Fills `form` with the box and its buttons. `placeOf` names where the text goes: channel and, for replies, thread. */
export function buildComposer(form, { label, placeOf }) {
  const list = element('div', 'completions');
  list.id = `${form.id}-completions`;
  list.hidden = true;
  list.setAttribute('role', 'listbox');
  list.setAttribute('aria-label', 'Suggestions');
  const box = element('textarea');
  box.id = `${form.id}-box`;
  box.rows = 1;
  for (const [name, value] of Object.entries({
    'aria-label': label,
    role: 'combobox',
    'aria-autocomplete': 'list',
    'aria-expanded': 'false',
    'aria-controls': list.id,
  }))
    box.setAttribute(name, value);
  const tool = (text, title, inserts) => {
    const node = element('button', 'icon', text);
    node.type = 'button';
    node.title = title;
    node.setAttribute('aria-label', title);
    node.addEventListener('click', () => {
      box.setRangeText(inserts, box.selectionStart, box.selectionEnd, 'end');
      box.focus();
      box.dispatchEvent(new Event('input', { bubbles: true }));
    });
    return node;
  };
  const send = element('button', 'send', 'Send');
  send.type = 'submit';
  const tools = [tool('@', 'Mention somebody', '@')];
  if (form.id === 'composer') tools.push(tool('/', 'Give a command', '/'));
  form.replaceChildren(
    list,
    box,
    element(
      'div',
      'tools',
      ...tools,
      element('span', 'keys', 'Enter sends, Shift+Enter breaks the line'),
      send,
    ),
  );

  const completion = { options: [], at: 0, from: 0 };
  const close = () => {
    list.hidden = true;
    completion.options = [];
    box.setAttribute('aria-expanded', 'false');
    box.removeAttribute('aria-activedescendant');
  };
  const take = (option) => {
    box.setRangeText(`${option.insert} `, completion.from, box.selectionStart, 'end');
    close();
    box.focus();
    note();
  };
  const show = () => {
    const found = completionsFor(box.value.slice(0, box.selectionStart), form.id === 'composer');
    if (!found || found.options.length === 0) {
      close();
      return;
    }
    Object.assign(completion, found, { at: 0 });
    paint();
  };
  const paint = () => {
    list.replaceChildren(
      ...completion.options.map((option, index) => {
        const node = element(
          'div',
          'option',
          option.avatar,
          element('b', '', option.label),
          element('span', '', option.says),
        );
        node.id = `${list.id}-${index}`;
        node.setAttribute('role', 'option');
        node.setAttribute('aria-selected', String(index === completion.at));
        node.addEventListener('mousedown', (event) => {
          event.preventDefault();
          take(option);
        });
        return node;
      }),
    );
    list.hidden = false;
    box.setAttribute('aria-expanded', 'true');
    box.setAttribute('aria-activedescendant', `${list.id}-${completion.at}`);
  };
  const note = () => {
    drafts.set(draftKey(placeOf()), box.value);
    send.disabled = box.value.trim() === '';
  };

  box.addEventListener('input', () => {
    note();
    show();
  });
  box.addEventListener('blur', close);
  box.addEventListener('keydown', (event) => {
    if (event.isComposing) return;
    const { options } = completion;
    if (options.length > 0) {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (step) {
        event.preventDefault();
        completion.at = (completion.at + step + options.length) % options.length;
        paint();
        return;
      }
      if (event.key === 'Escape') {
        event.preventDefault();
        close();
        return;
      }
      const option = options[completion.at];
      const isWhole = box.value.slice(completion.from, box.selectionStart) === option.insert;
      if ((event.key === 'Enter' && !isWhole) || event.key === 'Tab') {
        event.preventDefault();
        take(option);
        return;
      }
    }
    if (event.key !== 'Enter' || event.shiftKey) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const text = box.value;
    if (text.trim() === '') return;
    close();
    const key = draftKey(placeOf());
    drafts.delete(key);
    box.value = '';
    send.disabled = true;
    if (await say(text, placeOf())) return;
    drafts.set(key, text);
    if (box.value === '') box.value = text;
    note();
  });

  return {
    /** Called on every draw: the draft of the place shown stands in the box. */
    draw() {
      const key = draftKey(placeOf());
      if (form.dataset.place === key) return;
      form.dataset.place = key;
      box.value = drafts.get(key) ?? '';
      box.placeholder = placeOf().placeholder;
      send.disabled = box.value.trim() === '';
      close();
    },
  };
}

/** Says something as the person shown; tells them when it did not work. */
export async function say(text, { channel, threadTs }) {
  const result = await act({ kind: 'say', channel, text, ...(threadTs ? { threadTs } : {}) });
  if (result.error) toast(result.error);
  else if (!threadTs) {
    const messages = document.getElementById('messages');
    messages.scrollTop = messages.scrollHeight;
  }
  return !result.error;
}

function draftKey({ channel, threadTs }) {
  return `${ui.me}/${channel}/${threadTs ?? ''}`;
}

/** What could stand where the caret is: after `@` people, after `#` channels, at the very start after `/` commands. */
function completionsFor(before, withCommands) {
  const command = withCommands && /^\/([\w-]*)$/.exec(before);
  if (command) return { from: 0, options: commands(command[1]) };
  const [, sign, word] = /(?:^|\s)([@#])([\w-]*)$/.exec(before) ?? [];
  if (sign === undefined) return null;
  const starts = (name) => name.toLowerCase().startsWith(word.toLowerCase());
  const from = before.length - word.length - 1;
  if (sign === '@') {
    const everybody = [
      { ...state.bot, says: 'App: give it a task' },
      ...state.people.map((one) => ({ ...one, says: one.guest ? 'Guest account' : '' })),
    ];
    const options = everybody
      .filter((one) => starts(one.name))
      .slice(0, OPTIONS_SHOWN)
      .map((one) => ({ insert: `@${one.name}`, label: one.name, says: one.says, avatar: face(one) }));
    return { from, options };
  }
  const options = state.channels
    .filter((one) => !one.is_im && starts(one.name))
    .slice(0, OPTIONS_SHOWN)
    .map((one) => ({ insert: `#${one.name}`, label: `# ${one.name}`, says: '', avatar: null }));
  return { from, options };
}

function commands(word) {
  return state.commands
    .filter((one) => one.command.slice(1).startsWith(word))
    .slice(0, OPTIONS_SHOWN)
    .map((one) => ({
      insert: one.command,
      label: `${one.command} ${one.hint}`.trim(),
      says: one.description,
      avatar: null,
    }));
}

function face(one) {
  return avatarOf(one.id, one.name, one.id === state.bot.id);
}
