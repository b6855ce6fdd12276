/** Credentials of every known shape, made up anew each time, for tests that plant them and look whether they come out. */
import fc from 'fast-check';

const of = (alphabet: string, minLength: number, maxLength = minLength): fc.Arbitrary<string> =>
  fc.array(fc.constantFrom(...alphabet), { minLength, maxLength }).map((characters) => characters.join(''));
const UPPER = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ';
const DIGITS = '0123456789';
const ALNUM = `${UPPER}${UPPER.toLowerCase()}${DIGITS}`;
const B64 = `${ALNUM}+/`;
const B64URL = `${ALNUM}-_`;
const HEX = `${DIGITS}abcdef`;

/** A text that holds a credential, and the part of it that must not come out. */
export interface Planted {
  readonly text: string;
  readonly secret: string;
}
const bare = (secret: fc.Arbitrary<string>): fc.Arbitrary<Planted> =>
  secret.map((one) => ({ text: one, secret: one }));
const join = (...parts: (string | fc.Arbitrary<string>)[]): fc.Arbitrary<string> =>
  fc
    .tuple(...parts.map((part) => (typeof part === 'string' ? fc.constant(part) : part)))
    .map((all) => all.join(''));
const within = (before: string, secret: fc.Arbitrary<string>, behind = ''): fc.Arbitrary<Planted> =>
  secret.map((one) => ({ text: `${before}${one}${behind}`, secret: one }));

/** By the name of the shape in src/secrets.ts. */
export const PLANTED: Readonly<Record<string, fc.Arbitrary<Planted>>> = {
  'private key': fc
    .tuple(
      fc.constantFrom('', 'RSA ', 'EC ', 'OPENSSH ', 'ENCRYPTED '),
      of(B64, 64),
      of(B64, 64),
      fc.boolean(),
    )
    .map(([kind, one, two, isWhole]) => ({
      text: `-----BEGIN ${kind}PRIVATE KEY-----\n${one}\n${two}\n${isWhole ? `-----END ${kind}PRIVATE KEY-----` : ''}`,
      secret: two,
    })),
  'AWS access key': fc.oneof(
    bare(join(fc.constantFrom('AKIA', 'ASIA'), of(`${UPPER}234567`, 16))),
    fc.tuple(of(`${UPPER}234567`, 16), of(B64, 38)).map(([id, rest]) => ({
      secret: `aZ${rest}`,
      text: `aws_access_key_id = AKIA${id}\naws_secret_access_key = aZ${rest}`,
    })),
  ),
  'Slack token': bare(
    fc.oneof(
      join(
        fc.constantFrom('xoxb-', 'xoxp-', 'xoxa-2-', 'xoxr-', 'xoxs-', 'xoxc-'),
        of(DIGITS, 11, 13),
        '-',
        of(ALNUM, 24),
      ),
      join(fc.constantFrom('xoxe-1-', 'xoxe.xoxb-1-', 'xoxe.xoxp-1-'), of(ALNUM, 40, 120)),
      join('xoxd-', of(ALNUM, 30), '%2B', of(ALNUM, 10), '%3D'),
    ),
  ),
  'Slack app-level token': bare(
    join('xapp-1-A', of(`${UPPER}${DIGITS}`, 10), '-', of(DIGITS, 13), '-', of(HEX, 64)),
  ),
  'Slack webhook': fc.oneof(
    within(
      'https://hooks.slack.com/services/',
      join('T', of(`${UPPER}${DIGITS}`, 9), '/B', of(`${UPPER}${DIGITS}`, 9), '/', of(ALNUM, 24)),
    ),
    within(
      'https:\\/\\/hooks.slack.com\\/actions\\/',
      join('T012AB\\/', of(DIGITS, 12), '\\/', of(ALNUM, 24)),
    ),
    within(
      'u=https%3A%2F%2Fhooks.slack.com%2Fcommands%2F',
      join('T012AB%2F', of(DIGITS, 12), '%2F', of(ALNUM, 24)),
    ),
  ),
  'GitHub token': bare(join(fc.constantFrom('ghp_', 'gho_', 'ghu_', 'ghs_', 'ghr_'), of(ALNUM, 36))),
  'GitHub fine-grained token': bare(join('github_pat_', of(ALNUM, 22), '_', of(ALNUM, 59))),
  'GitLab token': bare(
    join(
      fc.constantFrom('glpat-', 'gldt-', 'glrt-t1_', 'glcbt-64_', 'glptt-', 'GR1348941'),
      of(B64URL, 20, 40),
    ),
  ),
  'npm token': bare(join('npm_', of(ALNUM, 36))),
  'Anthropic key': bare(join('sk-ant-api03-', of(B64URL, 40, 100))),
  'OpenAI key': bare(
    fc.oneof(
      join(fc.constantFrom('sk-proj-', 'sk-svcacct-'), of(B64URL, 40, 100)),
      join('sk-', of(ALNUM, 20), 'T3BlbkFJ', of(ALNUM, 20)),
    ),
  ),
  'Stripe key': bare(
    join(fc.constantFrom('sk_live_', 'sk_test_', 'rk_live_', 'rk_test_', 'whsec_'), of(ALNUM, 24, 99)),
  ),
  'Google key': bare(
    fc.oneof(
      join('AIza', of(B64URL, 34), 'x'),
      join('ya29.', of(B64URL, 60)),
      join('GOCSPX-', of(B64URL, 28)),
    ),
  ),
  'other prefixed key': bare(
    fc.oneof(
      join('SG.', of(B64URL, 22), '.', of(B64URL, 43)),
      join('hf_', of(`${UPPER}${UPPER.toLowerCase()}`, 34)),
      join('dop_v1_', of(HEX, 64)),
      join('pypi-AgEIcHlwaS5vcmc', of(B64URL, 60)),
      join('dckr_pat_', of(B64URL, 27)),
      join('hvs.', of(B64URL, 24)),
      join('AGE-SECRET-KEY-1', of(`${UPPER}${DIGITS}`, 58)),
    ),
  ),
  JWT: bare(join('eyJ', of(B64URL, 20), '.eyJ', of(B64URL, 40), '.', of(B64URL, 43))),
  'authorization header': fc.oneof(
    within('Authorization: Bearer ', join(of(ALNUM, 12, 40), '7')),
    within('authorization: Basic ', join(of(B64, 16), 'aZ==')),
    within('curl -H "authorization: bearer ', join(of(ALNUM, 20), '0'), '"'),
  ),
  'URL password': fc.oneof(
    within(
      'postgres://app:',
      join(of(ALNUM, 4, 30), fc.constantFrom('', '%40', '@x', '!$', ',;')),
      '@db.internal/shop',
    ),
    within('redis://:', of(B64URL, 8), '@127.0.0.1:6379'),
    within('git clone https://x-access-token:', of(ALNUM, 20), '@github.example/acme/shop'),
  ),
  'percent-encoded URL password': within(
    'url=postgres%3A%2F%2Fapp%3A',
    join(of(ALNUM, 4, 30), fc.constantFrom('', '%25', '!')),
    '%40db%2Fshop',
  ),
  'Azure account key': within(
    'DefaultEndpointsProtocol=https;AccountName=shop;AccountKey=',
    join(of(B64, 86), '=='),
  ),
  'password setting': fc.oneof(
    within('host=db user=app password=', of(UPPER.toLowerCase(), 8, 20), ' dbname=shop'),
    within('Server=db;User Id=app;Password=', of(UPPER.toLowerCase(), 8, 20), ';Encrypt=yes'),
    within('jdbc:postgresql://db/shop?user=app&password=', join(of(ALNUM, 8), '%40'), '&ssl=true'),
    within('export PGPASSWORD=', of(UPPER.toLowerCase(), 8, 20)),
    within("host=db password='", join(of(UPPER.toLowerCase(), 8), ' ', of(ALNUM, 8)), "' port=5432"),
    within('DB_PASSWORD=\\"', of(ALNUM, 12), '\\"'),
    within('q%3Fpassword%3D', join(of(ALNUM, 10), '1a'), '%26x'),
  ),
};

/** Any of them. */
export const planted: fc.Arbitrary<Planted> = fc.oneof(...Object.values(PLANTED));
