/**
 * Configuration: the only reader of `process.env`.
 *
 * Invariant: what passes here is whole and typed; everything else is one CONFIG_INVALID that names every variable at fault.
 * Values of secrets never appear in an error or in `describeConfig`, and are masked in everything that leaves the process.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { CountersignError } from './errors.ts';
import { maskAlso } from './secrets.ts';
import type { Json } from './types.ts';

const url = (protocols: RegExp) =>
  z
    .string()
    .refine(
      (text) => URL.canParse(text) && protocols.test(new URL(text).protocol),
      'is not a URL of the right kind',
    );
const http = url(/^https?:$/);
const postgres = url(/^postgres(ql)?:$/);
/** A line break that a file or a shell left behind is none of it. */
const secret = z.string().trim().min(1);

/** Off where there would be a default. */
const NO_CHANNEL = 'none';

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
const NO_PORT = 'must be a port, a whole number up to 65535';

/** Every variable, in the order of docs and messages. */
const schema = z.object({
  DATABASE_URL: postgres.optional(),
  DATABASE_ADMIN_URL: postgres.optional(),
  SLACK_BOT_TOKEN: z.string().trim().startsWith('xoxb-', 'must start with xoxb-').optional(),
  SLACK_SIGNING_SECRET: z.string().trim().min(16, 'must have at least 16 characters').optional(),
  SLACK_SIGNING_SECRET_PREVIOUS: z.string().trim().min(16, 'must have at least 16 characters').optional(),
  /** Of Socket Mode; where it is given, it is used, whatever else is. */
  SLACK_APP_TOKEN: z.string().trim().startsWith('xapp-', 'must start with xapp-').optional(),
  SLACK_API_URL: http.optional(),
  ANTHROPIC_API_KEY: secret.optional(),
  ANTHROPIC_BASE_URL: http.optional(),
  COUNTERSIGN_MODEL: z.string().min(1).default('claude-sonnet-5-5'),
  GITHUB_TOKEN: secret.optional(),
  GITHUB_API_URL: http.default('https://api.github.com'),
  COUNTERSIGN_POLICY: z.string().min(1).optional(),
  COUNTERSIGN_TIMEZONE: z
    .string()
    .refine(isTimeZone, 'is not a zone of the IANA database, such as Europe/Berlin')
    .default(() => Temporal.Now.timeZoneId()),
  COUNTERSIGN_DIGEST_CHANNEL: z
    .string()
    .regex(/^(?:[CG][A-Z0-9]{2,63}|none)$/, "is neither a channel's id, such as C0123456789, nor none")
    .optional(),
  COUNTERSIGN_STATE_DIR: z.string().min(1).default('.local'),
  COUNTERSIGN_LOG_LEVEL: z.enum(LOG_LEVELS, `must be one of ${LOG_LEVELS.join(', ')}`).default('info'),
  /** For tests: every run goes back to the queue after every journaled step. */
  COUNTERSIGN_SUSPEND_AFTER_EVERY_STEP: z.stringbool('is neither true nor false').default(false),
  PORT: z.coerce.number(NO_PORT).int(NO_PORT).min(0, NO_PORT).max(65_535, NO_PORT).default(3000),
});

export type Variables = z.infer<typeof schema>;
const SECRET = /TOKEN|SECRET|KEY|DATABASE/;

/** What `serve` does not start without: it fills nothing by itself. */
const REQUIRED = [
  'DATABASE_URL',
  'SLACK_BOT_TOKEN',
  'ANTHROPIC_API_KEY',
  'GITHUB_TOKEN',
  'COUNTERSIGN_POLICY',
] as const satisfies readonly (keyof Variables)[];

/** Slack reaches us by signed requests, or we reach Slack and are told over a WebSocket. */
export type SlackReceiver =
  | { readonly kind: 'http'; readonly signingSecrets: readonly [string, ...string[]] }
  | { readonly kind: 'socket'; readonly appToken: string };

/** Everything the product needs, from whatever source. */
export interface Config {
  readonly databaseUrl: string;
  /** Null: the database must have been migrated already. */
  readonly databaseAdminUrl: string | null;
  readonly slack: {
    readonly botToken: string;
    readonly receiver: SlackReceiver;
    readonly apiUrl: string | null;
  };
  readonly model: {
    readonly apiKey: string;
    readonly baseUrl: string | null;
    readonly name: string;
    /** Who speaks, for people. */
    readonly label: string;
  };
  readonly github: { readonly token: string; readonly apiUrl: string; readonly credential: string };
  /** Content of the policy file; its meaning is the policy room's. */
  readonly policy: Json;
  /** True: a policy that differs from the active one is activated at start. */
  readonly applyPolicy: boolean;
  /** False: reviewers sit in a local Slack while a tool would write to a real service; then writes are refused. */
  readonly mayWrite: boolean;
  readonly digest: DigestConfig;
  readonly host: string | null;
  readonly port: number;
  readonly logLevel: string;
  readonly suspendAfterEveryStep: boolean;
}

export interface DigestConfig {
  /** A zone of the IANA database: when the morning is. */
  readonly timeZone: string;
  /** Where the morning digest is posted; null: nowhere, it is only told who asks. */
  readonly channelId: string | null;
}

/**
 * Parses the environment, and has the credentials in it masked from then on. An empty value counts as unset. Throws CONFIG_INVALID naming
 * whatever is wrong and, `for` serve, whatever is
 * missing beside it.
 */
export function readVariables(
  env: NodeJS.ProcessEnv = process.env,
  { for: verb }: { readonly for?: 'serve' } = {},
): Variables {
  const given = Object.fromEntries(
    Object.entries(env).filter(([name, value]) => name in schema.shape && value !== ''),
  );
  maskAlso(
    Object.entries(given).flatMap(([name, value]) => (SECRET.test(name) ? credentialsIn(name, value) : [])),
  );
  const parsed = schema.safeParse(given);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map((issue) => `${issue.path.join('.')} ${issue.message}`);
  const missing = verb === 'serve' ? missingIn(given) : [];
  if (missing.length > 0) problems.push(missingWords(missing));
  throw new CountersignError('CONFIG_INVALID', problems.join('; '));
}

/** The value itself; of a database's URL its password alone. */
function credentialsIn(name: string, value = ''): string[] {
  // As it is used: the schema takes off what a file or a shell left behind.
  if (!name.startsWith('DATABASE')) return [value.trim()];
  const encoded = URL.parse(value)?.password ?? '';
  try {
    return [encoded, decodeURIComponent(encoded)];
  } catch {
    return [encoded];
  }
}

function missingIn(given: Readonly<Partial<Record<keyof Variables, unknown>>>): string[] {
  const isReachable = given.SLACK_APP_TOKEN !== undefined || given.SLACK_SIGNING_SECRET !== undefined;
  return REQUIRED.flatMap((name) => [
    ...(given[name] === undefined ? [name] : []),
    ...(name === 'SLACK_BOT_TOKEN' && !isReachable ? ['SLACK_APP_TOKEN or SLACK_SIGNING_SECRET'] : []),
  ]);
}

function missingWords(missing: readonly string[]): string {
  return `serve fills nothing by itself; missing: ${missing.join(', ')}`;
}

/** The configuration of `serve`. Throws CONFIG_INVALID naming each missing variable. */
export function serveConfig(variables: Variables): Config {
  const receiver = slackReceiver(variables);
  const { DATABASE_URL, SLACK_BOT_TOKEN, ANTHROPIC_API_KEY, GITHUB_TOKEN, COUNTERSIGN_POLICY } = variables;
  if (
    !DATABASE_URL ||
    !SLACK_BOT_TOKEN ||
    !receiver ||
    !ANTHROPIC_API_KEY ||
    !GITHUB_TOKEN ||
    !COUNTERSIGN_POLICY
  )
    throw new CountersignError('CONFIG_INVALID', missingWords(missingIn(variables)));
  return {
    databaseUrl: DATABASE_URL,
    databaseAdminUrl: variables.DATABASE_ADMIN_URL ?? null,
    slack: {
      botToken: SLACK_BOT_TOKEN,
      receiver,
      apiUrl: variables.SLACK_API_URL ?? null,
    },
    model: {
      apiKey: ANTHROPIC_API_KEY,
      baseUrl: variables.ANTHROPIC_BASE_URL ?? null,
      name: variables.COUNTERSIGN_MODEL,
      label: variables.COUNTERSIGN_MODEL,
    },
    github: { token: GITHUB_TOKEN, apiUrl: variables.GITHUB_API_URL, credential: 'github-token' },
    policy: readPolicyFile(COUNTERSIGN_POLICY),
    applyPolicy: false,
    mayWrite: true,
    digest: digestConfig(variables, null),
    host: null,
    port: variables.PORT,
    logLevel: variables.COUNTERSIGN_LOG_LEVEL,
    suspendAfterEveryStep: variables.COUNTERSIGN_SUSPEND_AFTER_EVERY_STEP,
  };
}

/**
 * How Slack's events come, as far as it is configured; null when it is not. With both credentials it is Socket Mode:
 * every app has a signing secret, an app-level token is made for this and nothing else; and where it is the wrong guess
 * the start fails and says so, while requests that never come are silence.
 */
export function slackReceiver(variables: Variables): SlackReceiver | null {
  const { SLACK_APP_TOKEN: appToken, SLACK_SIGNING_SECRET: current } = variables;
  if (appToken !== undefined) return { kind: 'socket', appToken };
  return current === undefined ? null : { kind: 'http', signingSecrets: signingSecrets(current, variables) };
}

export function signingSecrets(current: string, variables: Variables): readonly [string, ...string[]] {
  const previous = variables.SLACK_SIGNING_SECRET_PREVIOUS;
  return previous === undefined ? [current] : [current, previous];
}

/** `otherwise`: the channel where none is named. */
export function digestConfig(variables: Variables, otherwise: string | null): DigestConfig {
  const named = variables.COUNTERSIGN_DIGEST_CHANNEL;
  return {
    timeZone: variables.COUNTERSIGN_TIMEZONE,
    channelId: named === NO_CHANNEL ? null : (named ?? otherwise),
  };
}

/** Also refuses plain offsets, which Temporal takes: they know no summer. */
function isTimeZone(text: string): boolean {
  if (!/^[A-Za-z]/.test(text)) return false;
  try {
    Temporal.Instant.fromEpochMilliseconds(0).toZonedDateTimeISO(text);
    return true;
  } catch {
    return false;
  }
}

/** Reads a JSON policy file. Throws CONFIG_INVALID naming the file. */
export function readPolicyFile(file: string): Json {
  try {
    return JSON.parse(readFileSync(path.resolve(file), 'utf8')) as Json;
  } catch (error) {
    // The system's message repeats the name.
    const why =
      (error as NodeJS.ErrnoException).code ?? (error instanceof Error ? error.message : String(error));
    throw new CountersignError('CONFIG_INVALID', `COUNTERSIGN_POLICY: cannot read ${file}: ${why}`);
  }
}

/** What is set, one line each, secrets as `[set]`. For the log at start. */
export function describeConfig(variables: Variables): Record<string, string> {
  return Object.fromEntries(
    Object.entries(variables).map(([name, value]) => [name, SECRET.test(name) ? '[set]' : String(value)]),
  );
}
