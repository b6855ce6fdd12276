/** Block Kit's display blocks as DOM nodes; the elements a person can act on are in controls.js. */
import { control } from './controls.js';
import { element, emoji, link, markdown, mrkdwn, plain } from './mrkdwn.js';

/**
 * Draws blocks. `context.names` resolves ids, `context.key` names the message or view, `context.values` is the state of menus and boxes,
 * `context.act({blockId, actionId, chosen?, element})` is called on a press, `context.isBusy(blockId, actionId)` says whether one is
 * under way, `context.errors` maps block ids to text.
 */
export function renderBlocks(blocks, context) {
  const out = document.createDocumentFragment();
  for (const block of blocks ?? []) out.append(renderBlock(block, context));
  return out;
}

export function textNode(object, names) {
  if (!object) return document.createDocumentFragment();
  return object.type === 'mrkdwn'
    ? mrkdwn(object.text, names)
    : plain(object.text, { emoji: object.emoji !== false });
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
      return element(
        'span',
        item.user_id === names.me ? 'mention me' : 'mention',
        `@${names[item.user_id] ?? item.user_id}`,
      );
    case 'channel':
      return element('span', 'mention', `#${names[item.channel_id] ?? item.channel_id}`);
    case 'broadcast':
      return element('span', 'mention', `@${item.range}`);
    case 'emoji':
      return emoji(item.name);
    default:
      return document.createTextNode('');
  }
}

function input(block, context) {
  const id = `field-${context.key}-${block.block_id}`;
  const isGroup = ['checkboxes', 'radio_buttons'].includes(block.element.type);
  const label = element(
    isGroup ? 'legend' : 'label',
    'b-label',
    textNode(block.label, context.names),
    block.optional ? element('small', '', ' (optional)') : null,
  );
  const error = context.errors?.[block.block_id];
  const field = control(block.element, block, { ...context, silent: !block.dispatch_action });
  const notes = [];
  const note = (className, kind, ...children) => {
    const node = element('small', className, ...children);
    node.id = `${id}-${kind}`;
    notes.push(node.id);
    return node;
  };
  const hint = block.hint ? note('b-hint', 'hint', textNode(block.hint, context.names)) : null;
  const problem = error ? note('b-error', 'error', String(error)) : null;
  if (!isGroup) {
    field.id = id;
    label.htmlFor = id;
  }
  if (notes.length > 0) field.setAttribute('aria-describedby', notes.join(' '));
  if (error) field.setAttribute('aria-invalid', 'true');
  if (block.optional !== true && !isGroup) field.setAttribute('aria-required', 'true');
  return element(
    isGroup ? 'fieldset' : 'div',
    error ? 'b-input invalid' : 'b-input',
    label,
    field,
    hint,
    problem,
  );
}
