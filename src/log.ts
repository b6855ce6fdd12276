/**
 * The logger. Log lines are operational and disposable; facts that must last are ledger entries.
 *
 * Invariant: no secret leaves through a log line. Keys that name secrets are redacted by path, and every string
 * that is logged passes `maskSecrets`, because an error message of a library may quote a header or a URL.
 */
import { type DestinationStream, type Logger as PinoLogger, pino } from 'pino';

export type Logger = PinoLogger;

/** Shapes of credentials that must never be printed, each with the source of its form. */
const SECRET_SHAPES: readonly RegExp[] = [
  /xox[abeoprs]-[A-Za-z0-9-]{8,}/g, // Slack tokens, docs.slack.dev/authentication/tokens
  /xapp-[A-Za-z0-9-]{8,}/g, // Slack app-level tokens
  /gh[pousr]_[A-Za-z0-9]{16,}/g, // GitHub tokens, docs.github.com "About authentication"
  /github_pat_[A-Za-z0-9_]{20,}/g,
  /sk-ant-[A-Za-z0-9_-]{16,}/g, // Anthropic keys
  /AKIA[0-9A-Z]{16}/g, // AWS access key ids
  /-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g,
  /(?<=\b(?:bearer|basic)\s)[A-Za-z0-9._~+/=-]{12,}/gi,
  /(?<=:\/\/[^\s:@/]{1,64}:)[^\s@/]{1,256}(?=@)/g, // the password of a URL
];

/** Replaces everything that looks like a credential with `[secret]`. Pure; safe on any text, and on its own output. */
export function maskSecrets(text: string): string {
  let masked = text;
  for (const shape of SECRET_SHAPES) masked = masked.replace(shape, '[secret]');
  return masked;
}

/** True when `text` holds something that looks like a credential. */
export function holdsSecret(text: string): boolean {
  return maskSecrets(text) !== text;
}

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
