/**
 * Guarantee: an approval binds exactly one action. The order of keys is irrelevant to the hash, every other change of
 * workspace, kind, arguments, tool version or credential changes it, and a precondition that no longer holds is named.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type ActionIdentity,
  actionHash,
  canonicalJson,
  compareItems,
} from '../../src/policies/fingerprint.ts';
import type { Json, JsonObject } from '../../src/types.ts';

const MERGE: ActionIdentity = {
  workspaceId: 'T1',
  kind: 'github.pulls.merge',
  arguments: { owner: 'acme', repo: 'shop', pull_number: 1 },
  toolVersion: 1,
  credential: 'github-bot',
};

const json = () => fc.jsonValue({ noUnicodeString: false }) as fc.Arbitrary<Json>;

/** The same JSON with the keys of every object in reverse order. */
function reversed(value: Json): Json {
  if (Array.isArray(value)) return value.map(reversed);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([key, part]) => [key, reversed(part)]),
  );
}

describe('the action hash', () => {
  test('is 64 lower-case hex digits and does not change between releases', () => {
    expect(actionHash(MERGE)).toBe('2c847faa402136954f557919ff62537d663939a1d5f83843512356d76554550d');
  });

  test('does not depend on the order of keys', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), json()), (given) => {
        const shuffled = reversed(given) as JsonObject;

        expect(actionHash({ ...MERGE, arguments: shuffled })).toBe(
          actionHash({ ...MERGE, arguments: given }),
        );
      }),
    );
  });

  test('changes with any change of the arguments', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), json()), fc.string(), json(), (given, key, value) => {
        const changed = Object.fromEntries([...Object.entries(given), [key, value]]);
        // JSON has one zero; -0 and 0 are the same text and therefore the same argument.
        fc.pre(JSON.stringify(reversed(reversed(changed))) !== JSON.stringify(given));

        expect(actionHash({ ...MERGE, arguments: changed })).not.toBe(
          actionHash({ ...MERGE, arguments: given }),
        );
      }),
    );
  });

  test('changes with workspace, kind, tool version and credential', () => {
    const others: ActionIdentity[] = [
      { ...MERGE, workspaceId: 'T2' },
      { ...MERGE, kind: 'github.pulls.update' },
      { ...MERGE, toolVersion: 2 },
      { ...MERGE, credential: 'another-bot' },
      { ...MERGE, arguments: { ...MERGE.arguments, pull_number: '1' } },
    ];

    expect(new Set([MERGE, ...others].map(actionHash)).size).toBe(others.length + 1);
  });

  test('ignores what is not part of the action', () => {
    const wider = { ...MERGE, requestedAt: 'now', reason: 'because' };

    expect(actionHash(wider)).toBe(actionHash(MERGE));
  });
});

describe('canonical JSON', () => {
  test('follows RFC 8785 in keys, numbers and escapes', () => {
    expect(canonicalJson({ b: [1e21, 0.000001, -0], a: '€\n', '\ud83d\ude00': null, A: true })).toBe(
      '{"A":true,"a":"€\\n","b":[1e+21,0.000001,0],"😀":null}',
    );
  });

  test.each([
    ['NaN', Number.NaN],
    ['Infinity', Number.POSITIVE_INFINITY],
    ['a lone surrogate', 'a\ud800'],
    ['undefined', undefined],
  ])('%s is refused, because no JSON says it', (_name, value) => {
    expect(() => canonicalJson(value as Json)).toThrow(
      expect.objectContaining({ code: 'TOOL_INPUT_INVALID' }),
    );
  });
});

describe('preconditions', () => {
  const approved = [
    { path: '/state', expected: 'open' },
    { path: '/head/sha', expected: 'a'.repeat(40) },
  ];

  test('that still hold change nothing, in whatever order they are seen', () => {
    expect(compareItems(approved, [...approved].reverse())).toEqual([]);
    expect(compareItems(approved, [...approved, { path: '/title', expected: 'new' }])).toEqual([]);
  });

  test('that changed are named item by item, in the order they were approved', () => {
    const now = [
      { path: '/head/sha', expected: 'b'.repeat(40) },
      { path: '/state', expected: 'closed' },
    ];

    expect(compareItems(approved, now)).toEqual([
      { path: '/state', expected: 'open', actual: 'closed' },
      { path: '/head/sha', expected: 'a'.repeat(40), actual: 'b'.repeat(40) },
    ]);
  });

  test('that are no longer reported count as null', () => {
    expect(compareItems(approved, approved.slice(0, 1))).toEqual([
      { path: '/head/sha', expected: 'a'.repeat(40), actual: null },
    ]);
    expect(compareItems([{ path: '/gone', expected: null }], [])).toEqual([]);
  });

  test('are compared as JSON, not by identity', () => {
    const labels = [{ path: '/labels', expected: { a: 1, b: [2] } }];

    expect(compareItems(labels, [{ path: '/labels', expected: { b: [2], a: 1 } }])).toEqual([]);
  });
});
