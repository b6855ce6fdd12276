/**
 * What a credential looks like, and how it is taken out of a text. Everything that leaves the product (log lines, cards, the ledger's
 * words, stored errors, prompts, the arguments of tools, the terminal) goes through `maskSecrets`.
 *
 * Invariants. Pure, but for the credentials of this process that it was told of; safe on its own output. Linear: no shape looks back and forth over a text, so that a megabyte made to slow it down
 * takes milliseconds. What was JSON stays JSON: no shape but a private key reaches over a quote. A shape is here because its form is
 * public and so peculiar that hashes, ids and base64 do not take it; what has no form of its own (a hex string) can only be told by whom it
 * was given to: this process knows its own.
 */

/** What stands for a credential. */
const MASK = '[secret]';

export interface SecretShape {
  readonly name: string;
  /** Linear in the length of the text. */
  readonly mask: (text: string) => string;
}

/**
 * Where a word begins: not inside a longer one, such as base64. A letter before it may also be the end of an escape, since masked texts are
 * often JSON (`\nAKIA…`) or percent-encoded (`%3DAKIA…`).
 */
const START = String.raw`(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt])|(?<=\\u[0-9A-Fa-f]{4})|(?<=%[0-9A-Fa-f]{2}))`;

/** The whole match is the credential, wherever it stands: its beginning is like nothing else. */
function anywhere(name: string, beginnings: readonly string[], pattern: string): SecretShape {
  return matching(name, beginnings, new RegExp(pattern, 'g'));
}

/** The whole match is the credential, where a word begins: long base64 may hold its beginning by chance. */
function word(name: string, beginnings: readonly string[], pattern: string): SecretShape {
  return matching(name, beginnings, new RegExp(START + pattern, 'g'));
}

/** Most texts hold none of the `beginnings`, and finding that out costs next to nothing. */
function matching(name: string, beginnings: readonly string[], regex: RegExp): SecretShape {
  return {
    name,
    mask: (text) => (beginnings.some((one) => text.includes(one)) ? text.replace(regex, MASK) : text),
  };
}

/** What group 1 matches stays; the credential follows it. */
function after(name: string, regex: RegExp): SecretShape {
  return { name, mask: (text) => text.replace(regex, `$1${MASK}`) };
}

/** Slashes as they are in JSON, in JSON inside JSON, and percent-encoded, too. */
const SLASH = String.raw`(?:\\{0,7}\/|%2F)`;

/** The kinds of credentials that are known, in the order in which they are masked. A test has examples of each. */
export const SECRET_SHAPES: readonly SecretShape[] = [
  { name: 'private key', mask: maskPrivateKeys },
  // Ids and the secret keys beside them, docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html "unique ID prefixes".
  { name: 'AWS access key', mask: maskAwsKeys },
  // Bot, user, app-configuration, refresh and browser tokens, docs.slack.dev/authentication/tokens and /using-token-rotation.
  anywhere('Slack token', ['xox'], String.raw`xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9%+/=_-]{8,}`),
  anywhere('Slack app-level token', ['xapp-'], `xapp-[A-Za-z0-9-]{8,}`),
  // Whoever knows the address may post, docs.slack.dev/messaging/sending-messages-using-incoming-webhooks; response_urls look alike.
  after(
    'Slack webhook',
    new RegExp(
      String.raw`(hooks\.slack(?:-gov)?\.com${SLASH}(?:services|workflows|triggers|commands|actions|app)${SLASH})[\w%/\\-]{8,}`,
      'gi',
    ),
  ),
  // docs.github.com "About authentication to GitHub", GitHub's token formats.
  anywhere('GitHub token', ['ghp_', 'gho_', 'ghu_', 'ghs_', 'ghr_'], `gh[pousr]_[A-Za-z0-9_]{16,}`),
  anywhere('GitHub fine-grained token', ['github_pat_'], `github_pat_[A-Za-z0-9_]{20,}`),
  // docs.gitlab.com/security/tokens, "Token prefixes".
  word(
    'GitLab token',
    ['gl', 'GR1348941'],
    `(?:gl(?:pat|oas|dt|rtr|rt|cbt|ptt|ft|imt|agent|wt|soat|ffct)-|GR1348941)[A-Za-z0-9_.-]{20,}`,
  ),
  // github.blog/changelog "npm has a new access token format".
  word('npm token', ['npm_'], `npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])`),
  // platform.claude.com, API keys.
  anywhere('Anthropic key', ['sk-ant-'], 'sk-ant-[A-Za-z0-9_-]{16,}'),
  // platform.openai.com, API keys; the older ones are 48 letters and digits.
  word('OpenAI key', ['sk-'], `sk-(?:(?:proj|svcacct|admin|or)-[A-Za-z0-9_-]{16,}|[A-Za-z0-9]{40,})`),
  // docs.stripe.com/keys and /webhooks.
  anywhere(
    'Stripe key',
    ['sk_', 'rk_', 'whsec_'],
    `(?:(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{24,})`,
  ),
  // docs.cloud.google.com/docs/authentication/api-keys; access tokens and client secrets of Google's OAuth.
  word(
    'Google key',
    ['AIza', 'ya29.', 'GOCSPX-'],
    String.raw`(?:AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,})`,
  ),
  // sendgrid.com, huggingface.co, digitalocean.com, pypi.org, docker.com, hashicorp.com, age-encryption.org: each by its documented prefix.
  word(
    'other prefixed key',
    ['SG.', 'hf_', '_v1_', 'pypi-AgE', 'dckr_pat_', 'hvs.', 'hvb.', 'AGE-SECRET-KEY-1'],
    String.raw`(?:SG\.[\w-]{20,24}\.[\w-]{39,50}|hf_[A-Za-z]{34}(?![A-Za-z])|do[opr]_v1_[a-f0-9]{64}|pypi-AgE[\w-]{50,}|dckr_pat_[\w-]{20,}|hv[sb]\.[\w-]{24,}|AGE-SECRET-KEY-1[0-9A-Z]{58})`,
  ),
  // RFC 7519: three base64url parts, of which two begin with `{"`.
  { name: 'JWT', mask: maskJwts },
  // RFC 6750 and RFC 7617.
  { name: 'authorization header', mask: maskAuthorization },
  // RFC 3986 3.2.1: the password of a URL, also of one that is percent-encoded inside another; a placeholder of a program is none.
  after('URL password', /(:\/\/[^\s:@/?#"'`<>\\]{0,128}:)(?!\$\{)[^\s/?#"'`<>\\]{1,512}(?=@)/g),
  after(
    'percent-encoded URL password',
    /(%3A%2F%2F(?:(?!%3A|%40|%2F)[^\s:/?#"'`<>\\&]){0,128}%3A)(?:(?!%40|%2F)[^\s/?#"'`<>\\&]){1,512}(?=%40)/gi,
  ),
  // learn.microsoft.com/azure/storage/common/storage-configure-connection-string.
  after('Azure account key', /((?:AccountKey|SharedAccessKey)=)[A-Za-z0-9+/%]{40,}={0,2}/gi),
  // postgresql.org/docs/18/libpq-envars.html and libpq-connect.html, and their like.
  { name: 'password setting', mask: maskPasswordSettings },
];

/** A shorter one may be a word that people use: the password `postgres`. */
const LEAST_OWN = 16;
/** The credentials of this process in every form in which a text may hold them, longest first: one may begin with another. */
let own: readonly string[] = [];

/**
 * From now on masks these wherever they stand, too, whatever they look like: as they are, inside JSON and percent-encoded. Those of less than
 * 16 characters are left out. Told again, nothing changes.
 */
export function maskAlso(credentials: readonly string[]): void {
  const forms = credentials
    .filter((one) => one.length >= LEAST_OWN)
    .flatMap((one) => [one, JSON.stringify(one).slice(1, -1), encodeURIComponent(one)]);
  own = [...new Set([...own, ...forms])].sort((one, other) => other.length - one.length);
}

/** Replaces everything that is or looks like a credential with `[secret]`. Safe on any text, and on its own output. */
export function maskSecrets(text: string): string {
  // Nothing shorter holds one, and most of what is masked is short.
  if (text.length < 8) return text;
  let masked = text;
  for (const one of own) masked = masked.replaceAll(one, MASK);
  for (const shape of SECRET_SHAPES) masked = shape.mask(masked);
  return masked;
}

/** True when `text` holds something that is or looks like a credential. */
export function holdsSecret(text: string): boolean {
  return maskSecrets(text) !== text;
}

/**
 * A copy of a JSON value in which every string, names of members too, is masked; the very same value when there was nothing to mask. Two
 * names that become one keep the last value.
 */
export function maskedJson<T>(value: T): T {
  return masked(value) as T;
}

function masked(value: unknown): unknown {
  if (typeof value === 'string') return maskSecrets(value);
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) {
    const members = value.map(masked);
    return members.some((member, index) => member !== value[index]) ? members : value;
  }
  const before = Object.entries(value);
  const entries = before.map(([name, member]) => [maskSecrets(name), masked(member)] as const);
  return entries.some(([name, member], index) => name !== before[index]?.[0] || member !== before[index]?.[1])
    ? Object.fromEntries(entries)
    : value;
}

/** The two parts after the first are optional, so that a run of letters that is no token is passed over once, not once per `eyJ` in it. */
const JWT = new RegExp(
  START + String.raw`eyJ[A-Za-z0-9_-]{8,}(\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,})?`,
  'g',
);

function maskJwts(text: string): string {
  return text.includes('eyJ')
    ? text.replace(JWT, (found, rest: string | undefined) => (rest === undefined ? found : MASK))
    : text;
}

const KEY_BEGINS = /-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----/g;
const KEY_ENDS = /-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----/g;
/** What stands in a key that was cut off: base64, its headers, line breaks as they are or escaped. */
const KEY_BODY = /[A-Za-z0-9+/=\s:,\\-]*/y;

/** RFC 7468 and RFC 9580: from the line that begins a key to the line that ends it, or as far as a cut-off key goes. */
function maskPrivateKeys(text: string): string {
  let out = '';
  let at = 0;
  let end = { from: -1, to: -1 };
  KEY_BEGINS.lastIndex = 0;
  for (let begin = KEY_BEGINS.exec(text); begin !== null; begin = KEY_BEGINS.exec(text)) {
    const bodyAt = KEY_BEGINS.lastIndex;
    if (end.from !== Number.POSITIVE_INFINITY && end.from < bodyAt) {
      KEY_ENDS.lastIndex = bodyAt;
      const found = KEY_ENDS.exec(text);
      end =
        found === null
          ? { from: Number.POSITIVE_INFINITY, to: Number.POSITIVE_INFINITY }
          : { from: found.index, to: KEY_ENDS.lastIndex };
    }
    // Only of a key that was cut off: read for each, a body would be read to the end of the text each time.
    KEY_BODY.lastIndex = bodyAt;
    const isCutOff = end.to === Number.POSITIVE_INFINITY;
    const to = !isCutOff ? end.to : KEY_BODY.exec(text) === null ? bodyAt : KEY_BODY.lastIndex;
    out += text.slice(at, begin.index) + MASK;
    at = to;
    KEY_BEGINS.lastIndex = to;
  }
  return at === 0 ? text : out + text.slice(at);
}

const AWS_ID = /(?:AKIA|ASIA)[0-9A-Z]{16}/g;
/** Forty characters of base64 that are no hash: those are lower case hex. */
const AWS_SECRET =
  /(?:(?<![A-Za-z0-9/+])|(?<=\\[bfnrt]))(?![0-9a-f]{40}(?![A-Za-z0-9/+]))[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])/g;
/** How far from its id a secret key is looked for: the next lines of a file of settings. */
const AWS_NEAR = 200;

function maskAwsKeys(text: string): string {
  const ids = [...text.matchAll(AWS_ID)].map(({ index }) => index);
  if (ids.length === 0) return text;
  let next = 0;
  return text
    .replace(AWS_SECRET, (found, at: number) => {
      while (next + 1 < ids.length && (ids[next] ?? 0) + AWS_NEAR < at) next += 1;
      return [ids[next], ids[next + 1]].some((id) => id !== undefined && Math.abs(id - at) <= AWS_NEAR)
        ? MASK
        : found;
    })
    .replace(AWS_ID, MASK);
}

const AUTHORIZATION = /(\b(?:bearer|basic)(?:\s|%20|\+){1,2})([A-Za-z0-9._~+/=%-]{12,})/gi;

/** Words of prose follow "basic" and "bearer" as well: a token has a digit, a capital inside, or base64's own signs. */
function maskAuthorization(text: string): string {
  return text.replace(AUTHORIZATION, (found, scheme: string, token: string) =>
    /\d|[a-z][A-Z]|[A-Z]{2}[a-z]|[~=_]/.test(token) ? scheme + MASK : found,
  );
}

const PASSWORD =
  /(?:password|passwd|pwd)(?:=|%3D)(\\{0,7}"[^"\\\n]{1,200}\\{0,7}"|'[^'"\\\n]{1,200}'|[^\s"'`&;,<>\\(){}[\]$|]{1,200})/gi;
/** What makes an assignment part of a connection string: another of its settings on the same line. */
const CONNECTION =
  /[?&;]|\b(?:host|hostaddr|user|username|user id|uid|dbname|database|initial catalog|data source|server|port|sslmode)=/i;
const CONNECTION_NEAR = 120;
/** Assignments whose surroundings are read; after so many in one text every one is masked. */
const MAX_READ = 200;

/**
 * After `password` in a connection string and after `PGPASSWORD`, whatever stands there; elsewhere only what has letters and digits, because
 * programs assign too (`password=settings.password`).
 */
function maskPasswordSettings(text: string): string {
  let read = 0;
  return text.replace(PASSWORD, (found: string, value: string, at: number) => {
    const name = found.slice(0, found.length - value.length);
    if (read > MAX_READ) return name + MASK;
    const bare = value.replace(/^\\{0,7}["']/, '').replace(/\\{0,7}["']$/, '');
    if (bare === MASK) return found;
    const isVariable = /^[A-Z]+(?:=|%3D)$/.test(name) && /[A-Z0-9_]/.test(text[at - 1] ?? '');
    const isOdd = bare.length >= 6 && /\d/.test(bare) && /[A-Za-z%]/.test(bare);
    if (isVariable || isOdd) return name + MASK;
    read += 1;
    const isCode =
      /^[,()[]/.test(text.charAt(at + found.length)) || /^[A-Za-z_]+(?:\.[A-Za-z_]+)+$/.test(bare);
    return !isCode && CONNECTION.test(lineAround(text, at, found.length)) ? name + MASK : found;
  });
}

function lineAround(text: string, at: number, length: number): string {
  const before = text.slice(Math.max(0, at - CONNECTION_NEAR), at);
  const rest = text.slice(at + length, at + length + CONNECTION_NEAR);
  return before.slice(before.lastIndexOf('\n') + 1) + (rest.split('\n', 1)[0] ?? '');
}
