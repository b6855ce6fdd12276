/**
 * Guarantee: the engine knows runs, steps, events and waits, and nothing of the product that is built on it. No identifier, string or SQL
 * of src/jobs/engine names what is judged, asked, executed or shown, and it imports nothing but itself, the shared nouns and the
 * libraries of its trade: so that it can be read, tested and kept for years while everything above it changes. Comments may say what
 * the engine does not know: sources are parsed, and comments are no part of a syntax tree.
 */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseAst } from 'vitest/node';

const ROOT = path.resolve(import.meta.dirname, '../..');
const FOLDER = 'src/jobs/engine';

/** Words of the product, also as parts of other words: `approvalId`, `agent_versions`, `modelLabel`. */
const PRODUCT_WORDS = /approv|agent|polic|slack|github|model/i;
/** Words the engine may say all the same, each with its reason. One that is no longer said fails. */
const EXCEPTIONS: readonly { readonly file: string; readonly word: string }[] = [
  // pg-boss's own name for a kind of queue.
  { file: 'queue.ts', word: 'policy' },
];
const PACKAGES = /^(node:[a-z_/]+|pg|pg-boss|zod|canonicalize)$/;
const SHARED = ['src/types.ts', 'src/errors.ts', 'src/log.ts'];

interface Node {
  readonly type: string;
  readonly [key: string]: unknown;
}

function isNode(value: unknown): value is Node {
  return (
    typeof value === 'object' && value !== null && typeof (value as { type?: unknown }).type === 'string'
  );
}

function* nodesOf(node: Node): Generator<Node> {
  yield node;
  for (const value of Object.values(node))
    for (const child of Array.isArray(value) ? value : [value]) if (isNode(child)) yield* nodesOf(child);
}

/** What a node says by itself: a name, a string, a piece of a template. */
function wordOf(node: Node): string | null {
  switch (node.type) {
    case 'Identifier':
    case 'PrivateIdentifier':
    case 'JSXIdentifier':
      return String(node.name);
    case 'Literal':
      if ('regex' in node) return String(node.raw);
      return typeof node.value === 'string' ? node.value : null;
    case 'TemplateElement': {
      const { cooked, raw } = node.value as { cooked?: string | null; raw: string };
      return cooked ?? raw;
    }
    default:
      return null;
  }
}

/** SQL has comments of its own, which are as free as the others. */
function withoutSqlComments(text: string): string {
  return text.replace(/--[^\n]*/g, '').replace(/\/\*[\s\S]*?\*\//g, '');
}

/** The specifier of any form of import; null for one that is computed, undefined for another node. */
function importOf(node: Node): string | null | undefined {
  const text = (source: unknown): string | null => {
    if (!isNode(source)) return null;
    if (source.type === 'Literal') return wordOf(source);
    const [only, ...more] = source.type === 'TemplateLiteral' ? (source.quasis as Node[]) : [];
    return only && more.length === 0 ? wordOf(only) : null;
  };
  switch (node.type) {
    case 'ImportDeclaration':
    case 'ExportAllDeclaration':
    case 'ImportExpression':
    case 'TSImportType':
      return text(node.source);
    case 'ExportNamedDeclaration':
      return isNode(node.source) ? text(node.source) : undefined;
    case 'TSExternalModuleReference':
      return text(node.expression);
    case 'CallExpression':
      return isNode(node.callee) && node.callee.type === 'Identifier' && node.callee.name === 'require'
        ? text((node.arguments as unknown[])[0])
        : undefined;
    default:
      return undefined;
  }
}

/** What these files of the engine (name → source) know of the product, in words. */
function knowledge(sources: ReadonlyMap<string, string>): string[] {
  const found: string[] = [];
  const unused = new Set(EXCEPTIONS.filter(({ file }) => sources.has(file)));
  for (const [file, source] of sources) {
    const program: unknown = parseAst(source, { lang: 'ts' }, file);
    if (!isNode(program)) throw new Error(`${file}: not parsed`);
    const specifiers = new Set<Node>();
    for (const node of nodesOf(program)) {
      const specifier = importOf(node);
      if (specifier !== undefined) {
        if (isNode(node.source)) specifiers.add(node.source);
        if (specifier === null) found.push(`${file}: imports by a computed name`);
        else if (!mayImport(file, specifier)) found.push(`${file}: imports ${specifier}`);
      }
      if (specifiers.has(node)) continue;
      const word = wordOf(node);
      if (word === null || !PRODUCT_WORDS.test(withoutSqlComments(word))) continue;
      const exception = EXCEPTIONS.find((entry) => entry.file === file && entry.word === word);
      if (exception) unused.delete(exception);
      else found.push(`${file}: says "${word.trim().slice(0, 60)}"`);
    }
  }
  for (const { file, word } of unused) found.push(`${file}: no longer says "${word}"`);
  return found;
}

function mayImport(file: string, specifier: string): boolean {
  if (!specifier.startsWith('.')) return PACKAGES.test(specifier);
  const target = path.posix.join(FOLDER, path.posix.dirname(file), specifier);
  return target.startsWith(`${FOLDER}/`) || SHARED.includes(target);
}

describe('the engine', () => {
  const files = readdirSync(path.join(ROOT, FOLDER), { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.[cm]?tsx?$/.test(file))
    .map((file) => file.split(path.sep).join('/'));

  it('knows nothing of the product', () => {
    const sources = new Map(files.map((file) => [file, readFileSync(path.join(ROOT, FOLDER, file), 'utf8')]));

    expect(knowledge(sources)).toEqual([]);
    expect(files).toEqual(expect.arrayContaining(['segment.ts', 'worker.ts', 'queue.ts']));
  });
});

describe('planted knowledge is found', () => {
  it.each([
    ['a name', 'export const approvalId = 1;', 'says "approvalId"'],
    ['a private field', 'class A { #agent = 1; }', 'says "agent"'],
    ['a type', 'interface PolicyOf { readonly n: number }', 'says "PolicyOf"'],
    ['a property of a type', 'interface A { readonly modelLabel: string }', 'says "modelLabel"'],
    ['a string', `const origin = 'slack';`, 'says "slack"'],
    [
      'SQL',
      `const q = \`select 1 from agent_versions where n = \${n}\`;`,
      'says "select 1 from agent_versions',
    ],
    ['SQL after a placeholder', `const q = \`select \${n} from github_calls\`;`, 'says "from github_calls"'],
    ['a pattern', 'const shape = /^approv/;', 'says "/^approv/"'],
    ['a file of the product', `import '../ledger.ts';`, 'imports ../ledger.ts'],
    ['a type of the product', `type T = import('../../policies/x.ts').T;`, 'imports ../../policies/x.ts'],
    ['an export of the product', `export * from '../inbox.ts';`, 'imports ../inbox.ts'],
    ['a package of another trade', `import type { Block } from '@slack/types';`, 'imports @slack/types'],
    ['a late import', 'await import(`../ledger.ts`);', 'imports ../ledger.ts'],
    ['an import by a computed name', 'await import(where);', 'imports by a computed name'],
  ])('%s', (_what, source, expected) => {
    const found = knowledge(new Map([['planted.ts', source]]));

    expect(found).toHaveLength(1);
    expect(found[0]).toContain(expected);
  });

  it('an exception that nothing uses any more', () => {
    expect(knowledge(new Map([['queue.ts', 'export const nothing = 1;']]))).toEqual([
      'queue.ts: no longer says "policy"',
    ]);
  });

  it('and what is allowed is not', () => {
    const source = [
      '/** Nothing of approvals, agents, policies or Slack. */',
      `import pg from 'pg';`,
      `import { randomUUIDv7 } from 'node:crypto';`,
      `import type { Step } from '../../types.ts';`,
      `import { run } from './segment.ts'; // the model runs above`,
      'const q = `select 1 -- no policy here\n from runs`;',
    ].join('\n');

    expect(knowledge(new Map([['planted.ts', source]]))).toEqual([]);
  });
});
