/**
 * Changes to what Slack sends, and the bytes that come of them: an arbitrary of fast-check, so that every case follows from a seed and
 * shrinks. Changes go into the structure (fields dropped, of other types, deep, huge, not storable) and into the bytes (cut, other
 * encodings, names twice).
 */
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { type Fields, type Real, SHAPES } from './shapes.ts';

export const JSON_TYPE = 'application/json';
export const FORM_TYPE = 'application/x-www-form-urlencoded';

export interface Case {
  readonly shape: string;
  readonly contentType: string;
  readonly body: Uint8Array;
  /** As Slack sends it: no change was made. */
  readonly isPristine: boolean;
}

function nested(depth: number, leaf: unknown): unknown {
  let value = leaf;
  for (let level = 0; level < depth; level += 1) value = level % 2 === 0 ? [value] : { a: value };
  return value;
}

/** No id of a reviewer is among these (see shapes.ts). */
const JUNK: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -1,
  1e308,
  5e-324,
  2 ** 53 + 2,
  '',
  ' ',
  'x',
  '0',
  'null',
  '\0',
  'a\0b',
  '\ud800',
  'x\udfff',
  '\u202e\u2066abc',
  '\ufeff',
  '\u{e0041}',
  '<!channel>',
  '<@U0COUNTERSGN>',
  '```',
  '__proto__',
  'constructor',
  'toString',
  '../..',
  "' or 1=1 --",
  '%00',
  'é'.normalize('NFD'),
  'a'.repeat(300),
  'b'.repeat(5_000),
  '👩‍👩‍👧'.repeat(400),
  'T0OTHER',
  'E0OTHER',
  'U0NOBODY',
  'D0REQUESTER',
  'C0GENERAL',
  '1.1',
  '99999999999999999.1',
  [],
  {},
  [null],
  [[]],
  { id: null },
  { id: 'T0OTHER' },
  nested(70, 'x'),
  nested(62, 'x'),
  nested(900, 1),
  Array.from({ length: 300 }, () => ({})),
];
const NAMES = [
  '__proto__',
  'constructor',
  'prototype',
  'toString',
  'hasOwnProperty',
  '',
  '\0',
  '\ud800',
  'then',
  'toJSON',
  'extra',
  'subtype',
  'bot_id',
  'payload',
];

const OPS = [
  'drop',
  'replace',
  'replace',
  'wrap',
  'as text',
  'swap',
  'repeat',
  'deepen',
  'rename',
  'add',
] as const;
const BYTES = [
  'cut',
  'flip',
  'not utf-8',
  'bom',
  'utf-16',
  'name twice',
  'other type',
  'no type',
  'encoded twice',
  'padded',
  'gzip',
  'tail',
  'field twice',
  'latin-1',
] as const;

interface Change {
  readonly op: (typeof OPS)[number];
  readonly at: number;
  readonly to: number;
  readonly junk: unknown;
}

const change: fc.Arbitrary<Change> = fc.record({
  op: fc.constantFrom(...OPS),
  at: fc.nat(1_000_000),
  to: fc.nat(1_000_000),
  junk: fc.oneof(
    { weight: 9, arbitrary: fc.constantFrom(...JUNK) },
    { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 3 }) },
  ),
});

/** Any case; `real` is what forged references are made from. */
export function anyCase(real: Real): fc.Arbitrary<Case> {
  return fc
    .record({
      shape: fc.nat(SHAPES.length - 1),
      unique: fc.nat(2_000_000_000),
      changes: fc.oneof(
        { weight: 1, arbitrary: fc.constant([]) },
        { weight: 7, arbitrary: fc.array(change, { minLength: 1, maxLength: 3 }) },
      ),
      bytes: fc.oneof(
        { weight: 6, arbitrary: fc.constant(null) },
        { weight: 1, arbitrary: fc.constantFrom(...BYTES) },
      ),
      at: fc.nat(1_000_000),
    })
    .map(({ shape: index, unique, changes, bytes, at }) => {
      const shape = SHAPES[index] as (typeof SHAPES)[number];
      const fields = shape.make(unique, real);
      for (const one of changes) apply(fields, one);
      const { text, contentType } = write(fields, shape.encoding);
      const changed =
        bytes === null ? { body: Buffer.from(text), contentType } : rewrite(bytes, text, contentType, at);
      return { shape: shape.name, ...changed, isPristine: changes.length === 0 && bytes === null };
    });
}

interface Slot {
  readonly parent: Record<string, unknown>;
  readonly key: string;
}

function slotsOf(root: Fields): Slot[] {
  const slots: Slot[] = [];
  const open: { value: object; depth: number }[] = [{ value: root, depth: 0 }];
  for (let next = open.pop(); next !== undefined; next = open.pop())
    for (const [key, value] of Object.entries(next.value)) {
      slots.push({ parent: next.value as Record<string, unknown>, key });
      // Deep parts are there to be met by the parser, not to be changed further.
      if (typeof value === 'object' && value !== null && next.depth < 12)
        open.push({ value, depth: next.depth + 1 });
    }
  return slots;
}

/** An own property, also where the name is `__proto__`. */
function put(parent: object, key: string, value: unknown): void {
  Object.defineProperty(parent, key, { value, enumerable: true, configurable: true, writable: true });
}

/** Mostly few, now and then enough to pass every bound. */
function times(to: number): number {
  return to % 64 === 0 ? 130 : to % 8;
}

function copy(value: unknown): unknown {
  return typeof value === 'object' && value !== null ? structuredClone(value) : value;
}

function apply(root: Fields, { op, at, to, junk }: Change): void {
  const slots = slotsOf(root);
  const slot = slots[at % slots.length];
  if (slot === undefined) return;
  const { parent, key } = slot;
  const value = parent[key];
  switch (op) {
    case 'drop':
      if (Array.isArray(parent)) parent.splice(Number(key), 1);
      else delete parent[key];
      return;
    case 'replace':
      put(parent, key, copy(junk));
      return;
    case 'wrap':
      put(parent, key, [value]);
      return;
    case 'as text':
      put(parent, key, JSON.stringify(value) ?? 'undefined');
      return;
    case 'swap': {
      const other = slots[to % slots.length];
      if (other === undefined) return;
      // A copy, so that no circle comes of it.
      put(parent, key, copy(other.parent[other.key]));
      return;
    }
    case 'repeat':
      if (typeof value === 'string') put(parent, key, value.repeat(times(to)));
      else
        put(
          parent,
          key,
          Array.from({ length: times(to) }, () => copy(value)),
        );
      return;
    case 'deepen':
      put(parent, key, nested(1 + (to % 200), value));
      return;
    case 'rename':
      if (Array.isArray(parent)) return;
      delete parent[key];
      put(parent, NAMES[to % NAMES.length] ?? 'extra', value);
      return;
    case 'add':
      // JSON has no names in a list.
      if (Array.isArray(parent)) return;
      put(parent, NAMES[to % NAMES.length] ?? 'extra', copy(junk));
      return;
    default:
      op satisfies never;
  }
}

/** Lone surrogates are written as U+FFFD by a form, as \u escapes by JSON. */
function write(fields: Fields, encoding: 'json' | 'payload' | 'form'): { text: string; contentType: string } {
  if (encoding === 'json') return { text: JSON.stringify(fields), contentType: JSON_TYPE };
  const entries =
    encoding === 'payload'
      ? [['payload', JSON.stringify(fields)]]
      : Object.entries(fields).map(([name, value]) => [
          name,
          typeof value === 'string' ? value : (JSON.stringify(value) ?? ''),
        ]);
  const text = entries.map(([name = '', value = '']) => `${encode(name)}=${encode(value)}`).join('&');
  return { text, contentType: FORM_TYPE };
}

function encode(text: string): string {
  return encodeURIComponent(text.toWellFormed()).replaceAll('%20', '+');
}

function rewrite(
  how: (typeof BYTES)[number],
  text: string,
  contentType: string,
  at: number,
): { body: Uint8Array; contentType: string } {
  const body = Buffer.from(text);
  const place = body.length === 0 ? 0 : at % body.length;
  switch (how) {
    case 'cut':
      return { body: body.subarray(0, place), contentType };
    case 'flip':
      if (body.length > 0) body[place] = (body[place] ?? 0) ^ (1 << (at % 8));
      return { body, contentType };
    case 'not utf-8':
      return {
        body: Buffer.concat([body.subarray(0, place), Buffer.from([0xff, 0xfe, 0xc0]), body.subarray(place)]),
        contentType,
      };
    case 'bom':
      return { body: Buffer.from(`\ufeff${text}`), contentType };
    case 'utf-16':
      return { body: Buffer.from(text, 'utf16le'), contentType: `${contentType}; charset=utf-16` };
    case 'latin-1':
      return { body: Buffer.from(text, 'latin1'), contentType: `${contentType}; charset=iso-8859-1` };
    case 'name twice':
      return {
        body: Buffer.from(text.replace('{', '{"type":"url_verification","challenge":"x",')),
        contentType,
      };
    case 'other type':
      return { body, contentType: contentType === JSON_TYPE ? FORM_TYPE : JSON_TYPE };
    case 'no type':
      return {
        body,
        contentType:
          [
            '',
            'text/plain',
            'multipart/form-data; boundary=x',
            'APPLICATION/X-WWW-FORM-URLENCODED;x',
            'application/jsonp',
          ][at % 5] ?? '',
      };
    case 'encoded twice':
      return {
        body: Buffer.from(contentType === JSON_TYPE ? JSON.stringify(text) : text.replaceAll('%', '%25')),
        contentType,
      };
    case 'padded':
      return { body: Buffer.from(`${' '.repeat(at % 20_000)}${text}${'\n'.repeat(at % 7)}`), contentType };
    case 'gzip':
      return { body: gzipSync(body), contentType };
    case 'tail':
      return {
        body: Buffer.from(`${text}${['}', '&payload={}', '&', '\0', ' null', '&=', '%'][at % 7]}`),
        contentType,
      };
    case 'field twice':
      return { body: Buffer.from(`${text}&${text}`), contentType };
    default:
      return how satisfies never;
  }
}
