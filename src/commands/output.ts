/**
 * The one way to the terminal for the verbs: nothing that looks like a credential is printed, whatever a row, an error or a library holds.
 */
import { maskedJson, maskSecrets } from '../secrets.ts';

/** Prints lines on standard output, masked. A reader who has had enough, as `head` has, ends the process without an error. */
export function print(...lines: readonly string[]): void {
  if (!process.stdout.listeners('error').includes(readerGone)) process.stdout.on('error', readerGone);
  process.stdout.write(`${maskSecrets(lines.join('\n'))}\n`);
}

function readerGone(error: NodeJS.ErrnoException): void {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
}

/** Prints one JSON value on one line, for programs: masked within its strings, so that it stays JSON. */
export function printJson(value: unknown): void {
  print(JSON.stringify(maskedJson(toJson(value))));
}

/** Prints one line of ours on standard error, masked. */
export function complain(line: string): void {
  process.stderr.write(`countersign: ${maskSecrets(line).replaceAll(/\s*\n\s*/g, ' ')}\n`);
}

/** As JSON sees it: dates are strings, what is undefined is not there. */
function toJson(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value)) as unknown;
}
