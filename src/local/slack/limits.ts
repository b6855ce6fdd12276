/**
 * Slack's size limits and the check of Block Kit against them: what no SDK does offline.
 *
 * `checkBlocks` and `checkView` return Slack-like findings with a JSON pointer, or none. They are as strict as the
 * documented limits (docs.slack.dev, Block Kit reference, read November 2026); a block type this file does not know
 * is refused as Slack refuses it. Also gives every block and element the id Slack would give it.
 */
import { isRecord, type Json, records } from './types.ts';

export const LIMITS = {
  blocksPerMessage: 50,
  blocksPerView: 100,
  blockCharsPerMessage: 13_200,
  messageText: 40_000,
  markdownText: 12_000,
  headerText: 150,
  sectionText: 3_000,
  sectionFields: 10,
  sectionFieldText: 2_000,
  contextElements: 10,
  actionsElements: 25,
  buttonText: 75,
  buttonValue: 2_000,
  id: 255,
  url: 3_000,
  altText: 2_000,
  label: 2_000,
  placeholder: 150,
  options: 100,
  checkboxes: 10,
  optionText: 75,
  optionValue: 150,
  confirmTitle: 100,
  confirmText: 300,
  confirmButton: 30,
  viewTitle: 24,
  viewButton: 24,
  privateMetadata: 3_000,
  viewBytes: 250_000,
  tableRows: 100,
  tableColumns: 20,
  metadataBytes: 16_000,
} as const;

type Report = (pointer: string, problem: string) => void;

/** Block types taken as they are: nothing of ours sends them with limits worth checking. */
const UNCHECKED_BLOCKS = new Set([
  'rich_text',
  'file',
  'video',
  'call',
  'task_card',
  'plan',
  'alert',
  'card',
  'carousel',
]);

export function checkBlocks(blocks: unknown, limit: number): string[] {
  const findings: string[] = [];
  const report: Report = (pointer, problem) => findings.push(`[ERROR] ${problem} [json-pointer:${pointer}]`);
  if (!Array.isArray(blocks)) {
    report('/blocks', 'must provide an array');
    return findings;
  }
  if (blocks.length > limit) report('/blocks', `no more than ${limit} items allowed`);
  const ids = new Set<string>();
  let markdownChars = 0;
  blocks.forEach((block: unknown, index) => {
    const pointer = `/blocks/${index}`;
    if (!isRecord(block)) {
      report(pointer, 'must be an object');
      return;
    }
    if (block.block_id !== undefined) {
      const id = block.block_id;
      if (typeof id !== 'string' || id.length > LIMITS.id)
        report(`${pointer}/block_id`, 'must be less than 256 characters');
      else if (id !== '' && ids.has(id)) report(`${pointer}/block_id`, `\`block_id\` must be unique: ${id}`);
      else ids.add(id);
    }
    checkBlock(block, pointer, report);
    if (block.type === 'markdown') markdownChars += String(block.text ?? '').length;
  });
  if (markdownChars > LIMITS.markdownText)
    report('/blocks', `markdown text must be less than ${LIMITS.markdownText + 1} characters`);
  return findings;
}

export function checkView(view: unknown): string[] {
  if (!isRecord(view)) return ['[ERROR] must be an object [json-pointer:/view]'];
  const findings = checkBlocks(view.blocks, LIMITS.blocksPerView);
  const report: Report = (pointer, problem) => findings.push(`[ERROR] ${problem} [json-pointer:${pointer}]`);
  const type = view.type;
  if (type !== 'modal' && type !== 'home') report('/view/type', 'must be modal or home');
  if (type === 'modal') {
    plainText(view.title, LIMITS.viewTitle, '/view/title', report);
    if (view.submit != null) plainText(view.submit, LIMITS.viewButton, '/view/submit', report);
    if (view.close != null) plainText(view.close, LIMITS.viewButton, '/view/close', report);
    const hasInput = records(view.blocks).some((block) => block.type === 'input');
    if (hasInput && view.submit == null) report('/view/submit', 'must be provided with input blocks');
  }
  shortString(view.callback_id, LIMITS.id, '/view/callback_id', report);
  shortString(view.external_id, LIMITS.id, '/view/external_id', report);
  shortString(view.private_metadata, LIMITS.privateMetadata, '/view/private_metadata', report);
  return findings;
}

/** Characters Slack counts towards a message's blocks: every string that is shown or carried. */
export function blockChars(value: unknown): number {
  if (typeof value === 'string') return value.length;
  if (Array.isArray(value)) return value.reduce<number>((sum, item) => sum + blockChars(item), 0);
  if (!isRecord(value)) return 0;
  return Object.entries(value).reduce(
    (sum, [key, item]) => sum + (COUNTED.has(key) ? blockChars(item) : 0),
    0,
  );
}
const COUNTED = new Set([
  'text',
  'fields',
  'elements',
  'accessory',
  'label',
  'hint',
  'element',
  'rows',
  'title',
  'alt_text',
]);

/** Blocks as Slack stores them: each with a block id, each interactive element with an action id. */
export function withIds(blocks: Json[], newId: () => string): Json[] {
  const element = (item: unknown): unknown =>
    isRecord(item) && INTERACTIVE.has(String(item.type)) && item.action_id === undefined
      ? { ...item, action_id: newId() }
      : item;
  return blocks.map((block) => {
    const copy: Json = { ...block };
    if (!copy.block_id) copy.block_id = newId();
    if (Array.isArray(copy.elements) && copy.type === 'actions') copy.elements = copy.elements.map(element);
    if (copy.accessory !== undefined) copy.accessory = element(copy.accessory);
    if (copy.element !== undefined) copy.element = element(copy.element);
    return copy;
  });
}

const SELECTS = [
  'static_select',
  'multi_static_select',
  'users_select',
  'multi_users_select',
  'conversations_select',
  'channels_select',
  'external_select',
];
const INTERACTIVE = new Set([
  'button',
  'checkboxes',
  'radio_buttons',
  'overflow',
  'plain_text_input',
  'datepicker',
  'timepicker',
  'datetimepicker',
  'number_input',
  'email_text_input',
  'url_text_input',
  'rich_text_input',
  'feedback_buttons',
  ...SELECTS,
]);

function checkBlock(block: Json, at: string, report: Report): void {
  switch (block.type) {
    case 'header':
      plainText(block.text, LIMITS.headerText, `${at}/text`, report);
      return;
    case 'divider':
      return;
    case 'section':
      checkSection(block, at, report);
      return;
    case 'context': {
      const elements = list(block.elements, 1, LIMITS.contextElements, `${at}/elements`, report);
      elements.forEach((item, index) => {
        if (item.type === 'image') image(item, `${at}/elements/${index}`, report);
        else textObject(item, LIMITS.sectionText, `${at}/elements/${index}`, report);
      });
      return;
    }
    case 'actions': {
      const elements = list(block.elements, 1, LIMITS.actionsElements, `${at}/elements`, report);
      const ids = new Set<unknown>();
      elements.forEach((item, index) => {
        const id = item.action_id;
        if (id !== undefined && ids.has(id))
          report(`${at}/elements/${index}/action_id`, `\`action_id\` "${id}" already exists`);
        ids.add(id);
        checkElement(item, `${at}/elements/${index}`, report);
      });
      return;
    }
    case 'context_actions':
      list(block.elements, 1, 5, `${at}/elements`, report);
      return;
    case 'image':
      image(block, at, report);
      return;
    case 'markdown':
      if (typeof block.text !== 'string' || block.text === '')
        report(`${at}/text`, 'must be more than 0 characters');
      return;
    case 'input':
      plainText(block.label, LIMITS.label, `${at}/label`, report);
      if (block.hint !== undefined) plainText(block.hint, LIMITS.label, `${at}/hint`, report);
      if (isRecord(block.element)) checkElement(block.element, `${at}/element`, report);
      else report(`${at}/element`, 'missing required field: element');
      return;
    case 'table': {
      const rows = Array.isArray(block.rows) ? block.rows : [];
      if (rows.length < 1 || rows.length > LIMITS.tableRows)
        report(`${at}/rows`, `must have 1 to ${LIMITS.tableRows} items`);
      if (rows.some((row) => !Array.isArray(row) || row.length > LIMITS.tableColumns))
        report(`${at}/rows`, `no more than ${LIMITS.tableColumns} cells a row`);
      return;
    }
    default:
      if (!UNCHECKED_BLOCKS.has(String(block.type))) report(at, `unsupported type: ${String(block.type)}`);
  }
}

function checkSection(block: Json, at: string, report: Report): void {
  const fields = block.fields;
  if (block.text === undefined && fields === undefined) report(at, 'missing required field: text or fields');
  if (block.text !== undefined) textObject(block.text, LIMITS.sectionText, `${at}/text`, report);
  if (fields !== undefined) {
    list(fields, 1, LIMITS.sectionFields, `${at}/fields`, report).forEach((field, index) => {
      textObject(field, LIMITS.sectionFieldText, `${at}/fields/${index}`, report);
    });
  }
  const accessory = block.accessory;
  if (accessory === undefined) return;
  if (!isRecord(accessory)) report(`${at}/accessory`, 'must be an object');
  else if (accessory.type === 'image') image(accessory, `${at}/accessory`, report);
  else checkElement(accessory, `${at}/accessory`, report);
}

function checkElement(element: Json, at: string, report: Report): void {
  const type = String(element.type);
  if (!INTERACTIVE.has(type)) {
    report(at, `unsupported type: ${type}`);
    return;
  }
  shortString(element.action_id, LIMITS.id, `${at}/action_id`, report);
  if (element.confirm !== undefined) confirm(element.confirm, `${at}/confirm`, report);
  if (element.placeholder !== undefined)
    plainText(element.placeholder, LIMITS.placeholder, `${at}/placeholder`, report);
  if (type === 'button') {
    plainText(element.text, LIMITS.buttonText, `${at}/text`, report);
    shortString(element.value, LIMITS.buttonValue, `${at}/value`, report);
    shortString(element.url, LIMITS.url, `${at}/url`, report);
    shortString(element.accessibility_label, LIMITS.buttonText, `${at}/accessibility_label`, report);
    const style = element.style;
    if (style !== undefined && style !== 'primary' && style !== 'danger')
      report(`${at}/style`, 'must be primary or danger');
  }
  if (type === 'plain_text_input')
    shortString(element.initial_value, LIMITS.sectionText, `${at}/initial_value`, report);
  if (type === 'checkboxes' || type === 'radio_buttons')
    options(element.options, LIMITS.checkboxes, `${at}/options`, report);
  if (type === 'overflow') options(element.options, 5, `${at}/options`, report);
  if (type === 'static_select' || type === 'multi_static_select') {
    if (element.option_groups === undefined)
      options(element.options, LIMITS.options, `${at}/options`, report);
  }
}

function options(value: unknown, max: number, at: string, report: Report): void {
  list(value, 1, max, at, report).forEach((option, index) => {
    textObject(option.text, LIMITS.optionText, `${at}/${index}/text`, report);
    shortString(option.value, LIMITS.optionValue, `${at}/${index}/value`, report);
    if (typeof option.value !== 'string') report(`${at}/${index}/value`, 'missing required field: value');
  });
}

function confirm(value: unknown, at: string, report: Report): void {
  if (!isRecord(value)) {
    report(at, 'must be an object');
    return;
  }
  plainText(value.title, LIMITS.confirmTitle, `${at}/title`, report);
  textObject(value.text, LIMITS.confirmText, `${at}/text`, report);
  plainText(value.confirm, LIMITS.confirmButton, `${at}/confirm`, report);
  plainText(value.deny, LIMITS.confirmButton, `${at}/deny`, report);
}

function image(value: Json, at: string, report: Report): void {
  shortString(value.image_url, LIMITS.url, `${at}/image_url`, report);
  shortString(value.alt_text, LIMITS.altText, `${at}/alt_text`, report);
  if (typeof value.alt_text !== 'string') report(`${at}/alt_text`, 'missing required field: alt_text');
}

function plainText(value: unknown, max: number, at: string, report: Report): void {
  if (isRecord(value) && value.type !== 'plain_text') report(`${at}/type`, 'must be plain_text');
  textObject(value, max, at, report);
}

function textObject(value: unknown, max: number, at: string, report: Report): void {
  if (!isRecord(value)) {
    report(at, 'must provide a text object');
    return;
  }
  if (value.type !== 'plain_text' && value.type !== 'mrkdwn')
    report(`${at}/type`, 'must be plain_text or mrkdwn');
  const content = value.text;
  if (typeof content !== 'string' || content.length === 0)
    report(`${at}/text`, 'must be more than 0 characters');
  else if (content.length > max) report(`${at}/text`, `must be less than ${max + 1} characters`);
}

function shortString(value: unknown, max: number, at: string, report: Report): void {
  if (value === undefined || value === null) return;
  if (typeof value !== 'string') report(at, 'must be a string');
  else if (value.length > max) report(at, `must be less than ${max + 1} characters`);
}

function list(value: unknown, min: number, max: number, at: string, report: Report): Json[] {
  if (!Array.isArray(value) || value.length < min) report(at, `no fewer than ${min} items allowed`);
  else if (value.length > max) report(at, `no more than ${max} items allowed`);
  return records(value);
}
