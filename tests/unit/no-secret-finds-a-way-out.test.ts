/**
 * Guarantee: a credential that got into a text leaves the product nowhere: not in a log line, a card, a window, a note, a digest, a stored
 * error, the words of the ledger, a prompt, the journal of a turn, the arguments of a tool, the terminal or the answer of /readyz. Each way
 * out is tried with credentials of every shape, and with those of the process itself, which may have none.
 */
import { readdirSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { answer, conversationOf, keptBlock, resultText } from '../../src/agents/conversation.ts';
import { ENGINEER, initialConversation } from '../../src/agents/definitions.ts';
import { work } from '../../src/agents/loop.ts';
import { HttpReceiver } from '../../src/bot/http-receiver.ts';
import { complain, print, printJson } from '../../src/commands/output.ts';
import { readVariables } from '../../src/config.ts';
import { CountersignError, toStoredError } from '../../src/errors.ts';
import { createDesk, type DeskOptions } from '../../src/jobs/desk.ts';
import { appendEntry } from '../../src/jobs/ledger.ts';
import { createLogger } from '../../src/log.ts';
import type { JsonObject, ReadTool, Statement, Tx, WriteTool } from '../../src/types.ts';
import { MemoryJournal, memoryStep } from '../support/memory-step.ts';
import { call, says, scriptedModel } from '../support/scripted-turns.ts';
import { type Planted, planted } from '../support/secrets.ts';
import { everythingShown } from '../support/views.ts';

/** As it stands, and as JSON writes it. */
function expectNone(where: unknown, { secret }: Planted): void {
  const text = typeof where === 'string' ? where : JSON.stringify(where);
  expect(text).not.toContain(secret);
  expect(text).not.toContain(JSON.stringify(secret).slice(1, -1));
  expect(text).not.toContain(secret.replaceAll('&', '&amp;'));
}

/** What this process was given has no form of its own: hex, words, signs that JSON and URLs write otherwise. */
const OWN = {
  SLACK_SIGNING_SECRET: '8f742231b10e8888abcd99yyyzzz85a5',
  SLACK_SIGNING_SECRET_PREVIOUS: 'one "quoted" & percent 100% secret',
  GITHUB_TOKEN: 'token-of-a-kind-that-nobody-knows',
  ANTHROPIC_API_KEY: 'correct horse battery staple',
  DATABASE_URL: 'postgres://app:long%20pass%2Fword%20of%20ours@db/shop',
} as const;
const ownSecret = fc
  .constantFrom(
    ...Object.values(OWN).slice(0, -1),
    'long pass/word of ours',
    'long%20pass%2Fword%20of%20ours',
  )
  .map((secret): Planted => ({ text: secret, secret }));

beforeAll(() => {
  readVariables(OWN);
});

const said = fc
  .tuple(
    fc.oneof({ weight: 3, arbitrary: planted }, { weight: 1, arbitrary: ownSecret }),
    fc.constantFrom('', 'use this: ', 'line\n'),
    fc.constantFrom('', ' please', '\nthanks'),
  )
  .map(([one, before, behind]): Planted => ({ text: `${before}${one.text}${behind}`, secret: one.secret }));

/** A transaction that keeps every value a statement was given. */
function recordingTx(): { tx: Tx; values: unknown[] } {
  const values: unknown[] = [];
  const tx = {
    query: async (statement: Statement) => {
      values.push(...(statement.values ?? []));
      return { rows: [{}], rowCount: 1 };
    },
    afterCommit: () => {},
    afterRollback: () => {},
  };
  return { tx: tx as unknown as Tx, values };
}

afterEach(() => {
  vi.restoreAllMocks();
});

describe('no credential', () => {
  it('stands in a log line, whichever part of it brought it along', () => {
    fc.assert(
      fc.property(said, (one) => {
        const lines: string[] = [];
        const log = createLogger({
          level: 'trace',
          destination: { write: (line: string) => void lines.push(line) },
        });
        const cause = new Error(one.text);
        log.error({ err: new Error(one.text, { cause }), a: { b: [one.text], [one.text]: 1 } }, one.text);
        log.child({ place: one.text }).info('a word');
        expect(lines).toHaveLength(2);
        for (const line of lines) {
          expectNone(line, one);
          expect(() => JSON.parse(line)).not.toThrow();
        }
      }),
      { numRuns: 300 },
    );
  });

  it('stands in anything people see in Slack', () => {
    fc.assert(
      fc.property(said, (one) => {
        const shown = everythingShown(one.text);
        for (const { blocks, text } of shown) expectNone({ blocks, text }, one);
        // The place of an odd id in a note is too short for some, and a short form may quote nothing; all else must have met the words.
        const unmet = shown.filter((it) => !JSON.stringify(it.blocks).includes('[secret]'));
        expect(unmet.map(({ what }) => what).filter((what) => what !== 'note' && what !== 'short')).toEqual(
          [],
        );
      }),
      { numRuns: 40 },
    );
  });

  it('stands in a stored error', () => {
    fc.assert(
      fc.property(said, (one) => {
        for (const error of [
          new Error(one.text),
          new CountersignError('TOOL_FAILED', one.text),
          one.text,
          { toString: () => one.text },
        ])
          expectNone(toStoredError(error), one);
      }),
      { numRuns: 300 },
    );
  });

  it('stands in the words of a ledger entry', async () => {
    await fc.assert(
      fc.asyncProperty(said, async (one) => {
        const { tx, values } = recordingTx();
        await appendEntry(tx, {
          workspaceId: 'T1',
          subjectKind: 'run',
          subjectId: 'r',
          kind: 'task.accepted',
          facts: {},
          words: { objective: one.text, reason: one.text },
        });
        expect(values.flat()).toContain('objective');
        expectNone(values, one);
      }),
      { numRuns: 200 },
    );
  });

  it('is kept with a task that was asked for', async () => {
    await fc.assert(
      fc.asyncProperty(said, async (one) => {
        const { tx, values } = recordingTx();
        const requester = {
          teamId: 'T1',
          userId: 'U1',
          known: true,
          isBot: false,
          isGuest: false,
          isExternal: false,
          isDeactivated: false,
        };
        const desk = createDesk({
          engine: { start: async () => ({ workspaceId: 'T1', runId: 'r' }) },
          policyOf: async () => ({ mayRequest: () => true }),
        } as unknown as DeskOptions);
        await desk.requestTask(tx, {
          workspaceId: 'T1',
          requester,
          thread: { channelId: 'C1', threadTs: '1.1' },
          messageTs: '1.1',
          text: one.text,
        });
        expect(JSON.stringify(values)).toContain('[secret]');
        expectNone(values, one);
      }),
      { numRuns: 200 },
    );
  });

  it('reaches a prompt, from a request, a result or an answer', () => {
    fc.assert(
      fc.property(said, (one) => {
        expectNone(initialConversation({ objective: one.text }), one);
        expectNone(resultText(JSON.stringify({ body: one.text, list: [one.text] })), one);
        const open = { ...conversationOf('Do it.') };
        const asked = {
          ...open,
          messages: [...open.messages, { role: 'assistant' as const, content: [call('c', 't', {})] }],
        };
        expectNone(answer(asked, 'c', { status: 'rejected', reason: one.text }, false), one);
        expectNone(answer(asked, 'c', one.text, true), one);
      }),
      { numRuns: 300 },
    );
  });

  it('of a model is kept in the journal of its turn', () => {
    fc.assert(
      fc.property(said, (one) => {
        expectNone(keptBlock({ type: 'text', text: one.text }), one);
        const kept = keptBlock(call('c', 't', { a: [{ b: one.text }], [one.text]: 1 }));
        expectNone(kept, one);
        expect(kept).toMatchObject({ heldSecret: true });
      }),
      { numRuns: 300 },
    );
    const plain = call('c', 't', { a: ['fine'] });
    expect(keptBlock(plain)).toBe(plain);
  });

  it('leaves in the arguments of a tool: the call is refused with words, and is neither run nor proposed', async () => {
    await fc.assert(
      fc.asyncProperty(said, fc.constantFrom('test_read', 'test_write'), async (one, name) => {
        const touched: string[] = [];
        const common = {
          version: 1,
          description: 'For tests.',
          inputSchema: { type: 'object' },
          parse: (input: unknown) => input as JsonObject,
        };
        const never = (): never => {
          touched.push('acted');
          throw new Error('The loop acted.');
        };
        const read: ReadTool = { ...common, access: 'read', kind: 'test.read', read: async () => never() };
        const write: WriteTool = {
          ...common,
          access: 'write',
          kind: 'test.write',
          effectClass: 'blind',
          requestTimeoutMs: 1,
          credential: 'none',
          target: never,
          execute: never,
          reconcile: never,
          describeReceipt: never,
        };
        const model = scriptedModel([
          says(`I use ${one.text}`, call('c', name, { title: 'x', files: [{ content: one.text }] })),
          says('Done without.'),
        ]);
        const journal = new MemoryJournal();
        const agent = { ...ENGINEER, toolKinds: ['test.read', 'test.write'] };
        const start = initialConversation({ objective: one.text });
        const outcome = await work(memoryStep(journal), agent, start, {
          model,
          tools: [read, write],
          fetch: never,
        });

        expect(outcome.kind).toBe('finished');
        expect(touched).toEqual([]);
        expect(JSON.stringify(model.seen[1]?.messages.at(-1))).toContain('looks like a credential');
        expectNone(model.seen, one);
        expectNone([...journal.entries.values()], one);
        expectNone(outcome, one);
      }),
      { numRuns: 100 },
    );
  });

  it('is printed on the terminal', () => {
    const before = process.stdout.listenerCount('error');
    const out: string[] = [];
    const write = ((chunk: unknown) => out.push(String(chunk)) > 0) as typeof process.stdout.write;
    vi.spyOn(process.stdout, 'write').mockImplementation(write);
    vi.spyOn(process.stderr, 'write').mockImplementation(write);
    fc.assert(
      fc.property(said, (one) => {
        out.length = 0;
        print('a', one.text);
        printJson([{ a: one.text, at: new Date(0), none: undefined }]);
        complain(one.text);
        expect(out).toHaveLength(3);
        expectNone(out, one);
        expect(JSON.parse(out[1] ?? '')).toMatchObject([{ at: '1970-01-01T00:00:00.000Z' }]);
      }),
      { numRuns: 200 },
    );
    // However many lines, one listener waits for a reader who goes away.
    const ours = process.stdout.listenerCount('error') - before;
    expect(ours).toBe(1);
    process.stdout.removeAllListeners('error');
  });

  it('can be printed past that: the verbs write nowhere else', () => {
    const root = new URL('../../src/', import.meta.url);
    const sources = [
      ...readdirSync(new URL('commands/', root)).map((name) => `commands/${name}`),
      'commands.ts',
      'main.ts',
      'config.ts',
    ];
    const writing = sources.filter((name) =>
      /process\s*\.\s*std(?:out|err)\s*\.\s*write|console\s*\./.test(
        readFileSync(new URL(name, root), 'utf8'),
      ),
    );
    expect(writing).toEqual(['commands/output.ts']);
  });

  it('is told to whoever asks /readyz', async () => {
    let detail: object = {};
    const receiver = new HttpReceiver({
      ingest: null,
      ready: async () => ({ ok: false, detail }),
      log: createLogger({ level: 'silent' }),
      port: 0,
      host: '127.0.0.1',
    });
    const { port } = await receiver.start();
    try {
      await fc.assert(
        fc.asyncProperty(said, async (one) => {
          detail = { reason: one.text, list: [{ why: one.text }] };
          const response = await fetch(`http://127.0.0.1:${port}/readyz`);
          const body = await response.text();
          expect(response.status).toBe(503);
          expect(JSON.parse(body)).toMatchObject({ ok: false });
          expectNone(body, one);
        }),
        { numRuns: 60 },
      );
    } finally {
      await receiver.stop();
    }
  });
});
