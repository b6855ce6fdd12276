/**
 * Modals and the App Home: one stack of at most three modals per person, opened by a trigger that lives three seconds
 * and works once.
 */
import { randomBytes } from 'node:crypto';
import type { Args } from './args.ts';
import type { Method } from './chat-methods.ts';
import { checkView, LIMITS, withIds } from './limits.ts';
import { SlackRefusal } from './messages.ts';
import type { SlackStore } from './store.ts';
import type { Json, OpenView, Trigger } from './types.ts';
import { isRecord, records, text } from './types.ts';
import { viewJson } from './wire.ts';

const TRIGGER_LIFE_MS = 3_000;
const STACK_MAX = 3;

export const viewMethods: Record<string, Method> = {
  'views.open': (context, args) => {
    const view = givenView(args, 'modal');
    const trigger = redeem(context.store, args);
    return { view: viewJson(openModal(context.store, trigger.user, view)) };
  },

  'views.push': (context, args) => {
    const view = givenView(args, 'modal');
    const trigger = redeem(context.store, args);
    const below = topModal(context.store, trigger.user);
    if (!below) throw new SlackRefusal('not_found');
    if (modalStack(context.store, trigger.user).length >= STACK_MAX)
      throw new SlackRefusal('push_limit_reached');
    return { view: viewJson(pushModal(context.store, below, view)) };
  },

  'views.update': (context, args) => {
    const id = args.string('view_id');
    const externalId = args.string('external_id');
    const open = context.store.data.views.find(
      (candidate) =>
        candidate.id === id || (externalId !== undefined && candidate.view.external_id === externalId),
    );
    if (!open) throw new SlackRefusal('not_found');
    const view = givenView(args, open.type);
    const hash = args.string('hash');
    if (hash !== undefined && hash !== open.hash) throw new SlackRefusal('hash_conflict');
    replaceView(context.store, open, view);
    return { view: viewJson(open) };
  },

  'views.publish': (context, args) => {
    const user = args.required('user_id', 'user_not_found');
    if (!context.store.user(user)) throw new SlackRefusal('user_not_found');
    const view = givenView(args, 'home');
    const existing = homeView(context.store, user);
    const hash = args.string('hash');
    if (existing && hash !== undefined && hash !== existing.hash) throw new SlackRefusal('hash_conflict');
    if (existing) {
      replaceView(context.store, existing, view);
      return { view: viewJson(existing) };
    }
    return { view: viewJson(addView(context.store, user, view, 'home', null)) };
  },
};

export function newTrigger(store: SlackStore, user: string, viewId?: string): Trigger {
  const now = Date.now();
  const trigger: Trigger = {
    id: `${now}.${store.nextId('')}.${randomBytes(16).toString('hex')}`,
    user,
    expiresAtMs: now + TRIGGER_LIFE_MS,
    used: false,
    ...(viewId === undefined ? {} : { viewId }),
  };
  store.data.triggers.push(trigger);
  store.touch();
  return trigger;
}

/** The person's modals, bottom first. */
export function modalStack(store: SlackStore, user: string): OpenView[] {
  return store.data.views.filter((open) => open.user === user && open.type === 'modal');
}

export function topModal(store: SlackStore, user: string): OpenView | undefined {
  return modalStack(store, user).at(-1);
}

export function homeView(store: SlackStore, user: string): OpenView | undefined {
  return store.data.views.find((open) => open.user === user && open.type === 'home');
}

/** Opens a fresh modal; whatever the person had open gives way, as in Slack's client. */
export function openModal(store: SlackStore, user: string, view: Json): OpenView {
  closeModals(store, user);
  return addView(store, user, view, 'modal', null);
}

export function pushModal(store: SlackStore, below: OpenView, view: Json): OpenView {
  return addView(store, below.user, view, 'modal', below);
}

export function replaceView(store: SlackStore, open: OpenView, view: Json): void {
  open.view = prepared(store, view);
  open.hash = newHash(store);
  const kept: OpenView['values'] = {};
  for (const [blockId, block] of Object.entries(initialValues(open.view))) {
    // Slack keeps what was typed where block id and action id are still the same.
    kept[blockId] = { ...block };
    for (const actionId of Object.keys(block)) {
      const typed = open.values[blockId]?.[actionId];
      if (typed) kept[blockId] = { ...kept[blockId], [actionId]: typed };
    }
  }
  open.values = kept;
  store.touch();
}

export function closeView(store: SlackStore, open: OpenView): void {
  store.data.views = store.data.views.filter((candidate) => candidate !== open);
  store.touch();
}

export function closeModals(store: SlackStore, user: string): void {
  store.data.views = store.data.views.filter((open) => open.user !== user || open.type !== 'modal');
  store.touch();
}

/** A view from an app's answer to `view_submission`; undefined when it is not acceptable. */
export function acceptableView(value: unknown): Json | undefined {
  return isRecord(value) && checkView(value).length === 0 ? value : undefined;
}

function givenView(args: Args, type: 'modal' | 'home'): Json {
  const view = args.object('view', 'invalid_arguments');
  if (!view) throw new SlackRefusal('invalid_arguments', ['[ERROR] missing required field: view']);
  const findings = checkView(view);
  if (view.type !== type) findings.push(`[ERROR] must be ${type} [json-pointer:/view/type]`);
  if (findings.length > 0) throw new SlackRefusal('invalid_arguments', findings);
  if (Buffer.byteLength(JSON.stringify(view)) > LIMITS.viewBytes) throw new SlackRefusal('view_too_large');
  return view;
}

function redeem(store: SlackStore, args: Args): Trigger {
  const id = args.required('trigger_id', 'invalid_trigger_id');
  const trigger = store.data.triggers.find((candidate) => candidate.id === id);
  if (!trigger) throw new SlackRefusal('invalid_trigger_id');
  if (trigger.used) throw new SlackRefusal('exchanged_trigger_id');
  if (trigger.expiresAtMs < Date.now()) throw new SlackRefusal('expired_trigger_id');
  trigger.used = true;
  store.touch();
  return trigger;
}

function addView(
  store: SlackStore,
  user: string,
  view: Json,
  type: OpenView['type'],
  below: OpenView | null,
): OpenView {
  const id = store.nextId('V');
  const content = prepared(store, view);
  const open: OpenView = {
    id,
    user,
    view: content,
    hash: newHash(store),
    rootId: below?.rootId ?? id,
    previousId: below?.id ?? null,
    type,
    values: initialValues(content),
  };
  store.data.views.push(open);
  store.touch();
  return open;
}

function prepared(store: SlackStore, view: Json): Json {
  return { ...view, blocks: withIds(records(view.blocks), () => store.nextId('b')) };
}

function newHash(store: SlackStore): string {
  return `${store.nextTs().split('.')[0]}.${store.nextId('h')}`;
}

function initialValues(view: Json): OpenView['values'] {
  const values: OpenView['values'] = {};
  for (const block of records(view.blocks)) {
    for (const element of blockElements(block)) {
      const initial = initialState(element);
      if (!initial) continue;
      const blockId = String(block.block_id);
      values[blockId] = { ...values[blockId], [String(element.action_id)]: initial };
    }
  }
  return values;
}

/** Every element of a block that can be acted on. */
export function blockElements(block: Json): Json[] {
  const single = [block.accessory, block.element].filter(isRecord);
  return block.type === 'actions' ? [...records(block.elements), ...single] : single;
}

/** An element's state before anybody touched it; undefined for buttons, which have none. */
function initialState(element: Json): Json | undefined {
  switch (element.type) {
    case 'plain_text_input':
    case 'number_input':
    case 'email_text_input':
    case 'url_text_input':
      return { type: element.type, value: text(element.initial_value) ?? null };
    case 'static_select':
    case 'radio_buttons':
      return { type: element.type, selected_option: element.initial_option ?? null };
    case 'checkboxes':
    case 'multi_static_select':
      return { type: element.type, selected_options: element.initial_options ?? [] };
    case 'users_select':
      return { type: element.type, selected_user: element.initial_user ?? null };
    case 'conversations_select':
      return { type: element.type, selected_conversation: element.initial_conversation ?? null };
    case 'datepicker':
      return { type: element.type, selected_date: element.initial_date ?? null };
    case 'timepicker':
      return { type: element.type, selected_time: element.initial_time ?? null };
    default:
      return undefined;
  }
}

/**
 * An element's state after a person chose `chosen`: text for inputs, option values for menus and boxes, ids for
 * people. Undefined when the element has no such option.
 */
export function chosenState(element: Json, chosen: string | readonly string[]): Json | undefined {
  const one = typeof chosen === 'string' ? chosen : chosen[0];
  const many = typeof chosen === 'string' ? [chosen] : chosen;
  const groups = records(element.option_groups).flatMap((group) => records(group.options));
  const options = [...records(element.options), ...groups];
  const option = options.find((candidate) => candidate.value === one);
  switch (element.type) {
    case 'plain_text_input':
    case 'number_input':
    case 'email_text_input':
    case 'url_text_input':
      return { type: element.type, value: one === undefined || one === '' ? null : one };
    case 'static_select':
    case 'radio_buttons':
    case 'overflow':
      return option ? { type: element.type, selected_option: option } : undefined;
    case 'checkboxes':
    case 'multi_static_select':
      return {
        type: element.type,
        selected_options: options.filter((candidate) => many.includes(String(candidate.value))),
      };
    case 'users_select':
      return { type: element.type, selected_user: one ?? null };
    case 'conversations_select':
      return { type: element.type, selected_conversation: one ?? null };
    case 'datepicker':
      return { type: element.type, selected_date: one ?? null };
    case 'timepicker':
      return { type: element.type, selected_time: one ?? null };
    default:
      return undefined;
  }
}
