/**
 * Guarantee: every dependency has its sentence in docs/dependencies.md (what it hides, who maintains it, how it would leave), nothing
 * else has one, and the runtime needs exactly the dependencies that a production installation brings.
 */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const ROOT = path.resolve(import.meta.dirname, '../..');
const read = (file: string): string => readFileSync(path.join(ROOT, file), 'utf8');
const manifest = JSON.parse(read('package.json')) as Record<string, Record<string, string> | undefined>;

const CHAPTERS = {
  Runtime: 'dependencies',
  Development: 'devDependencies',
  Optional: 'optionalDependencies',
  Overrides: 'overrides',
} as const;

/** Sentences by chapter and name, as the page has them. */
function sentences(): Map<string, { name: string; text: string }[]> {
  const chapters = read('docs/dependencies.md').split(/^## /m).slice(1);
  return new Map(
    chapters.map((chapter) => {
      const [title = '', ...lines] = chapter.split('\n');
      const items = lines.filter((line) => line.startsWith('- '));
      return [
        title,
        items.map((line) => {
          const [, name = '', text = ''] = /^- `([^`]+)` (.*)$/.exec(line) ?? [];
          return { name, text };
        }),
      ];
    }),
  );
}

describe.each(Object.entries(CHAPTERS))('%s', (title, field) => {
  const listed = sentences().get(title) ?? [];

  it('names each one once, in order, and nothing else', () => {
    expect(listed.map((item) => item.name)).toEqual(Object.keys(manifest[field] ?? {}).sort());
  });

  it.each(listed.map((item) => [item.name, item.text]))(
    '%s: hides, maintained by, would leave',
    (_name, text) => {
      expect(text).toMatch(/^hides .{10,}; maintained by .{3,}; it would leave .{5,}\.$/);
    },
  );
});

it('the page has these chapters and no others', () => {
  expect([...sentences().keys()]).toEqual(Object.keys(CHAPTERS));
});

it('every version is exact', () => {
  for (const field of Object.values(CHAPTERS))
    for (const [name, version] of Object.entries(manifest[field] ?? {}))
      expect(version, name).toMatch(/^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$/);
});

it('what the product imports outside its local parts is exactly its runtime dependencies', () => {
  const imported = new Set<string>();
  for (const entry of readdirSync(path.join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })) {
    if (!entry.endsWith('.ts') || entry.startsWith('local')) continue;
    for (const [, name = ''] of read(path.join('src', entry)).matchAll(
      /^(?:import|(?:import|export|\}).* from) ['"]((?:@[\w-]+\/)?[\w-]+)(?:\/[^'"]*)?['"];$/gm,
    ))
      imported.add(name);
  }

  expect([...imported].sort()).toEqual(Object.keys(manifest.dependencies ?? {}).sort());
});
