/**
 * Ids that follow from a run and a place in it alone, so that every replay gets the same one.
 */
import { createHash } from 'node:crypto';
import type { RunRef } from '../../types.ts';

/** A UUIDv7: its time is the run's start, its other bits a hash of the place. */
export function derivedId(run: RunRef & { readonly createdAt: Date }, place: string): string {
  const bytes = createHash('sha256')
    .update(`${run.workspaceId}/${run.runId}/${place}`)
    .digest()
    .subarray(0, 16);
  bytes.writeUIntBE(run.createdAt.getTime(), 0, 6);
  bytes.writeUInt8(0x70 | ((bytes[6] ?? 0) & 0x0f), 6);
  bytes.writeUInt8(0x80 | ((bytes[8] ?? 0) & 0x3f), 8);
  const hex = bytes.toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}
