/**
 * The logger. Log lines are operational and disposable; facts that must last are ledger entries.
 *
 * Invariant: no secret leaves through a log line. Keys that name secrets are redacted by path, and every string
 * that is logged passes `maskSecrets`, because an error message of a library may quote a header or a URL.
 */
import { type DestinationStream, type Logger as PinoLogger, pino } from 'pino';
import { maskSecrets } from './secrets.ts';

export type Logger = PinoLogger;

export { holdsSecret, maskSecrets } from './secrets.ts';

const REDACTED_PATHS = [
  'token',
  'secret',
  'password',
  'authorization',
  'apiKey',
  'signingSecret',
  'privateKey',
];

export interface LogOptions {
  /** Least level printed, default `info`. */
  readonly level?: string;
  /** Where lines go, default standard output. */
  readonly destination?: DestinationStream;
}

/** Makes the process's logger: one JSON line per event, on standard output unless told otherwise. */
export function createLogger(options: LogOptions = {}): Logger {
  return pino(
    {
      level: options.level ?? 'info',
      base: null,
      redact: {
        paths: REDACTED_PATHS.flatMap((path) => [path, `*.${path}`, `*.*.${path}`]),
        censor: '[secret]',
      },
      // Runs on the finished line, so that nothing (message, error stack, nested field) can pass beside it.
      hooks: { streamWrite: maskSecrets },
    },
    options.destination ?? process.stdout,
  );
}
