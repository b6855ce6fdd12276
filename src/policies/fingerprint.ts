/**
 * The fingerprint of an action: its hash, and the comparison of its preconditions. Pure.
 *
 * Invariant: two actions have the same hash exactly when workspace, kind, arguments, tool version and credential are
 * the same JSON. Counts, times and labels never enter it, so the hash also recognises "asked again".
 */
import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';
import { CountersignError } from '../errors.ts';
import type { Json, JsonObject, Precondition, PreconditionChange, WorkspaceId } from '../types.ts';

/**
 * The one spelling of a JSON value, after RFC 8785: sorted keys, no spaces, shortest numbers. Throws TOOL_INPUT_INVALID
 * for what JSON cannot hold (NaN, Infinity, a lone surrogate, undefined, a cycle).
 */
export function canonicalJson(value: Json): string {
  let text: string | undefined;
  try {
    text = canonicalize(value);
  } catch (cause) {
    throw new CountersignError('TOOL_INPUT_INVALID', 'The value is not JSON.', { cause });
  }
  if (text === undefined) throw new CountersignError('TOOL_INPUT_INVALID', 'The value is not JSON.');
  return text;
}

/** What an action is, apart from the state of the world. */
export interface ActionIdentity {
  readonly workspaceId: WorkspaceId;
  readonly kind: string;
  readonly arguments: JsonObject;
  readonly toolVersion: number;
  /** The credential's name, never the secret. */
  readonly credential: string;
}

/** SHA-256 over the canonical JSON of an action's identity: 64 lower-case hex digits. Throws like `canonicalJson`. */
export function actionHash(identity: ActionIdentity): string {
  // Named one by one, so that a wider object passed here cannot slip another field into the hash.
  const text = canonicalJson({
    workspaceId: identity.workspaceId,
    kind: identity.kind,
    arguments: identity.arguments,
    toolVersion: identity.toolVersion,
    credential: identity.credential,
  });
  return createHash('sha256').update(text, 'utf8').digest('hex');
}

/**
 * What changed between the preconditions that were approved and those seen now, in the order of `expected`; empty
 * when all still hold. A path that is no longer reported counts as null. Paths that only `actual` has bind nobody.
 */
export function compareItems(
  expected: readonly Precondition[],
  actual: readonly Precondition[],
): PreconditionChange[] {
  const seen = new Map(actual.map((item) => [item.path, item.expected]));
  const changes: PreconditionChange[] = [];
  for (const { path, expected: wanted } of expected) {
    const found = seen.get(path) ?? null;
    if (canonicalJson(found) !== canonicalJson(wanted))
      changes.push({ path, expected: wanted, actual: found });
  }
  return changes;
}
