/**
 * Guarantee: a credential of any shape that is public is masked, wherever it stands in a text: in prose, in JSON, in a URL, percent-encoded.
 * What only looks random is left alone: hashes, ids, base64, the product's own sources. JSON stays JSON, masking twice changes nothing, and
 * no text, however it is made, takes long.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readVariables } from '../../src/config.ts';
import { holdsSecret, maskAlso, maskedJson, maskSecrets, SECRET_SHAPES } from '../../src/secrets.ts';
import { PLANTED, planted } from '../support/secrets.ts';

const ROOT = new URL('../../', import.meta.url);

/** The same bytes each time: in enough random text the short beginning of some shape (`sk-`) stands by chance. */
function sample(length: number, name: string): Buffer {
  const parts = Array.from({ length: Math.ceil(length / 64) }, (_, n) =>
    createHash('sha512').update(`${name} ${n}`).digest(),
  );
  return Buffer.concat(parts).subarray(0, length);
}
const hexes = (count: number, algorithm: string): string[] =>
  Array.from({ length: count }, (_, n) => createHash(algorithm).update(`sample ${n}`).digest('hex'));
const uuids = hexes(2_000, 'md5').map((hex) =>
  hex.replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12})$/, '$1-$2-4$3-8$4-$5'),
);

describe('a credential', () => {
  it('of every shape has examples here', () => {
    expect(Object.keys(PLANTED).sort()).toEqual(SECRET_SHAPES.map(({ name }) => name).sort());
  });

  it.each(Object.entries(PLANTED))('is masked: %s', (_name, arbitrary) => {
    const ahead = fc.constantFrom('', 'look: ', '\n', 'key=', '"', '(', '\t', 'Zeile ü ', '\u200b');
    const after = fc.constantFrom('', ' look', '\n', '"', ')', '\t', ', ü', '\u202e');
    fc.assert(
      fc.property(arbitrary, ahead, after, ({ text, secret }, before, behind) => {
        for (const given of [
          `${before}${text}${behind}`,
          JSON.stringify({ a: `${before}\n${text}`, b: [text, 'fine'] }),
          JSON.stringify(JSON.stringify({ text })),
        ]) {
          const masked = maskSecrets(given);
          expect(masked).not.toContain(secret);
          expect(masked).toContain('[secret]');
          expect(maskSecrets(masked)).toBe(masked);
        }
        expect(holdsSecret(text)).toBe(true);
        expect(JSON.stringify(maskedJson({ a: [text], [text]: 1 }))).not.toContain(
          JSON.stringify(secret).slice(1, -1),
        );
      }),
      { numRuns: 60 },
    );
  });

  it('takes no other words with it, and JSON stays JSON', () => {
    fc.assert(
      fc.property(planted, fc.string(), fc.string(), ({ text }, one, two) => {
        const value = {
          before: one,
          said: text,
          behind: two,
          url: 'http://127.0.0.1:3000',
          mail: 'a@b.example',
        };
        const line = maskSecrets(JSON.stringify(value));
        expect(JSON.parse(line)).toMatchObject({ url: value.url, mail: value.mail });
      }),
      { numRuns: 500 },
    );
  });

  it('keeps what tells which one it was', () => {
    expect(maskSecrets('postgres://app:hunter2@db/shop')).toBe('postgres://app:[secret]@db/shop');
    expect(maskSecrets('see https://hooks.slack.com/services/T0/B0/abcdefgh!')).toBe(
      'see https://hooks.slack.com/services/[secret]!',
    );
    expect(maskSecrets('PGPASSWORD=hunter psql')).toBe('PGPASSWORD=[secret] psql');
    expect(maskSecrets('Authorization: Bearer abc123def456ghi')).toBe('Authorization: Bearer [secret]');
  });
});

describe('a credential of this process', () => {
  it('is masked whatever it looks like, in every form, and no shorter word is', () => {
    const secret = 'plain words & "signs" of ours';
    const longer = `${secret}, longer`;
    expect(maskSecrets(secret)).toBe(secret);

    maskAlso([secret, longer, 'postgres', '']);

    expect(maskSecrets(`a ${secret} b ${longer} c`)).toBe('a [secret] b [secret] c');
    expect(maskSecrets(JSON.stringify({ said: secret }))).toBe('{"said":"[secret]"}');
    expect(maskSecrets(`?said=${encodeURIComponent(secret)}&x`)).toBe('?said=[secret]&x');
    expect(maskSecrets('the postgres database')).toBe('the postgres database');
    expect(holdsSecret(secret)).toBe(true);
  });
});

it('a credential whose variable ends in a line break is masked as it is used', () => {
  const secret = '8f742231b10e8888abcd99yyyzzz85a6';
  readVariables({ SLACK_SIGNING_SECRET: `${secret}\n` });

  expect(maskSecrets(`it is ${secret}.`)).toBe('it is [secret].');
});

describe('what is no credential', () => {
  const png = Buffer.concat([Buffer.from('89504e470d0a1a0a', 'hex'), sample(40_000, 'image')]);
  it.each([
    ['git shas', hexes(2_000, 'sha1').join(' ')],
    ['uuids', uuids.join('\n')],
    ['sha-256', hexes(1_000, 'sha256').join(',')],
    [
      'integrity hashes',
      Array.from({ length: 500 }, (_, n) => `sha512-${sample(64, `package ${n}`).toString('base64')}`).join(
        '\n',
      ),
    ],
    ['a small image', `data:image/png;base64,${png.toString('base64')}`],
    ['a small image for a URL', png.toString('base64url')],
    [
      'prose',
      'Basic understanding of the bearer authentication scheme: basic authorization. Ask risk-assessment-and-mitigation-of-long-words.',
    ],
    [
      'addresses',
      'http://127.0.0.1:3000/x?to=a@b.example ssh://git@github.example:22/acme/shop.git mailto:a@b.example',
    ],
    [
      'programs',
      'connect(host=host, password=settings.db_password, user=user)\nconst password = read();\nif (password=== given) {}\n`postgres://app:$' +
        '{password}@db`',
    ],
    [
      'our own',
      'countersign_delivery countersign/fix-1 C0123456789 1700000000.000100 0199f1aa-0000-7000-8000-000000000001',
    ],
  ])('is left alone: %s', (_what, text) => {
    expect(maskSecrets(text)).toBe(text);
  });

  it('is the text of this repository, but for what stands there to be masked', () => {
    const files = execFileSync(
      'git',
      ['ls-files', '-z', 'src', 'docs', 'migrations', 'bench', '*.md', '*.json'],
      {
        cwd: ROOT,
        encoding: 'utf8',
      },
    )
      .split('\0')
      .filter((name) => /\.(?:ts|mjs|md|json|sql|js|css)$/.test(name));
    const found = files.flatMap((name) =>
      readFileSync(new URL(name, ROOT), 'utf8')
        .split('\n')
        .filter(holdsSecret)
        .map((line) => `${name}: ${line.trim()}`),
    );
    // The hostile card, which is drawn with a credential in it.
    expect(found.filter((line) => !line.startsWith('tests/'))).toEqual([]);
  });
});

describe('a long text made to be slow', () => {
  const filled = (part: string): string => part.repeat(Math.ceil(200_000 / part.length));
  const parts = [
    ...[
      'xox',
      'xoxb-',
      'xoxb-1',
      'xapp-',
      'ghp_',
      'ghp_a',
      'github_pat_a',
      'glpat-',
      'glpat-a.',
      'npm_',
      'npm_a',
      'sk-',
      'sk-ant-',
      'sk-a',
    ],
    ...[
      'sk_live_',
      'whsec_',
      'AIza',
      'AIza-',
      'ya29.',
      'SG.',
      'SG.a',
      'hf_',
      'dop_v1_',
      'pypi-AgE',
      'hvs.',
      'AGE-SECRET-KEY-1',
    ],
    ...[
      'eyJ',
      'eyJ.',
      '.eyJaaaaaaaa',
      'eyJaaaaaaaa.eyJaaaaaaaa.',
      '%2DeyJ',
      '-eyJ',
      '_eyJaaaaaaaa',
      '\\neyJ',
      'AKIA',
      'AKIAAAAAAAAAAAAAAAAA ',
      `AKIA${'A'.repeat(16)} ${'aZ1+'.repeat(10)} `,
    ],
    ...[
      '-----BEGIN PRIVATE KEY-----',
      '-----BEGIN ',
      '-----BEGIN PRIVATE KEY-----\nAAAA',
      '-----END PRIVATE KEY-----',
      '-----BEGIN PRIVATE KEY----------END PRIVATE KEY-----',
    ],
    ...[
      'bearer ',
      'basic a',
      'bearer aaaaaaaaaaaa ',
      '://',
      '://a:',
      'a:',
      'a:a@',
      '%3A%2F%2F',
      '%3A%2F%2Fa%3A',
      '%3A',
    ],
    ...[
      'hooks.slack.com/services/',
      'hooks.slack.com',
      'AccountKey=',
      'password=',
      'password=a ',
      'pwd=a&',
      'password="',
      "password='a",
      'PASSWORD=a',
    ],
    ...['a', ' ', '\\', '%', '"', '\n', 'A1', '-', '=', '/'],
  ];
  it('takes a moment, whatever it is made of', () => {
    const slow = parts.flatMap((part) => {
      const text = filled(part);
      // The time it worked, not the time that went by: a machine may give its time to others.
      const before = process.cpuUsage();
      maskSecrets(text);
      const used = process.cpuUsage(before);
      const took = (used.user + used.system) / 1_000;
      return took > 500 ? [`${JSON.stringify(part)}: ${took.toFixed(0)} ms`] : [];
    });
    // A fifth of a megabyte, so that the whole list takes a second; a quadratic shape takes half a minute over it. For a whole one the
    // slowest shape took 90 ms, all but two below 50.
    expect(slow).toEqual([]);
  });
});
