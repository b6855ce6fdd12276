/**
 * Paths inside a repository, and Git's own name for a text.
 *
 * Invariant: a path that passes names one place below the root on every system, and never Git's own folder.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';

const MAX_PATH_LENGTH = 200;

/**
 * Plain ASCII, segments joined by single slashes; no `.` or `..`, nothing that begins or ends with a space or ends with a dot
 * (Windows drops it), and no spelling of `.git` that any file system takes for it.
 */
export const pathSchema = z
  .string()
  .min(1)
  .max(MAX_PATH_LENGTH)
  .regex(/^[A-Za-z0-9_.@+()[\] /-]+$/, 'must be a path in plain ASCII')
  .refine((path) => path.split('/').every(isPlainSegment), 'must be a path below the root, outside .git');

function isPlainSegment(segment: string): boolean {
  if (segment === '' || /^ | $|\.$/.test(segment)) return false;
  return !/^(?:\.git|git~\d+)$/i.test(segment);
}

/** The name Git gives a file with this text. */
export function blobSha(text: string): string {
  const bytes = Buffer.from(text, 'utf8');
  return createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
}
