/**
 * What travels inside buttons and modals and comes back with a click: names of clicks, and references to a request.
 *
 * Invariant: what comes back is parsed totally and grants nothing; it only names what the person saw. Every reference
 * carries the deployment, so that a button of another installation is told apart.
 */
import { z } from 'zod';
import { LIMITS } from './text.ts';

/** `action_id`s of our buttons and `callback_id`s of our modals. */
export const CLICKS = {
  approve: 'approval.approve',
  requestChanges: 'approval.request_changes',
  reject: 'approval.reject',
  details: 'approval.details',
  page: 'approval.page',
  happened: 'action.happened',
  didNotHappen: 'action.did_not_happen',
} as const;
export const VIEWS = {
  requestChanges: 'approval.request_changes',
  reject: 'approval.reject',
  details: 'approval.details',
  happened: 'action.happened',
  didNotHappen: 'action.did_not_happen',
} as const;
export const REASON_INPUT = { block: 'reason', action: 'reason.text' } as const;

const id = z.string().min(1).max(200);
const buttonReference = z.strictObject({
  /** Deployment id. */
  d: id,
  /** Request id; action id in the buttons that settle an unknown outcome. */
  r: id,
  /** Action hash. */
  h: id,
  /** Page of Details, from 0. */
  p: z.int().min(0).max(999).optional(),
  /** Set on a copy that stands where not everybody may see the task, and therefore does not show all. */
  e: z.literal(true).optional(),
});
const modalReference = buttonReference.extend({
  /** Channel, message and thread of the card that was clicked. */
  c: id,
  t: id.nullable(),
  th: id.nullable(),
});

export type ButtonReference = z.infer<typeof buttonReference>;
export type ModalReference = z.infer<typeof modalReference>;

export function writeReference(reference: ButtonReference | ModalReference): string {
  return JSON.stringify(reference);
}

/** Total: anything that is not a value of ours is `undefined`. */
export function readButton(value: unknown): ButtonReference | undefined {
  return read(buttonReference, value, LIMITS.buttonValue);
}

/** Total: anything that is not a value of ours is `undefined`. */
export function readModal(value: unknown): ModalReference | undefined {
  return read(modalReference, value, LIMITS.privateMetadata);
}

function read<T>(schema: z.ZodType<T>, value: unknown, max: number): T | undefined {
  if (typeof value !== 'string' || value.length > max) return undefined;
  let parsed: unknown;
  try {
    parsed = JSON.parse(value);
  } catch {
    return undefined;
  }
  const result = schema.safeParse(parsed);
  return result.success ? result.data : undefined;
}
