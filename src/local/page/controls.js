/** The elements of Block Kit that a person can act on: buttons, text fields, dates, boxes, menus. */
import { textNode } from './blocks.js';
import { element } from './mrkdwn.js';

/** One element, with a key by which the focus finds it again after a redraw. */
export function control(item, block, context) {
  const node = built(item, block, context);
  node.dataset.focus = `${block.block_id}/${item.action_id}`;
  if (item.action_id) node.dataset.action = item.action_id;
  return node;
}

function built(item, block, context) {
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
      const isBusy = context.isBusy?.(block.block_id, item.action_id) === true;
      node.classList.toggle('busy', isBusy);
      node.setAttribute('aria-busy', String(isBusy));
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
      if (item.type === 'number_input') node.inputMode = 'decimal';
      if (item.focus_on_load) node.autofocus = true;
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
