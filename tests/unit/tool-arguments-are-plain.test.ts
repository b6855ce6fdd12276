/**
 * Guarantee: what leaves for GitHub is what a reviewer can read and nothing that anybody could take for something else: no path out of the
 * repository or into .git, no name that is spelled like another, no label that hides a second one, no control characters, nothing without
 * a bound. What does not fit is refused before any request, naming the field.
 */
import { describe, expect, test } from 'vitest';
import { toolsFor } from '../../src/agents/tools/index.ts';
import type { JsonObject } from '../../src/types.ts';

const act = (kind: string, input: JsonObject) => {
  const tool = toolsFor({ baseUrl: 'http://127.0.0.1:9', token: 'none', credential: 'none' }).find(
    (candidate) => candidate.kind === kind,
  );
  if (tool === undefined) throw new Error(`no tool ${kind}`);
  return tool.parse({ owner: 'acme', repo: 'shop', ...input });
};
const commitTo = (branch: string, over: JsonObject = {}) =>
  act('github.git.createCommit', {
    branch,
    base_sha: 'a'.repeat(40),
    message: 'Change',
    files: [{ path: 'src/price.ts', content: 'x' }],
    ...over,
  });
const parses = (kind: string, input: JsonObject) => () => act(kind, input);

describe('arguments', () => {
  test('of the plain kind are taken, with the defaults that a reviewer sees', () => {
    expect(commitTo('countersign/fix-1.2_x')).toMatchObject({ branch: 'countersign/fix-1.2_x' });
    expect(
      commitTo('x', { files: [{ path: '.github/a b/[id]+(x)@1.ts', content: '\tÄ\r\n' }] }),
    ).toBeTruthy();
    expect(act('github.issues.update', { issue_numbers: [4] })).toMatchObject({
      state: 'closed',
      state_reason: 'not_planned',
    });
    const release = { tag_name: 'v1.0.0', target_commitish: 'a'.repeat(40), name: '1', body: '-' };
    expect(act('github.repos.createRelease', release)).toEqual({
      owner: 'acme',
      repo: 'shop',
      ...release,
      draft: true,
    });
  });

  const refused = expect.objectContaining({ code: 'TOOL_INPUT_INVALID' });

  test.each([
    '../x',
    'a/../../x',
    '/etc/passwd',
    './x',
    'a//b',
    'a/',
    '',
    '.git/config',
    'sub/.GIT/hooks/x',
    'git~1/config',
    'a\\b',
    'a\0b',
    'a\nb',
    'a/.. /b',
    'x.',
    'ѕrc/price.ts',
  ])('no file is written at %j', (place) => {
    expect(() => commitTo('change', { files: [{ path: place, content: 'x' }] })).toThrow(refused);
  });

  test('no place is written twice, in no spelling', () => {
    for (const places of [
      ['a', 'a'],
      ['src/A.ts', 'src/a.ts'],
      ['a', 'a/b'],
    ])
      expect(() =>
        commitTo('change', { files: places.map((place) => ({ path: place, content: 'x' })) }),
      ).toThrow(refused);
  });

  test.each([
    'refs/heads/main',
    'HEAD',
    'a..b',
    '-x',
    'a b',
    'x.lock',
    'x.lock/y',
    'x.',
    'x/',
    'd'.repeat(40),
    'mаin',
    '',
  ])('no branch is called %j', (branch) => {
    expect(() => commitTo(branch)).toThrow(refused);
  });

  test.each([
    ['github.issues.addLabels', { issue_number: 3, labels: [' countersign/bug'] }],
    ['github.issues.addLabels', { issue_number: 3, labels: ['countersign/a,bug'] }],
    ['github.issues.addLabels', { issue_number: 3, labels: ['countersign/a\nbug'] }],
    ['github.issues.addLabels', { issue_number: 3, labels: [] }],
    ['github.issues.addLabels', { issue_number: 3, labels: ['Bug', 'bug'] }],
    ['github.issues.createComment', { issue_number: 3, body: ' \n' }],
    ['github.issues.createComment', { issue_number: 3, body: 'a\0b' }],
    ['github.issues.createComment', { issue_number: 3, body: '\ud800' }],
    ['github.issues.update', { issue_numbers: [4], state: 'open' }],
    ['github.issues.update', { issue_numbers: [4, 4] }],
    ['github.issues.update', { issue_numbers: Array.from({ length: 21 }, (_, index) => index + 1) }],
    ['github.pulls.create', { head: 'stranger:main', base: 'main', title: 'x', body: 'x' }],
    ['github.pulls.create', { head: 'a', base: 'main', title: 'x\ny', body: 'x' }],
    [
      'github.repos.createRelease',
      { tag_name: 'v1', target_commitish: 'a'.repeat(40), name: 'x', body: 'x', draft: false },
    ],
    ['github.repos.createRelease', { tag_name: 'v1', target_commitish: 'main', name: 'x', body: 'x' }],
  ] as [string, JsonObject][])('%s takes no %j', (kind, input) => {
    expect(parses(kind, input)).toThrow(refused);
  });

  test('of any length are not', () => {
    const long = 'x'.repeat(100_000);
    expect(parses('github.issues.createComment', { issue_number: 3, body: long })).toThrow(refused);
    expect(() => commitTo('x', { message: long })).toThrow(refused);
    expect(() => commitTo('x', { files: [{ path: 'a', content: long }] })).toThrow(refused);
    const many = Array.from({ length: 21 }, (_, index) => ({ path: `f${index}`, content: 'x' }));
    expect(() => commitTo('x', { files: many })).toThrow(refused);
  });
});
