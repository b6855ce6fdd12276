/** Block Kit as DOM nodes: display blocks, and the elements a person can act on. */
import { element, emoji, link, markdown, mrkdwn, plain } from './mrkdwn.js';

/**
 * Draws blocks. `context.names` resolves ids, `context.values` is the state of menus and boxes,
 * `context.act({blockId, actionId, chosen?, element})` is called on a press, `context.errors` maps block ids to text.
 */
export function renderBlocks(blocks, context) {
  const out = document.createDocumentFragment();
  for (const block of blocks ?? []) out.append(renderBlock(block, context));
  return out;
}

export function textNode(object, names) {
  if (!object) return document.createDocumentFragment();
  return object.type === 'mrkdwn' ? mrkdwn(object.text, names) : plain(object.text);
}

function renderBlock(block, context) {
  const { names } = context;
  switch (block.type) {
    case 'header':
      return element('h3', 'b-header', textNode(block.text, names));
    case 'divider':
      return element('hr', 'b-divider');
    case 'section':
      return section(block, context);
    case 'context':
      return element(
        'div',
        'b-context',
        ...(block.elements ?? []).map((item) =>
          item.type === 'image' ? image(item) : element('span', '', textNode(item, names)),
        ),
      );
    case 'actions':
      return element(
        'div',
        'b-actions',
        ...(block.elements ?? []).map((item) => control(item, block, context)),
      );
    case 'markdown':
      return element('div', 'b-markdown', markdown(block.text));
    case 'image':
      return element('figure', 'b-image', image(block));
    case 'rich_text':
      return element('div', 'b-rich', ...(block.elements ?? []).map((item) => richGroup(item, names)));
    case 'table':
      return table(block, names);
    case 'input':
      return input(block, context);
    case 'file':
      return element('div', 'b-unknown', `File ${block.external_id ?? ''}`);
    default:
      return element('div', 'b-unknown', `This page does not draw “${block.type}” blocks.`);
  }
}

function section(block, context) {
  const body = element('div', 'b-section-body');
  if (block.text) body.append(element('div', 'b-text', textNode(block.text, context.names)));
  if (block.fields) {
    body.append(
      element(
        'div',
        'b-fields',
        ...block.fields.map((field) => element('div', '', textNode(field, context.names))),
      ),
    );
  }
  const accessory =
    block.accessory &&
    (block.accessory.type === 'image' ? image(block.accessory) : control(block.accessory, block, context));
  return element('div', 'b-section', body, accessory);
}

/** Pictures come from anywhere, so they are named rather than loaded. */
function image(item) {
  return element('span', 'b-picture', `🖼 ${item.alt_text ?? ''}`);
}

function table(block, names) {
  const cell = (item) => {
    if (item?.type === 'rich_text')
      return element('td', '', ...item.elements.map((group) => richGroup(group, names)));
    return element('td', '', plain(item?.text ?? item?.value ?? ''));
  };
  return element(
    'div',
    'b-table',
    element('table', '', ...(block.rows ?? []).map((row) => element('tr', '', ...row.map(cell)))),
  );
}

function richGroup(group, names) {
  const inside = (group.elements ?? []).map((item) => richItem(item, names));
  switch (group.type) {
    case 'rich_text_preformatted':
      return element('pre', '', ...inside);
    case 'rich_text_quote':
      return element('blockquote', '', ...inside);
    case 'rich_text_list':
      return element(
        group.style === 'ordered' ? 'ol' : 'ul',
        '',
        ...(group.elements ?? []).map((item) => element('li', '', richGroup(item, names))),
      );
    default:
      return element('div', 'b-text', ...inside);
  }
}

function richItem(item, names) {
  switch (item.type) {
    case 'text': {
      let node = document.createTextNode(item.text ?? '');
      const style = item.style ?? {};
      if (style.code) node = element('code', '', node);
      if (style.bold) node = element('b', '', node);
      if (style.italic) node = element('i', '', node);
      if (style.strike) node = element('s', '', node);
      return node;
    }
    case 'link':
      return link(item.url ?? '', item.text);
    case 'user':
      return element('span', 'mention', `@${names[item.user_id] ?? item.user_id}`);
    case 'channel':
      return element('span', 'mention', `#${names[item.channel_id] ?? item.channel_id}`);
    case 'broadcast':
      return element('span', 'mention', `@${item.range}`);
    case 'emoji':
      return document.createTextNode(emoji(item.name));
    default:
      return document.createTextNode('');
  }
}

function input(block, context) {
  const label = element(
    'label',
    'b-label',
    textNode(block.label, context.names),
    block.optional ? element('small', '', ' (optional)') : null,
  );
  const error = context.errors?.[block.block_id];
  return element(
    'div',
    error ? 'b-input invalid' : 'b-input',
    label,
    control(block.element, block, { ...context, silent: !block.dispatch_action }),
    block.hint ? element('small', 'b-hint', textNode(block.hint, context.names)) : null,
    error ? element('small', 'b-error', String(error)) : null,
  );
}

function control(item, block, context) {
  const state = context.values?.[block.block_id]?.[item.action_id];
  const act = (chosen) => {
    context.choose?.(block.block_id, item.action_id, chosen);
    if (context.silent) return;
    context.act({
      blockId: block.block_id,
      actionId: item.action_id,
      element: item,
      ...(chosen === undefined ? {} : { chosen }),
    });
  };
  switch (item.type) {
    case 'button': {
      const node = element('button', `b-button ${item.style ?? ''}`, textNode(item.text, context.names));
      node.type = 'button';
      if (item.accessibility_label) node.setAttribute('aria-label', item.accessibility_label);
      node.addEventListener('click', () => {
        if (/^https?:\/\//i.test(item.url ?? '')) window.open(item.url, '_blank', 'noopener,noreferrer');
        act();
      });
      return node;
    }
    case 'plain_text_input':
    case 'number_input':
    case 'email_text_input':
    case 'url_text_input': {
      const node = element(item.multiline ? 'textarea' : 'input', 'b-field');
      node.value = state?.value ?? item.initial_value ?? '';
      if (item.placeholder) node.placeholder = item.placeholder.text;
      if (item.max_length) node.maxLength = item.max_length;
      node.addEventListener('input', () => context.choose?.(block.block_id, item.action_id, node.value));
      context.choose?.(block.block_id, item.action_id, node.value);
      return node;
    }
    case 'datepicker':
    case 'timepicker': {
      const node = element('input', 'b-field');
      node.type = item.type === 'datepicker' ? 'date' : 'time';
      node.value = state?.selected_date ?? state?.selected_time ?? '';
      node.addEventListener('change', () => act(node.value));
      return node;
    }
    case 'checkboxes':
    case 'radio_buttons':
      return boxes(item, state, act, context);
    case 'static_select':
    case 'multi_static_select':
    case 'overflow':
    case 'users_select':
      return menu(item, state, act, context);
    default:
      return element('span', 'b-unknown', `“${item.type}” is not drawn here`);
  }
}

function boxes(item, state, act, context) {
  const many = item.type === 'checkboxes';
  const chosen = new Set(
    (many
      ? (state?.selected_options ?? item.initial_options ?? [])
      : [state?.selected_option ?? item.initial_option]
    )
      .filter(Boolean)
      .map((option) => option.value),
  );
  const group = `g${Math.random()}`;
  const rows = item.options.map((option) => {
    const box = element('input');
    box.type = many ? 'checkbox' : 'radio';
    box.name = group;
    box.checked = chosen.has(option.value);
    box.addEventListener('change', () => {
      if (!many) chosen.clear();
      if (box.checked) chosen.add(option.value);
      else chosen.delete(option.value);
      act(many ? [...chosen] : option.value);
    });
    return element('label', 'b-box', box, element('span', '', textNode(option.text, context.names)));
  });
  return element('div', 'b-boxes', ...rows);
}

function menu(item, state, act, context) {
  const node = element('select', 'b-field');
  node.multiple = item.type === 'multi_static_select';
  const options =
    item.type === 'users_select'
      ? Object.entries(context.names)
          .filter(([id]) => id.startsWith('U'))
          .map(([value, text]) => ({ value, label: text }))
      : [...(item.options ?? []), ...(item.option_groups ?? []).flatMap((group) => group.options)].map(
          (option) => ({ value: option.value, label: option.text.text }),
        );
  if (!node.multiple) {
    const first = new Option(item.placeholder?.text ?? (item.type === 'overflow' ? '⋯' : 'Choose…'), '');
    first.disabled = true;
    node.append(first);
  }
  for (const option of options) node.append(new Option(option.label, option.value));
  const selected =
    state?.selected_option?.value ??
    state?.selected_user ??
    item.initial_option?.value ??
    item.initial_user ??
    '';
  if (node.multiple)
    for (const option of node.options)
      option.selected = (state?.selected_options ?? []).some((one) => one.value === option.value);
  else node.value = selected;
  node.addEventListener('change', () =>
    act(node.multiple ? [...node.selectedOptions].map((option) => option.value) : node.value),
  );
  return node;
}
