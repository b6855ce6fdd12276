/**
 * Guarantee: imports between rooms point one way, and what a room hides stays in it.
 *
 *   types/views/errors/log/secrets <- policies, agents <- jobs/engine <- jobs <- bot, console <- main <- commands, cli
 *
 * Policies and agents never see each other; the engine knows no approval, agent, policy or Slack, by import or by word; jobs reach
 * Slack only through ports; one file imports pg-boss, one reads process.env, one mints permits; the local world is loaded
 * dynamically and imports nothing of the product. Sources are parsed, so every form of import counts, type-only ones included.
 */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseAst } from 'vitest/node';

const ROOT = path.resolve(import.meta.dirname, '../..');

type Room =
  | 'base'
  | 'policies'
  | 'agents'
  | 'engine'
  | 'jobs'
  | 'bot'
  | 'console'
  | 'config'
  | 'main'
  | 'commands'
  | 'cli'
  | 'local';

/** What each room may import besides packages. */
const MAY_IMPORT: Readonly<Record<Room, readonly Room[]>> = {
  base: ['base'],
  policies: ['base', 'policies'],
  agents: ['base', 'agents'],
  engine: ['base', 'engine'],
  jobs: ['base', 'policies', 'agents', 'engine', 'jobs'],
  bot: ['base', 'policies', 'agents', 'engine', 'jobs', 'bot'],
  console: ['base', 'policies', 'agents', 'engine', 'jobs', 'console'],
  config: ['base'],
  main: ['base', 'policies', 'agents', 'engine', 'jobs', 'bot', 'console', 'config'],
  commands: ['base', 'policies', 'agents', 'engine', 'jobs', 'bot', 'console', 'config', 'main', 'commands'],
  // The version check must run before anything else is loaded: the rest comes dynamically.
  cli: [],
  local: ['local'],
};

/** Packages that one place hides. A place is a file, or a folder when it ends in a slash. */
const HIDDEN_PACKAGES: readonly { readonly of: RegExp; readonly places: readonly string[] }[] = [
  { of: /^@slack\//, places: ['src/bot/', 'src/local/slack/'] },
  { of: /^pg-boss$/, places: ['src/jobs/engine/queue.ts'] },
  { of: /^pg$/, places: ['src/jobs/engine/', 'src/local/'] },
  { of: /^@anthropic-ai\//, places: ['src/agents/'] },
  { of: /^@octokit\//, places: ['src/agents/'] },
  { of: /^commander$/, places: ['src/commands.ts', 'src/commands/'] },
  { of: /^(emulate|@copilotkit\/aimock)$/, places: ['src/local/'] },
];

/** Policies are pure: schemas, canonical JSON, hashing and the expression language; nothing that reads or writes. */
const POLICY_PACKAGES = /^(zod|canonicalize|node:crypto|.*\bcel\b.*)$/;

const ENGINE_WORDS = /slack|approv|agent|polic/i;
/** Words the engine may use all the same, each with its reason. An exception that is no longer used fails. */
const ENGINE_WORD_EXCEPTIONS: readonly { readonly file: string; readonly word: string }[] = [
  // pg-boss's own name for a kind of queue.
  { file: 'src/jobs/engine/queue.ts', word: 'policy' },
];

const MAY_IMPORT_FROM_LOCAL_TO_PRODUCT: Readonly<Record<string, readonly string[]>> = {
  'src/local/fill.ts': ['src/config.ts', 'src/errors.ts'],
};
/** Imports by a computed name cannot be judged; this one opens a file inside a package. */
/** `dev` runs the local parts; the verbs for operators find the database that it runs. Neither when anything is configured. */
const MAY_LOAD_LOCAL = ['src/commands.ts', 'src/commands/operator.ts'];
const MAY_COMPUTE_IMPORTS = ['src/local/github/emulator.ts'];

interface Node {
  readonly type: string;
  readonly [key: string]: unknown;
}
interface Import {
  /** Null: computed, not readable from the source. */
  readonly specifier: string | null;
  readonly dynamic: boolean;
}

function isNode(value: unknown): value is Node {
  return (
    typeof value === 'object' && value !== null && typeof (value as { type?: unknown }).type === 'string'
  );
}

function walk(
  node: Node,
  visit: (node: Node, parent: Node | null) => void,
  parent: Node | null = null,
): void {
  visit(node, parent);
  for (const value of Object.values(node))
    for (const child of Array.isArray(value) ? value : [value]) if (isNode(child)) walk(child, visit, node);
}

function text(node: unknown): string | null {
  if (!isNode(node)) return null;
  if (node.type === 'Literal' && typeof node.value === 'string') return node.value;
  if (node.type === 'TemplateLiteral' && Array.isArray(node.quasis) && node.quasis.length === 1)
    return text(node.quasis[0]);
  if (node.type === 'TemplateElement') {
    const { cooked, raw } = node.value as { cooked?: string | null; raw: string };
    return cooked ?? raw;
  }
  return null;
}

function nameOf(node: unknown): string | null {
  return isNode(node) && node.type === 'Identifier' && typeof node.name === 'string' ? node.name : null;
}

function importsOf(program: Node): Import[] {
  const found: Import[] = [];
  walk(program, (node) => {
    switch (node.type) {
      case 'ImportDeclaration':
      case 'ExportAllDeclaration':
      case 'TSImportType':
      case 'ExportNamedDeclaration':
        if (isNode(node.source)) found.push({ specifier: text(node.source), dynamic: false });
        break;
      case 'TSExternalModuleReference':
        found.push({ specifier: text(node.expression), dynamic: false });
        break;
      case 'ImportExpression':
        found.push({ specifier: text(node.source), dynamic: true });
        break;
      case 'CallExpression':
        if (nameOf(node.callee) === 'require')
          found.push({
            specifier: text(Array.isArray(node.arguments) ? node.arguments[0] : null),
            dynamic: true,
          });
        break;
    }
  });
  return found;
}

/** Identifiers and strings, SQL in templates included; comments are no part of a syntax tree. */
function wordsOf(program: Node): string[] {
  const found: string[] = [];
  walk(program, (node) => {
    const word = nameOf(node) ?? (node.type === 'TemplateLiteral' ? null : text(node));
    if (word !== null) found.push(word);
  });
  return found;
}

/** Any use of `process` that is not `process.<something else than env>` may be a way to the environment. */
function readsEnvironment(program: Node): boolean {
  let found = false;
  walk(program, (node, parent) => {
    if (node.type === 'MemberExpression') {
      const property = nameOf(node.property) ?? text(node.property);
      if (/^global(This)?$/.test(nameOf(node.object) ?? '') && property === 'process') found = true;
      if (isNode(node.object) && node.object.type === 'MetaProperty' && property === 'env') found = true;
    }
    if (nameOf(node) !== 'process') return;
    if (parent?.type === 'MemberExpression' && parent.object === node) {
      if (parent.computed !== false || nameOf(parent.property) === 'env') found = true;
    } else if (!(parent?.type === 'MemberExpression' || parent?.type === 'TSQualifiedName')) found = true;
  });
  return found;
}

function roomOf(file: string): Room | null {
  if (/^src\/(types|views|errors|log|secrets)\.ts$/.test(file)) return 'base';
  if (file.startsWith('src/jobs/engine/')) return 'engine';
  if (file.startsWith('src/commands/')) return 'commands';
  const folder = /^src\/(policies|agents|jobs|bot|console|local)\//.exec(file)?.[1];
  if (folder) return folder as Room;
  if (file === 'src/cli.mjs') return 'cli';
  const single = /^src\/(config|main|commands)\.ts$/.exec(file)?.[1];
  return single ? (single as Room) : null;
}

/** Every broken rule of these sources (path → text), in words. */
function violations(sources: ReadonlyMap<string, string>): string[] {
  const found: string[] = [];
  const unused = new Set(ENGINE_WORD_EXCEPTIONS.filter((exception) => sources.has(exception.file)));
  for (const [file, source] of sources) {
    const say = (what: string) => found.push(`${file}: ${what}`);
    const room = roomOf(file);
    if (room === null) {
      say('stands in no room');
      continue;
    }
    const program: unknown = parseAst(source, { lang: /\.m?js$/.test(file) ? 'js' : 'ts' }, file);
    if (!isNode(program)) throw new Error(`${file}: not parsed`);

    for (const { specifier, dynamic } of importsOf(program)) {
      if (specifier === null) {
        if (!MAY_COMPUTE_IMPORTS.includes(file)) say('imports by a computed name');
      } else if (specifier.startsWith('.') || specifier.startsWith('/')) {
        const target = path.posix.join(path.posix.dirname(file), specifier);
        const targetRoom = roomOf(target);
        if (MAY_IMPORT_FROM_LOCAL_TO_PRODUCT[file]?.includes(target)) continue;
        if (MAY_LOAD_LOCAL.includes(file) && dynamic && targetRoom === 'local') continue;
        if (file === 'src/cli.mjs' && dynamic && targetRoom === 'commands') continue;
        if (targetRoom === null || !MAY_IMPORT[room].includes(targetRoom)) say(`imports ${target}`);
      } else {
        if (/^(node:)?process$/.test(specifier)) say('imports node:process, a second way to the environment');
        if (room === 'policies' && !POLICY_PACKAGES.test(specifier))
          say(`imports ${specifier}: policies are pure`);
        for (const { of, places } of HIDDEN_PACKAGES)
          if (
            of.test(specifier) &&
            !places.some((place) => (place.endsWith('/') ? file.startsWith(place) : file === place))
          )
            say(`imports ${specifier}`);
      }
    }

    const words = wordsOf(program);
    if (room !== 'local' && file !== 'src/config.ts' && readsEnvironment(program))
      say('reads the environment');
    if (!['src/agents/egress.ts', 'src/jobs/executor.ts'].includes(file) && words.includes('mintPermit'))
      say('mints permits');
    if (room === 'engine')
      for (const word of words.filter((candidate) => ENGINE_WORDS.test(candidate))) {
        const exception = ENGINE_WORD_EXCEPTIONS.find((entry) => entry.file === file && entry.word === word);
        if (exception) unused.delete(exception);
        else say(`the engine says "${word.slice(0, 80)}"`);
      }
  }
  for (const exception of unused) found.push(`${exception.file}: no longer says "${exception.word}"`);
  return found;
}

function sourcesUnder(folder: string): Map<string, string> {
  return new Map(
    readdirSync(path.join(ROOT, folder), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && /\.[cm]?[jt]sx?$/.test(entry.name))
      .map((entry) => path.join(entry.parentPath, entry.name))
      .map((file) => [path.relative(ROOT, file).split(path.sep).join('/'), readFileSync(file, 'utf8')]),
  );
}

describe('imports point one way', () => {
  const product = sourcesUnder('src');

  it('in the whole product', () => {
    expect(violations(product)).toEqual([]);
  });

  it('and every room was looked at', () => {
    const rooms = new Set([...product.keys()].map(roomOf));

    for (const room of Object.keys(MAY_IMPORT))
      if (room !== 'console') expect(rooms, 'rooms with files').toContain(room);
  });
});

describe('a planted violation is found', () => {
  const planted: readonly [file: string, source: string, found: string][] = [
    // Direction, in every form an import takes.
    ['src/types.ts', `import { run } from './jobs/inbox.ts';`, 'imports src/jobs/inbox.ts'],
    ['src/views.ts', `import { run } from './jobs/inbox.ts';`, 'imports src/jobs/inbox.ts'],
    ['src/policies/rule.ts', `import type { Tool } from '../agents/tool.ts';`, 'imports src/agents/tool.ts'],
    ['src/agents/loop.ts', `export * from '../policies/rule.ts';`, 'imports src/policies/rule.ts'],
    ['src/agents/loop.ts', `export { judge } from '../policies/rule.ts';`, 'imports src/policies/rule.ts'],
    ['src/jobs/engine/runs.ts', `await import('../ledger.ts');`, 'imports src/jobs/ledger.ts'],
    ['src/jobs/engine/runs.ts', 'await import(`../ledger.ts`);', 'imports src/jobs/ledger.ts'],
    ['src/jobs/inbox.ts', `type Card = import('../bot/cards.ts').Card;`, 'imports src/bot/cards.ts'],
    ['src/jobs/inbox.ts', `let x: typeof import('../config.ts');`, 'imports src/config.ts'],
    ['src/bot/app.ts', `import '../console/pages.ts';`, 'imports src/console/pages.ts'],
    ['src/bot/app.ts', `import '../main.ts';`, 'imports src/main.ts'],
    ['src/config.ts', `import './jobs/inbox.ts';`, 'imports src/jobs/inbox.ts'],
    ['src/jobs/inbox.ts', `import '../../tests/support/people.ts';`, 'imports tests/support/people.ts'],
    ['src/helpers/text.ts', '', 'stands in no room'],
    [
      'src/jobs/inbox.ts',
      `const where = '../bot/app.ts'; await import(where);`,
      'imports by a computed name',
    ],
    ['src/jobs/inbox.ts', `// it's "quoted\nimport '../bot/app.ts'; /* ' */`, 'imports src/bot/app.ts'],
    // The local world.
    ['src/main.ts', `import { fill } from './local/fill.ts';`, 'imports src/local/fill.ts'],
    ['src/main.ts', `await import('./local/fill.ts');`, 'imports src/local/fill.ts'],
    ['src/commands.ts', `import { fill } from './local/fill.ts';`, 'imports src/local/fill.ts'],
    ['src/commands/runs.ts', `await import('../local/postgres.ts');`, 'imports src/local/postgres.ts'],
    ['src/local/slack/acts.ts', `import type { Json } from '../../types.ts';`, 'imports src/types.ts'],
    ['src/local/fill.ts', `import '../main.ts';`, 'imports src/main.ts'],
    ['src/cli.mjs', `import './commands.ts';`, 'imports src/commands.ts'],
    // Packages with one home.
    ['src/jobs/desk.ts', `import type { Block } from '@slack/types';`, 'imports @slack/types'],
    ['src/jobs/inbox.ts', `import { PgBoss } from 'pg-boss';`, 'imports pg-boss'],
    ['src/jobs/engine/runs.ts', `import { PgBoss } from 'pg-boss';`, 'imports pg-boss'],
    ['src/jobs/tasks.ts', `import pg from 'pg';`, 'imports pg'],
    ['src/jobs/tasks.ts', `const pg = require('pg');`, 'imports pg'],
    ['src/bot/app.ts', `import Anthropic from '@anthropic-ai/sdk';`, 'imports @anthropic-ai/sdk'],
    ['src/policies/rule.ts', `import { readFile } from 'node:fs/promises';`, 'policies are pure'],
    // The environment.
    ['src/log.ts', 'const level = process.env.LEVEL;', 'reads the environment'],
    ['src/bot/app.ts', `const level = process['env'].LEVEL;`, 'reads the environment'],
    ['src/bot/app.ts', 'const { env } = process;', 'reads the environment'],
    ['src/bot/app.ts', 'const all = globalThis.process;', 'reads the environment'],
    ['src/bot/app.ts', `import { env } from 'node:process';`, 'a second way to the environment'],
    // Permits.
    ['src/jobs/actions.ts', `import { mintPermit as m } from '../agents/egress.ts';`, 'mints permits'],
    ['src/main.ts', `import * as egress from './agents/egress.ts'; egress['mintPermit']();`, 'mints permits'],
    // What the engine knows.
    ['src/jobs/engine/runs.ts', 'const approvalId = 1;', 'the engine says "approvalId"'],
    ['src/jobs/engine/runs.ts', 'const q = `select 1 from agent_versions`;', 'the engine says'],
    ['src/jobs/engine/runs.ts', `const origin = 'slack';`, 'the engine says "slack"'],
    ['src/jobs/engine/queue.ts', 'export const nothing = 1;', 'no longer says "policy"'],
  ];

  it.each(planted)('%s: %s', (file, source, expected) => {
    const found = violations(new Map([[file, source]]));

    expect(found).toHaveLength(1);
    expect(found[0]).toContain(expected);
  });

  it('and what is allowed is not', () => {
    const allowed = new Map([
      ['src/jobs/executor.ts', `import { mintPermit } from '../agents/egress.ts'; mintPermit();`],
      ['src/jobs/tasks.ts', `import '../policies/rule.ts'; import './engine/db.ts'; process.exit(1);`],
      ['src/commands.ts', `await import('./local/fill.ts');`],
      ['src/commands/operator.ts', `await import('../local/postgres.ts');`],
      ['src/cli.mjs', `await import('./commands.ts');`],
      ['src/local/fill.ts', `import '../config.ts'; import '../errors.ts'; process.env;`],
      ['src/config.ts', 'export const port = process.env.PORT;'],
      ['src/jobs/engine/db.ts', `// knows nothing of approvals, agents or Slack\nimport pg from 'pg';`],
    ]);

    expect(violations(allowed)).toEqual([]);
  });
});
